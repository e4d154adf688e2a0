"""Figures of studies: what they tell, that nothing in them is cut or hides something, and what wrong inputs say."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import optuna
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

import optuna_plots
from common import figures
from common.errors import InputError
from common.paths import PROJECT_ROOT
from common.sweeps.figures import View, draw_history, wrapped
from common.sweeps.json_studies import infer_distribution, study_from_json
from optuna_plots import FigureSet, draw_figures, load_view, main

pytestmark = pytest.mark.slow

DATA = PROJECT_ROOT / "tests" / "data"
ALL_TRIALS, TRIALS = DATA / "optuna_all_trials.json", DATA / "optuna_trials.json"
EXAMPLE = PROJECT_ROOT / "examples" / "optuna_plots.json"
ALL_FIGURES = ["plots", "summary", "parallel", "intermediate", "timeline"]


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    """Printing resolution takes time."""
    monkeypatch.setattr(figures, "DPI", 50)


def example(count=36, storage=None, name="sp", direction="maximize"):
    """The example's trials: conditional parameters, pruned and failed trials, reports and times."""
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    study.add_trials(load_view(FigureSet(str(EXAMPLE.with_name("optuna_study.json")))).trials[:count])
    return study


def drawn_study(values, distributions, name="simple"):
    """Trials with these values and what is drawn for each parameter."""
    study = optuna.create_study(study_name=name, direction="minimize")
    rng = random.Random(1)
    for value in values:
        params = {
            key: rng.choice(s.choices) if isinstance(s, CategoricalDistribution) else rng.uniform(s.low, s.high)
            for key, s in distributions.items()
        }
        study.add_trial(create_trial(value=value, params=params, distributions=distributions))
    return study


def runaway():
    study = example(direction="minimize")
    for value in (1e6, math.inf):
        study.add_trial(create_trial(value=value, intermediate_values={0: 1e6, 1: math.nan, 2: math.inf}))
    study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={0: 3.0}))
    study.add_trial(create_trial(state=TrialState.WAITING))
    return study


def view_of(study, **changes):
    return View(study, **{"name": study.study_name, "metric": "macro F1"} | changes)


def values_view(values, direction):
    study = optuna.create_study(direction=direction)
    for value in values:
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        # The pruned trials report the best values of all.
        reports = {0: 100.0 if direction == "maximize" else -100.0} if value is None else {}
        study.add_trial(create_trial(state=state, value=value, intermediate_values=reports))
    return view_of(study)


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def old_json(**changes):
    """The layout of SP-Base: all_trials, with the best value beside them."""
    trials = [
        {"number": n, "value": v, "state": "TrialState.COMPLETE", "params": {"lr": 0.1}}
        for n, v in enumerate((3, 1, 2))
    ]
    return {"best_value": 1, "best_trial_number": 1, "all_trials": trials} | changes


# ------------------------------------------------------------------------------------------------- figures as pictures


def texts(figure):
    """Every text that is drawn, with its box."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A layout that does not fit, a letter that the font does not have.
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    found = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() if axis.get_visible() else ():
                if low - 1e-12 <= tick.get_loc() <= high + 1e-12:
                    found += [tick.label1, tick.label2]
    shown = [text for text in found if isinstance(text, Text) and text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in shown]


def check_picture(figure):
    """Nothing is cut, no text is over another."""
    found, page = texts(figure), figure.bbox
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y1 <= page.y1 + 1, text
    for (one, first), (other, second) in itertools.combinations(found, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert width <= 1 or height <= 1, f"{one!r} over {other!r}"


def test_the_check_sees_cut_and_covered_texts():
    figure = Figure()
    figure.suptitle("title")
    axes = figure.subplots()
    check_picture(figure)
    text = axes.text(0.5, 0.5, "one")
    other = axes.text(0.5, 0.5, "two")
    with pytest.raises(AssertionError, match="'one' over 'two'"):
        check_picture(figure)
    other.remove()
    text.set_x(9)
    with pytest.raises(AssertionError, match="one"):
        check_picture(figure)


LONG_NAMES = [f"encoder.layers_{i}.output_projection_learning_rate_multiplier" for i in range(30)]
LONG_CHOICES = [f"scheduler_with_a_long_name_{i}" for i in range(12)]
UNIT, LOG, RATE = FloatDistribution(0, 1), FloatDistribution(1e-4, 1e-4, log=True), FloatDistribution(1e-6, 1, log=True)
STUDIES = {
    "conditional": example,
    "runaway values": runaway,
    "one trial": lambda: drawn_study([1.0], {"x": UNIT, "kind": CategoricalDistribution(["a", "b"])}),
    "large": lambda: drawn_study(range(120), {"x": UNIT, "rate": RATE, "kind": CategoricalDistribution([True, False])}),
    "long choices": lambda: drawn_study(range(40), {"x": UNIT, "kind": CategoricalDistribution(LONG_CHOICES[:4])}),
    "many choices": lambda: drawn_study(range(60), {"x": UNIT, "kind": CategoricalDistribution(LONG_CHOICES)}),
    "many parameters": lambda: drawn_study(
        range(30), dict.fromkeys(LONG_NAMES, FloatDistribution(0.001, 2e4)), "a_" * 99
    ),
    "one parameter": lambda: drawn_study(range(12), {"x": UNIT}),
    "constants": lambda: drawn_study(
        range(12), {"x": FloatDistribution(0.1, 0.1), "lr": LOG, "k": CategoricalDistribution("a")}
    ),
    "equal values": lambda: drawn_study([0.5] * 12, {"x": UNIT}),
    "formulas": lambda: drawn_study(
        range(12),
        {"$lr_a$ 5%": RATE, "a$b$c": CategoricalDistribution(["$x$", "\\alpha_y"])},
        "$x$ and 50% of {a}\n\tb, naïve \\a $",
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_pictures(name):
    metric = "macro F1 over all types of the validation split, strict spans, best epoch of the trial"
    view = view_of(STUDIES[name](), metric=metric if name in ("many parameters", "large") else "macro F1")
    drawn = draw_figures(view, FigureSet(parameters=2 if name == "large" else 3))
    assert [kind for kind in ALL_FIGURES if kind in drawn or kind != "intermediate"] == list(drawn)
    for figure in drawn.values():
        check_picture(figure)
    if name == "formulas":
        shown = {text for text, _ in texts(drawn["summary"])}
        assert {"$lr_a$ 5%", "a$b$c", "$x$", "\\alpha_y", "$x$ and 50% of {a} b, naïve \\a $"} <= shown


def test_a_figure_with_nothing_to_show_is_not_drawn(caplog):
    caplog.set_level("INFO")
    study = study_from_json({"trials": [{"value": 1}], "direction": "minimize"}, "bare.json")
    assert list(draw_figures(view_of(study), FigureSet())) == ["plots"]
    for word in ("importances", "summary", "parallel", "intermediate", "timeline"):
        assert sum(f"no {word}" in line for line in caplog.messages) == 1


def test_long_texts_lose_their_middle():
    assert wrapped("learning_rate", 20) == "learning_rate"
    assert wrapped("learning_rate of all", 14) == "learning_rate\nof all"
    short = wrapped(LONG_NAMES[11], 24).splitlines()
    assert short[0].startswith("encoder.layers_11.")
    assert short[1].endswith("multiplier")
    assert max(map(len, short)) <= 24
    assert len(wrapped("x" * 10**5, 20, 3)) <= 62


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("direction", "best"), [("minimize", [0, 2, 5]), ("maximize", [0, 3])])
def test_pruned_trials_are_never_best_but_shown(direction, best):
    view = values_view([5.0, None, 3.0, 6.0, 3.0, 1.0], direction)
    assert [trial.number for trial in view.best] == best
    axes = Figure().subplots()
    draw_history(axes, view)
    assert "pruned, last report (1)" in axes.get_legend_handles_labels()[1]
    drawn = {float(x) for line in axes.lines if line.get_linestyle() == "None" for x in line.get_xdata()}
    assert drawn == set(range(6))


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_best_agrees_with_optuna(direction):
    study = example(direction=direction)
    assert view_of(study).best[-1] == study.best_trial


def test_importances_are_optunas():
    study = example()
    default = view_of(study).shares
    assert default == pytest.approx(optuna.importance.get_param_importances(study))
    assert set(default) == set(view_of(study).parameters)
    assert list(default.values()) == sorted(default.values(), reverse=True)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    view = view_of(study, importance="fanova")
    assert view.shares == pytest.approx(optuna.importance.get_param_importances(study, evaluator=evaluator))
    assert set(default) - set(view.shares) == {"focal_gamma", "focal_alpha"}
    figure = draw_figures(view, FigureSet(plot_type="standard"))["plots"]
    assert "left out: focal_gamma, focal_alpha" in figure.axes[0].get_xlabel()
    bars = sorted((bar.get_width() for bar in figure.axes[0].patches), reverse=True)
    assert bars == pytest.approx(list(view.shares.values()))


def test_parameters_of_an_infinite_trial_alone_are_not_drawn():
    study = example()
    study.add_trial(create_trial(value=-math.inf, params={"z": 1}, distributions={"z": IntDistribution(0, 2)}))
    view = view_of(study)
    assert "z" not in view.ranked
    assert list(draw_figures(view, FigureSet())) == ALL_FIGURES


def test_one_runaway_value_does_not_flatten_the_others():
    view = view_of(runaway())
    low, high = view.limits
    values = [trial.value for trial in view.completed if trial.value < 100]
    assert low < min(values) < max(values) < high < 10
    axes = Figure().subplots()
    draw_history(axes, view)
    assert "off the scale" in axes.get_legend_handles_labels()[1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-6, 3e-4, 2e-5], FloatDistribution(1e-6, 3e-4, log=True)),
        ([0.1, 0.2, 0.3], FloatDistribution(0.1, 0.3)),
        ([0.0, 1e-5, 1.0], FloatDistribution(0, 1)),
        ([20, 100, 50], IntDistribution(20, 100)),
        ([1, 2.5, 4], FloatDistribution(1, 4)),
        ([8, 16, 8, 32, 16, 8], CategoricalDistribution([8, 16, 32])),
        ([0.999, 0.9999, 0.999, 0.9999], CategoricalDistribution([0.999, 0.9999])),
        ([True, False, True], CategoricalDistribution([False, True])),
        (["b", None, "a"], CategoricalDistribution(["a", "b", None])),
        ([[1, 2], [1]], CategoricalDistribution(["[1, 2]", "[1]"])),
    ],
)
def test_inferred_ranges(values, expected):
    assert infer_distribution("x", values) == expected


@pytest.mark.parametrize("name", ["lr", "lr_mlp", "others_lr", "learning_rate", "prompt_encoder_lr"])
def test_learning_rates_are_logarithmic(name):
    assert infer_distribution(name, [1e-4, 2e-4, 3e-4]).log
    assert not infer_distribution("lrs", [1e-4, 2e-4, 3e-4]).log


# ------------------------------------------------------------------------------------------------------- reading
# studies


def test_old_schema_with_states_as_numbers():
    """LDSA's layout, as Optuna before 4.6 wrote it: '1' is COMPLETE."""
    view = load_view(FigureSet(study=str(ALL_TRIALS)))
    assert (view.name, view.metric, view.maximize) == ("gliner_biomed_hpo", "objective value", False)
    assert [trial.number for trial in view.trials if trial.state == TrialState.PRUNED] == [6, 9, 12]
    assert [trial.number for trial in view.trials if trial.state == TrialState.FAIL] == [10]
    assert (view.best[-1].number, view.best[-1].value) == (2, 0.305808)
    figures = draw_figures(view, FigureSet())
    assert list(figures) == ["plots", "summary", "parallel"]
    for figure in figures.values():
        check_picture(figure)


def test_old_schema_with_conditional_parameters_and_state_names():
    """The layout of SP-GLiNER and the SP sweeps; the values were maximized."""
    view = load_view(FigureSet(study=str(TRIALS)))
    assert (view.name, view.maximize, len(view.completed)) == ("optuna_trials", True, 11)
    assert (view.best[-1].number, view.best[-1].value) == (6, 0.631557)
    assert "gamma" in view.parameters
    assert "gamma" not in view.trials[0].params
    for figure in draw_figures(view, FigureSet()).values():
        check_picture(figure)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("1", "COMPLETE"),
        (1, "COMPLETE"),
        ("TrialState.PRUNED", "PRUNED"),
        ("FAIL", "FAIL"),
        ("2", "PRUNED"),
        (0, "RUNNING"),
    ],
)  # fmt: skip
def test_states(state, expected):
    trial = {"number": 3, "value": 9 if expected == "COMPLETE" else None, "state": state}
    study = study_from_json(old_json(all_trials=[*old_json()["all_trials"], trial]), "x.json")
    assert study.trials[-1].state.name == expected


@pytest.mark.parametrize("direction", [None, "minimize", "MAXIMIZE", "StudyDirection.MAXIMIZE", 1])
def test_direction_that_the_file_says(direction):
    study = study_from_json(old_json(direction=direction), "x.json")
    assert study.direction.name == ("MAXIMIZE" if "MAX" in str(direction) else "MINIMIZE")


def test_numbers_and_times_of_the_file_are_kept(tmp_path):
    trials = [
        {"number": n, "value": n, "datetime_start": start, "datetime_complete": "2026-01-01T10:00:00+02:00"}
        for n, start in ((7, "2026-01-01T09:30:00+02:00"), (3, "2026-01-01T06:00:00"))
    ]
    path = write_json(tmp_path / "s.json", {"direction": "maximize", "metric": "loss", "trials": trials})
    view = load_view(FigureSet(study=str(path)))
    assert [trial.number for trial in view.trials] == [3, 7]
    assert view.study.best_trial.number == 7
    assert [trial.datetime_start.hour for trial in view.trials] == [6, 7]
    assert view.trials[0].datetime_complete.hour == 8
    assert view.metric == "loss"


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "sweeps.db"
    for name in ("first", "second"):
        example(12, f"sqlite:///{path}", name).set_metric_names(["macro F1"])
    return path


@pytest.fixture
def database(two_studies, tmp_path):
    folder = tmp_path / "runs #1 50% what?"
    folder.mkdir()
    return shutil.copyfile(two_studies, folder / "sweeps.db")


def test_sqlite_with_several_studies(database, monkeypatch):
    with pytest.raises(InputError, match=r"s\.db: holds 2 studies, --study-name must be one of \['first', 'second'\]"):
        load_view(FigureSet(study=str(database)))
    with pytest.raises(InputError, match=r"sweeps\.db: no study 'third'; it holds \['first', 'second'\]"):
        load_view(FigureSet(study=str(database), study_name="third"))
    with pytest.raises(InputError, match="the study says maximize, not minimize"):
        load_view(FigureSet(study=str(database), study_name="first", direction="minimize"))
    monkeypatch.chdir(database.parent)
    for source in (str(database), "sqlite:///sweeps.db"):
        view = load_view(FigureSet(study=source, study_name="second"))
        assert (view.name, view.metric, len(view.completed)) == ("second", "macro F1", 8)


def test_sqlite_is_only_read(database):
    before = database.read_bytes()
    database.chmod(0o444)
    load_view(FigureSet(study=str(database), study_name="first"))
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == ["sweeps.db"]
    assert [path.name for path in database.parent.parent.iterdir()] == [database.parent.name]


def test_journal(tmp_path):
    path = tmp_path / "study.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    example(3, storage, "logged")
    assert load_view(FigureSet(study=str(path))).name == "logged"


# --------------------------------------------------------------------------------------------------------------- errors


def trials(*entries, **others):
    return {"trials": list(entries), "direction": "minimize"} | others


HUGE = 10**400
STEP = {"x": {"name": "FloatDistribution", "attributes": {"step": True, "low": 0.0, "high": 1.0, "log": False}}}
WRONG = [
    ("gone.json", None, "gone.json: no such file"),
    ("sqlite:///gone.db", None, "gone.db: no such file"),
    ("x.json", "{", "x.json: not whole JSON, line 1"),
    ("x.db", "no database", "x.db: no SQLite database"),
    ("x.log", "no journal\n" * 3, "x.log: no journal of Optuna"),
    ("x.json", [], "x.json: expected an object with all_trials or trials, got list"),
    ("x.json", {"runs": []}, "x.json: neither all_trials nor trials in it; it has ['runs']"),
    ("x.json", {"trials": {}}, "x.json: trials must be a list of objects"),
    ("x.json", trials(), "x.json: no completed trial with a finite value (it is empty)"),
    ("x.json", trials({"state": "FAIL"}), "x.json: no completed trial with a finite value (1 fail)"),
    ("x.json", trials({"value": math.inf}), "x.json: no completed trial with a finite value (1 complete)"),
    ("x.json", trials({"state": "DONE"}), "x.json: trials[0]: unknown state 'DONE'; known are ['RUNNING'"),
    ("x.json", trials({"state": 1}), "x.json: trials[0]: a complete trial with the value None"),
    ("x.json", trials({"value": math.nan}), "x.json: trials[0]: a complete trial with the value nan"),
    ("x.json", trials({"value": "high"}), "x.json: trials[0]: value must be a number or null, got 'high'"),
    ("x.json", trials({"value": HUGE}), "x.json: trials[0]: value must be a number or null, got 1000"),
    ("x.json", trials({"value": 1e308}), "x.json: trial 0 has 1e+308"),
    ("x.json", trials({"value": 1, "params": [2]}), "x.json: trials[0]: params must be an object, got [2]"),
    ("x.json", trials({"value": 1, "params": {"lr": math.inf}}), "x.json: trials[0]: lr is inf"),
    ("x.json", trials({"value": 1, "params": {"lr": HUGE}}), "x.json: trials[0]: lr is 1000"),
    ("x.json", trials({"value": 1, "params": {"lr": -1e308}}), "x.json: trials[0]: lr is -1e+308"),
    ("x.json", trials({"value": 1, "number": 0.5}), "x.json: trials[0]: number is 0.5"),
    ("x.json", trials({"number": 4}, {"number": 4}), "x.json: trials has 2 trials with the number 4"),
    ("x.json", trials({"datetime_start": "noon"}), "x.json: trials[0]: no ISO time: "),
    ("x.json", trials({"value": 1, "datetime_start": "0001-01-01"}), "x.json: trial 0 ran in the year 1"),
    ("x.json", trials({"intermediate_values": {"a": 1}}), "intermediate_values must map steps to numbers"),
    ("x.json", trials({"value": 1}, direction=None), "x.json: neither a direction nor a best value; give --direction"),
    ("x.json", {"trials": [{"value": 1}], "best_value": 1}, "best value 1 is the lowest and the highest"),
    ("x.json", old_json(best_value=2.5), "best value 2.5 is neither the lowest nor the highest; give --direction"),
    ("x.json", old_json(direction="up"), "x.json: direction must be minimize or maximize, got 'up'"),
    ("x.json", trials({"value": 1, "params": {"x": 1}}, distributions=STEP), "x.json: distributions: "),
    ("no://me:secret@host/db", None, "no://me:***@host/db: cannot be read"),
    ("postgresql+no://host/db?password=secret", None, "postgresql+no://host/db: cannot be read"),
    ("http//://me:secret@x", None, "http//://...: no storage URL"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_studies_say_one_clear_line(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        main([name])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ([] if content is None else [name])


def test_databases_that_cannot_be_drawn_are_left_alone(tmp_path, database):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE things (x)")
    connection.close()
    optuna.create_study(storage=f"sqlite:///{tmp_path}/two.db", directions=["minimize", "maximize"])
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE trials SET state = 'DONE'")
    connection.close()
    for source, message in (
        (path, r"other\.db: an SQLite database, but not of Optuna"),
        (tmp_path / "two.db", "2 objectives; the figures are for one"),
        (database, r"sweeps\.db: cannot be read: 'DONE' is not among the defined enum values"),
    ):
        before = source.read_bytes()
        with pytest.raises(InputError, match=message):
            load_view(FigureSet(study=str(source), study_name="first" if source == database else None))
        assert source.read_bytes() == before


SET = {"study": "a.json"}
WRONG_CONFIGS = [
    ([], 'expected an object with a list "studies"'),
    ({"studies": []}, 'expected an object with a list "studies"'),
    ({"studies": [SET | {"metrik": "F1"}]}, "studies[0]: unknown settings ['metrik']; known are"),
    ({"studies": [SET], "dpi": 3}, "c.json: unknown settings ['dpi']"),
    ({"studies": [{"metric": "F1"}]}, "studies[0]: study is missing"),
    ({"studies": ["a.json"]}, "studies[0]: expected an object, got 'a.json'"),
    ({"studies": [SET | {"plot_type": "all"}]}, "plot_type must be one of 'standard', 'summary', 'both'"),
    ({"studies": [SET | {"format": ["svg"]}]}, "format[0] must be one of 'pdf', 'png', got 'svg'"),
    ({"studies": [SET | {"format": "pdf"}]}, "format must be a list, got 'pdf'"),
    ({"studies": [SET | {"format": []}]}, "format must name at least one of pdf, png"),
    ({"studies": [SET | {"output_dir": 5}]}, "output_dir must be a text or null, got 5"),
    ({"studies": [SET | {"prefix": "../up"}]}, "prefix must be letters"),
    ({"studies": [SET | {"parameters": 0}]}, "parameters must be 1 to 8, got 0"),
    ({"studies": [SET]}, "a.json: no such file"),
    ({"studies": [{"study": str(TRIALS)}] * 2, "output_dir": "out"}, "2 figure sets would get these names"),
    ({"studies": [{"study": str(TRIALS), "study_name": "x"}]}, "no study 'x'; it holds 'optuna_trials'"),
    ({"studies": [{"study": str(TRIALS)}], "output_dir": "c.json"}, "cannot be written"),
]


@pytest.mark.parametrize(("config", "message"), WRONG_CONFIGS, ids=range(len(WRONG_CONFIGS)))
def test_wrong_configurations(config, message, tmp_path):
    with pytest.raises(InputError) as caught:
        main(["--config", str(write_json(tmp_path / "c.json", config))])
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_a_study_and_a_config_are_refused():
    with pytest.raises(InputError, match="give a study or --config, not both") as caught:
        main(["postgresql://me:secret@host/db", "--config", str(EXAMPLE)])
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="no study given"):
        main([])


# ----------------------------------------------------------------------------------------------------------- the script


def test_files_are_whole_and_the_same_each_time(tmp_path):
    options = ["-p", "fig_3", "-m", "validation loss", "-t", "standard"]
    first, second = (main([str(ALL_TRIALS), "-o", str(tmp_path / name), *options]) for name in ("a", "b"))
    assert [path.name for path in first] == ["fig_3_plots.pdf", "fig_3_plots.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [path.name for path in first]
    assert first[0].read_bytes().startswith(b"%PDF")
    assert Image.open(first[1]).size == (400, 185)


def test_the_example_draws_what_it_says(tmp_path):
    written = main(["--config", str(EXAMPLE), "-o", str(tmp_path), "--format", "png"])
    names = [*(f"example_{name}.png" for name in ALL_FIGURES), "example_fanova_summary.png"]
    assert [path.name for path in written] == names
    for settings in optuna_plots.read_config(EXAMPLE):
        assert settings.output_dir.is_relative_to(EXAMPLE.parent)
        assert "use_focal" in load_view(settings).parameters


def test_help_and_options_do_not_wait_for_libraries():
    code = "import sys, optuna_plots; print({'optuna', 'matplotlib', 'numpy', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.processes
def test_the_users_matplotlib_does_not_change_the_figures(tmp_path, monkeypatch):
    monkeypatch.undo()
    main([str(ALL_TRIALS), "--format", "png", "-o", str(tmp_path / "plain")])
    (tmp_path / "rc").mkdir()
    (tmp_path / "rc" / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\nbackend: tkagg\n")
    odd = {"MPLCONFIGDIR": str(tmp_path / "rc"), "PYTHONHASHSEED": "2", "MPLBACKEND": "module://no.such.backend"}
    command = [sys.executable, "optuna_plots.py", str(ALL_TRIALS), "--format", "png", "-o", str(tmp_path / "odd")]
    subprocess.run(command, cwd=PROJECT_ROOT, env=os.environ | odd, check=True)
    plain, odd = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "odd"))
    assert len(plain) == 3
    assert plain == odd
