"""LDSA: the label encoder learns to place the types' descriptions where the frozen text encoder puts their mentions."""

from __future__ import annotations

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.token_model import ClassLoss, Descriptions, LabelComparison, TokenModel, label_projection
from ldsa.config import Config


def build(config: Config, base: Base, labels: LabelSet) -> TokenModel:
    """The model, label encoder and projection declared as trained.

    Raises:
        InputError: If the base has no label encoder.
    """
    projection = label_projection(base)
    comparison = LabelComparison(base, Descriptions(base, labels))
    model = TokenModel(base, labels, config.token, ClassLoss("inverse_frequency"), comparison)
    trained = tuple(model.path_of(module) for module in (base.part("label encoder"), projection))
    model.declare(TrainedPart("label encoder", trained, config.learning_rate))
    return model
