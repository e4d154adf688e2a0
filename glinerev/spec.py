"""The specification of SP-GLiNER."""

from __future__ import annotations

from common.bases import GLINER
from common.models.config import span_variant
from common.spec import ApproachSpec, Control, Variant
from glinerev.config import Config


def variant(config: Config) -> Variant:
    """The prompt form or the control run, and what else differs from the plain approach."""
    aspects: dict[str, str] = {"prompt encoder": config.prompt_form if config.prompt_encoder else "head only"}
    aspects |= {} if config.head else {"head": "prompt only"}
    aspects |= {"encoders": "encoders trained"} if config.rest_lr else {}
    return aspects | span_variant(config.labels, config.focal_gamma, config.focal_alpha)


SPEC = ApproachSpec(
    name="glinerev",
    title="SP-GLiNER",
    config=Config,
    bases=GLINER,
    kinds=("bi",),
    variant=variant,
    variant_settings=frozenset(
        {"prompt_form", "prompt_encoder", "head", "rest_lr", "labels", "focal_gamma", "focal_alpha"}
    ),
    controls=(
        Control("head only", "head only", ("--no-prompt-encoder",), {"prompt encoder": "head only"}),
        Control("prompt only", "prompt only", ("--no-head",), {"head": "prompt only"}),
        Control(
            "post_norm", "post_norm against residual", ("--prompt-form", "post_norm"), {"prompt encoder": "post_norm"}
        ),
        Control("descriptions", "descriptions against names", ("--labels", "descriptions"), {"labels": "descriptions"}),
    ),
    cost=4,
    few_shot=True,
    stores_features=True,
    mixtures=True,
    keeps_zero_shot=True,
)
