"""Full fine-tuning: the GLiNER model as it is, everything that takes part in its forward pass trained."""

from __future__ import annotations

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import PARTS, Base
from common.models.span_model import SpanModel
from full_finetune.config import Config


def build(config: Config, base: Base, labels: LabelSet) -> SpanModel:
    """The base model with all parts declared as trained: the encoders at one learning rate, the rest at another.

    A bi-encoder's BiLSTM takes no part in the forward pass (gliner builds it and never calls it), so it stays frozen.
    """
    others = [name for name in ("cross fuser", "span_rep_layer", "prompt_rep_layer") if base.has(name)]
    if base.kind == "cross" and base.has("BiLSTM"):
        others.append("BiLSTM")
    model = SpanModel(
        base,
        labels,
        labels.texts(config.labels),
        focal_gamma=config.focal_gamma,
        focal_alpha=config.focal_alpha,
        threshold=config.threshold,
    )
    model.declare(
        TrainedPart("encoders", ("core.token_rep_layer",), config.encoder_lr),
        TrainedPart("others", tuple(f"core.{PARTS[name]}" for name in others), config.others_lr),
    )
    return model
