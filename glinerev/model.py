"""SP-GLiNER: a trainable map of the label tokens' word embeddings, in place, before the frozen label encoder.

Legend: C labels, S sub-words, V vocabulary, E width of the label encoder.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.span_model import SpanModel
from glinerev.config import Config, PromptForm


class PromptEncoder(nn.Module):
    """The map of one embedding e; both forms keep its width.

    ``post_norm``: LayerNorm(e + W e + b) with W Xavier-normal and b zero, as in the thesis's code.
    ``residual``: e + W LayerNorm(e) + b with W and b zero, so that training starts from the base model as it is.
    Of several layers, what W and b read has gone through the others, a GELU behind each; W and b start alike.

    Args:
        width: E.
        form: Which of the two.
        layers: Linear layers.
        hidden: Width between them; E if None.
    """

    def __init__(self, width: int, form: PromptForm, layers: int = 1, hidden: int | None = None) -> None:
        super().__init__()
        self.form = form
        widths = [width, *[hidden or width] * (layers - 1)]
        self.hidden = nn.Sequential()
        for inside, outside in itertools.pairwise(widths):
            self.hidden.extend([nn.Linear(inside, outside), nn.GELU()])
        self.linear = nn.Linear(widths[-1], width)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.linear.bias)
        if form == "post_norm":
            nn.init.xavier_normal_(self.linear.weight)
        else:
            nn.init.zeros_(self.linear.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Maps embeddings of shape ``(..., E)`` to the same shape."""
        if self.form == "post_norm":
            return self.norm(embeddings + self.linear(self.hidden(embeddings)))
        return embeddings + self.linear(self.hidden(self.norm(embeddings)))


class PromptEmbedding(nn.Module):
    """A label encoder's word-embedding layer with the prompt encoder behind it.

    Special tokens keep their embedding. The encoder adds positions, types and its own LayerNorm afterwards, once.

    Args:
        embedding: The layer that it replaces.
        prompt_encoder: The map.
        special_ids: Ids of the label tokenizer's special tokens.
    """

    def __init__(self, embedding: nn.Embedding, prompt_encoder: PromptEncoder, special_ids: list[int]) -> None:
        super().__init__()
        self.embedding = embedding
        self.prompt_encoder = prompt_encoder
        special = torch.zeros(embedding.num_embeddings, dtype=torch.bool)
        special[special_ids] = True
        self.special: Tensor
        self.register_buffer("special", special, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings of label tokens, ids ``(C, S)`` to ``(C, S, E)``."""
        embeddings = self.embedding(input_ids)
        return torch.where(self.special[input_ids].unsqueeze(-1), embeddings, self.prompt_encoder(embeddings))

    @torch.no_grad()
    def merged(self) -> nn.Embedding:
        """A plain embedding layer with the same output; the map depends on the id alone, so the table can hold it."""
        ids = torch.arange(self.embedding.num_embeddings, device=self.embedding.weight.device)
        table = torch.cat([self(chunk) for chunk in ids.split(4096)])
        return nn.Embedding.from_pretrained(table, padding_idx=self.embedding.padding_idx)


def build(config: Config, base: Base, labels: LabelSet) -> SpanModel:
    """The base model with the prompt encoder inserted and the trained parts declared.

    Raises:
        InputError: If the base has no label encoder.
    """
    label_encoder = base.part("label encoder").model
    parts = []
    if config.subword_pooling != "base":
        base.config.subtoken_pooling = config.subword_pooling
    if config.prompt_encoder:
        embedding = label_encoder.get_input_embeddings()
        special_ids = base.gliner.data_processor.labels_tokenizer.all_special_ids
        prompt_encoder = PromptEncoder(
            embedding.embedding_dim, config.prompt_form, config.prompt_layers, config.prompt_hidden
        )
        label_encoder.set_input_embeddings(PromptEmbedding(embedding, prompt_encoder, special_ids))
    model = SpanModel(
        base,
        labels,
        labels.texts(config.labels),
        focal_gamma=config.focal_gamma,
        focal_alpha=config.focal_alpha,
        threshold=config.threshold,
        word_dropout=config.word_dropout,
    )
    if config.prompt_encoder:
        parts.append(TrainedPart("prompt encoder", (model.path_of(prompt_encoder),), config.prompt_encoder_lr))
    if config.head:
        head = "core.span_rep_layer", "core.prompt_rep_layer"
        parts.append(TrainedPart("downstream", head, config.downstream_lr, starts_after=config.unfreeze_head_after))
    if config.rest_lr:
        parts.append(TrainedPart("rest", ("core.token_rep_layer",), config.rest_lr))
    model.declare(*parts)
    return model


def merge(base: Base) -> None:
    """Merges the prompt encoder into the label embedding table, which can hold it: it depends on the id alone."""
    label_encoder = base.part("label encoder").model
    embedding: nn.Module = label_encoder.get_input_embeddings()
    if isinstance(embedding, PromptEmbedding):
        label_encoder.set_input_embeddings(embedding.merged())
