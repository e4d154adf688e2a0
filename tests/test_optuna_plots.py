"""Figures of studies: what they tell, that nothing in them is cut or hides something, and what wrong inputs say."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import random
import sqlite3
import warnings
from pathlib import Path

import optuna
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

import optuna_plots
from common.errors import InputError
from common.paths import PROJECT_ROOT
from common.sweeps.json_studies import infer_distribution, study_from_json
from common.tables import figures
from optuna_plots import FigureSet, View, draw_figures, load_view, main, running_best, scale_of

DATA = PROJECT_ROOT / "tests" / "data"
ALL_TRIALS, TRIALS = DATA / "optuna_all_trials.json", DATA / "optuna_trials.json"
EXAMPLE = PROJECT_ROOT / "examples" / "optuna_plots.json"
ALL_FIGURES = ["plots", "summary", "parallel", "intermediate", "timeline"]
START = datetime.datetime(2026, 1, 1, 8)
LONG = "a_study_name_without_any_space_that_goes_on_and_on_" * 3
LONG_METRIC = "macro F1 over all types of the validation split, strict spans, best epoch of the trial"
SPACE = {
    "learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
    "pooling_mode": CategoricalDistribution(["adaptive_avg", "attention", "conv1d"]),
    "use_focal": CategoricalDistribution([True, False]),
    "n_layers": IntDistribution(1, 12),
    "focal_gamma": FloatDistribution(0.5, 5),
}


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    """Printing resolution takes time."""
    assert figures.DPI == 300
    monkeypatch.setattr(figures, "DPI", 50)


def make_study(trials=24, *, direction="maximize", storage=None, name="sp", seed=0, shift=0.0, space=SPACE):
    """A sweep with a conditional parameter, pruned and failed trials, reports and times."""
    study = optuna.create_study(direction=direction, storage=storage, study_name=name)
    rng = random.Random(seed)
    for number in range(trials):
        params = {"learning_rate": 10 ** rng.uniform(-6, -3), "pooling_mode": rng.choice(space["pooling_mode"].choices)}
        params |= {"use_focal": rng.random() < 0.5, "n_layers": rng.randint(1, 12)}
        if params["use_focal"]:
            params["focal_gamma"] = rng.uniform(0.5, 5)
        score = 0.7 - 0.05 * (math.log10(params["learning_rate"]) + 4) ** 2 + rng.gauss(0, 0.01) + shift
        state, steps = {5: (TrialState.PRUNED, 3), 9: (TrialState.PRUNED, 0), 7: (TrialState.FAIL, 1)}.get(
            number, (TrialState.COMPLETE, 6)
        )
        trial = create_trial(
            state=state,
            value=score if state == TrialState.COMPLETE else None,
            params=params,
            distributions={key: space[key] for key in params},
            intermediate_values={step: score * (1 - math.exp(-step - 1)) for step in range(steps)},
        )
        trial.datetime_start = START + datetime.timedelta(minutes=6 * number)
        trial.datetime_complete = trial.datetime_start + datetime.timedelta(minutes=steps)
        study.add_trial(trial)
    return study


def view_of(study, **changes):
    return View(study, tuple(study.get_trials()), **{"name": study.study_name, "metric": "macro F1"} | changes)


def values_study(values, direction):
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
            for tick in axis.get_major_ticks():
                if low - 1e-12 <= tick.get_loc() <= high + 1e-12:
                    found += [tick.label1, tick.label2]
    shown = [text for text in found if isinstance(text, Text) and text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in shown]


def check_picture(figure):
    """Nothing is cut, no text is over another, no panel is empty."""
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
    for axes in figure.axes:
        assert axes.lines or axes.patches or axes.collections, axes.get_title()
        least = 5 if axes.get_label() == "<colorbar>" else 80
        assert min(axes.get_window_extent().width, axes.get_window_extent().height) > least


def test_the_check_sees_cut_and_covered_texts():
    figure = optuna_plots.Figure()
    figure.suptitle("title")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    check_picture(figure)
    text = axes.text(0.5, 0.5, "one")
    other = axes.text(0.5, 0.5, "two")
    with pytest.raises(AssertionError, match="'one' over 'two'"):
        check_picture(figure)
    other.remove()
    text.set_x(9)
    with pytest.raises(AssertionError, match="one"):
        check_picture(figure)


def many_choices():
    choices = [f"scheduler_with_a_long_name_{i}" for i in range(12)]
    return make_study(60, space=SPACE | {"pooling_mode": CategoricalDistribution(choices)})


def many_parameters():
    study = optuna.create_study(study_name=LONG, direction="minimize")
    names = [f"encoder.layers_{i}.output_projection_learning_rate_multiplier" for i in range(18)]
    rng = random.Random(1)
    for _ in range(30):
        params = {name: rng.uniform(0.001, 12345.6) for name in names if name != names[3] or rng.random() < 0.5}
        study.add_trial(
            create_trial(
                value=sum(params.values()) * 1e-4,
                params=params,
                distributions={name: FloatDistribution(0.001, 20000) for name in params},
            )
        )
    return study


def runaway():
    study = make_study(20, direction="minimize", shift=3)
    for value in (1e6, math.inf):
        study.add_trial(create_trial(value=value, params={}, distributions={}, intermediate_values={0: 1e6}))
    study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={0: 3.0}))
    study.add_trial(create_trial(state=TrialState.WAITING))
    return study


STUDIES = {
    "conditional": make_study,
    "minimize": lambda: make_study(30, direction="minimize", shift=123456),
    "three trials": lambda: make_study(3),
    "large": lambda: make_study(120),
    "many choices": many_choices,
    "many parameters": many_parameters,
    "runaway values": runaway,
    "tiny values": lambda: make_study(12, shift=-0.7 + 1e-9),
}


@pytest.mark.parametrize("name", STUDIES)
def test_pictures(name):
    view = view_of(STUDIES[name](), metric=LONG_METRIC if name in ("many parameters", "large") else "macro F1")
    figures = draw_figures(view, FigureSet(parameters=2 if name == "large" else 3))
    expected = [kind for kind in ALL_FIGURES if name != "many parameters" or kind != "intermediate"]
    assert list(figures) == expected
    for figure in figures.values():
        check_picture(figure)


@pytest.mark.parametrize("parameters", [1, 4, 5])
def test_summary_leaves_no_place_empty(parameters):
    figure = draw_figures(view_of(make_study()), FigureSet(plot_type="summary", parameters=parameters))["summary"]
    check_picture(figure)
    assert len(figure.axes) == parameters + 1
    grid = figure.axes[0].get_subplotspec().get_gridspec()
    first = figure.axes[0].get_subplotspec()
    assert grid.nrows * grid.ncols == parameters + (len(first.colspan))


def test_names_are_text_and_no_formulas(tmp_path):
    name = "$x$ and 50% of {a}\n\tb, naïve \\alpha $"
    view = view_of(make_study(6), name=name, metric=name)
    figures = draw_figures(view, FigureSet())
    for figure in figures.values():
        check_picture(figure)
    optuna_plots.save(figures["timeline"], tmp_path / "figure.pdf")


def test_a_figure_with_nothing_to_show_is_not_drawn(caplog):
    caplog.set_level("INFO")
    study = optuna.create_study(study_name="bare")
    study.add_trial(create_trial(value=1.0))
    view = view_of(study)
    for trial in view.trials:
        trial.datetime_start = None
    assert list(draw_figures(view, FigureSet())) == ["plots"]
    for word in ("importances", "summary", "parallel", "intermediate", "timeline"):
        assert sum(f"no {word}" in line for line in caplog.messages) == 1


def test_long_names_stay_apart():
    names = [f"encoder.layers_{i}.output_projection_learning_rate_multiplier" for i in range(12)]
    short = optuna_plots.distinct_names([*names, "lr"], 11, 3)
    assert len(set(short)) == 13
    assert all(len(line) <= 11 for text in short for line in text.splitlines())
    assert all(text.count("\n") < 3 for text in short)
    assert short[-1] == "lr"
    assert optuna_plots.distinct_names(["x", "x"], 5, 1) == ["x", "x"]


def test_booleans_are_named():
    view = view_of(make_study())
    axes = optuna_plots.Figure().subplots()
    optuna_plots.draw_parameter(axes, view, "use_focal", (0, 1))
    labels = [label.get_text().splitlines()[0] for label in axes.get_xticklabels()]
    assert labels == ["False", "True"]
    assert len(axes.patches) == 2


def test_a_conditional_parameter_says_in_how_many_trials_it_is():
    view = view_of(make_study())
    axes = optuna_plots.Figure().subplots()
    optuna_plots.draw_parameter(axes, view, "focal_gamma", (0, 1))
    count = sum("focal_gamma" in trial.params for trial in view.completed)
    assert 0 < count < len(view.completed)
    assert f"(in {count} of {len(view.completed)} completed trials)" in axes.get_xlabel()


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("direction", "best"),
    [("minimize", [(0, 5.0), (2, 3.0), (5, 1.0)]), ("maximize", [(0, 5.0), (3, 6.0)])],
)
def test_running_best(direction, best):
    assert running_best(values_study([5.0, None, 3.0, 6.0, 3.0, 1.0], direction)) == best


@pytest.mark.parametrize(("direction", "top"), [("minimize", [5, 2, 4]), ("maximize", [3, 0, 2])])
def test_pruned_trials_are_never_best_but_shown(direction, top):
    view = values_study([5.0, None, 3.0, 6.0, 3.0, 1.0], direction)
    assert [trial.number for trial in view.top(3)] == top
    assert optuna_plots.shown_value(view.trials[1]) == (100.0 if direction == "maximize" else -100.0)
    axes = optuna_plots.Figure().subplots()
    labels = [handle.get_label() for handle in optuna_plots.draw_history(axes, view)]
    assert "pruned, last report (1)" in labels
    drawn = {float(x) for line in axes.lines if line.get_linestyle() == "None" for x in line.get_xdata()}
    assert drawn == set(range(6))


def test_best_agrees_with_optuna():
    for direction in ("minimize", "maximize"):
        study = make_study(direction=direction)
        assert running_best(view_of(study))[-1] == (study.best_trial.number, study.best_value)


def test_importances_are_optunas():
    study = make_study()
    default = optuna_plots.importances(view_of(study))
    assert default == pytest.approx(optuna.importance.get_param_importances(study))
    assert set(default) == set(SPACE)
    assert list(default.values()) == sorted(default.values(), reverse=True)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    fanova = optuna_plots.importances(view_of(study, importance="fanova"))
    assert fanova == pytest.approx(optuna.importance.get_param_importances(study, evaluator=evaluator))
    assert set(fanova) == set(SPACE) - {"focal_gamma"}


def test_the_figure_says_what_importances_leave_out():
    for kind, text in (
        ("fanova", "left out, not in every trial: focal_gamma"),
        ("default", "not in every trial: focal"),
    ):
        axes = optuna_plots.Figure().subplots()
        optuna_plots.draw_importances(axes, view_of(make_study(), importance=kind))
        assert text in axes.get_xlabel().replace("\n", " ")


def test_a_range_that_changes_is_left_out_and_named():
    study = optuna.create_study()
    for number in range(12):
        ranges = {"x": FloatDistribution(0, 20), "y": FloatDistribution(0, 20 if number < 6 else 30)}
        study.add_trial(create_trial(value=number % 5, params={"x": number % 5, "y": number}, distributions=ranges))
    axes = optuna_plots.Figure().subplots()
    optuna_plots.draw_importances(axes, view_of(study, importance="fanova"))
    assert "left out, range changed between trials: y" in axes.get_xlabel()


def test_parameters_of_an_infinite_trial_alone_are_not_drawn():
    study = make_study(12)
    study.add_trial(create_trial(value=-math.inf, params={"z": 1}, distributions={"z": IntDistribution(0, 2)}))
    view = view_of(study)
    assert "z" not in view.ranked
    assert list(draw_figures(view, FigureSet())) == ALL_FIGURES


def test_one_runaway_value_does_not_flatten_the_others():
    view = view_of(runaway())
    low, high = optuna_plots.value_limits(view)
    values = [trial.value for trial in view.completed if trial.value < 100]
    assert low < min(values) < max(values) < high < 10
    labels = [handle.get_label() for handle in optuna_plots.draw_history(optuna_plots.Figure().subplots(), view)]
    assert "off the scale" in labels


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


def test_ticks_stay_on_the_axis():
    for low, high in ((1e-6, 1e-3), (0.0011, 0.0019), (3, 4e5), (1.01, 1.02)):
        for log in (True, False):
            found = optuna_plots.ticks(low, high, log=log)
            assert 2 <= len(found) <= 8
            assert all(low <= value <= high for value in found)


# ------------------------------------------------------------------------------------------------------- reading studies


def test_old_schema_with_states_as_numbers():
    """LDSA's layout, as Optuna before 4.6 wrote it: '1' is COMPLETE."""
    view = load_view(FigureSet(study=str(ALL_TRIALS)))
    assert view.name == "gliner_biomed_hpo"
    assert not view.maximize
    assert [trial.number for trial in view.trials if trial.state == TrialState.PRUNED] == [6, 9, 12]
    assert [trial.number for trial in view.trials if trial.state == TrialState.FAIL] == [10]
    assert running_best(view)[-1] == (2, 0.305808)
    assert scale_of(view, "batch_size").choices == (8, 16, 32)
    assert scale_of(view, "weight_decay").log
    assert not scale_of(view, "temperature").log
    figures = draw_figures(view, FigureSet())
    assert list(figures) == ["plots", "summary", "parallel"]
    for figure in figures.values():
        check_picture(figure)


def test_old_schema_with_conditional_parameters_and_state_names():
    """The layout of SP-GLiNER and the SP sweeps; the values were maximized."""
    view = load_view(FigureSet(study=str(TRIALS)))
    assert view.name == "optuna_trials"
    assert view.maximize
    assert len(view.completed) == 11
    assert running_best(view)[-1] == (6, 0.631557)
    assert "gamma" in view.parameters
    assert "gamma" not in view.trials[0].params
    assert scale_of(view, "use_focal").choices == (False, True)
    assert scale_of(view, "others_lr").log
    for figure in draw_figures(view, FigureSet()).values():
        check_picture(figure)


def test_old_schema_with_the_best_value_beside_the_trials(tmp_path):
    view = load_view(FigureSet(study=str(write_json(tmp_path / "sp_base.json", old_json()))))
    assert running_best(view) == [(0, 3.0), (1, 1.0)]
    assert not view.maximize
    assert view.metric == "objective value"


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
)
def test_states(state, expected):
    trials = [*old_json()["all_trials"], {"number": 3, "value": None, "state": state}]
    if expected == "COMPLETE":
        trials[-1]["value"] = 9
    study = study_from_json(old_json(all_trials=trials), "x.json")
    assert study.trials[-1].state.name == expected


@pytest.mark.parametrize("direction", ["minimize", "MAXIMIZE", "StudyDirection.MAXIMIZE", 1])
def test_direction_that_the_file_says(direction):
    study = study_from_json(old_json(direction=direction), "x.json")
    assert study.direction.name == ("MAXIMIZE" if "MAX" in str(direction) else "MINIMIZE")


def test_numbers_and_times_of_the_file_are_kept(tmp_path):
    trials = [
        {
            "number": n,
            "value": n,
            "params": {},
            "datetime_start": start,
            "datetime_complete": "2026-01-01T10:00:00+02:00",
        }
        for n, start in ((7, "2026-01-01T09:30:00+02:00"), (3, "2026-01-01T06:00:00"))
    ]
    path = write_json(tmp_path / "s.json", {"direction": "maximize", "metric": "loss", "trials": trials})
    view = load_view(FigureSet(study=str(path)))
    assert [trial.number for trial in view.trials] == [3, 7]
    assert [trial.datetime_start.hour for trial in view.trials] == [6, 7]
    assert view.trials[0].datetime_complete.hour == 8
    assert view.metric == "loss"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "sweeps.db"
    for name in ("first", "second"):
        make_study(8, storage=f"sqlite:///{path}", name=name).set_metric_names(["macro F1"])
    return path


def test_sqlite_with_several_studies(database):
    with pytest.raises(
        InputError, match=r"sweeps\.db: holds 2 studies, --study-name must be one of \['first', 'second'\]"
    ):
        load_view(FigureSet(study=str(database)))
    with pytest.raises(InputError, match=r"sweeps\.db: no study 'third'; it holds \['first', 'second'\]"):
        load_view(FigureSet(study=str(database), study_name="third"))
    for source in (str(database), f"sqlite:///{database}"):
        view = load_view(FigureSet(study=source, study_name="second"))
        assert (view.name, view.metric, len(view.completed)) == ("second", "macro F1", 6)
    with pytest.raises(InputError, match="the study says maximize, not minimize"):
        load_view(FigureSet(study=str(database), study_name="first", direction="minimize"))


def test_sqlite_is_only_read(database):
    before = database.read_bytes()
    database.chmod(0o444)
    load_view(FigureSet(study=str(database), study_name="first"))
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == ["sweeps.db"]


def test_journal(tmp_path):
    path = tmp_path / "study.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    make_study(8, storage=storage, name="logged")
    assert load_view(FigureSet(study=str(path))).name == "logged"


# --------------------------------------------------------------------------------------------------------------- errors


def other_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE things (x)")
    connection.close()
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "gone.json: no such file"),
        ("gone.db", None, "gone.db: no such file"),
        ("sqlite:///gone.db", None, "gone.db: no such file"),
        ("x.json", "{", "x.json: not whole JSON, line 1"),
        ("x.db", "no database", "x.db: no SQLite database"),
        ("x.log", "no journal\n" * 3, "x.log: no journal of Optuna"),
        ("x.json", "[]", "x.json: expected an object with all_trials or trials, got list"),
        ("x.json", {"runs": []}, "x.json: neither all_trials nor trials in it; it has ['runs']"),
        ("x.json", {"trials": {}}, "x.json: trials must be a list of objects"),
        (
            "x.json",
            {"trials": [], "direction": "minimize"},
            "x.json: no completed trial with a finite value (it is empty)",
        ),
        (
            "x.json",
            {"trials": [{"state": "PRUNED"}], "direction": "minimize"},
            "x.json: no completed trial with a finite value (1 pruned)",
        ),
        ("x.json", {"trials": [{"state": "DONE"}]}, "x.json: trials[0]: unknown state 'DONE'; known are ['RUNNING'"),
        ("x.json", {"trials": [{"state": 1}]}, "x.json: trials[0]: a complete trial with the value None"),
        ("x.json", {"trials": [{"value": "high"}]}, "x.json: trials[0]: value must be a number or null, got 'high'"),
        ("x.json", {"trials": [{"value": 1, "params": [2]}]}, "x.json: trials[0]: params must be an object, got [2]"),
        ("x.json", {"trials": [{"value": 1, "params": {"lr": math.inf}}]}, "x.json: trials[0]: lr is inf"),
        ("x.json", {"trials": [{"value": 1, "number": 0.5}]}, "x.json: trials[0]: number is 0.5"),
        ("x.json", {"trials": [{"number": 4}, {"number": 4}]}, "x.json: trials has 2 trials with the number 4"),
        ("x.json", {"trials": [{"datetime_start": "noon"}]}, "x.json: trials[0]: no ISO time: 'noon'"),
        ("x.json", {"trials": [{"intermediate_values": {"a": 1}}]}, "intermediate_values must map steps to numbers"),
        ("x.json", {"trials": [{"value": 1}]}, "x.json: neither a direction nor a best value; give --direction"),
        (
            "x.json",
            {"trials": [{"value": 1}], "best_value": 1},
            "best value 1 is the lowest and the highest; give --direction",
        ),
        (
            "x.json",
            {"trials": [{"value": 1}, {"value": 3}], "best_value": 2},
            "best value 2 is neither the lowest nor the highest; give --direction",
        ),
        ("x.json", old_json(direction="up"), "x.json: direction must be minimize or maximize, got 'up'"),
        ("no://host/db", None, "no://host/db: cannot be read"),
        ("http//://", None, "http//://...: no storage URL"),
    ],
)
def test_wrong_studies_say_one_clear_line(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        main([name])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ([] if content is None else [name])


def test_a_database_of_somebody_else_is_left_alone(tmp_path):
    path = other_database(tmp_path / "other.db")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"other\.db: an SQLite database, but not of Optuna"):
        load_view(FigureSet(study=str(path)))
    assert path.read_bytes() == before


def test_several_objectives_are_refused(tmp_path):
    optuna.create_study(storage=f"sqlite:///{tmp_path}/two.db", directions=["minimize", "maximize"])
    with pytest.raises(InputError, match="2 objectives; the figures are for one"):
        load_view(FigureSet(study=str(tmp_path / "two.db")))


def test_wrong_name_of_a_json_study():
    with pytest.raises(InputError, match=r"optuna_all_trials\.json: no study 'other'; it holds 'gliner_biomed_hpo'"):
        load_view(FigureSet(study=str(ALL_TRIALS), study_name="other"))


def test_passwords_are_not_shown():
    with pytest.raises(InputError) as caught:
        load_view(FigureSet(study="postgresql+nodriver://me:secret@host/db"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], 'expected an object with a list "studies"'),
        ({"studies": []}, 'expected an object with a list "studies"'),
        ({"studies": [{"study": "a.json", "metrik": "F1"}]}, "studies[0]: unknown settings ['metrik']; known are"),
        ({"studies": [{"study": "a.json"}], "dpi": 3}, "c.json: unknown settings ['dpi']"),
        ({"studies": [{"metric": "F1"}]}, "studies[0]: study is missing"),
        ({"studies": ["a.json"]}, "studies[0]: expected an object, got 'a.json'"),
        (
            {"studies": [{"study": "a.json", "plot_type": "all"}]},
            "plot_type must be one of 'standard', 'summary', 'both'",
        ),
        (
            {"studies": [{"study": "a.json", "format": ["svg"]}]},
            'format must be a list of "pdf" and "png", got [\'svg\']',
        ),
        ({"studies": [{"study": "a.json", "format": "pdf"}]}, "format must be a list"),
        ({"studies": [{"study": "a.json", "prefix": "../up"}]}, "prefix must be letters"),
        ({"studies": [{"study": "a.json", "parameters": 0}]}, "parameters must be 1 to 8, got 0"),
        ({"studies": [{"study": "gone.json"}]}, "gone.json: no such file"),
    ],
)
def test_wrong_configurations(config, message, tmp_path):
    with pytest.raises(InputError) as caught:
        main(["--config", str(write_json(tmp_path / "c.json", config))])
    assert message in str(caught.value)


def test_two_sets_of_the_same_names_are_refused(tmp_path):
    config = write_json(tmp_path / "c.json", {"studies": [{"study": str(TRIALS)}] * 2, "output_dir": "out"})
    with pytest.raises(InputError, match="2 figure sets would get these names"):
        main(["--config", str(config)])
    assert not (tmp_path / "out").exists()


def test_a_study_and_a_config_are_refused():
    with pytest.raises(InputError, match="give a study or --config, not both"):
        main(["x.json", "--config", str(EXAMPLE)])
    with pytest.raises(InputError, match="no study given"):
        main([])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*: cannot be written"):
        main([str(TRIALS), "--output-dir", str(tmp_path / "file"), "--plot-type", "standard"])


# ----------------------------------------------------------------------------------------------------------- the script


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-t", "standard"], ["fig_3_plots.pdf", "fig_3_plots.png"]),
        (["--plot-type", "summary", "--format", "png"], ["fig_3_summary.png"]),
    ],
)
def test_direct_use(options, expected, tmp_path):
    written = main([str(ALL_TRIALS), "-o", str(tmp_path / "out"), "-p", "fig_3", "-m", "validation loss", *options])
    assert [path.name for path in written] == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_files_are_whole_and_the_same_each_time(tmp_path):
    first, second = (main([str(TRIALS), "-o", str(tmp_path / name), "-t", "standard"]) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    pdf, png = first
    assert pdf.name == "optuna_trials_plots.pdf"
    assert pdf.read_bytes().startswith(b"%PDF")
    assert Image.open(png).size == (400, 185)


def test_the_example_ships_with_booleans(tmp_path):
    study = json.loads((EXAMPLE.parent / "optuna_study.json").read_text("utf-8"))
    kinds = {type(value) for trial in study["all_trials"] for value in trial["params"].values()}
    assert bool in kinds
    written = main(["--config", str(EXAMPLE), "-o", str(tmp_path), "--format", "png"])
    names = [*(f"example_{name}.png" for name in ALL_FIGURES), "example_fanova_summary.png"]
    assert [path.name for path in written] == names
    for settings in optuna_plots.read_config(EXAMPLE):
        assert settings.output_dir.is_relative_to(EXAMPLE.parent)
        assert "use_focal" in load_view(settings).parameters
