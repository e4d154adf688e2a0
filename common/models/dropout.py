"""Dropout that is not slowed down by random numbers on a CPU.

torch draws one 32-bit number for each element of a CPU dropout mask, on one thread: with a span head of 12 x 4D
elements a word that takes longer than the matrix products. Sixteen random bits decide an element just as well (its
probability is then off by at most 2^-17), one 64-bit draw holds four of them, and NumPy's SFC64 makes it in half the
time of torch's Mersenne Twister. The mask stays 16-bit integers until it is multiplied: comparing into bool and
converting from bool are not vectorised in torch, and take eight times as long.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def fast_dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout: zeroes elements with ``probability`` and scales the rest by ``1 / (1 - probability)``.

    Args:
        inputs: Any shape.
        probability: In [0, 1].
        training: If False, the input is returned as it is.

    Returns:
        The same shape. Randomness comes from torch's global generator, as in ``nn.Dropout``.
    """
    if not training or probability == 0.0:
        return inputs
    if inputs.device.type != "cpu" or probability == 1.0:
        return nn.functional.dropout(inputs, probability, training)
    # The scale is applied to the values, not to the mask: in bf16 the mask could hold it only rounded.
    return inputs * keep_mask(inputs, probability) * (1 / (1 - probability))


class FastDropout(nn.Dropout):
    """:func:`fast_dropout` as a module."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return fast_dropout(inputs, self.p, self.training)


def make_dropout_fast(model: nn.Module) -> None:
    """Puts :class:`FastDropout` in the place of every ``nn.Dropout`` inside a module."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout:
            model.set_submodule(path, FastDropout(module.p).train(module.training))


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """A random mask of the shape, type and device of ``like``: 0 with ``probability``, else 1.

    It is seeded by torch's global generator, so ``torch.manual_seed`` and a resumed run reproduce it.
    """
    if like.device.type != "cpu":
        return (torch.rand_like(like, dtype=torch.float32) >= probability).to(like.dtype)
    seed = int(torch.randint(2**63 - 1, ()))
    count = like.numel()
    draws = np.random.Generator(np.random.SFC64(seed)).integers(2**64, size=(count + 3) // 4, dtype=np.uint64)
    bits = torch.from_numpy(draws.view(np.int16)[:count]).view(like.shape)
    # Beyond the largest 16-bit integer the comparison would wrap around and keep everything.
    return bits.ge_(min(round(probability * 2**16) - 2**15, 2**15 - 1)).to(like.dtype)
