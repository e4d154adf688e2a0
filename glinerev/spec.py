"""The specification of SP-GLiNER."""

from __future__ import annotations

from common.bases import GLINER
from common.models.config import span_variant
from common.spec import ApproachSpec, Control, Variant
from glinerev.config import Config


def variant(config: Config) -> Variant:
    """The prompt form or the control run, and what else differs from the plain approach."""
    aspects: dict[str, str] = {"prompt encoder": config.prompt_form if config.prompt_encoder else "head only"}
    if config.prompt_encoder:
        hidden = f" of {config.prompt_hidden}" if config.prompt_hidden is not None else ""
        aspects |= {"layers": f"{config.prompt_layers} layers{hidden}"} if config.prompt_layers > 1 else {}
    # Also without prompt encoder: a control differs from a tuned default in nothing but what it controls.
    usual = config.prompt_encoder_lr == Config.prompt_encoder_lr
    aspects |= {} if usual else {"prompt rate": f"prompt rate {config.prompt_encoder_lr:g}"}
    aspects |= {} if config.head else {"head": "prompt only"}
    if config.unfreeze_head_after:
        aspects |= {"head": f"head unfrozen after {config.unfreeze_head_after}"}
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
        {
            *("prompt_form", "prompt_encoder", "prompt_layers", "prompt_hidden", "prompt_encoder_lr"),
            *("head", "unfreeze_head_after", "rest_lr", "labels", "focal_gamma", "focal_alpha"),
        }
    ),
    renamed_settings={"release_head_after": "unfreeze_head_after"},
    tuned=frozenset({"prompt rate"}),
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
