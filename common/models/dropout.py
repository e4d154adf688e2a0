"""Dropout that does not wait for the random numbers on a CPU.

torch draws one 32-bit number for each element of a CPU dropout mask, on one thread: with a span head of 12 x 4D elements a word that
takes longer than the matrix products. Sixteen random bits decide an element just as well (its probability is then off by at most
2^-17), and one 64-bit draw holds four of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def fast_dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout: zeroes elements with ``probability`` and scales the rest by ``1 / (1 - probability)``.

    Args:
        inputs: Any shape.
        probability: In [0, 1].
        training: Without it the input comes back as it is.

    Returns:
        The same shape. Randomness comes from torch's global generator, as in ``nn.Dropout``.
    """
    if not training or probability == 0.0:
        return inputs
    if inputs.device.type != "cpu" or probability == 1.0:
        return nn.functional.dropout(inputs, probability, training)
    # The scale is applied to the values, not to the mask: in bf16 the mask could hold it only rounded.
    return inputs * (1 / (1 - probability)) * keep_mask(inputs, probability)


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """A random mask that is False with ``probability``, of the shape and on the device of ``like``."""
    if like.device.type != "cpu":
        return torch.rand_like(like, dtype=torch.float32) >= probability
    count = like.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count].view(like.shape) >= round(probability * 2**16) - 2**15


def mlp(layer: nn.Sequential, inputs: Tensor) -> Tensor:
    """The output of gliner's projection layer (Linear, ReLU, Dropout, Linear) with :func:`fast_dropout`."""
    dropout: Any
    first, activation, dropout, last = layer
    return last(fast_dropout(activation(first(inputs)), dropout.p, dropout.training))
