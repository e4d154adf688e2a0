"""Sweeps: their spaces, their trials, what survives a kill, and what they leave behind."""

import contextlib
import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

import common.sweeps.sweep
from common.config import from_dict, merge, to_dict
from common.errors import InputError, TrainingError
from common.files import read_json
from common.liveness import DEAD_AFTER, this_process
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT
from common.registry import spec, trained
from common.settings import parse_training
from common.sweeps.space import Choice, Float, Switch, default_parameters, grid, name_of, suggest
from common.sweeps.storage import open_storage
from common.sweeps.sweep import Sweep, TuneConfig
from optuna_plots import FigureSet, draw_figures, load_view

QUICK = [
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--no-progress",
    "--batch-size",
    "8",
    "--patience",
    "0",
    "--prompt-length",
    "4",
]
SPACES = {
    f"{name} {space}": (name, space, parameters)
    for name in trained()
    for space, parameters in importlib.import_module(f"{name}.tune").SPACES.items()
}


@pytest.fixture(params=SPACES)
def approach_space(request):
    return SPACES[request.param]


def defaults(name):
    return parse_training(spec(name).config, name, ["--dataset", "nowhere"])[0]


def test_every_approach_has_a_training_space_and_the_injections_an_architecture():
    found = {key for key in SPACES if key.endswith("architecture")}
    assert found == {"injection_bi architecture", "injection_cross architecture"}
    assert {name for name, space, _ in SPACES.values() if space == "training"} == set(trained())


def test_a_space_holds_the_default_configuration(approach_space):
    name, _, space = approach_space
    names = [name_of(parameter) for parameter in space]
    assert len(set(names)) == len(names)
    config = defaults(name)
    parameters = default_parameters(space, config)
    for parameter in space:
        value = parameters.get(name_of(parameter))
        if isinstance(parameter, Choice):
            assert value in parameter.options
        elif isinstance(parameter, Float) and parameter.when is None:
            assert parameter.low <= value <= parameter.high
    trial = optuna.trial.FixedTrial(parameters)
    assert from_dict(type(config), merge(to_dict(config), suggest(trial, space)), "x") == config


def test_every_suggestion_is_a_valid_configuration_and_changes_it(approach_space):
    name, _, space = approach_space
    config = defaults(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        other = from_dict(type(config), merge(to_dict(config), suggest(trial, space)), "x")
        seen.add(json.dumps(to_dict(other)))
        switches = {p.name: trial.params[p.name] for p in space if isinstance(p, Switch)}
        for parameter in space:
            if getattr(parameter, "when", None) is not None:
                assert (name_of(parameter) in trial.params) == switches[parameter.when]
    assert len(seen) > 5


def test_a_grid_is_all_combinations_of_choices_and_nothing_else():
    space = (Choice("a.x", (1, 2)), Choice("y", ("u", "v", "w")))
    assert grid(space) == [{"x": x, "y": y} for x in (1, 2) for y in ("u", "v", "w")]
    assert grid((*space, Float("z", 0, 1))) is None
    assert grid((Switch("s"), Choice("x", (1, 2), when="s"))) is None


# -- sweeps with a training that takes no time ------------------------------------------------------------------------


@pytest.fixture
def sweep(gliner_folder, dataset_path):
    """Makes a sweep of SP-Bi on the tiny data."""

    def make(space="training", parameters=None, **settings):
        name = "injection_bi"
        options = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), *QUICK]
        training = parse_training(spec(name).config, name, [*options, "--epochs", "3"])[0]
        spaces = importlib.import_module(f"{name}.tune").SPACES
        return Sweep(spec(name), parameters or spaces[space], TuneConfig(space=space, **settings), training)

    return make


@pytest.fixture
def scored(monkeypatch):
    """Puts a training in place of ``fit`` that only reports scores; returns the configurations that it was given."""
    seen = []

    def install(scores):
        def fit(model, data, config, runtime, run, *, on_validation, cache):
            seen.append(run.record["config"])
            values = scores(len(seen), config)
            run.record["history"] = []
            for epoch, value in enumerate(values, start=1):
                entry = {"epoch": epoch, "validation": {"macro_f1": value, "micro_f1": value / 2}}
                run.record["history"].append(entry)
                on_validation(entry)
            best = max(range(len(values)), key=values.__getitem__)
            run.update(best={"epoch": best + 1, "score": values[best]}, parameters={"total": 2}, train_seconds=1.0)

        monkeypatch.setattr(common.sweeps.sweep, "fit", fit)
        return seen

    return install


def states(sweep):
    return [trial.state.name for trial in sweep.study.trials]


def test_the_first_trial_is_the_default_and_the_best_wins(sweep, scored):
    seen = scored(lambda number, config: [0.1, number / 10, 0.05])
    made = sweep(trials=4)
    made.run()
    assert states(made) == ["COMPLETE"] * 4
    assert seen[0]["token"] == to_dict(made.training.token)
    assert seen[0]["prompt_encoder_lr"] == made.training.prompt_encoder_lr
    assert seen[1]["prompt_encoder_lr"] != seen[0]["prompt_encoder_lr"]
    summary = read_json(made.summary_path)
    assert summary["direction"] == "maximize"
    assert summary["best_trial"]["number"] == 3
    assert summary["best_trial"]["value"] == pytest.approx(0.4)
    first = summary["all_trials"][0]
    assert first["default"] is True
    assert first["intermediate_values"] == {"1": 0.1, "2": 0.1, "3": 0.05}
    assert {"seed", "config", "seconds", "provenance", "parameters"} <= set(first)
    assert summary["dataset_sha256"] == made.data.sha256
    assert all(item["config"]["train"]["select_by"] == "macro_f1" for item in summary["all_trials"])
    assert "/" not in json.dumps(summary["settings"])


def test_the_best_settings_are_a_file_for_train(sweep, scored, dataset_path):
    scored(lambda number, config: [number / 10])
    made = sweep(trials=3)
    made.run()
    settings = read_json(made.best_path)
    best = made.study.best_trial
    assert settings["prompt_encoder_lr"] == best.params["prompt_encoder_lr"]
    assert settings["token"] == {"temperature": best.params["temperature"]}
    assert settings["train"]["batch_size"] == 8, "given on the command line, so it belongs to the best settings"
    assert not {"epochs", "patience"} & set(settings["train"])
    assert not {"data", "runtime", "base_model"} & set(settings)
    options = ["--config", str(made.best_path), "--dataset", str(dataset_path)]
    config = parse_training(made.spec.config, made.spec.name, options)[0]
    assert config.prompt_encoder_lr == best.params["prompt_encoder_lr"]
    assert config.train.epochs == defaults("injection_bi").train.epochs


def test_a_failing_trial_is_failed_with_its_error_and_the_sweep_goes_on(sweep, scored):
    def scores(number, config):
        if number == 2:
            raise TrainingError("loss is nan at step 7")
        return [0.5]

    scored(scores)
    made = sweep(trials=3)
    made.run()
    assert states(made) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert read_json(made.summary_path)["all_trials"][1]["error"] == "loss is nan at step 7"


def test_a_bad_trial_is_pruned_by_its_reports(sweep, scored):
    scored(lambda number, config: [0.5, 0.6, 0.7] if number <= common.sweeps.sweep.STARTUP_TRIALS else [0.4, 0.1, 0.9])
    made = sweep(trials=common.sweeps.sweep.STARTUP_TRIALS + 1)
    made.run()
    assert states(made)[:-1] == ["COMPLETE"] * common.sweeps.sweep.STARTUP_TRIALS
    last = made.study.trials[-1]
    assert last.state == TrialState.PRUNED
    assert last.intermediate_values == {1: 0.4, 2: 0.1}


def test_an_architecture_sweep_is_the_whole_grid_once(sweep, scored):
    scored(lambda number, config: [0.5])
    poolings, lengths = ("adaptive_avg", "attention", "conv1d"), (2, 4, 8)
    made = sweep(
        "architecture", (Choice("prompts.pooling", poolings), Choice("prompts.prompt_length", lengths)), trials=2
    )
    made.run()
    cells = [tuple(trial.params.values()) for trial in made.study.trials]
    assert len(cells) == len(set(cells)) == 9
    assert made.study.trials[0].params == default_parameters(made.space, made.training)


def test_a_sweep_goes_on_where_it_was_and_checks_what_it_goes_on_with(sweep, scored):
    seen = scored(lambda number, config: [0.5])
    sweep(trials=2).run()
    again = sweep(trials=5)
    again.run()
    assert len(seen) == 5
    assert states(again) == ["COMPLETE"] * 5
    with pytest.raises(
        InputError, match=r"study 'tiny_training' was started differently: objective: \"macro_f1\" != \"micro_f1\""
    ):
        sweep(trials=6, objective="micro_f1")


def test_a_dead_processs_trial_is_tried_again_and_counts_once(sweep, scored):
    seen = scored(lambda number, config: [0.5])
    made = sweep(trials=2)
    trial = made._next()
    lost = suggest(trial, made.space)
    trial.set_user_attr("process", this_process() | {"created": 0.0})
    alive = made._next()
    assert alive.number == 1, "the dead trial was queued again and taken"
    assert suggest(alive, made.space) == lost
    assert made._next() is not None
    assert made._next() is None
    assert states(made) == ["FAIL", "RUNNING", "RUNNING"]
    assert made.study.trials[1].user_attrs["retry_of"] == 0
    assert made.study.trials[1].user_attrs["default"] is True
    assert seen == []


def test_another_machines_trial_is_dead_only_after_long_silence(sweep):
    made = sweep(trials=2)
    trial = made._next()
    trial.set_user_attr("process", {"host": "elsewhere", "pid": 1, "created": 0.0})
    made._take_over()
    assert states(made) == ["RUNNING"]
    trial.set_user_attr("alive", time.time() - 2 * DEAD_AFTER)
    made._take_over()
    assert states(made)[0] == "FAIL"


def test_ctrl_c_queues_the_running_trial_again(sweep, scored):
    def scores(number, config):
        if number == 2:
            raise KeyboardInterrupt
        return [0.5]

    scored(scores)
    made = sweep(trials=3)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    cut = made.study.trials[1]
    assert cut.state == TrialState.FAIL
    again = sweep(trials=3)
    again.run()
    assert states(again) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert again.study.trials[2].params == cut.params


def test_no_trial_starts_after_the_time(sweep, scored, monkeypatch):
    scored(lambda number, config: [0.5])
    clock = iter([0.0, 1.0, 30.0, 61.0])
    made = sweep(trials=9, timeout=1.0)
    monkeypatch.setattr(common.sweeps.sweep.time, "monotonic", lambda: next(clock))
    made.run()
    assert len(made.study.trials) == 2


def test_features_are_computed_once_for_all_trials(sweep, monkeypatch):
    made = sweep(trials=2)
    computed = []
    original = made.cache._compute
    monkeypatch.setattr(
        made.cache, "_compute", lambda *arguments: (computed.append(arguments[-1]), original(*arguments))
    )
    made.run()
    assert computed == ["validation", "train"]
    assert states(made) == ["COMPLETE"] * 2


def test_a_trial_leaves_no_run_folder(sweep):
    made = sweep(trials=1)
    made.run()
    assert not list(made.spec.savings.glob("*"))
    assert not [path for path in made.folder.iterdir() if path.is_dir()]


@pytest.mark.parametrize("url", ["x.journal", "sqlite:///x.db"])
def test_other_storages(sweep, scored, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    scored(lambda number, config: [0.5])
    made = sweep(trials=2, storage=url)
    made.run()
    assert states(made) == ["COMPLETE"] * 2
    assert (tmp_path / url.removeprefix("sqlite:///")).is_file()


def test_a_storage_out_of_reach_is_one_clear_error():
    with pytest.raises(InputError, match=r"--storage nonsense://x: "):
        open_storage("nonsense://x")
    with pytest.raises(InputError, match=r"--storage sqlite:////nowhere/at/all\.db: "):
        open_storage("sqlite:////nowhere/at/all.db")
    with pytest.raises(InputError, match=r"^--storage study\.db: no storage URL; one is sqlite:///study\.db"):
        open_storage("study.db")
    with pytest.raises(InputError, match=r"^--storage \.\.\.: no storage URL"):
        open_storage("me:secret@host/x")
    # Whether the driver or the server is missing: the password is in no message.
    with pytest.raises(InputError, match=r"--storage postgresql://me:\*\*\*@127\.0\.0\.1:1/x: ") as caught:
        open_storage("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


# -- whole processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(gliner_folder, dataset_path, output):
    """Starts ``python -m injection_bi.tune`` on the tiny data."""

    def start(*options):
        environment = os.environ | {OUTPUT_VARIABLE: str(output), "OMP_NUM_THREADS": "1"}
        base = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), *QUICK]
        return subprocess.Popen(
            [sys.executable, "-m", "injection_bi.tune", *base, *options],
            cwd=PROJECT_ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


def study_in(output):
    return optuna.load_study(
        study_name="tiny_training", storage=f"sqlite:///{output / 'injection_bi' / 'optuna' / 'tiny_training'}.db"
    )


def test_two_workers_make_the_right_number_of_trials(command, output):
    process = command("--trials", "5", "--workers", "2", "--epochs", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    trials = study_in(output).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    assert len({json.dumps(trial.params) for trial in trials}) == 5
    assert len({trial.user_attrs["process"]["pid"] for trial in trials}) == 2
    assert len(list((output / "features").glob("*.float32"))) == 2
    assert len(read_json(output / "injection_bi" / "optuna" / "tiny_training.json")["all_trials"]) == 5


def test_a_killed_sweep_goes_on_with_the_same_command(command, output):
    options = ["--trials", "2", "--epochs", "40"]
    process = command(*options)
    deadline = time.monotonic() + 90
    # Kill it in the middle of a trial.
    while not running_epochs(output):
        assert time.monotonic() < deadline, "no trial reported an epoch"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = [trial for trial in study_in(output).trials if trial.state == TrialState.RUNNING]
    assert len(killed) == 1
    process = command(*options)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"trial {killed[0].number} was cut off; it is tried again" in errors
    trials = study_in(output).trials
    assert trials[killed[0].number].state == TrialState.FAIL
    retried = [trial for trial in trials if trial.user_attrs.get("retry_of") == killed[0].number]
    assert [trial.params for trial in retried] == [killed[0].params]
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 2
    assert len(trials) == 3
    assert not list((output / "injection_bi" / "optuna").glob(".tiny_training_trial_*")), (
        "nothing of the killed one is left"
    )


def running_epochs(output):
    """Epochs that running trials have reported, read without touching the study that is being made."""
    path = output / "injection_bi" / "optuna" / "tiny_training.db"
    query = "select count(*) from trial_intermediate_values join trials using (trial_id) where state = 'RUNNING'"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_an_unknown_space_names_those_there_are(dataset_path, gliner_folder):
    from glinerev.tune import main

    with pytest.raises(InputError, match="--space architecture: SP-GLiNER has training"):
        main(["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), "--space", "architecture"])


def test_the_summary_tells_the_figures_what_the_storage_tells_them(sweep, scored):
    scored(lambda number, config: [0.5, 0.6 + number / 10])
    made = sweep(trials=3)
    made.run()
    stored, summary = (load_view(FigureSet(str(path))) for path in (made.folder / f"{made.name}.db", made.summary_path))
    for view in (stored, summary):
        assert (view.name, view.metric, view.maximize) == (made.name, "validation macro F1", True)
    for one, other in zip(stored.trials, summary.trials, strict=True):
        for field in ("number", "state", "value", "params", "distributions", "intermediate_values"):
            assert getattr(one, field) == getattr(other, field)
        assert one.datetime_start.replace(microsecond=0) == other.datetime_start
    assert draw_figures(stored, FigureSet()).keys() == draw_figures(summary, FigureSet()).keys()


def test_a_sweep_that_goes_on_draws_other_trials_than_before(sweep, scored):
    scored(lambda number, config: [0.5])
    for trials in (3, 5, 7):
        made = sweep(trials=trials)
        made.run()
    drawn = [json.dumps(trial.params) for trial in made.study.trials]
    assert len(set(drawn)) == 7


def test_runtime_is_no_part_of_what_is_compared(sweep, scored):
    scored(lambda number, config: [0.5])
    made = sweep(trials=1)
    made.run()
    slower = replace(made.training, runtime=replace(made.training.runtime, eval_batch_size=3))
    Sweep(made.spec, made.space, made.config, slower).run()
    assert states(made) == ["COMPLETE"]
    other = replace(slower, train=replace(slower.train, batch_size=3))
    with pytest.raises(InputError, match=r"started differently.*batch_size"):
        Sweep(made.spec, made.space, made.config, other)
