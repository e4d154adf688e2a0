"""The thesis's figures, shown beside ours.

They are from the README of its code (stormtroober/GliNerBioMed-Label-SoftPrompt, commit 97f7940), measured on other
base models and on samples of 2,000 test sentences, so they cannot be compared digit by digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DATASETS = {"jnlpba": "JNLPBA", "bc5cdr": "BC5CDR"}
"""Its data sets and how they are written, in its order."""

FEW_SHOT_SIZES = (50, 200, 1000)
"""Training sentences of the few-shot curve, besides all of them."""

_APPROACHES = (
    "zeroshot_baseline", "ldsa", "softprompt_base", "injection_cross", "injection_bi", "glinerev", "full_finetune",
)  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """A figure of the thesis."""

    value: float
    approximate: bool
    """Whether the thesis gives it with a tilde."""


def _reported(values: Sequence[float], n_approximate: int) -> dict[str, Reported]:
    return {
        name: Reported(value, index < n_approximate)
        for index, (name, value) in enumerate(zip(_APPROACHES, values, strict=True))
    }


MACRO_F1 = {
    "jnlpba": _reported((0.38, 0.52, 0.54, 0.60, 0.62, 0.7016, 0.7164), n_approximate=5),
    "bc5cdr": _reported((0.61, 0.73, 0.75, 0.79, 0.80, 0.8526, 0.8833), n_approximate=5),
}
"""Macro F1 over spans by data set and approach; one figure for an approach, whatever its encoder."""

TRAINED_PERCENT = {
    name: Reported(figure.value, figure.approximate and figure.value > 0)
    for name, figure in _reported((0, 10, 5, 3, 3, 13, 100), n_approximate=6).items()
}
"""Share of trained parameters in percent, by approach. The thesis leaves some trained embedding tables out of it."""

ZERO_SHOT_FILES: dict[str, dict[str, float]] = {
    "jnlpba": {"bi": 0.4754, "cross": 0.2726},
    "bc5cdr": {"bi": 0.6859, "cross": 0.6453},
}
"""Macro F1 of the thesis's own zero-shot result files (names, 2,000 sentences), which its README does not agree
with."""
