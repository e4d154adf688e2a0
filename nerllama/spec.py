"""The specification of NERLlama3.1."""

from __future__ import annotations

from common.models.causal_lm import KIND, language_models
from common.spec import ApproachSpec, Control, Variant
from nerllama.config import DEFAULT_BASE, Config

_FORM = {"single": "a prompt for each type", "multi": "one prompt for all types"}


def answers(samples: int, vote: float) -> str:
    """What decides, in words."""
    return f"{samples} samples, vote {vote:g}" if samples else "greedy"


def variant(config: Config) -> Variant:
    """The form of the prompts, their examples, how answers are made, and what else differs from the default."""
    aspects = {
        "form": _FORM[config.form],
        "examples": f"{config.training_shots} and {config.shots} examples",
        "answers": answers(config.samples, config.vote),
    }
    aspects |= {"loss": "loss on all"} if config.loss == "all" else {}
    aspects |= {"quantization": config.quantization} if config.quantization != "none" else {}
    return aspects


SPEC = ApproachSpec(
    name="nerllama",
    title="NERLlama3.1",
    config=Config,
    bases=language_models(DEFAULT_BASE),
    kinds=(KIND,),
    variant=variant,
    variant_settings=frozenset({"form", "training_shots", "shots", "samples", "vote", "loss", "quantization"}),
    controls=(
        Control(
            "no examples",
            "no examples",
            ("--training-shots", "0", "--shots", "0"),
            {"examples": "0 and 0 examples"},
        ),
        Control("all types", "one prompt for all types", ("--form", "multi"), {"form": _FORM["multi"]}),
        Control("voting", "voting", ("--samples", "5"), {"answers": answers(5, 0.5)}),
        Control("loss on all", "loss on prompt and answer", ("--loss", "all"), {"loss": "loss on all"}),
    ),
    cost=9,
    in_all=False,
    keeps_zero_shot=True,
    mixtures=True,
)
