"""Attention for transformers' networks where transformers' own, torch's ``scaled_dot_product_attention``, is slow.

Two cases. With a padding mask transformers repeats the keys and values of every token so far for each query head, at
each new token of a generation. And in training on a CPU torch's fused backward pass in bf16 takes much longer
than the matrix products that it stands for, and dropout draws its random numbers one by one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from common.models.dropout import keep_mask

_NAME = "sdpa_lean"


def use_lean_attention(model: nn.Module) -> None:
    """Puts this module's attention into every network whose attention is transformers' ``sdpa``.

    Args:
        model: A network, or a module with some inside.
    """
    for network in model.modules():
        if isinstance(network, PreTrainedModel) and network.config.get_text_config()._attn_implementation == "sdpa":
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
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """As transformers' ``sdpa``.

    Args:
        module: The layer.
        query: Shape ``(B, H, Q, D)``.
        key: Shape ``(B, K, L, D)``; ``H`` is a multiple of ``K``.
        value: As ``key``.
        attention_mask: Shape ``(B, 1, Q, L)``; None: everything is seen, by a causal layer all that came before.
        dropout: Of the weights.
        scaling: Factor of the scores; the root of ``1 / D`` if not given.
        more: What else ``sdpa`` takes.

    Returns:
        Shape ``(B, Q, H, D)``, and None in the place of the weights.
    """
    batch, heads, length, width = query.shape
    plain = more.get("position_bias") is None and (attention_mask is None or attention_mask.shape[1] == 1)
    if plain and not module.training and length == 1 and key.shape[1] < heads:
        # The heads of one new token's query that share a key (Ainslie et al. 2023, arXiv 2305.13245) are its queries.
        together = query.view(batch, key.shape[1], -1, width)
        output = scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scaling)
        return output.reshape(batch, 1, heads, width), None
    # Autocast casts what goes into torch's function, not what goes into ours; rotary positions leave float32 behind.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    with_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if plain and query.device.type == "cpu" and (dropout > 0 or (with_gradient and dtype == torch.bfloat16)):
        causal = more.get("is_causal")
        if attention_mask is None and (getattr(module, "is_causal", True) if causal is None else causal):
            attention_mask = torch.ones(length, key.shape[2], dtype=torch.bool).tril()
        key, value = (repeat_kv(states, heads // states.shape[1]) for states in (key, value))
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        output = _Attention.apply(query, key, value, attention_mask, scaling or width**-0.5, dropout)
        return output.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more)


class _Attention(torch.autograd.Function):
    """``dropout(softmax(scale Q K^T + mask)) V``, whose gradients are matrix products.

    With P the weights, O the output, R what dropout multiplies by, and * element by element,

        dV = (P * R)^T dO,  dP = R * (dO V^T),  dS = P * (dP - rowsum(P * dP)),  dQ = scale dS K,  dK = scale dS^T Q

    Without dropout P is computed again, so that what a layer keeps does not grow with the square of the length.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, probability: float
    ) -> Tensor:
        weights = kept = None
        # Autocast would make the weights float32.
        with torch.autocast(query.device.type, enabled=False):
            if probability:
                query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
                weights = _weights(query, key, mask, scale)
                kept = keep_mask(weights, probability)
                output = (weights * kept @ value).mul_(1 / (1 - probability))
            else:
                output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        ctx.save_for_backward(query, key, value, mask, weights, kept)
        ctx.scale, ctx.probability = scale, probability
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, weights, kept = ctx.saved_tensors
        # Products of contiguous matrices are twice as fast.
        query, key, value, gradient = query.contiguous(), key.contiguous(), value.contiguous(), gradient.contiguous()
        if kept is None:
            weights = _weights(query, key, mask, ctx.scale)
            of_weights = gradient @ value.transpose(-1, -2)
        else:
            gradient = gradient * (1 / (1 - ctx.probability))
            of_weights = (gradient @ value.transpose(-1, -2)).mul_(kept)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        of_value = (weights if kept is None else weights * kept).transpose(-1, -2) @ gradient
        return of_scores @ key, of_scores.transpose(-1, -2) @ query, of_value, None, None, None


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``softmax(scale Q K^T + mask)`` in the type of the queries, shape ``(B, H, Q, L)``."""
    scores = (query @ key.transpose(-1, -2)).mul_(scale)
    if mask is not None and mask.dtype == torch.bool:
        # Not minus infinity: a padding token may see nothing. Adding is much faster than filling.
        scores += torch.zeros(mask.shape, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores += mask
    return torch.softmax(scores, dim=-1)
