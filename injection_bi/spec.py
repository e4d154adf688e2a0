"""The specification of SP-Bi."""

from __future__ import annotations

from common.bases import GLINER
from common.models.config import PROMPT_SETTINGS, prompt_variant
from common.spec import ApproachSpec, Control
from injection_bi.config import Config

SPEC = ApproachSpec(
    name="injection_bi",
    title="SP-Bi",
    config=Config,
    bases=GLINER,
    kinds=("bi",),
    variant=lambda config: {**prompt_variant(config.prompts), "scheme": config.token.scheme},
    variant_settings=PROMPT_SETTINGS | {"token.scheme"},
    tuned=frozenset({"prompts"}),
    controls=(Control("bio", "BIO against IO", ("--scheme", "bio"), {"scheme": "bio"}),),
    cost=3,
    few_shot=True,
    stores_features=True,
    renamed={"prompts.": "comparison.labels.prompts."},
)
