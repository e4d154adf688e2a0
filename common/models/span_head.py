"""GLiNER's span head in a factored form.

Legend: B sentences, W words, K maximum width, C labels, D hidden size. ``SpanMarkerV0`` computes, for the span from
word s to word e with a = relu(start_mlp(h_s)) and b = relu(end_mlp(h_e)),

    score(s, e, c) = q_c . (V dropout(relu(U [a; b] + u)) + v)

for each of W x K spans, with U of size 4D x 2D and V of size D x 4D. U [a; b] is a sum of one product for the start
word and one for the end word, so U is applied W times, not W x K times; and q_c . (V x + v) = (q_c V) . x + q_c . v, so
V is applied to the C label vectors, not to the spans. What is left for each span is one addition, one ReLU and C dot
products. Equal to the original up to rounding, gradients included.
"""

from __future__ import annotations

from typing import Any

import torch
from gliner.modeling.span_rep import SpanMarkerV0
from torch import Tensor, nn

from common.models.dropout import keep_mask


def span_mask(n_words: Tensor, n_columns: int, max_width: int) -> Tensor:
    """True for the spans that lie inside their sentence.

    Args:
        n_words: Words of each sentence, shape ``(B,)``.
        n_columns: Words of the padded batch, W.
        max_width: K.

    Returns:
        Shape ``(B, W, K)``; ``[b, s, k]`` is the span from word s to word s + k.
    """
    ends = torch.arange(n_columns, device=n_words.device)[:, None] + torch.arange(max_width, device=n_words.device)
    return ends[None] < n_words[:, None, None]


class _SpanScores(torch.autograd.Function):
    """``dropout(relu(starts[s] + ends[e])) @ folded^T`` for all spans, without dropout's scale.

    ``folded`` is ``(C, 4D)`` or ``(B, C, 4D)``. Widths are taken one by one: the spans of one width fit the cache, and
    the words of a sentence that they start at, or end at, are one slice. With x_se what ReLU and dropout leave of a
    span, and g_se the gradient of its C scores,

        d folded = sum over s, e of g_se x_se^T
        d starts[s] = sum over e of (folded^T g_se where x_se > 0), and d ends[e] the same sum over s

    so x is all that is kept (where it is 0, ReLU or dropout has cut the gradient off), and the gradients are added in
    place, where autograd would make a full-size tensor for each width. Both products that sum over a long dimension
    have C rows, not C columns: a matrix library may be ten times slower at the latter.
    """

    @staticmethod
    def forward(
        ctx: Any, starts: Tensor, ends: Tensor, folded: Tensor, max_width: int, probability: float, keep: bool
    ) -> Tensor:
        n_sentences, n_columns, _ = starts.shape
        logits = starts.new_full((n_sentences, n_columns, max_width, folded.shape[-2]), float("-inf"))
        kept = []
        for width in range(min(max_width, n_columns)):
            reach = n_columns - width
            hidden = (starts[:, :reach] + ends[:, width:]).relu_()
            if probability:
                hidden *= keep_mask(hidden, probability)
            if keep:
                kept.append(hidden)
            if folded.dim() == 2:
                logits[:, :reach, width] = (folded @ hidden.flatten(0, 1).T).T.view(n_sentences, reach, -1)
            else:
                logits[:, :reach, width] = (folded @ hidden.transpose(1, 2)).transpose(1, 2)
        ctx.save_for_backward(starts, ends, folded, *kept)
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        starts, ends, folded, *kept = ctx.saved_tensors
        of_words, of_labels = any(ctx.needs_input_grad[:2]), ctx.needs_input_grad[2]
        gradient_starts = torch.zeros_like(starts) if of_words else None
        gradient_ends = torch.zeros_like(ends) if of_words else None
        gradient_folded = torch.zeros_like(folded, dtype=torch.float32) if of_labels else None
        for width, hidden in enumerate(kept):
            reach = starts.shape[1] - width
            outer = gradient[:, :reach, width].to(starts.dtype)  # (B, W - width, C)
            if gradient_folded is not None:
                if folded.dim() == 2:
                    gradient_folded += outer.flatten(0, 1).T @ hidden.flatten(0, 1)
                else:
                    gradient_folded += outer.transpose(1, 2) @ hidden
            if gradient_starts is not None and gradient_ends is not None:
                inner = torch.ops.aten.threshold_backward(outer @ folded, hidden, 0)
                gradient_starts[:, :reach] += inner
                gradient_ends[:, width:] += inner
        if gradient_folded is not None:
            gradient_folded = gradient_folded.to(folded.dtype)
        return gradient_starts, gradient_ends, gradient_folded, None, None, None


def factored_logits(marker: SpanMarkerV0, words: Tensor, labels: Tensor) -> Tensor:
    """Scores of all spans, equal to ``einsum(marker(words), labels)``.

    Args:
        marker: The span representation layer.
        words: Word representations, shape ``(B, W, D)``.
        labels: Label representations after ``prompt_rep_layer``, shape ``(C, D)`` if all sentences share them, else
            ``(B, C, D)``.

    Returns:
        Logits, shape ``(B, W, K, C)``. Spans that run past the last column are ``-inf``.
    """
    hidden_layer, _, dropout, out_layer = marker.out_project
    half = hidden_layer.in_features // 2
    starts = nn.functional.linear(
        marker.project_start(words).relu(), hidden_layer.weight[:, :half], hidden_layer.bias
    )  # (B, W, 4D)
    ends = nn.functional.linear(marker.project_end(words).relu(), hidden_layer.weight[:, half:])  # (B, W, 4D)
    folded = labels @ out_layer.weight  # (C, 4D) or (B, C, 4D)
    bias = (labels @ out_layer.bias).unsqueeze(-2)  # (1, C) or (B, 1, C)

    probability = dropout.p if dropout.training else 0.0
    folded = (folded / (1 - probability)).to(starts.dtype)
    keep = torch.is_grad_enabled() and (starts.requires_grad or folded.requires_grad)
    return _SpanScores.apply(starts, ends, folded, marker.max_width, probability, keep) + bias.unsqueeze(-2)


def dense_logits(span_rep_layer: nn.Module, words: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Scores of all spans by gliner's own layer, for span modes that do not factor.

    Args:
        span_rep_layer: gliner's ``SpanRepLayer``.
        words: Shape ``(B, W, D)``.
        labels: Shape ``(C, D)`` or ``(B, C, D)``.
        mask: Spans inside their sentence, shape ``(B, W, K)``.

    Returns:
        Logits, shape ``(B, W, K, C)``.
    """
    n_sentences, n_columns, max_width = mask.shape
    starts = torch.arange(n_columns, device=words.device)[:, None].expand(-1, max_width)
    index = torch.stack([starts, starts + torch.arange(max_width, device=words.device)], dim=-1)
    index = index.reshape(1, -1, 2) * mask.reshape(n_sentences, -1, 1)
    spans = span_rep_layer(words, index)
    return torch.einsum("bwkd,cd->bwkc" if labels.dim() == 2 else "bwkd,bcd->bwkc", spans, labels)
