"""Attention for transformers' networks, without the needless copies of transformers' own."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_NAME = "sdpa_grouped"


def group_queries(network: Any) -> None:
    """Lets a network with grouped queries (Ainslie et al. 2023, arXiv 2305.13245) generate without copies.

    With a padding mask transformers repeats the keys and values of every token so far for each query head, at each new
    token: several times what the step needs to read.

    Args:
        network: A network whose attention is transformers' ``sdpa``; another stays as it is.
    """
    if network.config.get_text_config()._attn_implementation == "sdpa":
        _register()
        network.set_attn_implementation(_NAME)


@functools.cache
def _register() -> None:
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers' ``sdpa``; the heads of one new token's query that share a key are that key's queries.

    Args:
        module: The layer.
        query: Shape ``(B, H, Q, D)``.
        key: Shape ``(B, K, L, D)``; ``H`` is a multiple of ``K``.
        value: As ``key``.
        attention_mask: Shape ``(B, 1, Q, L)``; None: everything is seen.
        scaling: Factor of the scores; the root of ``1 / D`` if not given.
        more: What else ``sdpa`` takes.

    Returns:
        Shape ``(B, Q, H, D)``, and None in the place of the weights.
    """
    batch, heads, length, width = query.shape
    grouped = length == 1 and key.shape[1] < heads and more.get("position_bias") is None and not module.training
    if not grouped or (attention_mask is not None and attention_mask.shape[1] != 1):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    together = query.view(batch, key.shape[1], -1, width)
    output = scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch, 1, heads, width), None
