"""Losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Target of positions that no loss counts, such as special tokens; PyTorch's default ``ignore_index``."""


def binary_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 0.0, alpha: float | None = None) -> Tensor:
    """Element-wise sigmoid focal loss ``-a_t (1 - p_t)^gamma log(p_t)`` (Lin et al. 2017, eq. 5; arXiv 1708.02002).

    ``gamma = 0`` with ``alpha = None`` is binary cross-entropy. It is the loss of GLiNER's span head, unreduced.

    Args:
        logits: Scores before the sigmoid, any shape.
        targets: 0 or 1, same shape.
        gamma: Focusing exponent, >= 0.
        alpha: Weight of the positives in [0, 1], negatives get ``1 - alpha``; None gives both weight 1.

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
        # 1 - p_t is the sigmoid of the logit turned towards the wrong answer; stable where p_t rounds to 1. Where it
        # is 0 itself, the gradient of its power is infinite for gamma below 1.
        wrong = torch.sigmoid(logits * (1 - 2 * targets)).clamp(min=torch.finfo(torch.float32).tiny)
        loss = loss * wrong**gamma
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """Class weights ``w_c = N / (C max(n_c, 1))``, scikit-learn's "balanced".

    Args:
        counts: Occurrences of each class, shape ``(C,)``.

    Returns:
        float32, shape ``(C,)``.

    Raises:
        ValueError: If there is no occurrence at all.
    """
    counts = _checked_counts(counts)
    return (counts.sum() / (len(counts) * counts.clamp(min=1))).float()


def class_balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """Class weights from the effective number of samples (Cui et al. 2019, eq. 2; arXiv 1901.05555).

    ``w_c = (1 - beta) / (1 - beta^n_c)``, scaled to sum to C; 0 for a class that does not occur. Weights differ more
    the larger beta is: where ``1 / (1 - beta)`` is far below all counts, all are about 1.

    Args:
        counts: Occurrences of each class, shape ``(C,)``.
        beta: In [0, 1).

    Returns:
        float32, shape ``(C,)``.

    Raises:
        ValueError: If ``beta`` is out of range or there is no occurrence at all.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    counts = _checked_counts(counts)
    # expm1: 1 - beta^n keeps its digits where beta^n is close to 1.
    effective = -torch.expm1(counts * math.log(beta)) if beta else torch.ones_like(counts)
    weights = torch.where(counts > 0, 1 / effective.clamp(min=torch.finfo(effective.dtype).tiny), 0.0)
    return (weights * (len(counts) / weights.sum())).float()


def _checked_counts(counts: Tensor) -> Tensor:
    if not bool((counts > 0).any()):
        raise ValueError("class weights need at least one labelled sub-word")
    return counts.double()


def token_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Mean of ``-w_y (1 - p_y)^gamma log(p_y)`` over all targets that are not ignored.

    It is the loss of Lin et al. 2017, eq. 5, for C classes, divided by the number of targets, not by the sum of their
    weights as in ``cross_entropy``.

    Args:
        logits: Scores before the softmax, shape ``(N, C)``.
        targets: Class ids or :data:`IGNORED`, shape ``(N,)``.
        gamma: Focusing exponent, >= 0; 0 is cross-entropy.
        weights: Weight of each class, shape ``(C,)``; all 1 if not given.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: If ``gamma`` is negative or every target is ignored.
    """
    if gamma < 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    logits, targets = _labelled(logits, targets)
    log_p = F.log_softmax(logits, dim=-1).gather(1, targets[:, None]).squeeze(1)
    loss = -log_p
    if gamma:
        # The gradient of (1 - p)^gamma is infinite at p = 1 for gamma below 1.
        loss = loss * (-torch.expm1(log_p)).clamp(min=1e-8) ** gamma
    if weights is not None:
        loss = loss * weights.to(loss.device)[targets]
    return loss.mean()


def token_cross_entropy(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Weighted cross-entropy, divided by the sum of the targets' weights as PyTorch's is.

    Args:
        logits: Scores before the softmax, shape ``(N, C)``.
        targets: Class ids or :data:`IGNORED`, shape ``(N,)``.
        weights: Weight of each class, shape ``(C,)``; all 1 if not given.

    Returns:
        A scalar, float32.

    Raises:
        ValueError: If every target is ignored.
    """
    logits, targets = _labelled(logits, targets)
    return F.cross_entropy(logits, targets, None if weights is None else weights.to(logits.device))


def _labelled(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The rows whose target is not ignored, logits in float32."""
    labelled = targets != IGNORED
    if not bool(labelled.any()):
        raise ValueError(f"all {len(targets)} targets of the batch are ignored: there is nothing to learn from")
    return logits[labelled].float(), targets[labelled]
