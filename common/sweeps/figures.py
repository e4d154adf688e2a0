"""Figures of an Optuna study for print, in the style of all figures.

Importances, parameters and parallel coordinates are Optuna's, with texts that fit. History, reported values and
timeline are our own: Optuna's show no states in the first two and draw a running trial up to now in the third.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as optunas

from common.config import require
from common.figures import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, WIDTH, styled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """How trials of one state look."""

    name: str
    color: str
    marker: str
    fill: str
    hatch: str
    dashes: Any

    @property
    def point(self) -> dict[str, Any]:
        """Options of a point."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markerfacecolor": self.fill,
            "markersize": 4.5,
            "linestyle": "none",
        }


LOOKS = {
    TrialState.COMPLETE: Look("complete", BLUE, "o", BLUE, "", "-"),
    TrialState.PRUNED: Look("pruned", ORANGE, "D", "white", "////", (0, (4, 2))),
    TrialState.FAIL: Look("failed", VERMILION, "X", VERMILION, "xxxx", (0, (1, 1.2))),
    TrialState.RUNNING: Look("running", GREEN, "P", "white", "....", (0, (5, 1, 1, 1))),
}
"""Every state that is drawn; waiting trials have nothing to draw."""
STAR: dict[str, Any] = {
    "marker": "*",
    "markersize": 10,
    "color": ORANGE,
    "markeredgecolor": BLACK,
    "markeredgewidth": 0.8,
    "zorder": 4,
    "linestyle": "none",
}
MAX_AXES = 8
"""Parallel coordinates in one figure, at most."""


@dataclass(frozen=True)
class View:
    """A study as the figures see it."""

    study: Study
    name: str
    """Name in the figures."""
    metric: str
    """What the objective is."""
    importance: str = "default"
    """Optuna's evaluator of importances: its default, PED-ANOVA, or fanova."""

    def check(self, where: str) -> None:
        """Raises ``InputError`` if there is nothing to draw, or a number that no axis can hold."""
        for trial in self.trials:
            numbers = [*trial.params.values(), *(trial.values or ()), *trial.intermediate_values.values()]
            for number in (n for n in (*numbers, *trial.intermediate_values) if isinstance(n, int | float)):
                require(
                    abs(number) < 1e150 or not math.isfinite(number), f"{where}: trial {trial.number} has {number:.3g}"
                )
            for time in filter(None, (trial.datetime_start, trial.datetime_complete)):
                require(1900 < time.year < 2200, f"{where}: trial {trial.number} ran in the year {time.year}")
        states = Counter(trial.state.name.lower() for trial in self.trials)
        counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "it is empty"
        require(len(self.completed) > 0, f"{where}: no completed trial with a finite value ({counts})")

    @property
    def maximize(self) -> bool:
        """Whether higher values are better."""
        return self.study.direction == StudyDirection.MAXIMIZE

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """The trials by number."""
        return self.study.get_trials()

    @cached_property
    def completed(self) -> list[FrozenTrial]:
        """Completed trials with a finite value: the only ones that can be best."""
        return [t for t in self.trials if t.state == TrialState.COMPLETE and math.isfinite(_value(t))]

    @cached_property
    def best(self) -> list[FrozenTrial]:
        """Each completed trial that was better than all completed ones before it; the last is the study's best."""
        sign, found = 1 if self.maximize else -1, list[FrozenTrial]()
        for trial in self.completed:
            if not found or sign * _value(trial) > sign * _value(found[-1]):
                found.append(trial)
        return found

    @cached_property
    def parameters(self) -> list[str]:
        """Names of the parameters of completed trials, in the order in which they first appear."""
        return list(dict.fromkeys(name for trial in self.completed for name in trial.params))

    @property
    def evaluator(self) -> FanovaImportanceEvaluator | None:
        """Optuna's evaluator; None for its default."""
        return FanovaImportanceEvaluator(seed=0) if self.importance == "fanova" else None

    @cached_property
    def shares(self) -> dict[str, float]:
        """Optuna's importances, the highest first; empty if the completed trials do not tell any."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            raw = get_param_importances(self.study, evaluator=self.evaluator, normalize=False)
        for text in dict.fromkeys(str(warning.message) for warning in caught):
            logger.warning("%s: %s", self.name, text)
        # A trial with an infinite value may have parameters that no other has.
        raw = {name: raw[name] for name in sorted(raw, key=lambda name: (-raw[name], name)) if name in self.parameters}
        total = sum(raw.values())
        # Optuna's own normalising would call all parameters equally important.
        return {name: share / total for name, share in raw.items()} if total > 0 else {}

    @property
    def ranked(self) -> list[str]:
        """The parameters, the most important first; those without an importance follow in their own order."""
        return [*self.shares, *(name for name in self.parameters if name not in self.shares)]

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Ends of the objective's axis, less runaway values, which would flatten the others; the best is always in."""
        shown = [value for trial in self.trials if (value := shown_value(trial)) is not None]
        return _limits(shown, [_value(trial) for trial in self.completed], _value(self.best[-1]))


def _value(trial: FrozenTrial) -> float:
    return math.nan if trial.values is None else trial.values[0]


def shown_value(trial: FrozenTrial) -> float | None:
    """Where a trial stands in the history: its value or, if it ended before it had one, the last that it reported."""
    if not math.isnan(_value(trial)):
        return _value(trial)
    reported = [value for _, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)]
    return reported[-1] if reported else None


def _limits(values: Sequence[float], basis: Sequence[float], keep: float) -> tuple[float, float]:
    """Ends around ``keep`` and what lies within eight quartile distances of the middle half of ``basis``."""
    first, third = (float(quartile) for quartile in np.quantile(basis, (0.25, 0.75)))
    reach = 8 * (third - first) if len(basis) >= 4 and third > first else math.inf
    near = [value for value in values if math.isfinite(value) and first - reach <= value <= third + reach]
    low, high = min([*near, keep]), max([*near, keep])
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """``text`` in at most ``lines`` lines, broken at spaces and after ``_ - . / =``; too long, it loses its middle."""
    text = " ".join(text.split()) or "(empty)"
    for keep in range(min(len(text), width * lines), 0, -1):
        short = text if keep == len(text) else f"{text[: keep // 2]}…{text[len(text) - keep // 2 :]}"
        # A form feed is a place to break that is not seen.
        loose = re.sub(r"(?<=[_\-./=])(?=\w)", "\f", short)
        found = textwrap.wrap(loose, width, break_on_hyphens=False, replace_whitespace=False)
        if len(found) <= lines:
            break
    return "\n".join(line.replace("\f", "") for line in found)


@contextlib.contextmanager
def _optunas_style() -> Iterator[None]:
    """Optuna's figures ask for the style "ggplot"; within, that changes nothing, and their warnings are not shown."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ggplot = mpl.style.library["ggplot"]
        mpl.style.library["ggplot"] = mpl.RcParams()
        mpl.rcParams["figure.constrained_layout.use"] = True
        try:
            yield
        finally:
            mpl.style.library["ggplot"] = ggplot


def _of(axes: Axes) -> Figure:
    return cast(Figure, axes.get_figure(root=True))


def _finished(view: View, axes: Axes, width: float, height: float) -> Figure:
    """A figure that pyplot made, in its final size, with the study's name and a legend below the panels."""
    figure = _of(axes)
    plt.close(figure)
    figure.set_size_inches(width, height)
    figure.suptitle(wrapped(view.name, int(width * 10), 3))
    handles = [handle for each in figure.axes for handle in each.get_legend_handles_labels()[0]]
    if handles:
        # An inch holds some 16 characters; a handle and its gaps are half an inch.
        inches = sum(0.6 + len(str(handle.get_label())) / 16 for handle in handles)
        rows = math.ceil(inches / width)
        figure.legend(handles=handles, loc="outside lower center", ncols=math.ceil(len(handles) / rows))
    return figure


def _log_axis(axis: Axis) -> None:
    """Round numbers in plain text on a logarithmic axis, and enough of them."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1.1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs) if decades > 0.6 else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))
    axis.set_minor_locator(NullLocator())


def _number(value: float) -> str:
    """A short number: ``1e-5``, not ``1e-05``."""
    return re.sub(r"\.?0*e-0?", "e-", f"{value:.2e}") if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def draw_history(axes: Axes, view: View) -> None:
    """Draws each trial's value and the best so far; what has no value or one off the scale stands at the edge."""
    low, high = view.limits
    for state, look in LOOKS.items():
        trials = [trial for trial in view.trials if trial.state == state]
        values = [shown_value(trial) for trial in trials]
        for trial, value in zip(trials, values, strict=True):
            place = low if value is None else min(max(value, low), high)
            marker = look.marker if value in (None, place) else "^" if place == high else "v"
            axes.plot(trial.number, place, clip_on=False, zorder=3, **look.point | {"marker": marker})
        if trials:
            reported = state != TrialState.COMPLETE and any(value is not None for value in values)
            axes.plot([], [], label=f"{look.name}{', last report' if reported else ''} ({len(trials)})", **look.point)
    best = view.best[-1]
    numbers = [*(trial.number for trial in view.best), view.trials[-1].number]
    heights = [*map(_value, view.best), _value(best)]
    axes.step(numbers, heights, where="post", color=BLACK, linewidth=1.3, zorder=2, label="best so far")
    axes.plot(best.number, _value(best), label=f"best (trial {best.number})", **STAR)
    shown = [shown_value(trial) for trial in view.trials if trial.state in LOOKS]
    if None in shown:
        axes.plot([], [], color=GREY, linestyle="none", marker="_", label="at the lower edge: no value")
    if any(value is not None and not low <= value <= high for value in shown):
        axes.plot([], [], color=GREY, linestyle="none", marker="^", label="off the scale")
    axes.set(xlabel="trial", ylabel=wrapped(view.metric, 32), ylim=(low, high))
    axes.set_title(f"History: best {_value(best):.4g} in trial {best.number}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    margin = max(0.5, 0.03 * view.trials[-1].number)
    axes.set_xlim(view.trials[0].number - margin, view.trials[-1].number + margin)


def standard_figure(view: View) -> Figure:
    """History and parameter importances; the history alone if Optuna finds no importances."""
    if not view.shares:
        logger.info("%s: no importances, %d completed trials do not tell them", view.name, len(view.completed))
        history = plt.figure().add_subplot()
        draw_history(history, view)
        return _finished(view, history, 0.75 * WIDTH, 3.7)
    names = list(view.shares)
    axes = optunas.plot_param_importances(view.study, view.evaluator, names, target_name=view.metric)
    cast(Any, axes.get_legend()).remove()
    # Optuna's legend would name the objective.
    axes.containers[0].set_label("")
    for bar, text in zip(axes.patches, axes.texts, strict=True):
        bar.set_color(BLUE)
        text.set(text=f" {text.get_text()}", fontsize=8)
    labels = [wrapped(label.get_text(), 24) for label in axes.get_yticklabels()]
    axes.set_yticks(axes.get_yticks(), labels)
    axes.grid(visible=False, axis="y")
    method = "fANOVA" if view.importance == "fanova" else "PED-ANOVA, best 10 %"
    notes = [f"share ({method}; {len(view.completed)} completed trials)"]
    if left_out := [name for name in view.parameters if name not in names]:
        notes += textwrap.wrap(f"left out: {', '.join(left_out)}", 56, max_lines=3, placeholder=" …")
    axes.set_title("", loc="left")
    axes.set(title="Importance of the parameters", ylabel="", xlim=(0, 1.2 * max(view.shares.values())))
    axes.set_xlabel("\n".join(notes), loc="right")
    grid = _of(axes).add_gridspec(1, 2)
    axes.set_subplotspec(grid[1])
    draw_history(_of(axes).add_subplot(grid[0]), view)
    return _finished(view, axes, WIDTH, max(3.7, 1.9 + sum(0.19 + 0.13 * text.count("\n") for text in labels)))


def summary_figure(view: View, count: int = 3) -> Figure | None:
    """History and the ``count`` most important parameters; None if completed trials have no parameters."""
    names = view.ranked[:count]
    if not names:
        return None
    panels = list(np.atleast_1d(cast(Any, optunas.plot_slice(view.study, names, target_name=view.metric))))
    panels.sort(key=lambda axes: names.index(axes.get_xlabel()))
    figure = _of(panels[0])
    # An odd panel gets a row of its own at the top: no place stays empty.
    wide = len(names) % 2 == 0
    rows = math.ceil((len(names) + 1) / 2)
    grid = figure.add_gridspec(rows, 2)
    for points in [points for axes in panels for points in axes.collections]:
        if points.colorbar is not None:
            points.colorbar.remove()
        points.set(array=None, facecolor=BLUE, edgecolor="white", linewidth=0.4, sizes=[22], label="")
    for place, (axes, name) in enumerate(zip(panels, names, strict=True), start=2 if wide else 1):
        axes.set_subplotspec(grid[place // 2, place % 2])
        _finish_slice(axes, view, name)
    draw_history(figure.add_subplot(grid[0, :] if wide else grid[0, 0]), view)
    return _finished(view, panels[0], WIDTH, 0.9 + 2.7 * rows)


def _finish_slice(axes: Axes, view: View, name: str) -> None:
    """The best trial and readable texts in a panel of Optuna's slices."""
    trials = [trial for trial in view.completed if name in trial.params]
    values = {trial.params[name] for trial in trials}
    best = view.best[-1]
    if axes.xaxis.have_units():
        # Optuna writes choices as Python would.
        names = {repr(trial.params[name]): str(trial.params[name]) for trial in trials}
        chosen = list(dict.fromkeys(label.get_text() for label in axes.get_xticklabels()))
        if best in trials:
            axes.plot(chosen.index(repr(best.params[name])), _value(best), **STAR)
        crowded = len(chosen) > 6
        texts = [wrapped(names[text], 20 if crowded else max(5, 44 // len(chosen))) for text in chosen]
        axes.set_xticks(range(len(chosen)), texts, rotation=90 if crowded else 0)
        axes.set_xlim(-0.6, len(chosen) - 0.4)
    else:
        if best in trials:
            axes.plot(best.params[name], _value(best), **STAR)
        if len(values) == 1:
            axes.set_xticks(list(values), [_number(value) for value in values])
            axes.minorticks_off()
        elif axes.get_xscale() == "log":
            _log_axis(axes.xaxis)
        else:
            integer = all(float(value).is_integer() for value in values)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=integer, min_n_ticks=1))
    label = wrapped(name, 34)
    if len(trials) < len(view.completed):
        label += f"\n(in {len(trials)} of {len(view.completed)} completed trials)"
    axes.set(xlabel=label, ylabel=wrapped(view.metric, 32), ylim=view.limits)
    axes.tick_params(labelleft=True)
    if name in view.shares:
        axes.set_title(f"Importance {view.shares[name]:.2f}")


def parallel_figure(view: View) -> Figure | None:
    """Parallel coordinates of the most important parameters and the objective; None if there are no parameters."""
    names = view.ranked[:MAX_AXES]
    if not names:
        return None
    axes = optunas.plot_parallel_coordinate(view.study, names, target_name=view.metric)
    (lines,) = axes.collections
    viridis = mpl.colormaps["viridis"](np.linspace(0, 0.9, 256))
    # Dark is good, and stands out on paper.
    lines.set(cmap=mpl.colors.ListedColormap(viridis[::-1] if view.maximize else viridis), linewidth=1.2, alpha=0.85)
    # Optuna sorts the parameters.
    width = max(11, 90 // (len(names) + 1))
    labels = [wrapped(text, width, 5) for text in (view.metric, *sorted(names))]
    axes.set_xticks(range(len(labels)), labels, rotation=0, fontsize=7.5)
    # Room for a choice in two lines at the lower end.
    axes.tick_params(axis="x", length=0, pad=12)
    axes.set_title("")
    if len(view.parameters) > len(names):
        axes.set_xlabel(f"less important and not shown: {len(view.parameters) - len(names)}")
    figure = _of(axes)
    figure.axes[1].set_ylabel(wrapped(view.metric, 40))
    for each, name in zip(figure.axes[2:], sorted(names), strict=True):
        values = [trial.params[name] for trial in view.completed if name in trial.params]
        low, high = each.get_ylim()
        if len(values) == len(view.completed) and len(set(values)) == 1:
            middle = math.sqrt(low * high) if each.get_yscale() == "log" else (low + high) / 2
            each.set_yticks(
                [middle], [_number(values[0]) if isinstance(values[0], float) else wrapped(str(values[0]), 14)]
            )
            each.minorticks_off()
        elif each.get_yscale() == "log":
            _log_axis(each.yaxis)
        else:
            texts = [label.get_text() for label in each.get_yticklabels()]
            most = 1 if len(texts) > 6 else 2
            texts = ["not set" if text == "None" else wrapped(text, 14, most) for text in texts]
            each.set_yticks(each.get_yticks(), texts)
        each.spines["right"].set_visible(True)
        for label in each.get_yticklabels():
            label.set(fontsize=7.5, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5})
    for each in figure.axes:
        each.grid(visible=False)
    return _finished(view, axes, WIDTH, 4.5)


def intermediate_figure(view: View) -> Figure | None:
    """Reported values by step, the best trial thick; None if no trial reported any."""
    curves = {trial.number: sorted(trial.intermediate_values.items()) for trial in view.trials if trial.state in LOOKS}
    everything = [value for curve in curves.values() for _, value in curve if math.isfinite(value)]
    if not everything:
        return None
    axes = plt.figure().add_subplot()
    best = view.best[-1]
    for state, look in LOOKS.items():
        others = [t for t in view.trials if t.state == state and curves[t.number] and t is not best]
        for i, trial in enumerate(others):
            axes.plot(
                *zip(*curves[trial.number], strict=True),
                color=SKY if look.dashes == "-" else look.color,
                marker=".",
                markersize=3,
                linewidth=1.0,
                linestyle=look.dashes,
                label="" if i else f"{look.name} ({len(others)})",
            )
    if curves[best.number]:
        xs, ys = zip(*curves[best.number], strict=True)
        axes.plot(xs, ys, color=BLUE, linewidth=2.2, marker=".", zorder=4, label=f"best (trial {best.number})")
    low, high = _limits(everything, everything, shown_value(best) or 0.0)
    off = any(not low <= value <= high for value in everything)
    axes.set(xlabel="step", ylabel=wrapped(view.metric, 34), ylim=(low, high))
    axes.set_title(f"Reported values{' (some off the scale)' if off else ''}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return _finished(view, axes, 0.75 * WIDTH, 3.9)


def timeline_figure(view: View) -> Figure | None:
    """When each trial ran; None if no times were kept."""
    runs = [(trial, start) for trial in view.trials if (start := trial.datetime_start) and trial.state in LOOKS]
    if not runs:
        return None
    axes = plt.figure().add_subplot()
    # A running trial has no end yet: it reaches as far as anything is known.
    last = max(trial.datetime_complete or start for trial, start in runs)
    for state, look in LOOKS.items():
        rows = [(trial.number, start, trial.datetime_complete or last) for trial, start in runs if trial.state == state]
        if rows:
            starts, ends = (mpl.dates.date2num([row[i] for row in rows]) for i in (1, 2))
            axes.barh(
                [row[0] for row in rows],
                ends - starts,
                left=starts,
                height=0.78,
                hatch=look.hatch,
                linewidth=0.9,
                facecolor="white" if look.hatch else look.color,
                edgecolor=look.color,
                label=f"{look.name} ({len(rows)})",
            )
    numbers = [trial.number for trial, _ in runs]
    axes.set(title="Timeline", ylabel="trial", ylim=(max(numbers) + 0.6, min(numbers) - 0.6))
    axes.grid(visible=False, axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_locator(locator := AutoDateLocator())
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return _finished(view, axes, 0.75 * WIDTH, min(9.0, 1.9 + 0.13 * len(runs)))


@styled
def draw(view: View, plot_type: str, parameters: int) -> dict[str, Figure]:
    """The figures of a study by the ends of their file names; those with nothing to show are logged and left out."""
    without = "completed trials have no parameters"
    jobs: dict[str, tuple[Callable[[], Figure | None], str]] = {
        "plots": (lambda: standard_figure(view), ""),
        "summary": (lambda: summary_figure(view, parameters), without),
        "parallel": (lambda: parallel_figure(view), without),
        "intermediate": (lambda: intermediate_figure(view), "no trial reported intermediate values"),
        "timeline": (lambda: timeline_figure(view), "no start times were kept"),
    }
    wanted = {"standard": ["plots"], "summary": ["summary"]}.get(plot_type, list(jobs))
    # It wonders whether choices such as "0.9" are numbers.
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)
    figures: dict[str, Figure] = {}
    for name in wanted:
        make, reason = jobs[name]
        with _optunas_style():
            figure = make()
        if figure is None:
            logger.info("%s: no %s figure: %s", view.name, name, reason)
        else:
            figures[name] = figure
    return figures
