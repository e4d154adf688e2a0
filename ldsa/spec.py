"""The specification of LDSA."""

from __future__ import annotations

from common.bases import GLINER
from common.spec import ApproachSpec, Control
from ldsa.config import Config

SPEC = ApproachSpec(
    name="ldsa",
    title="LDSA",
    config=Config,
    bases=GLINER,
    kinds=("bi",),
    variant=lambda config: {"scheme": config.token.scheme},
    variant_settings=frozenset({"token.scheme"}),
    controls=(Control("bio", "BIO against IO", ("--scheme", "bio"), {"scheme": "bio"}),),
    cost=1,
    few_shot=True,
    stores_features=True,
)
