"""The specification of SP-Cross."""

from __future__ import annotations

from common.bases import GLINER
from common.models.config import PROMPT_SETTINGS, prompt_variant
from common.spec import ApproachSpec, Control, Variant
from injection_cross.config import Config


def variant(config: Config) -> Variant:
    """Level, pooling and prompt length; of the token level the tag scheme."""
    scheme = {"scheme": config.token.scheme} if config.level == "token" else {}
    return {"level": config.level, **prompt_variant(config.prompts), **scheme}


SPEC = ApproachSpec(
    name="injection_cross",
    title="SP-Cross",
    config=Config,
    bases=GLINER,
    kinds=("cross",),
    variant=variant,
    variant_settings=PROMPT_SETTINGS | {"level", "token.scheme"},
    tuned=frozenset({"prompts"}),
    controls=(Control("bio", "BIO against IO", ("--scheme", "bio"), {"scheme": "bio"}),),
    cost=5,
    renamed={"injected.": "comparison."},
)
