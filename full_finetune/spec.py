"""The specification of full fine-tuning."""

from __future__ import annotations

from common.bases import GLINER
from common.models.config import span_variant
from common.spec import ApproachSpec, Variant
from full_finetune.config import Config


def variant(config: Config) -> Variant:
    """The kind of encoder, and what else differs from the plain approach."""
    trainer = {"trainer": "gliner's trainer"} if config.trainer == "gliner" else {}
    return {"encoder": config.encoder, **trainer, **span_variant(config.labels, config.focal_gamma, config.focal_alpha)}


SPEC = ApproachSpec(
    name="full_finetune",
    title="Full-FT",
    config=Config,
    bases=GLINER,
    kinds=("bi", "cross"),
    variant=variant,
    variant_settings=frozenset({"encoder", "trainer", "labels", "focal_gamma", "focal_alpha"}),
    cost=7,
    few_shot=True,
    mixtures=True,
    keeps_zero_shot=True,
)
