"""Which points the figures beside the tables show."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from common.tables import plots
from common.tables.groups import Benchmark, Entry, Group, mean_sd
from common.tables.render import DAGGER
from common.tables.transfers import kept, of_entry

logger = logging.getLogger(__name__)


def write_figures(found: Sequence[Benchmark], folder: Path) -> None:
    """Draws the figures that have something to show, and removes what was drawn before of those that have nothing."""
    figures = {
        "pareto_parameters": plots.cost_figure(_by_parameters(found), "trained parameters"),
        "pareto_time": plots.cost_figure(_by_time(found), "training time, minutes"),
        "transfer": plots.share_figure(_gain_and_loss(found), "zero-shot F1 kept on other corpora, percent"),
        "few_shot": plots.few_shot_figure({benchmark.title: _curves(benchmark) for benchmark in found}),
    }
    for benchmark in found:
        title = f"{benchmark.title}: F1 by type (gold spans)"
        figures[f"types_{benchmark.name}"] = plots.types_figure(title, _type_texts(benchmark), _bars(benchmark))
    for name, figure in figures.items():
        if figure is None:
            logger.info("no figure %s: the results have nothing to show in it", name)
            for suffix in plots.FORMATS:
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        else:
            plots.save(figure, folder / name)


def _series(entry: Entry, mark: str = "") -> plots.Series:
    return plots.Series(*entry.look, entry.label + mark)


def _point(benchmark: Benchmark, group: Group, x: float | None, *, mark: bool = True) -> plots.Point:
    macro = benchmark.estimate(group, "macro_f1")
    return plots.Point(x, macro.mean, macro.low, macro.high, DAGGER if mark and not benchmark.is_whole(group) else "")


def _by_parameters(found: Sequence[Benchmark]) -> dict[str, plots.Panel]:
    # What trains nothing is a level: a logarithmic axis has no zero.
    return {
        item.title: {
            _series(entry): [_point(item, group, group.first.trainable or None)] for entry, group in item.shown
        }
        for item in found
    }


def _by_time(found: Sequence[Benchmark]) -> dict[str, plots.Panel]:
    """One panel for each data set and machine: seconds of different machines do not compare."""
    panels: dict[str, plots.Panel] = {}
    for item in found:
        costs = [group.cost for _, group in item.shown]
        for machine in sorted({cost.machine for cost in costs if cost}):
            panel = {}
            for (entry, group), cost in zip(item.shown, costs, strict=True):
                if cost is None:
                    panel[_series(entry)] = [_point(item, group, None)]
                elif cost.machine == machine and cost.training_seconds:
                    panel[_series(entry)] = [_point(item, group, cost.training_seconds / 60)]
            panels[f"{item.title} ({machine})"] = panel
    return panels


def _gain_and_loss(found: Sequence[Benchmark]) -> dict[str, plots.Panel]:
    """For each data set: what of the zero-shot F1 is kept, in percent, against macro F1 on the data set itself."""
    panels: dict[str, plots.Panel] = {}
    for item in found:
        shares = {entry: kept(of_entry(item, entry)) if entry.trains else 100.0 for entry, _ in item.shown}
        if any(entry.trains and share is not None for entry, share in shares.items()):
            panels[item.title] = {
                _series(entry): [_point(item, group, shares[entry], mark=False)]
                for entry, group in item.shown
                if shares[entry] is not None
            }
    return panels


def _curves(benchmark: Benchmark) -> plots.Panel:
    panel: dict[plots.Series, list[plots.Point]] = {}
    for entry, group in benchmark.shown:
        if not entry.trains:
            panel[_series(entry)] = [_point(benchmark, group, None)]
        else:
            curve = benchmark.curve(entry).items()
            panel[_series(entry)] = [_point(benchmark, item, size, mark=False) for size, item in curve]
    return panel


def _type_texts(benchmark: Benchmark) -> dict[str, str]:
    return {name: name if n is None else f"{name}\n({n:,})" for name, n in benchmark.types.items()}


def _bars(benchmark: Benchmark) -> dict[plots.Series, plots.Bars]:
    bars = {}
    for entry, group in benchmark.shown:
        f1, sd = {}, {}
        for name in benchmark.types:
            mean, deviation = mean_sd(result.per_type.get(name, {}).get("f1") for result in group.results)
            if mean is not None:
                f1[name] = mean
            if deviation is not None:
                sd[name] = deviation
        bars[_series(entry, "" if benchmark.is_whole(group) else f" {DAGGER}")] = plots.Bars(f1, sd)
    return bars
