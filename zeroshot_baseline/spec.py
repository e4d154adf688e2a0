"""The specification of the zero-shot baseline."""

from __future__ import annotations

from common.bases import GLINER
from common.spec import ApproachSpec, Control, Variant
from zeroshot_baseline.config import Config


def variant(config: Config) -> Variant:
    """Kind of encoder, and what it reads for each type."""
    return {"encoder": config.encoder, "labels": config.labels}


SPEC = ApproachSpec(
    name="zeroshot_baseline",
    title="Zero-shot",
    config=Config,
    bases=GLINER,
    kinds=("bi", "cross"),
    variant=variant,
    variant_settings=frozenset({"encoder", "labels"}),
    controls=(
        Control("descriptions", "descriptions against names", ("--labels", "descriptions"), {"labels": "descriptions"}),
    ),
    cost=0,
    trains=False,
    keeps_zero_shot=True,
)
