"""The specification of SP-Base."""

from __future__ import annotations

from common.bases import GLINER
from common.spec import ApproachSpec, Control
from softprompt_base.config import Config

SPEC = ApproachSpec(
    name="softprompt_base",
    title="SP-Base",
    config=Config,
    bases=GLINER,
    kinds=("bi",),
    variant=lambda config: {"loss": config.variant, "scheme": config.token.scheme},
    variant_settings=frozenset({"variant", "token.scheme"}),
    controls=(Control("bio", "BIO against IO", ("--scheme", "bio"), {"scheme": "bio"}),),
    cost=2,
    stores_features=True,
    renamed={"table.": "comparison.labels.table."},
)
