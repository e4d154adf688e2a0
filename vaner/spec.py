"""The specification of VANER."""

from __future__ import annotations

from common.models.causal_lm import KIND, language_models
from common.spec import ApproachSpec, Control, Variant
from vaner.config import DEFAULT_BASE, Config

_DBR = {"knowledge": "DBR", "random": "random DBR", "off": "no DBR"}


def variant(config: Config) -> Variant:
    """The kind of DBR, and what else differs from the paper's model."""
    aspects = {"dbr": _DBR[config.dbr]}
    aspects |= {"attention": "causal attention"} if config.attention == "causal" else {}
    aspects |= {"quantization": config.quantization} if config.quantization != "none" else {}
    aspects |= {} if config.name_datasets else {"name_datasets": "data set not named"}
    return aspects


SPEC = ApproachSpec(
    name="vaner",
    title="VANER",
    config=Config,
    bases=language_models(DEFAULT_BASE),
    kinds=(KIND,),
    variant=variant,
    variant_settings=frozenset({"dbr", "attention", "quantization", "name_datasets"}),
    controls=(
        Control("random DBR", "random DBR", ("--dbr", "random"), {"dbr": "random DBR"}),
        Control("no DBR", "no DBR", ("--dbr", "off"), {"dbr": "no DBR"}),
        Control("causal", "causal attention", ("--attention", "causal"), {"attention": "causal attention"}),
    ),
    cost=8,
    in_all=False,
    keeps_zero_shot=True,
    mixtures=True,
)
