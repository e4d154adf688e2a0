"""LDSA: the label encoder learns to place the types' descriptions where the frozen text encoder puts their mentions."""

from __future__ import annotations

from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.token_model import ClassLoss, LabelComparison, TokenModel, encode_descriptions, label_projection
from ldsa.config import Config


class DescriptionAnchors(nn.Module):
    """The encoded descriptions as label vectors.

    Args:
        base: A bi-encoder.
        labels: Entity types.
    """

    def __init__(self, base: Base, labels: LabelSet) -> None:
        super().__init__()
        self._base, self._labels = base, labels

    def forward(self) -> Tensor:
        """The descriptions' mean hidden states, shape ``(C + 1, E)``."""
        return encode_descriptions(self._base, self._labels)


def build(config: Config, base: Base, labels: LabelSet) -> TokenModel:
    """The model, label encoder and projection declared as trained.

    Raises:
        InputError: If the base has no label encoder.
    """
    projection = label_projection(base)
    comparison = LabelComparison(base, DescriptionAnchors(base, labels))
    model = TokenModel(base, labels, config.token, ClassLoss("inverse_frequency"), comparison)
    trained = tuple(model.path_of(module) for module in (base.part("label encoder"), projection))
    model.declare(TrainedPart("label encoder", trained, config.learning_rate))
    return model
