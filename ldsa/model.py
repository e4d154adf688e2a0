"""LDSA: the label encoder learns to place the types' descriptions where the frozen text encoder puts their mentions."""

from __future__ import annotations

from torch import Tensor

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.token_model import BiTokenModel, ClassLoss
from common.spec import ApproachSpec
from ldsa.config import Config


class LDSA(BiTokenModel):
    """A bi-encoder whose class vectors are the encoded descriptions."""

    def label_vectors(self) -> Tensor:
        """The descriptions' mean hidden states, shape ``(C + 1, E)``."""
        return self.encode_descriptions()


def build(config: Config, base: Base, labels: LabelSet) -> LDSA:
    """The model, label encoder and projection declared as trained.

    Raises:
        InputError: If the base has no label encoder.
    """
    model = LDSA(base, labels, config.token, ClassLoss("inverse_frequency"))
    trained = tuple(model.path_of(base.part(name)) for name in ("label encoder", "label projection"))
    model.declare([TrainedPart("label encoder", trained, config.learning_rate)])
    return model


SPEC = ApproachSpec("ldsa", "LDSA", Config, build, lambda config: config.token.scheme, encoder=lambda _: "bi")
