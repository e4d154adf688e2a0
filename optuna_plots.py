"""Figures of Optuna studies for print.

``python optuna_plots.py STUDY.db|STUDY.json`` draws one study, ``python optuna_plots.py --config FILE.json`` several, each
with its own settings; other options on the command line win over the file's. FILE.json is an object with a list ``studies``
of objects, whose settings are the long options with ``_`` for ``-``; settings beside the list hold for all of its studies.
Paths in the file are relative to its folder.

Studies come from any Optuna storage (an SQLite file, a journal, a database's URL), which is only read, or from JSON files with
the trials in ``all_trials`` or ``trials``: see ``common.studies``.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import optuna
import tyro
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from optuna.distributions import (
    CategoricalDistribution,
    IntDistribution,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from common.config import from_dict, parse, require, to_dict
from common.errors import InputError
from common.files import read_json
from common.paths import check_name
from common.script import run_script
from common.sweeps.json_studies import Direction
from common.sweeps.storage import read_study, trials_of
from common.tables.figures import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, WIDTH, save, styled

logger = logging.getLogger(__name__)

Format = Literal["pdf", "png"]
Importance = Literal["default", "fanova"]


@dataclass(frozen=True)
class StateStyle:
    """How trials of one state look."""

    name: str
    color: str
    marker: str
    filled: bool
    hatch: str


STATES = {
    TrialState.COMPLETE: StateStyle("complete", BLUE, "o", True, ""),
    TrialState.PRUNED: StateStyle("pruned", ORANGE, "D", False, "////"),
    TrialState.FAIL: StateStyle("failed", VERMILION, "X", True, "xxxx"),
    TrialState.RUNNING: StateStyle("running", GREEN, "P", False, "...."),
}
"""Every state that is drawn; waiting trials have nothing to draw."""

MAX_BARS, MAX_AXES, N_TOP = 15, 8, 3


@dataclass(frozen=True)
class FigureSet:
    """Figures of one study."""

    study: Annotated[str | None, tyro.conf.Positional] = None
    """SQLite file, JSON file, Optuna journal (.log, .journal) or storage URL."""
    study_name: str | None = None
    """Which study of a storage that holds several."""
    title: str | None = None
    """Name in the figures; the study's own if not given."""
    metric: Annotated[str | None, tyro.conf.arg(aliases=["-m"])] = None
    """Axis text of the objective; the study's metric name, or its user attribute "metric", if not given."""
    direction: Direction | None = None
    """Which values are better, for a JSON study that does not say."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the figures; plots/ beside the study if not given."""
    prefix: Annotated[str | None, tyro.conf.arg(aliases=["-p"])] = None
    """Start of the file names; made from the title if not given."""
    plot_type: Annotated[Literal["standard", "summary", "both"], tyro.conf.arg(aliases=["-t"])] = "both"
    """standard: history and importances; summary: history and the most important parameters; both: these two, parallel
    coordinates, intermediate values and timeline."""
    importance: Importance = "default"
    """Optuna's evaluator of importances: its default, PED-ANOVA, or fANOVA."""
    parameters: int = 3
    """Parameters in the summary, at most."""
    format: tuple[Format, ...] = ("pdf", "png")
    """Formats of the files."""

    def __post_init__(self) -> None:
        require(1 <= self.parameters <= MAX_AXES, f"parameters must be 1 to {MAX_AXES}, got {self.parameters}")
        require(len(self.format) > 0, "format must name at least one of pdf, png")
        if self.prefix is not None:
            check_name(self.prefix, "prefix")


@dataclass(frozen=True)
class Config(FigureSet):
    """Figures of Optuna studies: history, importances, parameters, intermediate values, timeline."""

    config: Path | None = None
    """JSON file with a list "studies" of objects with these settings; the command line wins."""


@dataclass(frozen=True)
class View:
    """A study as the figures see it."""

    study: Study
    """What Optuna evaluates importances on."""
    trials: tuple[FrozenTrial, ...]
    """Its trials by number, with the numbers and times of their source."""
    name: str
    """Name in the figures."""
    metric: str
    """What the objective is."""
    importance: Importance = "default"
    """Which of Optuna's evaluators tells how important parameters are."""

    @property
    def maximize(self) -> bool:
        """Whether higher values are better."""
        return self.study.direction == StudyDirection.MAXIMIZE

    @cached_property
    def completed(self) -> tuple[FrozenTrial, ...]:
        """Completed trials with a finite value: the only ones that can be best."""
        return tuple(t for t in self.trials if t.state == TrialState.COMPLETE and math.isfinite(_value(t)))

    def top(self, count: int) -> list[FrozenTrial]:
        """The best completed trials, best first; of equal ones the earlier first."""
        return sorted(self.completed, key=lambda t: (-_value(t) if self.maximize else _value(t), t.number))[:count]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of completed trials, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for trial in self.completed for name in trial.params))

    @cached_property
    def shares(self) -> dict[str, float]:
        """See :func:`importances`."""
        return importances(self)

    @property
    def ranked(self) -> list[str]:
        """The parameters, the most important first; those without an importance follow in their own order."""
        return [*self.shares, *(name for name in self.parameters if name not in self.shares)]


def _value(trial: FrozenTrial) -> float:
    """The value of a trial; NaN if it has none."""
    return math.nan if trial.values is None else trial.values[0]


def shown_value(trial: FrozenTrial) -> float | None:
    """Where a trial stands in the history: its value or, if it ended before it had one, the last that it reported."""
    if not math.isnan(_value(trial)):
        return _value(trial)
    reported = [value for _, value in sorted(trial.intermediate_values.items()) if math.isfinite(value)]
    return reported[-1] if reported else None


def running_best(view: View) -> list[tuple[int, float]]:
    """Number and value of each completed trial that was better than all completed ones before it."""
    best: list[tuple[int, float]] = []
    for trial in view.completed:
        if not best or (_value(trial) > best[-1][1] if view.maximize else _value(trial) < best[-1][1]):
            best.append((trial.number, _value(trial)))
    return best


def importances(view: View) -> dict[str, float]:
    """Optuna's parameter importances, highest first.

    Args:
        view: Study and evaluator; fANOVA leaves out parameters that not every completed trial has.

    Returns:
        Shares that add up to 1; empty if Optuna finds none, for example with a single completed trial.
    """
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0) if view.importance == "fanova" else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        raw = optuna.importance.get_param_importances(view.study, evaluator=evaluator, normalize=False)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        logger.warning("%s: %s", view.name, text)
    # A trial with an infinite value may have parameters that no other has.
    raw = {name: share for name, share in raw.items() if name in view.parameters}
    total = sum(raw.values())
    # Optuna's own normalising would call all parameters equally important.
    if not total > 0:
        return {}
    return {name: raw[name] / total for name in sorted(raw, key=lambda name: (-raw[name], name))}


# ---------------------------------------------------------------------------------------------------------------- reading


def load_view(settings: FigureSet) -> View:
    """Reads the study of a figure set.

    Args:
        settings: Where the study is, and how to call it and its objective.

    Raises:
        InputError: If there is no such study, or nothing in it can be drawn; the message names the file and the value.
    """
    require(settings.study is not None, "no study given: name a study file or --config FILE.json")
    study, where = read_study(str(settings.study), settings.study_name, settings.direction)
    if len(study.directions) != 1:
        raise InputError(f"{where}: {len(study.directions)} objectives; the figures are for one")
    said = study.direction.name.lower()
    if settings.direction not in (None, said):
        raise InputError(f"{where}: the study says {said}, not {settings.direction}")
    names = study.metric_names
    metric = settings.metric or (names[0] if names else study.user_attrs.get("metric")) or "objective value"
    trials = trials_of(study)
    view = View(study, trials, settings.title or study.study_name, str(metric), settings.importance)
    if not view.completed:
        counts = Counter(trial.state.name.lower() for trial in trials)
        states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "it is empty"
        raise InputError(f"{where}: no completed trial with a finite value ({states})")
    return view


# ------------------------------------------------------------------------------------------------------------ text, scales


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """``text`` in at most ``lines`` lines of ``width`` characters, broken after ``_``, ``-``, ``.``, ``/`` or a space.

    What is too long loses its middle, since names tend to differ at their ends.
    """
    text = " ".join(text.split())
    for keep in range(len(text), 0, -1):
        short = text if keep == len(text) else f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
        found: list[str] = [""]
        for word in re.findall(r"[^\s_\-./:=]*[\s_\-./:=]?", short):
            for part in textwrap.wrap(word, width, drop_whitespace=False) or [""]:
                if len((found[-1] + part).rstrip()) > width:
                    found.append("")
                found[-1] += part
        if len(found) <= lines:
            # A dollar sign would start a formula.
            return "\n".join(line.strip() for line in found).replace("$", r"\$")
    return text


def distinct_names(names: Sequence[str], width: int, lines: int) -> list[str]:
    """Wrapped names; of those that would look the same, what they have in common is shortened first."""
    texts = [wrapped(name, width, lines) for name in names]
    for text, count in Counter(texts).items():
        same = [name for name, short in zip(names, texts, strict=True) if short == text]
        if count > 1 and len(set(same)) > 1:
            head = _common_start(same)
            tail = _common_start([name[len(head) :][::-1] for name in same])[::-1]
            brief = {n: f"{head[:3]}…{n[len(head) : len(n) - len(tail)]}…{tail[-4:]}" for n in same}
            texts = [wrapped(brief.get(n, n), width, lines) for n in names]
    return texts


def _common_start(texts: Sequence[str]) -> str:
    length = next((i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), None)
    return min(texts, key=len)[:length]


def _filled(text: str, width: int, lines: int) -> list[str]:
    """Lines of a sentence, broken at spaces alone."""
    # A count stays with its name.
    plain = text.replace("$", r"\$").replace(" (", "\N{NO-BREAK SPACE}(")
    return textwrap.wrap(plain, width, max_lines=lines, placeholder=" …", break_on_hyphens=False)


def _number(value: float, digits: int = 4) -> str:
    """A short number: ``1e-5``, not ``1e-05``; powers of ten below 0.001."""
    digits = max(digits, 6) if abs(value) >= 1000 else digits
    text = f"{value:.{digits - 1}e}" if 0 < abs(value) < 1e-3 else f"{value:.{digits}g}"
    return re.sub(r"\.?0*e([+-])0?(\d)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", text)


def _numbers(values: Sequence[float]) -> list[str]:
    """Short numbers that tell different values apart."""
    texts = [_number(value) for value in values]
    for digits in range(5, 16):
        if len(set(texts)) == len(set(values)):
            break
        texts = [_number(value, digits) for value in values]
    return texts


def ticks(low: float, high: float, *, log: bool, integer: bool = False) -> list[float]:
    """About two to seven round numbers from ``low`` to ``high``."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [s * 10.0**p for p in powers for s in steps if low * (1 - 1e-9) <= s * 10.0**p <= high * (1 + 1e-9)]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / 7)]
    steps_10 = [1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10]
    found = [float(x) for x in MaxNLocator(7, integer=integer, steps=steps_10).tick_values(low, high)]
    margin = 1e-9 * max(abs(low), abs(high))
    return [x for x in found if low - margin <= x <= high + margin]


@dataclass(frozen=True)
class Scale:
    """The axis of a parameter."""

    name: str
    choices: tuple[Any, ...]
    """What a category is chosen from, in the study's order; empty for numbers."""
    low: float
    high: float
    log: bool
    integer: bool

    def place(self, value: Any) -> float:
        """Where a value stands on the axis; choices stand at 0, 1, 2, ..."""
        return float(_index(self.choices, value)) if self.choices else float(value)

    def share(self, value: Any) -> float:
        """Where a value stands between the ends of the axis, 0 to 1."""
        place, low, high = self.place(value), self.low, self.high
        if self.log:
            place, low, high = math.log(place), math.log(low), math.log(high)
        return 0.5 if high == low else (place - low) / (high - low)


def _index(choices: Sequence[Any], value: Any) -> int:
    # True == 1 in Python.
    return [(type(choice), choice) for choice in choices].index((type(value), value))


def scale_of(view: View, name: str) -> Scale:
    """The axis of a parameter from its search ranges and values in the completed trials."""
    trials = [trial for trial in view.completed if name in trial.params]
    ranges = [trial.distributions[name] for trial in trials]
    if any(isinstance(part, CategoricalDistribution) for part in ranges):
        offered = [c for part in ranges if isinstance(part, CategoricalDistribution) for c in part.choices]
        chosen = [trial.params[name] for trial in trials]
        distinct = {(type(choice), choice): choice for choice in (*offered, *chosen)}
        if all(isinstance(choice, bool) for choice in distinct.values()):
            distinct = {(bool, choice): choice for choice in (False, True) if (bool, choice) in distinct}
        return Scale(name, tuple(distinct.values()), 0, len(distinct) - 1, log=False, integer=False)
    values = [float(trial.params[name]) for trial in trials]
    log = min(values) > 0 and any(getattr(part, "log", False) for part in ranges)
    integer = all(isinstance(part, IntDistribution) for part in ranges)
    return Scale(name, (), min(values), max(values), log=log, integer=integer)


def value_limits(view: View, *, completed: bool = False) -> tuple[float, float]:
    """Limits of the objective's axis, less runaway values, which would flatten the others; the best is always in.

    Args:
        view: Study.
        completed: Whether only completed trials are drawn.
    """
    trials = view.completed if completed else view.trials
    shown = [value for trial in trials if (value := shown_value(trial)) is not None]
    return _robust([_value(trial) for trial in view.completed], shown, _value(view.top(1)[0]))


def _robust(basis: Sequence[float], values: Sequence[float], keep: float) -> tuple[float, float]:
    """Limits around ``values`` that lie within eight quartile distances of the middle half of ``basis``, and around ``keep``."""
    first, third = (float(quartile) for quartile in np.quantile(basis, (0.25, 0.75)))
    reach = 8 * (third - first) if len(basis) >= 4 and third > first else math.inf
    near = [value for value in values if math.isfinite(value) and first - reach <= value <= third + reach]
    low, high = min([*near, keep]), max([*near, keep])
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


# --------------------------------------------------------------------------------------------------------------- drawing


def _figure(view: View, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(wrapped(view.name, int(width * 10), 3))
    return figure


def _legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """A legend below the panels, where it hides nothing."""
    # An inch holds some 16 characters; a handle and its gaps are half an inch.
    inches = sum(0.6 + len(str(handle.get_label())) / 16 for handle in handles)
    rows = math.ceil(inches / figure.get_figwidth())
    figure.legend(handles=list(handles), loc="outside lower center", ncols=math.ceil(len(handles) / rows))


def _marker(style: StateStyle) -> dict[str, Any]:
    return {
        "marker": style.marker,
        "color": style.color,
        "markersize": 4.5,
        "markeredgewidth": 0.9,
        "markerfacecolor": style.color if style.filled else "white",
    }


_STAR: dict[str, Any] = {
    "linestyle": "none",
    "marker": "*",
    "markersize": 10,
    "color": ORANGE,
    "markeredgecolor": BLACK,
    "markeredgewidth": 0.8,
    "zorder": 4,
}


def _points(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], limits: tuple[float, float], style: StateStyle
) -> bool:
    """Draws points; those off the axis become triangles at its edge. Returns whether there were such."""
    low, high = limits
    places = list(zip(xs, ys, strict=True))
    below, above = [(x, low) for x, y in places if y < low], [(x, high) for x, y in places if y > high]
    inside = [(x, y) for x, y in places if low <= y <= high]
    for points, change in ((inside, {}), (below, {"marker": "v"}), (above, {"marker": "^"})):
        # An unclipped line without points would reach to the corner of the page.
        if points:
            options = _marker(style) | change
            axes.plot(*zip(*points, strict=True), linestyle="none", zorder=3, clip_on=False, **options)
    return len(inside) < len(places)


def draw_history(axes: Axes, view: View) -> list[Line2D | Patch]:
    """Value of each trial and the best value so far; trials that never had a value stand on the lower edge.

    Returns:
        What the legend needs.
    """
    low, high = value_limits(view)
    unvalued = [trial for trial in view.trials if trial.state in STATES and shown_value(trial) is None]
    if unvalued:
        low -= 0.05 * (high - low)
    handles: list[Line2D | Patch] = []
    off = False
    for state, style in STATES.items():
        trials = [trial for trial in view.trials if trial.state == state]
        shown = [(trial.number, value) for trial in trials if (value := shown_value(trial)) is not None]
        off |= _points(axes, [number for number, _ in shown], [value for _, value in shown], (low, high), style)
        without = [trial.number for trial in trials if trial in unvalued]
        _points(axes, without, [low] * len(without), (low, high), style)
        if trials:
            what = ", last report" if shown and state != TrialState.COMPLETE else ""
            label = f"{style.name}{what} ({len(trials)})"
            handles.append(Line2D([], [], linestyle="none", label=label, **_marker(style)))
    best = running_best(view)
    steps = [*best, (view.trials[-1].number, best[-1][1])]
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=BLACK, linewidth=1.3, zorder=2)
    axes.plot(*best[-1], **_STAR)
    handles.append(Line2D([], [], color=BLACK, linewidth=1.3, label="best so far"))
    handles.append(Line2D([], [], label=f"best (trial {best[-1][0]})", **_STAR))
    if unvalued:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, label="on the axis: no value"))
    if off:
        handles.append(Line2D([], [], linestyle="none", marker="^", markersize=6, color=GREY, label="off the scale"))
    axes.set(xlabel="trial", ylabel=wrapped(view.metric, 32), ylim=(low, high))
    axes.set_title(f"History: best {_number(best[-1][1])} in trial {best[-1][0]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.03)
    return handles


def _bar_names(view: View) -> list[str]:
    return distinct_names(list(view.shares)[:MAX_BARS], 24, 2)


def draw_importances(axes: Axes, view: View) -> None:
    """Bars of the parameters' importances, with what they were computed on and what was left out."""
    shown = list(view.shares.items())[:MAX_BARS]
    bars = axes.barh(range(len(shown)), [share for _, share in shown], color=BLUE, height=0.65)
    axes.bar_label(bars, [f"{share:.2f}" for _, share in shown], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), _bar_names(view))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.15 * shown[0][1])
    # PED-ANOVA asks what sets the best tenth apart.
    method = "fANOVA," if view.importance == "fanova" else "PED-ANOVA, best 10 % of"
    notes = [f"share ({method} {len(view.completed)} completed trials)"]
    some = {name: sum(name in trial.params for trial in view.completed) for name in view.parameters}
    conditional = [f"{name} ({some[name]})" for name, _ in shown if some[name] < len(view.completed)]
    if conditional:
        notes.append("not in every trial: " + ", ".join(conditional))
    left_out = [name for name in view.parameters if name not in view.shares]
    partial = [f"{name} ({some[name]})" for name in left_out if some[name] < len(view.completed)]
    if partial:
        notes.append("left out, not in every trial: " + ", ".join(partial))
    if len(left_out) > len(partial):
        changed = [name for name in left_out if some[name] == len(view.completed)]
        notes.append("left out, range changed between trials: " + ", ".join(changed))
    if len(view.shares) > len(shown):
        notes.append(f"less important and not shown: {len(view.shares) - len(shown)}")
    text = "\n".join(line for note in notes for line in _filled(note, 56, 4))
    axes.set_xlabel(text, loc="right", fontsize=8)
    axes.set_title("Importance of the parameters")


@styled
def standard_figure(view: View) -> Figure:
    """History and parameter importances; the history alone if Optuna finds no importances."""
    if view.shares:
        figure = _figure(
            view, WIDTH, max(3.7, 1.9 + sum(0.1 + 0.13 * (name.count("\n") + 1) for name in _bar_names(view)))
        )
        left, right = figure.subplots(1, 2)
        draw_importances(right, view)
    else:
        logger.info("%s: no importances, %d completed trials do not tell them", view.name, len(view.completed))
        figure = _figure(view, 0.75 * WIDTH, 3.7)
        left = figure.subplots()
    _legend(figure, draw_history(left, view))
    return figure


def draw_parameter(axes: Axes, view: View, name: str, limits: tuple[float, float]) -> None:
    """Values of the completed trials over one parameter: points, and boxes where it is a choice."""
    scale = scale_of(view, name)
    trials = [trial for trial in view.completed if name in trial.params]
    places, values = [scale.place(trial.params[name]) for trial in trials], [_value(trial) for trial in trials]
    if scale.choices:
        groups = [[y for x, y in zip(places, values, strict=True) if x == i] for i in range(len(scale.choices))]
        _boxes(axes, groups)
        _choice_ticks(axes, scale, [len(group) for group in groups])
        places = _jittered(places)
    else:
        _number_axis(axes, scale)
    _points(axes, places, values, limits, STATES[TrialState.COMPLETE])
    best = view.top(1)[0]
    if best in trials:
        axes.plot([places[trials.index(best)]], [_value(best)], **_STAR)
    label = wrapped(name, 34)
    if len(trials) < len(view.completed):
        label += f"\n(in {len(trials)} of {len(view.completed)} completed trials)"
    axes.set(xlabel=label, ylim=limits)
    if name in view.shares:
        axes.set_title(f"Importance {view.shares[name]:.2f}")


def _boxes(axes: Axes, groups: Sequence[Sequence[float]]) -> None:
    """Quartile boxes; of fewer than four points a box would tell more than there is."""
    drawn = [(i, group) for i, group in enumerate(groups) if len(group) >= 4]
    if drawn:
        axes.boxplot(
            [group for _, group in drawn], positions=[i for i, _ in drawn], widths=0.55, showfliers=False,
            manage_ticks=False, patch_artist=True, zorder=1, boxprops={"facecolor": "#DCEAF4", "edgecolor": GREY},
            medianprops={"color": BLACK, "linewidth": 1.3}, whiskerprops={"color": GREY}, capprops={"color": GREY},
        )  # fmt: skip
    axes.set_xlim(-0.6, len(groups) - 0.4)


def _jittered(places: Sequence[float]) -> list[float]:
    shift = np.random.default_rng(0).uniform(-0.18, 0.18, len(places))
    return [float(place + move) for place, move in zip(places, shift, strict=True)]


def _choice_text(value: Any, width: int, lines: int) -> str:
    return wrapped(str(value), width, lines) if value != "" else "(empty)"


def _choice_ticks(axes: Axes, scale: Scale, counts: Sequence[int]) -> None:
    n = len(counts)
    if n <= 6:
        labels = [
            f"{_choice_text(choice, max(5, 40 // n), 2)}\nn={count}"
            for choice, count in zip(scale.choices, counts, strict=True)
        ]
        axes.set_xticks(range(n), labels)
    else:
        every = math.ceil(n / 20)
        labels = [_choice_text(choice, 14, 1) for choice in scale.choices]
        axes.set_xticks(range(0, n, every), labels[::every], rotation=90)
    axes.grid(visible=False, axis="x")


def _number_axis(axes: Axes, scale: Scale) -> None:
    if scale.low == scale.high:
        axes.set_xticks([scale.low], [_number(scale.low)])
        return
    if scale.log:
        axes.set_xscale("log")
        pad = (scale.high / scale.low) ** 0.06
        low, high = scale.low / pad, scale.high * pad
    else:
        pad = 0.06 * (scale.high - scale.low)
        low, high = scale.low - pad, scale.high + pad
    at = ticks(low, high, log=scale.log, integer=scale.integer)
    axes.set_xlim(low, high)
    axes.set_xticks(at, _numbers(at))
    axes.xaxis.set_minor_locator(NullLocator())


@styled
def summary_figure(view: View, count: int = 3) -> Figure | None:
    """History and the ``count`` most important parameters; None if completed trials have no parameters."""
    names = view.ranked[:count]
    if not names:
        return None
    # An odd panel gets a row of its own at the top: no place stays empty.
    wide = len(names) % 2 == 0
    rows = math.ceil((len(names) + 1) / 2)
    figure = _figure(view, WIDTH, 0.9 + 2.7 * rows)
    grid = figure.add_gridspec(rows, 2)
    places = [(row, column) for row in range(rows) for column in range(2)]
    _legend(figure, draw_history(figure.add_subplot(grid[0, :] if wide else grid[0, 0]), view))
    limits = value_limits(view, completed=True)
    for name, (row, column) in zip(names, places[2 if wide else 1 :], strict=True):
        axes = figure.add_subplot(grid[row, column])
        draw_parameter(axes, view, name, limits)
        axes.set_ylabel(wrapped(view.metric, 32))
    return figure


@styled
def parallel_figure(view: View) -> Figure | None:
    """Parallel coordinates of the most important parameters and the objective; None if completed trials have no parameters."""
    names = view.ranked[:MAX_AXES]
    if not names:
        return None
    scales = [scale_of(view, name) for name in names]
    low, high = value_limits(view, completed=True)
    figure = _figure(view, WIDTH, 4.3)
    axes = figure.subplots()
    colors = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))
    # Dark is good, and stands out on paper.
    colors = colors.reversed() if view.maximize else colors
    norm = Normalize(low, high, clip=True)
    best = view.top(N_TOP)
    holes = any(name not in trial.params for trial in view.completed for name in names)
    for trial in reversed(view.top(len(view.completed))):
        heights = [_height(scale, trial) for scale in scales]
        heights.append(min(max((_value(trial) - low) / (high - low), 0), 1))
        axes.plot(
            range(len(heights)), heights, color=colors(norm(_value(trial))), linewidth=2.2 if trial in best else 1.0,
            alpha=1.0 if trial in best else 0.75, clip_on=False,
        )  # fmt: skip
    for i, scale in enumerate(scales):
        _coordinate(axes, i, scale)
    shown = ticks(low, high, log=False)
    _coordinate_line(
        axes, len(scales), list(zip([(value - low) / (high - low) for value in shown], _numbers(shown), strict=True))
    )
    width = max(8, 100 // (len(scales) + 1))
    labels = [*distinct_names(names, width, 3), wrapped(view.metric, width, 4)]
    axes.set_xticks(range(len(labels)), labels, fontsize=7.5)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=6)
    axes.set(ylim=(-0.17 if holes else -0.04, 1.03), xlim=(-0.1, len(scales) + 0.35), yticks=[])
    for i, name in enumerate(names):
        if any(name not in trial.params for trial in view.completed):
            axes.text(i + 0.04, _HOLE, "not set", **_TICK)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, pad=0.02, aspect=30)
    bar.set_label(wrapped(view.metric, 40))
    notes = [f"thick: the best {len(best)} of {len(view.completed)} completed trials"]
    if len(view.parameters) > len(names):
        notes.append(f"less important and not shown: {len(view.parameters) - len(names)}")
    off = sum(not low <= _value(trial) <= high for trial in view.completed)
    if off:
        notes.append(f"trials off the scale: {off}")
    axes.set_xlabel("; ".join(notes))
    return figure


_HOLE = -0.13
"""Height at which a line passes a parameter that its trial does not have."""


def _height(scale: Scale, trial: FrozenTrial) -> float:
    if scale.name not in trial.params:
        return _HOLE
    share = scale.share(trial.params[scale.name])
    if scale.choices:
        # Lines through one choice would hide each other.
        share += 0.03 * (np.random.default_rng(trial.number).uniform() - 0.5)
    return float(min(max(share, 0), 1))


def _coordinate(axes: Axes, x: int, scale: Scale) -> None:
    if scale.choices:
        every = math.ceil(len(scale.choices) / 20)
        values: list[Any] = list(scale.choices[::every])
        marks = [(scale.share(value), _choice_text(value, 12, 1 if len(values) > 6 else 2)) for value in values]
    elif scale.low == scale.high:
        marks = [(0.5, _number(scale.low))]
    else:
        values = ticks(scale.low, scale.high, log=scale.log, integer=scale.integer)
        marks = list(zip(map(scale.share, values), _numbers(values), strict=True))
    _coordinate_line(axes, x, marks)


def _coordinate_line(axes: Axes, x: int, marks: Sequence[tuple[float, str]]) -> None:
    axes.plot([x, x], [0, 1], color=BLACK, linewidth=0.9, zorder=3)
    for height, text in marks:
        axes.plot([x, x + 0.02], [height, height], color=BLACK, linewidth=0.9, zorder=3)
        axes.text(x + 0.04, height, text, **_TICK)


_TICK: dict[str, Any] = {
    "fontsize": 7.5,
    "verticalalignment": "center",
    "zorder": 4,
    "bbox": {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
}


@styled
def intermediate_figure(view: View) -> Figure | None:
    """Reported values by step; pruned trials are dashed and end in a cross. None if no trial reported any."""
    curves = {
        trial.number: sorted((s, v) for s, v in trial.intermediate_values.items() if math.isfinite(v))
        for trial in view.trials
    }
    trials = [trial for trial in view.trials if curves[trial.number] and trial.state in STATES]
    if not trials:
        return None
    figure = _figure(view, 0.75 * WIDTH, 3.9)
    axes = figure.subplots()
    best = view.top(1)[0]
    looks: dict[TrialState, dict[str, Any]] = {
        TrialState.COMPLETE: {"color": SKY, "linewidth": 1.0},
        TrialState.PRUNED: {"color": GREY, "linewidth": 1.0, "linestyle": (0, (4, 2))},
        TrialState.FAIL: {"color": VERMILION, "linewidth": 1.0, "linestyle": (0, (1, 1.2))},
        TrialState.RUNNING: {"color": GREEN, "linewidth": 1.0, "linestyle": (0, (5, 1, 1, 1))},
    }
    thick: dict[str, Any] = {"color": BLUE, "linewidth": 2.2, "zorder": 4}
    for trial in trials:
        curve = curves[trial.number]
        xs, ys = [step for step, _ in curve], [value for _, value in curve]
        axes.plot(xs, ys, marker=".", markersize=3, **(looks[trial.state] | (thick if trial is best else {})))
        if trial.state == TrialState.PRUNED:
            axes.plot(xs[-1:], ys[-1:], marker="x", markersize=6, color=BLACK, markeredgewidth=1.2, zorder=5)
    handles: list[Line2D | Patch] = (
        [Line2D([], [], label=f"best (trial {best.number})", **thick)] if best in trials else []
    )
    for state, look in looks.items():
        count = sum(trial.state == state for trial in trials)
        if count > (best in trials and state == TrialState.COMPLETE):
            crossed: dict[str, Any] = {"marker": "x", "markeredgecolor": BLACK} if state == TrialState.PRUNED else {}
            handles.append(Line2D([], [], label=f"{STATES[state].name} ({count})", **look, **crossed))
    everything = [value for curve in curves.values() for _, value in curve]
    limits = _robust(everything, everything, shown_value(best) or 0.0)
    axes.set(xlabel="step", ylabel=wrapped(view.metric, 34), ylim=limits)
    axes.set_title("Reported values" + ("" if _within(everything, limits) else " (some off the scale)"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, handles)
    return figure


def _within(values: Iterable[float], limits: tuple[float, float]) -> bool:
    return all(limits[0] <= value <= limits[1] for value in values)


@styled
def timeline_figure(view: View) -> Figure | None:
    """When each trial ran, since the first began; None if no times were kept."""
    trials = [trial for trial in view.trials if trial.datetime_start is not None and trial.state in STATES]
    if not trials:
        return None
    starts = {trial.number: trial.datetime_start for trial in trials if trial.datetime_start is not None}
    first = min(starts.values())
    last = max([*starts.values(), *(t.datetime_complete for t in trials if t.datetime_complete is not None)])
    span = (last - first).total_seconds()
    unit, seconds = next(u for u in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if span >= 3 * u[1] or u[1] == 1)
    figure = _figure(view, 0.75 * WIDTH, min(9.0, 1.9 + 0.13 * len(trials)))
    axes = figure.subplots()
    for state, style in STATES.items():
        rows = [(i, trial) for i, trial in enumerate(trials) if trial.state == state]
        begin = [(starts[trial.number] - first).total_seconds() / seconds for _, trial in rows]
        # A running trial has no end yet: it reaches as far as anything is known.
        end = [((trial.datetime_complete or last) - first).total_seconds() / seconds for _, trial in rows]
        axes.barh(
            [i for i, _ in rows], [stop - start for start, stop in zip(begin, end, strict=True)], left=begin,
            height=0.78, facecolor=style.color if style.filled and not style.hatch else "white",
            edgecolor=style.color, hatch=style.hatch, linewidth=0.9,
        )  # fmt: skip
    counts = Counter(trial.state for trial in trials)
    every = math.ceil(len(trials) / 40)
    axes.set_yticks(range(0, len(trials), every), [str(trial.number) for trial in trials][::every], fontsize=7)
    axes.set(xlabel=f"{unit} since the start", ylabel="trial", ylim=(len(trials) - 0.4, -0.6))
    # A little more than from 0, where the axis would hide a short trial.
    axes.set_xlim(left=-0.005 * span / seconds)
    axes.set_title("Timeline")
    axes.grid(visible=False, axis="y")
    _legend(figure, [_bar_handle(style, counts[state]) for state, style in STATES.items() if counts[state]])
    return figure


def _bar_handle(style: StateStyle, count: int) -> Patch:
    face = style.color if not style.hatch else "white"
    return Patch(facecolor=face, edgecolor=style.color, hatch=style.hatch * 2, label=f"{style.name} ({count})")


# -------------------------------------------------------------------------------------------------------------- the script


def draw_figures(view: View, settings: FigureSet) -> dict[str, Figure]:
    """The figures of a study by the ends of their file names; those with nothing to show are left out, with a log line."""
    both = settings.plot_type == "both"
    jobs: dict[str, tuple[Callable[[], Figure | None], str]] = {}
    if both or settings.plot_type == "standard":
        jobs["plots"] = lambda: standard_figure(view), ""
    if both or settings.plot_type == "summary":
        jobs["summary"] = lambda: summary_figure(view, settings.parameters), "completed trials have no parameters"
    if both:
        jobs["parallel"] = lambda: parallel_figure(view), "completed trials have no parameters"
        jobs["intermediate"] = lambda: intermediate_figure(view), "no trial reported intermediate values"
        jobs["timeline"] = lambda: timeline_figure(view), "no start times were kept"
    figures = {}
    for name, (draw, reason) in jobs.items():
        figure = draw()
        if figure is None:
            logger.info("%s: no %s figure: %s", view.name, name, reason)
        else:
            figures[name] = figure
    return figures


def read_config(path: Path) -> list[FigureSet]:
    """The figure sets of a configuration file, with its shared settings in each and paths relative to its folder.

    Raises:
        InputError: If a setting is unknown or wrong; the message names it.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("studies"), list) or not values["studies"]:
        raise InputError(f'{path}: expected an object with a list "studies" of at least one object')
    shared = {name: value for name, value in values.items() if name != "studies"}
    _read_set(shared, str(path), path.parent)
    sets = []
    for index, entry in enumerate(values["studies"]):
        where = f"{path}: studies[{index}]"
        require(isinstance(entry, dict), f"{where}: expected an object, got {entry!r}")
        settings = _read_set(shared | entry, where, path.parent)
        require(settings.study is not None, f"{where}: study is missing")
        sets.append(settings)
    return sets


def _read_set(values: Mapping[str, Any], where: str, folder: Path) -> FigureSet:
    given = dict(values)
    formats = given.pop("format", None)
    if isinstance(given.get("output_dir"), str):
        given["output_dir"] = folder / given["output_dir"]
    if isinstance(given.get("study"), str) and "://" not in given["study"]:
        given["study"] = str(folder / given["study"])
    settings = from_dict(FigureSet, given, where)
    if formats is None:
        return settings
    if not isinstance(formats, list) or not formats or not set(map(str, formats)) <= {"pdf", "png"}:
        raise InputError(f'{where}: format must be a list of "pdf" and "png", got {formats!r}')
    return dataclasses.replace(settings, format=tuple(formats))


def _target(settings: FigureSet, view: View) -> Path:
    """Folder and start of the file names of a figure set."""
    source = str(settings.study)
    folder = settings.output_dir or (Path() if "://" in source else Path(source).parent) / "plots"
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", view.name).strip("._-")
    return folder / (settings.prefix or name or "study")


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Draws the figures that the command line asks for.

    Returns:
        The files written.

    Raises:
        InputError: If a setting or a study is wrong; nothing has been written then.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = parse(Config, argv)
    sets: list[FigureSet] = [asked]
    if asked.config is not None:
        require(asked.study is None, f"give a study or --config, not both: {asked.study}, {asked.config}")
        defaults = [Config(**to_dict(each), config=asked.config) for each in read_config(asked.config)]
        sets = [parse(Config, argv, default=default) for default in defaults]
    views = [load_view(settings) for settings in sets]
    targets = [_target(settings, view) for settings, view in zip(sets, views, strict=True)]
    for target, count in Counter(targets).items():
        require(count == 1, f"{target}: {count} figure sets would get these names; give them different prefixes")
    written = []
    for settings, view, target in zip(sets, views, targets, strict=True):
        for name, figure in draw_figures(view, settings).items():
            for kind in dict.fromkeys(settings.format):
                path = target.with_name(f"{target.name}_{name}.{kind}")
                save(figure, path)
                logger.info("wrote %s", path)
                written.append(path)
    return written


if __name__ == "__main__":
    run_script(main)
