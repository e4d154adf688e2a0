"""Soft prompts made from label descriptions: what SP-Cross and SP-Bi inject.

Legend: C labels, L sub-words of the longest description, P prompt vectors of a label, E width of the word embeddings.

Each step sees only a description's own sub-words, so a label's prompt does not depend on other descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.models.config import Pooling, PromptConfig

ATTENTION_HEADS = 4


class MLPPromptEncoder(nn.Module):
    """``LayerNorm(e + MLP(e))`` for each sub-word, MLP = Linear E -> 4E, GELU, dropout, Linear 4E -> E, dropout.

    The last layer starts at zero: training starts from the normalised word embeddings.

    Args:
        width: E.
        dropout: Probability.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        last = nn.Linear(4 * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), last, nn.Dropout(dropout))
        self.norm = nn.LayerNorm(width)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Maps word embeddings of shape ``(..., E)`` to the same shape."""
        return self.norm(embeddings + self.mlp(embeddings))


def adaptive_bins(lengths: Tensor, n_bins: int, n_columns: int) -> Tensor:
    """The sub-words that each bin of adaptive pooling covers, over each sequence's own length.

    As in ``torch.nn.AdaptiveAvgPool1d``, bin i of n over l positions goes from ``floor(i l / n)`` to
    ``ceil((i + 1) l / n)``, exclusive.

    Args:
        lengths: Length of each sequence, shape ``(C,)``.
        n_bins: Number of bins.
        n_columns: Columns of the padded sequences, L.

    Returns:
        bool, shape ``(C, n_bins, L)``.
    """
    bins, columns = (torch.arange(size, device=lengths.device) for size in (n_bins, n_columns))
    first = (bins * lengths[:, None]) // n_bins
    end = ((bins + 1) * lengths[:, None] + n_bins - 1) // n_bins
    return (columns >= first[..., None]) & (columns < end[..., None])


class PromptPooler(nn.Module):
    """Pools the sub-words of each description, over its own length, to P prompt vectors.

    ========================  =========================================================================================
    ``adaptive_avg``          mean over P bins; no parameters
    ``adaptive_max``          maximum over P bins; no parameters
    ``attention``             P learned queries, attention of 4 heads over the sub-words, LayerNorm(output + queries)
    ``conv1d``                convolution of 3, GELU, convolution of 3, mean over P bins, LayerNorm
    ``conv1d_strided``        convolution of 5, mean over P bins, times sigmoid(Linear(.)), LayerNorm
    ========================  =========================================================================================

    Args:
        mode: Which of these.
        width: E.
        prompt_length: P.

    Raises:
        InputError: If attention's heads do not divide the width.
    """

    def __init__(self, mode: Pooling, width: int, prompt_length: int) -> None:
        super().__init__()
        self.mode, self.prompt_length = mode, prompt_length
        if mode == "attention":
            if width % ATTENTION_HEADS:
                raise InputError(
                    f"--pooling attention has {ATTENTION_HEADS} heads, which do not divide the encoder's width of "
                    f"{width}"
                )
            self.queries = nn.Parameter(0.02 * torch.randn(prompt_length, width))
            self.attention = nn.MultiheadAttention(width, ATTENTION_HEADS, batch_first=True)
        elif mode == "conv1d":
            self.first = nn.Conv1d(width, width, kernel_size=3, padding=1)
            self.second = nn.Conv1d(width, width, kernel_size=3, padding=1)
        elif mode == "conv1d_strided":
            self.first = nn.Conv1d(width, width, kernel_size=5, padding=2)
            self.gate = nn.Linear(width, width)
        self.norm = nn.Identity() if mode.startswith("adaptive") else nn.LayerNorm(width)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Prompt vectors of each description.

        Args:
            inputs: Shape ``(C, L, E)``.
            mask: True for a description's own sub-words, which come first; bool, shape ``(C, L)``.

        Returns:
            Shape ``(C, P, E)``.
        """
        kept = mask.unsqueeze(-1)
        if self.mode == "attention":
            queries = self.queries.expand(len(inputs), -1, -1)
            attended, _ = self.attention(queries, inputs, inputs, key_padding_mask=~mask, need_weights=False)
            return self.norm(attended + queries)
        bins = adaptive_bins(mask.sum(dim=1), self.prompt_length, mask.shape[1])
        if self.mode == "adaptive_max":
            return inputs.unsqueeze(1).masked_fill(~bins.unsqueeze(-1), float("-inf")).amax(dim=2)
        hidden = inputs
        if self.mode != "adaptive_avg":
            # Padding must be zero before each convolution, as it is behind the end of an unpadded sequence.
            hidden = self._convolve(self.first, inputs * kept)
            if self.mode == "conv1d":
                hidden = self._convolve(self.second, nn.functional.gelu(hidden) * kept)
        shares = bins / bins.sum(dim=-1, keepdim=True)
        pooled = shares.to(hidden.dtype) @ hidden
        if self.mode == "conv1d_strided":
            pooled = pooled * self.gate(pooled).sigmoid()
        return self.norm(pooled)

    @staticmethod
    def _convolve(layer: nn.Conv1d, inputs: Tensor) -> Tensor:
        return layer(inputs.transpose(1, 2)).transpose(1, 2)


class DescriptionPrompts(nn.Module):
    """Soft prompts of a label set: description -> word embeddings -> prompt encoder -> pooler -> a learned scale.

    The scale starts at the root mean square of the word embeddings, so that prompts enter a backbone at the magnitude
    of the tokens that it knows; the output of a LayerNorm is many times larger.

    Args:
        descriptions: Text of each label.
        tokenizer: The backbone's.
        embedding: The backbone's word-embedding layer; it is read, not copied, unless a copy is to be trained.
        config: Pooling, prompt length, dropout.
    """

    def __init__(
        self, descriptions: Sequence[str], tokenizer: Any, embedding: nn.Embedding, config: PromptConfig
    ) -> None:
        super().__init__()
        width = embedding.embedding_dim
        tokens = tokenizer(list(descriptions), return_tensors="pt", truncation=True, padding="longest")
        self.input_ids: Tensor
        self.mask: Tensor
        self.register_buffer("input_ids", tokens["input_ids"], persistent=False)
        self.register_buffer("mask", tokens["attention_mask"].bool(), persistent=False)
        self.table: nn.Embedding | None = None
        if config.train_embedding_table:
            self.table = nn.Embedding.from_pretrained(embedding.weight.detach().clone(), freeze=False)
        self.encoder = MLPPromptEncoder(width, config.dropout)
        self.pooler = PromptPooler(config.pooling, width, config.prompt_length)
        self.scale = nn.Parameter(embedding.weight.detach().float().square().mean().sqrt())

    def forward(self, embedding: nn.Embedding) -> Tensor:
        """Prompts, shape ``(C, P, E)``; ``embedding`` is the backbone's word-embedding layer."""
        table = embedding if self.table is None else self.table
        embeddings = table(self.input_ids)
        return self.scale * self.pooler(self.encoder(embeddings), self.mask)


def between_special_tokens(prompts: Tensor, tokenizer: Any, embedding: nn.Embedding) -> Tensor:
    """Word embeddings of ``[CLS] prompts [SEP]``, shape ``(N, P + 2, E)`` from ``(N, P, E)``.

    Raises:
        InputError: If the tokenizer has no such tokens.
    """
    ids = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    if None in ids:
        raise InputError(
            f"injected prompts need a tokenizer with [CLS] and [SEP]; {type(tokenizer).__name__} has {ids}"
        )
    special = embedding(torch.tensor(ids, device=prompts.device)).to(prompts.dtype).expand(len(prompts), -1, -1)
    return torch.cat([special[:, :1], prompts, special[:, 1:]], dim=1)
