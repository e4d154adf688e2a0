"""Losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 0.0, alpha: float | None = None) -> Tensor:
    """Element-wise sigmoid focal loss ``-a_t (1 - p_t)^gamma log(p_t)`` (Lin et al. 2017, eq. 5; arXiv 1708.02002).

    ``gamma = 0`` with ``alpha = None`` is binary cross-entropy. It is the loss of GLiNER's span head, without its reduction.

    Args:
        logits: Scores before the sigmoid, any shape.
        targets: 0 or 1, same shape.
        gamma: Focusing exponent, >= 0.
        alpha: Weight of the positives in [0, 1], negatives get ``1 - alpha``; None weighs both 1.

    Returns:
        The loss of each element, float32, same shape.

    Raises:
        ValueError: If ``gamma`` or ``alpha`` is out of range or the shapes differ.
    """
    if gamma < 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} differ in shape")
    logits, targets = logits.float(), targets.float()
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma:
        # 1 - p_t is the sigmoid of the logit turned towards the wrong answer; stable where p_t rounds to 1.
        loss = loss * torch.sigmoid(logits * (1 - 2 * targets)) ** gamma
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss
