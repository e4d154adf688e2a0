"""The specification of the causal tagger, with its own way to load a base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import sha256_file
from common.spec import ApproachSpec, BaseSource, Control
from toy_causal.config import Config


def revision(source: str) -> str:
    """Hash of the weights."""
    weights = Path(source) / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"base model {source!r} has no weights")
    return f"sha256:{sha256_file(weights)}"


def load(source: str, kind: str, _: str | None) -> Any:
    """The language model of a folder."""
    from toy_causal.model import LanguageModel

    return LanguageModel(Path(source), kind, revision(source))


SPEC = ApproachSpec(
    name="toy_causal",
    title="Causal tagger",
    config=Config,
    bases=BaseSource(load, revision, {"causal": "nowhere"}),
    kinds=("causal",),
    variant=lambda config: {"scale": f"scale {config.scale:g}"},
    variant_settings=frozenset({"scale"}),
    controls=(Control("flat", "flat scores", ("--scale", "0.5"), {"scale": "scale 0.5"}),),
    cost=9,
)
