"""Full fine-tuning: the GLiNER model as it is, everything that takes part in its forward pass trained."""

from __future__ import annotations

from common.approach import TrainedPart
from common.data.labels import LabelSet
from common.models.base import PARTS, Base
from common.models.span_model import SpanModel, loss_and_labels
from common.spec import ApproachSpec
from full_finetune.config import Config


def build(config: Config, base: Base, labels: LabelSet) -> SpanModel:
    """The base model with all its parts declared as trained, at one learning rate for the encoders and one for the rest.

    A bi-encoder's BiLSTM takes no part in the forward pass (gliner builds it and never calls it), so it stays frozen.
    """
    others = [name for name in ("cross fuser", "span_rep_layer", "prompt_rep_layer") if base.has(name)]
    if base.encoder == "cross" and base.has("BiLSTM"):
        others.append("BiLSTM")
    return SpanModel(
        base,
        labels,
        labels.texts(config.labels),
        (
            TrainedPart("encoders", ("core.token_rep_layer",), config.encoder_lr),
            TrainedPart("others", tuple(f"core.{PARTS[name]}" for name in others), config.others_lr),
        ),
        focal_gamma=config.focal_gamma,
        focal_alpha=config.focal_alpha,
        threshold=config.threshold,
    )


def variant(config: Config) -> str:
    """Name of the variant: the kind of encoder, and what else differs from the plain approach."""
    names = [config.encoder, *(["gliner's trainer"] if config.trainer == "gliner" else [])]
    return ", ".join(names + loss_and_labels(config.labels, config.focal_gamma, config.focal_alpha))


SPEC = ApproachSpec("full_finetune", "Full-FT", Config, build, variant, encoder=lambda config: config.encoder)
