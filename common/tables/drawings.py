"""The figures that belong to the tables: which points they show."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.tables import plots
from common.tables.documents import curve
from common.tables.runs import (
    DAGGER,
    Cell,
    Corpus,
)

logger = logging.getLogger(__name__)

MARKS = {DAGGER: "trained on a part of the training sentences"}


def write_figures(found: Sequence[Corpus], folder: Path) -> list[str]:
    """Draws the figures that have something to show, and removes what an earlier call drew of those that have nothing.

    Returns:
        Names of the figures.
    """
    figures = {
        "pareto_parameters": plots.cost_figure(_by_parameters(found), "trained parameters", marks=MARKS),
        "pareto_time": plots.cost_figure(_by_time(found), "training time, minutes", marks=MARKS),
        "few_shot": plots.few_shot_figure({corpus.title: _curves(corpus) for corpus in found}),
    }
    for corpus in found:
        title = f"{corpus.title}: F1 by type (gold spans)"
        figures[f"types_{corpus.name}"] = plots.types_figure(title, _type_texts(corpus), _bars(corpus), MARKS)
    for name, figure in figures.items():
        if figure is None:
            logger.info("no figure %s: the results have nothing to show in it", name)
            for suffix in plots.FORMATS:
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        else:
            plots.save(figure, folder / name)
    return [name for name, figure in figures.items() if figure is not None]


def _point(corpus: Corpus, cell: Cell, x: float | None, *, mark: bool = True) -> plots.Point:
    macro = corpus.estimate(cell, "macro_f1")
    return plots.Point(x, macro.mean, macro.low, macro.high, DAGGER if mark and not corpus.is_whole(cell) else "")


def _by_parameters(found: Sequence[Corpus]) -> dict[str, plots.Panel]:
    # What trains nothing is a level: a logarithmic axis has no nought.
    return {
        corpus.title: {
            row.series: [_point(corpus, cell, cell.first.get("parameters", "trainable") or None)]
            for row, cell in corpus.shown
        }
        for corpus in found
    }


def _by_time(found: Sequence[Corpus]) -> dict[str, plots.Panel]:
    """One panel for each data set and machine: seconds of different machines do not compare."""
    panels: dict[str, plots.Panel] = {}
    for corpus in found:
        spent = {row: cell.cost for row, cell in corpus.shown}
        for machine in sorted({item.machine for item in spent.values() if item}):
            panel = {}
            for row, cell in corpus.shown:
                item = spent[row]
                if item is None:
                    panel[row.series] = [_point(corpus, cell, None)]
                elif item.machine == machine and item.seconds:
                    panel[row.series] = [_point(corpus, cell, item.seconds / 60)]
            panels[f"{corpus.title} ({machine})"] = panel
    return panels


def _curves(corpus: Corpus) -> plots.Panel:
    panel: dict[plots.Series, list[plots.Point]] = {}
    for row, cell in corpus.shown:
        if not row.approach.trains:
            panel[row.series] = [_point(corpus, cell, None)]
        else:
            panel[row.series] = [_point(corpus, item, size, mark=False) for size, item in curve(corpus, row).items()]
    return panel


def _type_texts(corpus: Corpus) -> dict[str, str]:
    return {name: name if n is None else f"{name}\n({n:,})" for name, n in corpus.types.items()}


def _bars(corpus: Corpus) -> dict[plots.Series, plots.Bars]:
    bars = {}
    for row, cell in corpus.shown:
        scores = {name: cell.mean_sd("scores", "per_type", name, "f1") for name in corpus.types}
        known = {name: score for name, score in scores.items() if score is not None}
        f1 = {name: mean for name, (mean, _) in known.items()}
        series = replace(row.series, label=row.marked)
        bars[series] = plots.Bars(f1, {name: sd for name, (_, sd) in known.items() if sd is not None})
    return bars
