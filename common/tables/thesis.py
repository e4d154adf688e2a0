"""What the thesis compares and what it reports: its approaches in order, their default variants, controls and figures.

The figures are those of the README of its code (stormtroober/GliNerBioMed-Label-SoftPrompt, commit 97f7940). They were measured on
other base models and on samples of 2,000 test sentences, so they stand beside ours and are not to be compared digit by digit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.data.dataset import Encoder
from common.registry import TRAINED

DATASETS = {"jnlpba": "JNLPBA", "bc5cdr": "BC5CDR"}
"""Its data sets and how they are written, in its order."""

FEW_SHOT_SIZES = (50, 200, 1000)
"""Training sentences of the few-shot curve, besides all of them."""

ZERO_SHOT = "Zero-shot"


@dataclass(frozen=True)
class Approach:
    """An approach of the main table."""

    title: str
    variants: dict[Encoder, str]
    """The default variant with each kind of encoder."""
    default: str
    """Pattern of the variants that count as the default; details that may be tuned for a data set are free."""

    def is_default(self, variant: str) -> bool:
        """Whether a variant belongs into the main table."""
        return re.fullmatch(self.default, variant) is not None


APPROACHES = (
    Approach(ZERO_SHOT, {"bi": "bi, names", "cross": "cross, names"}, "(bi|cross), names"),
    Approach("LDSA", {"bi": "io"}, "io"),
    Approach("SP-Base", {"bi": "focal_cb, io"}, "focal_cb, io"),
    Approach("SP-Cross", {"cross": "token, conv1d 32, io"}, r"token, \w+ \d+, io"),
    Approach("SP-Bi", {"bi": "attention 64, io"}, r"\w+ \d+, io"),
    Approach("SP-GLiNER", {"bi": "residual"}, "residual"),
    Approach("Full-FT", {"bi": "bi", "cross": "cross"}, "bi|cross"),
)
"""In the thesis's order."""

TITLES = dict(zip(TRAINED, (approach.title for approach in APPROACHES[1:]), strict=False))
"""The thesis's name of each of its trained approaches; those that were added come after them and keep their own."""


@dataclass(frozen=True)
class Control:
    """A variant that differs from the default in one thing."""

    name: str
    titles: tuple[str, ...]
    """Approaches that have it."""
    new: str
    """The part of the variant's name that says so."""
    old: str | None = None
    """The part that it replaces; it is added if there is none."""

    def of(self, variant: str) -> str:
        """The control's variant from the default's."""
        parts = variant.split(", ")
        return ", ".join([self.new if part == self.old else part for part in parts] + ([] if self.old else [self.new]))


CONTROLS = (
    Control("head only", ("SP-GLiNER",), "head only", "residual"),
    Control("prompt only", ("SP-GLiNER",), "prompt only"),
    Control("post_norm against residual", ("SP-GLiNER",), "post_norm", "residual"),
    Control("BIO against IO", ("LDSA", "SP-Base", "SP-Cross", "SP-Bi"), "bio", "io"),
    Control("descriptions against names", (ZERO_SHOT,), "descriptions", "names"),
    Control("descriptions against names", ("SP-GLiNER",), "descriptions"),
)

CONTROLLED = frozenset(
    {
        *("encoder", "labels", "level", "trainer", "variant", "token.scheme", "focal_alpha", "focal_gamma", "rest_lr"),
        *("head", "prompt_encoder", "prompt_form"),
        *("prompts.pooling", "prompts.prompt_length", "prompts.train_embedding_table"),
    }
)
"""Settings that a variant's name tells of."""


@dataclass(frozen=True)
class Reported:
    """A figure of the thesis."""

    value: float
    approximate: bool
    """Whether the thesis gives it with a tilde."""


def _reported(values: Sequence[float], n_approximate: int) -> dict[str, Reported]:
    return {
        approach.title: Reported(value, index < n_approximate)
        for index, (approach, value) in enumerate(zip(APPROACHES, values, strict=True))
    }


MACRO_F1 = {
    "jnlpba": _reported((0.38, 0.52, 0.54, 0.60, 0.62, 0.7016, 0.7164), n_approximate=5),
    "bc5cdr": _reported((0.61, 0.73, 0.75, 0.79, 0.80, 0.8526, 0.8833), n_approximate=5),
}
"""Macro F1 over spans by data set and approach; one figure for an approach, whatever its encoder."""

TRAINED_PERCENT = {
    title: Reported(figure.value, figure.approximate and figure.value > 0)
    for title, figure in _reported((0, 10, 5, 3, 3, 13, 100), n_approximate=6).items()
}
"""Share of trained parameters in percent, by approach. The thesis leaves some trained embedding tables out of it."""

ZERO_SHOT_FILES: dict[str, dict[Encoder, float]] = {
    "jnlpba": {"bi": 0.4754, "cross": 0.2726},
    "bc5cdr": {"bi": 0.6859, "cross": 0.6453},
}
"""Macro F1 of the thesis's own zero-shot result files (names, 2,000 sentences), which its README does not agree with."""
