"""Spans from the probabilities of tags."""

from __future__ import annotations

from torch import Tensor, nn


def span_probabilities(tags: Tensor, threshold: float) -> list[tuple[int, int, int, float]]:
    """The spans that a random draw of tags, each word's by itself, holds with more than a probability.

    With o, b and i the probabilities of a word's tags, and an I behind an O read as the start of a span,

        p(s, e) = (b_s + o_{s-1} i_s) i_{s+1} ... i_e (1 - i_{e+1})

    where o before the first word is 1 and i behind the last is 0. Two spans of one row that overlap exclude each
    other, so that at a threshold of 0.5 or more none do.

    Args:
        tags: Probabilities of O, B and I, float64, shape ``(R, W, 3)``; O is 1 behind a row's end.
        threshold: Least probability, exclusive.

    Returns:
        Row, first word, last word and probability of each.
    """
    outside, begin, inside = tags.unbind(-1)
    before = nn.functional.pad(outside[:, :-1], (1, 0), value=1.0)
    # Of a span of w words so far from each start, its end still open.
    opened = begin + before * inside
    closes = 1 - nn.functional.pad(inside[:, 1:], (0, 1))
    found = []
    for width in range(tags.shape[1]):
        ends = closes[:, width:]
        probability = opened * ends
        rows, starts = (probability > threshold).nonzero(as_tuple=True)
        values = probability[rows, starts].clamp(0, 1).tolist()
        found += [
            (row, start, start + width, value)
            for row, start, value in zip(rows.tolist(), starts.tolist(), values, strict=True)
        ]
        # One word more; the last start has none left.
        opened = opened[:, :-1] * inside[:, width + 1 :]
        if not bool((opened > threshold).any()):
            break
    return found
