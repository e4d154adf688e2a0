"""SP-Bi: soft prompts made from the descriptions pass through the frozen label encoder in place of tokens.

Legend: C types, P prompt vectors of a label, E width of the label encoder.
"""

from __future__ import annotations

from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.errors import InputError
from common.models.base import Base
from common.models.config import PromptConfig
from common.models.prompts import DescriptionPrompts, between_special_tokens
from common.models.token_model import ClassLoss, LabelComparison, TokenModel, label_projection
from injection_bi.config import Config


class PromptedLabels(nn.Module):
    """Label vectors: the mean output of the frozen label encoder over ``[CLS] prompts [SEP]``.

    Args:
        base: A bi-encoder.
        labels: Entity types.
        config: Settings of the prompts.

    Raises:
        InputError: If the label encoder has fewer positions than the prompts need.
    """

    def __init__(self, base: Base, labels: LabelSet, config: PromptConfig) -> None:
        super().__init__()
        self._base = base
        self._tokenizer = base.gliner.data_processor.labels_tokenizer
        needed, limit = config.prompt_length + 2, self._tokenizer.model_max_length
        if needed > limit:
            raise InputError(
                f"--prompt-length {config.prompt_length} and two special tokens need {needed} positions, the label "
                f"encoder of {base.source!r} has {limit}"
            )
        descriptions = list(labels.label2desc.values())
        self.prompts = DescriptionPrompts(descriptions, self._tokenizer, self._embedding, config)

    @property
    def _embedding(self) -> nn.Embedding:
        return self._base.part("label encoder").model.get_input_embeddings()

    def forward(self) -> Tensor:
        """Mean of the label encoder's output over the prompts and the special tokens, shape ``(C + 1, E)``."""
        inputs = between_special_tokens(self.prompts(self._embedding), self._tokenizer, self._embedding)
        return self._base.part("label encoder").model(inputs_embeds=inputs).last_hidden_state.mean(dim=1)


def build(config: Config, base: Base, labels: LabelSet) -> TokenModel:
    """The model, prompt encoder and projection declared as trained, each at its own learning rate.

    Raises:
        InputError: If the base has no label encoder, or as :class:`PromptedLabels`.
    """
    projection = label_projection(base)
    prompted = PromptedLabels(base, labels, config.prompts)
    model = TokenModel(base, labels, config.token, ClassLoss.focal(config.focal), LabelComparison(base, prompted))
    model.declare(
        TrainedPart("prompt encoder", (model.path_of(prompted.prompts),), config.prompt_encoder_lr),
        TrainedPart("projection", (model.path_of(projection),), config.projection_lr),
    )
    return model
