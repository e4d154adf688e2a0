"""Figures for print: F1 against cost, few-shot curves, bars by type. The same data give the same bytes.

The functions draw plain points and read no result files; ``common.tables.drawings`` makes the points.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from common import figures
from common.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, WIDTH, YELLOW, styled
from common.tables.render import DAGGER

FORMATS = ("pdf", "png")
MARKS = {DAGGER: "trained on a part of the training sentences"}
"""What each mark says, for the legend."""
PANEL_HEIGHT = 3.1
CHARACTERS_PER_INCH = 16
"""Of a legend's or an axis's text, roughly."""
_LOOKS = (
    (GREY, "v"), (SKY, "o"), (GREEN, "s"), (ORANGE, "^"), (VERMILION, "D"),
    (BLUE, "P"), (BLACK, "X"), (PURPLE, "*"), (YELLOW, "p"),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Series:
    """An approach with its kind of encoder and its base: one entry of a legend."""

    order: int
    """Place of the approach: its colour and its marker."""
    cross: bool
    """Drawn hollow, hatched or dashed."""
    base: int
    """Place of the base among those of its kind; all but the first are drawn paler."""
    label: str

    @property
    def color(self) -> str:
        """Colour of the approach."""
        return _LOOKS[self.order % len(_LOOKS)][0]

    @property
    def alpha(self) -> float:
        """How opaque it is drawn."""
        return (1.0, 0.55, 0.3)[min(self.base, 2)]

    @property
    def marker(self) -> dict[str, Any]:
        """Options of its markers."""
        return {
            "marker": _LOOKS[self.order % len(_LOOKS)][1],
            "color": self.color,
            "markerfacecolor": "white" if self.cross else self.color,
            "markersize": 6,
            "markeredgewidth": 1.1,
            "alpha": self.alpha,
        }

    @property
    def level(self) -> dict[str, Any]:
        """Options of a line across the axes."""
        style = "--" if self.cross else "-."
        return {"color": self.color, "alpha": self.alpha, "linestyle": style, "linewidth": 1.2}


@dataclass(frozen=True)
class Point:
    """A score of a series."""

    x: float | None
    """Cost or number of sentences; None if it costs nothing, which is drawn as a level."""
    f1: float
    low: float | None = None
    """Lower end of the 95 % interval, if there is one."""
    high: float | None = None
    mark: str = ""
    """Written beside the point; a marked point is not comparable in cost and no part of the best."""


Panel = Mapping[Series, Sequence[Point]]
"""The points of a pair of axes."""


@styled
def cost_figure(panels: Mapping[str, Panel], xlabel: str) -> Figure | None:
    """Macro F1 against a cost on a logarithmic axis, a panel for each title; steps are the best for at most that cost.

    Args:
        panels: Points by title; those without a point that costs something are left out.
        xlabel: What the cost is.

    Returns:
        None if nothing is left.
    """
    panels = {title: panel for title, panel in panels.items() if _xs(panel)}
    return _figure(panels, xlabel, _draw_cost) if panels else None


@styled
def few_shot_figure(panels: Mapping[str, Panel]) -> Figure | None:
    """Macro F1 against the number of training sentences, one panel for each title.

    Args:
        panels: Points by title; those in which no series has two numbers of sentences are left out: there is no curve.

    Returns:
        None if nothing is left.
    """
    panels = {title: panel for title, panel in panels.items() if any(len(_xs({s: p})) > 1 for s, p in panel.items())}
    return _figure(panels, "training sentences", _draw_curves) if panels else None


@styled
def share_figure(panels: Mapping[str, Panel], xlabel: str) -> Figure | None:
    """Macro F1 against a share in percent, one panel for each title; None without panels."""
    return _figure(panels, xlabel, _draw_shares, log=False) if panels else None


def _draw_shares(axes: Axes, panel: Panel) -> None:
    axes.axvline(100, color="#BBBBBB", linewidth=1.0, zorder=1)
    for series, points in panel.items():
        _draw_points(axes, series, points, linestyle="none")


def _xs(panel: Panel) -> list[float]:
    return sorted({point.x for points in panel.values() for point in points if point.x})


def _figure(
    panels: Mapping[str, Panel], xlabel: str, draw: Callable[[Axes, Panel], None], *, log: bool = True
) -> Figure:
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = WIDTH if columns == 2 else 5.2
    figure = Figure(figsize=(width, PANEL_HEIGHT * rows + 0.9), layout="constrained")
    for index, (title, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        scale = "log" if log else "linear"
        axes.set(title=textwrap.fill(title, 52), xscale=scale, xlabel=xlabel, ylabel="macro F1")
        axes.grid(which="minor", visible=False)
        xs = _xs(panel)
        if log and xs[-1] < 2 * xs[0]:
            # A point alone gives an axis no width, and close ones no tick.
            axes.set_xlim(xs[0] / 2, xs[-1] * 2)
        draw(axes, panel)
        # Room for the notes beside the points at the edge.
        axes.margins(x=0.12, y=0.1)
        if log:
            _count_axis(axes)
    series = sorted({series for panel in panels.values() for series in panel})
    used = {point.mark for panel in panels.values() for points in panel.values() for point in points}
    said = [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]
    _legend(figure, [_handle(item, _level(item, panels.values())) for item in series], said)
    return figure


def _level(series: Series, panels: Iterable[Panel]) -> bool:
    """Whether a series is drawn as a level alone."""
    return all(point.x is None for panel in panels for point in panel.get(series, ()))


def _handle(series: Series, level: bool) -> Line2D:
    options: dict[str, Any] = series.level if level else series.marker | {"linestyle": "none"}
    return Line2D([], [], label=series.label, **options)


def _draw_levels(axes: Axes, panel: Panel) -> None:
    for series, points in panel.items():
        for point in points:
            if point.x is None:
                axes.axhline(point.f1, zorder=1, **series.level)


def _draw_cost(axes: Axes, panel: Panel) -> None:
    _draw_levels(axes, panel)
    for series, points in panel.items():
        for point in points:
            if point.x is not None:
                _draw_points(axes, series, [point], linestyle="none")
                axes.annotate(point.mark, (point.x, point.f1), (5, 2), textcoords="offset points")
    front: list[tuple[float, float]] = []
    comparable = [p for points in panel.values() for p in points if not p.mark]
    for x, f1 in sorted((p.x, p.f1) for p in comparable if p.x is not None):
        if front and x == front[-1][0]:
            front.pop()
        if not front or f1 > front[-1][1]:
            front.append((x, f1))
    if front:
        axes.step(*zip(*front, strict=True), where="post", color="#BBBBBB", linewidth=1.0, zorder=1)


def _draw_curves(axes: Axes, panel: Panel) -> None:
    _draw_levels(axes, panel)
    for series, points in panel.items():
        trained = sorted((point for point in points if point.x is not None), key=lambda point: point.x or 0)
        if trained:
            _draw_points(axes, series, trained, linestyle="--" if series.cross else "-")
    axes.xaxis.set_major_locator(FixedLocator(_apart(_xs(panel))))


def _apart(xs: Sequence[float]) -> list[float]:
    """Those of some sorted places whose numbers do not touch on a logarithmic axis; the last is in."""
    span = math.log(xs[-1] / xs[0])
    kept = [xs[-1]]
    for x in reversed(xs[:-1]):
        if math.log(kept[-1] / x) > span / 8:
            kept.append(x)
    return kept[::-1]


def _draw_points(axes: Axes, series: Series, points: Sequence[Point], *, linestyle: str) -> ErrorbarContainer:
    errors = [
        [point.f1 - point.low if point.low is not None else 0.0 for point in points],
        [point.high - point.f1 if point.high is not None else 0.0 for point in points],
    ]
    # A percentile interval need not hold the score of the whole split.
    errors = [[max(0.0, error) for error in side] for side in errors]
    return axes.errorbar(
        [math.nan if point.x is None else point.x for point in points],
        [point.f1 for point in points],
        yerr=errors,
        linestyle=linestyle,
        linewidth=1.2,
        elinewidth=1.0,
        zorder=3,
        **series.marker,
    )


def _count_axis(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 where powers of ten alone would be one or two, written as 50, 1k, 20M."""
    if not isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        low, high = axes.get_xlim()
        decades = math.log10(high / low)
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0,) if decades > 3.2 else (1.0, 3.0) if decades > 1.2 else (1, 2, 5))
        )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))


def short_number(x: float) -> str:
    """A number in three digits: ``50``, ``4.56k``, ``20M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size * 0.9995:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


@dataclass(frozen=True)
class Bars:
    """The scores of a series by type."""

    f1: Mapping[str, float]
    sd: Mapping[str, float]
    """Standard deviation over seeds, where there are several."""


@styled
def types_figure(title: str, types: Mapping[str, str], bars: Mapping[Series, Bars]) -> Figure | None:
    """Bars of each type's F1.

    Args:
        title: Title of the figure.
        types: What stands under the bars of each type.
        bars: Scores; a type that a series has no score of has no bar.

    Returns:
        None if there is no bar.
    """
    types = {name: text for name, text in types.items() if any(name in item.f1 for item in bars.values())}
    if not types:
        return None
    figure = Figure(figsize=(WIDTH, PANEL_HEIGHT + 0.9), layout="constrained")
    axes = figure.add_subplot()
    width = 0.84 / len(bars)
    for place, (series, item) in enumerate(bars.items()):
        for index, name in enumerate(types):
            if name not in item.f1:
                continue
            x = index + (place - (len(bars) - 1) / 2) * width
            axes.bar(x, item.f1[name], 0.9 * width, **_bar_look(series))
            if item.sd.get(name):
                axes.errorbar(x, item.f1[name], yerr=item.sd[name], color="#444444", elinewidth=0.9)
            if item.f1[name] < 0.0005:
                # No bar is a missing score; this one is a real zero.
                axes.annotate("0", (x, 0), (0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=7)
    axes.set(title=title, ylabel="F1", ylim=(0, 1), xlim=(-0.5, len(types) - 0.5))
    # Where the widest line has no room below its bars, names of many types would run into each other.
    widest = max(len(line) for text in types.values() for line in text.splitlines())
    if widest > CHARACTERS_PER_INCH * 0.9 * WIDTH / len(types):
        texts = [text.replace("\n", " ") for text in types.values()]
        axes.set_xticks(range(len(types)), texts, rotation=40, ha="right", va="top", rotation_mode="anchor")
        figure.set_figheight(figure.get_figheight() + 0.6 * widest / CHARACTERS_PER_INCH)
    else:
        axes.set_xticks(range(len(types)), list(types.values()))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    said = [f"{mark} {text}" for mark, text in MARKS.items() if any(mark in series.label for series in bars)]
    _legend(figure, [Patch(label=series.label, **_bar_look(series)) for series in bars], said)
    return figure


def _bar_look(series: Series) -> dict[str, Any]:
    face = "white" if series.cross else series.color
    hatch = "////" if series.cross else ""
    return {"facecolor": face, "edgecolor": series.color, "hatch": hatch, "linewidth": 0.8, "alpha": series.alpha}


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], said: Sequence[str]) -> None:
    """A legend below the panels, where it hides nothing, headed by what the marks mean."""
    # A handle and its gaps are half an inch. Columns have the width of their longest.
    widest = max(0.6 + len(str(handle.get_label())) / CHARACTERS_PER_INCH for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
    rows = math.ceil(len(handles) / columns)
    # The panels keep their height.
    figure.set_figheight(figure.get_figheight() + 0.18 * max(0, rows + bool(said) - 2))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=math.ceil(len(handles) / rows),
        title="; ".join(said) or None,
        title_fontsize=8,
    )


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes a figure in each of :data:`FORMATS`.

    Args:
        figure: Figure to write.
        stem: Path without its suffix.

    Raises:
        InputError: If it cannot be written there.

    Returns:
        The files.
    """
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in FORMATS]
    for path in paths:
        figures.save(figure, path)
    return paths
