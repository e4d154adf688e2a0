"""SP-Bi: soft prompts made from the descriptions go through the frozen label encoder in place of tokens.

Legend: C types, P prompt vectors of a label, E width of the label encoder.
"""

from __future__ import annotations

from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.errors import InputError
from common.models.base import Base
from common.models.prompts import DescriptionPrompts, between_special_tokens, prompt_variant
from common.models.token_model import BiTokenModel, ClassLoss
from common.spec import ApproachSpec
from injection_bi.config import Config


class SPBi(BiTokenModel):
    """A bi-encoder whose label encoder reads ``[CLS] prompts [SEP]``, the mean over all positions being the label vector.

    Args:
        base: A bi-encoder.
        labels: Entity types.
        config: The approach's settings.

    Raises:
        InputError: If the base has no label encoder, or it has fewer positions than the prompts need.
    """

    def __init__(self, base: Base, labels: LabelSet, config: Config) -> None:
        super().__init__(base, labels, config.token, ClassLoss.focal(config.focal))
        self._tokenizer_of_labels = base.gliner.data_processor.labels_tokenizer
        needed, limit = config.prompts.prompt_length + 2, self._tokenizer_of_labels.model_max_length
        if needed > limit:
            raise InputError(
                f"--prompt-length {config.prompts.prompt_length} and two special tokens need {needed} positions, the label "
                f"encoder of {base.source!r} has {limit}"
            )
        self.prompts = DescriptionPrompts(
            list(labels.label2desc.values()), self._tokenizer_of_labels, self._embedding, config.prompts
        )

    @property
    def _embedding(self) -> nn.Embedding:
        return self.base.part("label encoder").model.get_input_embeddings()

    def label_vectors(self) -> Tensor:
        """Mean of the label encoder's output over the prompts and the special tokens, shape ``(C + 1, E)``."""
        inputs = between_special_tokens(self.prompts(self._embedding), self._tokenizer_of_labels, self._embedding)
        return self.base.part("label encoder").model(inputs_embeds=inputs).last_hidden_state.mean(dim=1)


def build(config: Config, base: Base, labels: LabelSet) -> SPBi:
    """The model, prompt encoder and projection declared as trained, each at its own learning rate.

    Raises:
        InputError: As :class:`SPBi`.
    """
    model = SPBi(base, labels, config)
    model.declare(
        [
            TrainedPart("prompt encoder", (model.path_of(model.prompts),), config.prompt_encoder_lr),
            TrainedPart("projection", (model.path_of(base.part("label projection")),), config.projection_lr),
        ]
    )
    return model


def variant(config: Config) -> str:
    """Name of the variant: pooling and prompt length, and the tag scheme."""
    return f"{prompt_variant(config.prompts)}, {config.token.scheme}"


SPEC = ApproachSpec("injection_bi", "SP-Bi", Config, build, variant, encoder=lambda _: "bi")
