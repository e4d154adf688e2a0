"""The specification of LoRA and its relatives."""

from __future__ import annotations

from collections.abc import Mapping

from common.bases import GLINER
from common.models.config import span_variant
from common.spec import ApproachSpec, Control, Variant
from lora.config import DEFAULTS, Config, Method

TITLES: Mapping[Method, str] = {
    "lora": "LoRA", "dora": "DoRA", "rslora": "rsLoRA", "loha": "LoHa", "lokr": "LoKr", "ia3": "IA3",
    "bitfit": "BitFit",
}  # fmt: skip
_TARGETS = {"label": "label encoder", "both": "both encoders"}
IN_PLACE_OF_LORA: tuple[Method, ...] = ("dora", "ia3", "bitfit")


def variant(config: Config) -> Variant:
    """The kind of encoder and the method, and what else differs from the plain approach."""
    aspects = {"encoder": config.encoder, "method": TITLES[config.method]}
    aspects |= {"target": _TARGETS[config.target]} if config.target != "text" else {}
    aspects |= {"modules": "+".join(config.modules)} if config.modules else {}
    aspects |= {"rank": f"rank {config.rank}"} if config.rank != DEFAULTS[config.method].get("rank") else {}
    aspects |= {"encoder dropout": "encoder dropout"} if config.encoder_dropout else {}
    aspects |= {} if config.head else {"head": "adapters only"}
    return aspects | span_variant(config.labels, config.focal_gamma, config.focal_alpha)


SPEC = ApproachSpec(
    name="lora",
    title="LoRA",
    config=Config,
    bases=GLINER,
    kinds=("bi", "cross"),
    variant=variant,
    variant_settings=frozenset(
        {
            "encoder",
            "method",
            "target",
            "modules",
            "rank",
            "encoder_dropout",
            "head",
            "labels",
            "focal_gamma",
            "focal_alpha",
        }
    ),
    tuned=frozenset({"rank", "encoder dropout"}),
    controls=(
        *(
            Control(method, f"{TITLES[method]} in place of LoRA", ("--method", method), {"method": TITLES[method]})
            for method in IN_PLACE_OF_LORA
        ),
        Control(
            "encoder dropout",
            "with the encoder's dropout",
            ("--encoder-dropout",),
            {"encoder dropout": "encoder dropout"},
        ),
        Control("adapters only", "adapters only", ("--no-head",), {"head": "adapters only"}),
    ),
    cost=6,
    few_shot=True,
    keeps_zero_shot=True,
    mixtures=True,
)
