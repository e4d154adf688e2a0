"""SP-Base: a trainable table of label vectors in place of the label encoder's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import Base
from common.models.token_model import ClassLoss, Descriptions, LabelComparison, TokenModel, label_projection
from softprompt_base.config import Config


class LabelTable(nn.Module):
    """A table of label vectors, initialised with the encoded descriptions.

    Args:
        base: A bi-encoder.
        labels: Entity types.
    """

    def __init__(self, base: Base, labels: LabelSet) -> None:
        super().__init__()
        with torch.no_grad():
            self.table = nn.Embedding.from_pretrained(Descriptions(base, labels)(), freeze=False)

    def forward(self) -> Tensor:
        """The table, shape ``(C + 1, E)``."""
        return self.table.weight


def build(config: Config, base: Base, labels: LabelSet) -> TokenModel:
    """The model, table and projection declared as trained, each at its own learning rate.

    Raises:
        InputError: If the base has no label encoder.
    """
    loss = {
        "v1": ClassLoss("inverse_frequency"),
        "focal": ClassLoss("inverse_frequency", gamma=config.focal.gamma),
        "focal_cb": ClassLoss.focal(config.focal),
    }[config.variant]
    projection = label_projection(base)
    table = LabelTable(base, labels)
    model = TokenModel(base, labels, config.token, loss, LabelComparison(base, table))
    model.declare(
        TrainedPart("table", (model.path_of(table.table),), config.table_lr),
        TrainedPart("projection", (model.path_of(projection),), config.projection_lr),
    )
    return model
