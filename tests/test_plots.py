"""Figures show every point that they are given, hide none of it behind text, and are the same bytes each time."""

from __future__ import annotations

import itertools
import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.image import imread

from common.errors import InputError
from common.tables.plots import (
    FORMATS,
    Bars,
    Point,
    Series,
    cost_figure,
    few_shot_figure,
    save,
    short_number,
    types_figure,
)

ZERO = Series(0, False, 0, "Zero-shot (bi)")
LDSA = Series(1, False, 0, "LDSA")
CROSS = Series(6, True, 0, "Full-FT (cross)")
LONG = Series(6, False, 1, "Full-FT (bi, somebody-elses/base-model-with-a-long-name)")

PANELS = {
    "JNLPBA (a machine with a very long name that no line of a title holds)": {
        ZERO: [Point(None, 0.31, 0.3, 0.32)],
        LDSA: [Point(2e5, 0.5, 0.49, 0.51)],
        CROSS: [Point(3e7, 0.7)],
    },
    "nothing trained": {ZERO: [Point(None, 0.3)]},
    "BC5CDR": {LDSA: [Point(2e7, 0.6)], CROSS: [Point(3e7, 0.5)], LONG: [Point(1e6, 0.9, 0.8, 0.95, mark="†")]},
}


def drawn_points(axes):
    return [
        tuple(map(float, point))
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
        for point in container.lines[0].get_xydata()
    ]


def assert_readable(figure):
    """No empty panel, no text beyond the page, no legend over the axes, no axis labels over each other."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page, renderer = figure.bbox, canvas.get_renderer()
    (legend,) = figure.legends
    box = legend.get_window_extent(renderer)
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    for axes in figure.axes:
        assert axes.containers
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *axes.get_xticklabels()]
        for text in texts:
            extent = text.get_window_extent(renderer)
            if text.get_text():
                assert page.x0 <= extent.x0 <= extent.x1 <= page.x1, text.get_text()
                assert page.y0 <= extent.y0 <= extent.y1 <= page.y1, text.get_text()
                assert extent.y0 >= box.y1, text.get_text()
        low, high = axes.get_xlim()
        labels = [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert len(labels) > 1
        extents = [label.get_window_extent(renderer) for label in labels]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(extents))


def test_cost_figure_by_hand():
    figure = cost_figure(PANELS, "trained parameters")
    assert_readable(figure)
    first, second = figure.axes
    assert first.get_title().replace("\n", " ") == next(iter(PANELS))
    assert (first.get_xscale(), first.get_xlabel(), first.get_ylabel()) == ("log", "trained parameters", "macro F1")
    assert drawn_points(first) == [(2e5, 0.5), (3e7, 0.7)]
    # The level of what trains nothing, and the best for at most a cost.
    levels = [line for line in first.lines if line.get_linestyle() == "-."]
    assert [line.get_ydata()[0] for line in levels] == [0.31]
    (front,) = [line for line in first.lines if line.get_drawstyle() == "steps-post"]
    assert front.get_xydata().tolist() == [[2e5, 0.5], [3e7, 0.7]]
    # The better but dearer one is no part of it; neither is the marked one.
    (front,) = [line for line in second.lines if line.get_drawstyle() == "steps-post"]
    assert front.get_xydata().tolist() == [[2e7, 0.6]]
    assert [text.get_text() for text in second.texts if text.get_text()] == ["†"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [series.label for series in (ZERO, LDSA, LONG, CROSS)]
    assert legend.get_title().get_text() == "† trained on a part of the training sentences"


def test_intervals_are_drawn():
    (axes,) = cost_figure({"x": {LDSA: [Point(5, 0.5, 0.45, 0.52)], CROSS: [Point(7, 0.4, 0.41, 0.43)]}}, "cost").axes
    bars = [container.lines[2][0].get_segments()[0][:, 1].tolist() for container in axes.containers]
    # An interval that does not hold its score is drawn from the score on.
    assert bars == [pytest.approx([0.45, 0.52]), pytest.approx([0.4, 0.43])]


def test_nothing_to_show_is_no_figure():
    assert cost_figure({"a": {ZERO: [Point(None, 0.3)]}}, "x") is None
    assert cost_figure({}, "x") is None
    assert few_shot_figure({"a": {LDSA: [Point(50, 0.3)], CROSS: [Point(60, 0.3)]}}) is None
    assert types_figure("x", {"disease": "disease"}, {LDSA: Bars({}, {})}) is None


@pytest.mark.parametrize("x", [0.0091, 11.2, 11.225, 2e7])
def test_a_point_alone_is_within_its_axis_beside_a_tick(x):
    axes = cost_figure({"alone": {LDSA: [Point(x, 0.5)]}}, "training time").axes[0]
    low, high = axes.get_xlim()
    assert low < x < high < 10 * low
    assert [tick for tick in axes.get_xticks() if low <= tick <= high]


def test_few_shot_figure_by_hand():
    panel = {
        ZERO: [Point(None, 0.3)],
        LDSA: [Point(200, 0.5), Point(50, 0.4), Point(14837, 0.7)],
        CROSS: [Point(14837, 0.8), Point(13900, 0.79)],
    }
    figure = few_shot_figure({"JNLPBA": panel, "no curve": {LDSA: [Point(50, 0.4)]}})
    assert_readable(figure)
    (axes,) = figure.axes
    assert drawn_points(axes) == [(50, 0.4), (200, 0.5), (14837, 0.7), (13900, 0.79), (14837, 0.8)]
    # 13,900 stands too near to 14,837 for both numbers.
    assert [text.get_text() for text in axes.get_xticklabels()] == ["50", "200", "14.8k"]


def test_types_figure_tells_nought_from_missing():
    types = {"dna": "dna\n(1,056)", "rna": "rna\n(118)", "none": "none"}
    bars = {LDSA: Bars({"dna": 0.0, "rna": 0.5}, {"rna": 0.1}), CROSS: Bars({"rna": 0.6}, {})}
    figure = types_figure("JNLPBA", types, bars)
    assert_readable(figure)
    (axes,) = figure.axes
    heights = [bar.get_height() for item in axes.containers if isinstance(item, BarContainer) for bar in item]
    assert heights == [0.0, 0.5, 0.6]
    assert [text.get_text() for text in axes.texts] == ["0"]
    # A type without any score has no place.
    assert [text.get_text() for text in axes.get_xticklabels()] == ["dna\n(1,056)", "rna\n(118)"]
    assert (axes.get_ylim(), axes.get_title()) == ((0, 1), "JNLPBA")


def test_names_of_many_types_do_not_run_into_each_other():
    names = [f"developing anatomical structure {number}" for number in range(16)]
    figure = types_figure(
        "mine", {name: f"{name}\n(1,234)" for name in names}, {LDSA: Bars(dict.fromkeys(names, 0.5), {})}
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,), (legend,), renderer = figure.axes, figure.legends, canvas.get_renderer()
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == [f"{name} (1,234)" for name in names]
    for label in labels:
        extent = label.get_window_extent(renderer)
        assert figure.bbox.x0 <= extent.x0 <= extent.x1 <= figure.bbox.x1
        assert extent.y0 >= legend.get_window_extent(renderer).y1
    # Slanted lines of text are apart if the distance of their ticks, seen along the text, is more than their height.
    (left, _), (right, _) = (axes.transData.transform((place, 0)) for place in (0, 1))
    angle = math.radians(labels[0].get_rotation())
    for label in labels:
        label.set_rotation(0)
    assert (right - left) * math.sin(angle) > labels[0].get_window_extent(renderer).height
    assert axes.bbox.height > 0.3 * figure.bbox.height


def test_kinds_and_bases_look_different():
    looks = [Series(order, cross, base, "") for order in range(7) for cross in (False, True) for base in (0, 1)]
    assert len({str(series.marker) for series in looks}) == len(looks)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (50, "50"),
        (999, "999"),
        (1000, "1k"),
        (4560, "4.56k"),
        (14837, "14.8k"),
        (2e7, "20M"),
        (0.5, "0.5"),
        (999_900, "1M"),
    ],
)
def test_short_number(number, text):
    assert short_number(number) == text


def test_saved_figures_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        paths = save(cost_figure(PANELS, "cost"), tmp_path / name)
        assert paths == [tmp_path / f"{name}.{suffix}" for suffix in FORMATS]
    for suffix in FORMATS:
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"CreationDate" not in (tmp_path / "a.pdf").read_bytes()
    # 300 dots an inch.
    assert imread(tmp_path / "a.png").shape[1] == 2400


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.pdf: cannot be written"):
        save(cost_figure(PANELS, "cost"), tmp_path / "file" / "a")
