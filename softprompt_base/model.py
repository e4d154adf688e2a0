"""SP-Base: a trainable table of label vectors in place of the label encoder's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.token_model import BiTokenModel, ClassLoss
from common.spec import ApproachSpec
from softprompt_base.config import Config


class SPBase(BiTokenModel):
    """A bi-encoder whose class vectors are rows of a table, which starts as the encoded descriptions.

    Args:
        base: A bi-encoder.
        labels: Entity types.
        config: The approach's settings.
    """

    def __init__(self, base: Base, labels: LabelSet, config: Config) -> None:
        loss = {
            "v1": ClassLoss("inverse_frequency"),
            "focal": ClassLoss("inverse_frequency", gamma=config.focal.gamma),
            "focal_cb": ClassLoss.focal(config.focal),
        }[config.variant]
        super().__init__(base, labels, config.token, loss)
        with torch.no_grad():
            self.eval()
            self.table = nn.Embedding.from_pretrained(self.encode_descriptions(), freeze=False)

    def label_vectors(self) -> Tensor:
        """The table, shape ``(C + 1, E)``."""
        return self.table.weight


def build(config: Config, base: Base, labels: LabelSet) -> SPBase:
    """The model, table and projection declared as trained, each at its own learning rate.

    Raises:
        InputError: If the base has no label encoder.
    """
    model = SPBase(base, labels, config)
    model.declare(
        [
            TrainedPart("table", (model.path_of(model.table),), config.table_lr),
            TrainedPart("projection", (model.path_of(base.part("label projection")),), config.projection_lr),
        ]
    )
    return model


SPEC = ApproachSpec(
    "softprompt_base",
    "SP-Base",
    Config,
    build,
    lambda config: f"{config.variant}, {config.token.scheme}",
    encoder=lambda _: "bi",
)
