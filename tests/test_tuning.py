"""Sweeps: their spaces, their trials, what survives a kill, and what they leave behind."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

import common.sweeps.storage
import common.sweeps.trials
from common.config import from_dict, merge, to_dict
from common.errors import InputError, TrainingError
from common.files import read_json
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT
from common.registry import spec, trained
from common.settings import parse_training
from common.sweeps.config import PASSWORD_VARIABLE, TuneConfig
from common.sweeps.space import Choice, Float, Switch, combinations, default_parameters, name_of, suggest
from common.sweeps.storage import MAX_RETRY, open_storage, read_study
from common.sweeps.sweep import STARTUP_TRIALS, Sweep
from common.sweeps.trials import Worker

pytestmark = pytest.mark.slow

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
    return parse_training(spec(name), ["--dataset", "nowhere"])[0]


def test_every_approach_has_a_training_space_and_some_an_architecture():
    found = {key for key in SPACES if key.endswith("architecture")}
    assert found == {"injection_bi architecture", "injection_cross architecture", "lora architecture"}
    assert {name for name, space, _ in SPACES.values() if space == "training"} == set(trained())


def test_a_setting_that_the_space_does_not_try():
    config = parse_training(spec("lora"), ["--dataset", "nowhere", "--method", "ia3"])[0]
    with pytest.raises(InputError, match=r"method is 'ia3', which is none of what the sweep tries: \['lora', 'dora', "):
        default_parameters(SPACES["lora architecture"][2], config)


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


def test_only_a_space_of_choices_has_so_many_combinations():
    space = (Choice("a.x", (1, 2)), Choice("y", ("u", "v", "w")))
    assert combinations(space) == 6
    assert combinations((*space, Float("z", 0, 1))) is None
    assert combinations((*space, Switch("s"))) is None


# -- sweeps with a training that takes no time ------------------------------------------------------------------------


@pytest.fixture
def sweep(gliner_folder, dataset_path):
    """Makes a sweep of SP-Bi on the tiny data."""

    def make(space="training", parameters=None, **settings):
        name = "injection_bi"
        options = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), *QUICK]
        training = parse_training(spec(name), [*options, "--epochs", "3"])[0]
        spaces = importlib.import_module(f"{name}.tune").SPACES
        made = Sweep(spec(name), parameters or spaces[space], TuneConfig(space=space, **settings), training)
        made.begin()
        return made

    return make


@pytest.fixture
def scored(monkeypatch):
    """Puts a training in place of ``fit`` that only reports scores; returns the configurations that it was given."""
    seen = []

    def install(scores, validations_an_epoch=1, untrained=0.0):
        def fit(model, data, config, runtime, run, *, on_validation, cache):
            seen.append(run.record["config"])
            values = scores(len(seen), config)
            run.record["history"] = []
            run.record["untrained"] = {"macro_f1": untrained, "micro_f1": untrained / 2}
            for number, value in enumerate(values):
                entry = {
                    "epoch": number // validations_an_epoch + 1,
                    "validation": {"macro_f1": value, "micro_f1": value / 2},
                }
                run.record["history"].append(entry)
                on_validation(entry)
            best = max(range(len(values)), key=values.__getitem__)
            epoch = best // validations_an_epoch + 1 if values[best] >= untrained else 0
            score = max(values[best], untrained)
            run.update(best={"epoch": epoch, "score": score}, parameters={"total": 2}, train_seconds=1.0)

        monkeypatch.setattr(common.sweeps.trials, "fit", fit)
        return seen

    return install


def states(sweep):
    return [trial.state.name for trial in sweep.study.trials]


def test_the_first_trial_is_the_default_and_the_best_wins(sweep, scored):
    seen = scored(lambda number, config: [0.1, number / 10, 0.05])
    made = sweep(trials=4)
    Worker(made).run()
    assert states(made) == ["COMPLETE"] * 4
    assert seen[0]["token"] == to_dict(made.training.token)
    assert seen[0]["prompt_encoder_lr"] == made.training.prompt_encoder_lr
    assert seen[1]["prompt_encoder_lr"] != seen[0]["prompt_encoder_lr"]
    assert made.write_best().number == 3
    first = made.study.trials[0]
    assert first.user_attrs["default"] is True
    assert first.intermediate_values == {1: 0.1, 2: 0.1, 3: 0.05}
    assert first.value == 0.1
    assert first.user_attrs["micro_f1"] == 0.05
    assert {"seed", "config", "provenance", "parameters", "train_seconds"} <= set(first.user_attrs)
    assert all(trial.user_attrs["config"]["train"]["select_by"] == "macro_f1" for trial in made.study.trials)
    assert "/" not in json.dumps(made.study.user_attrs["settings"])


def test_each_of_several_validations_in_an_epoch_is_reported(sweep, scored):
    scored(lambda number, config: [0.4, 0.1, 0.2, 0.3], validations_an_epoch=2)
    made = sweep(trials=1)
    Worker(made).run()
    trial = made.study.trials[0]
    assert trial.intermediate_values == {1: 0.4, 2: 0.1, 3: 0.2, 4: 0.3}
    assert (trial.value, trial.user_attrs["micro_f1"]) == (0.4, 0.2)


def test_both_scores_of_a_trial_are_of_the_same_weights(sweep, scored):
    scored(lambda number, config: [0.1, 0.3], untrained=0.4)
    made = sweep(trials=1)
    Worker(made).run()
    assert (made.study.trials[0].value, made.study.trials[0].user_attrs["micro_f1"]) == (0.4, 0.2)


def test_the_best_settings_are_a_file_for_train(sweep, scored, dataset_path):
    scored(lambda number, config: [number / 10])
    made = sweep(trials=3)
    Worker(made).run()
    settings = read_json(made.best_path)
    best = made.study.best_trial
    assert settings["prompt_encoder_lr"] == best.params["prompt_encoder_lr"]
    assert settings["token"] == {"temperature": best.params["temperature"]}
    assert settings["train"]["batch_size"] == 8, "given on the command line, so it belongs to the best settings"
    assert not {"epochs", "patience"} & set(settings["train"])
    assert not {"data", "runtime", "base_model"} & set(settings)
    options = ["--config", str(made.best_path), "--dataset", str(dataset_path)]
    config = parse_training(made.spec, options)[0]
    assert config.prompt_encoder_lr == best.params["prompt_encoder_lr"]
    assert config.train.epochs == defaults("injection_bi").train.epochs


def test_a_failing_trial_is_failed_with_its_error_and_the_sweep_goes_on(sweep, scored):
    def scores(number, config):
        if number == 2:
            raise TrainingError("loss is nan at step 7")
        return [0.5]

    scored(scores)
    made = sweep(trials=3)
    Worker(made).run()
    assert states(made) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert made.study.trials[1].user_attrs["error"] == "loss is nan at step 7"


def test_a_bad_trial_is_pruned_by_its_reports(sweep, scored):
    scored(lambda number, config: [0.5, 0.6, 0.7] if number <= STARTUP_TRIALS else [0.4, 0.1, 0.9])
    made = sweep(trials=STARTUP_TRIALS + 1)
    Worker(made).run()
    assert states(made) == ["COMPLETE"] * STARTUP_TRIALS + ["PRUNED"]
    assert made.study.trials[-1].intermediate_values == {1: 0.4, 2: 0.1}


SMALL = (
    Choice("prompts.pooling", ("adaptive_avg", "attention", "conv1d")),
    Choice("prompts.prompt_length", (2, 4, 8)),
)


def test_an_architecture_sweep_is_every_combination_once(sweep, scored):
    scored(lambda number, config: [0.5])
    made = sweep("architecture", SMALL, trials=2)
    Worker(made).run()
    cells = [tuple(trial.params.values()) for trial in made.study.trials]
    assert len(cells) == len(set(cells)) == 9
    assert made.study.trials[0].params == default_parameters(made.space, made.training)


def test_a_sweep_goes_on_where_it_was_with_other_trials_and_checks_what_it_goes_on_with(sweep, scored):
    seen = scored(lambda number, config: [0.5])
    for trials in (2, 4, 5):
        made = sweep(trials=trials)
        Worker(made).run()
    assert len(seen) == 5
    assert states(made) == ["COMPLETE"] * 5
    assert len({json.dumps(trial.params) for trial in made.study.trials}) == 5
    with pytest.raises(
        InputError, match=r"study 'tiny_training' was started differently: objective: \"macro_f1\" != \"micro_f1\""
    ):
        sweep(trials=6, objective="micro_f1")
    slower = replace(made.training, runtime=replace(made.training.runtime, eval_batch_size=3))
    Sweep(made.spec, made.space, made.config, slower).begin()
    other = replace(slower, train=replace(slower.train, batch_size=3))
    with pytest.raises(InputError, match=r"started differently.*batch_size"):
        Sweep(made.spec, made.space, made.config, other).begin()


def test_a_sweep_that_was_killed_as_it_began_begins(sweep, monkeypatch):
    set_user_attr = optuna.Study.set_user_attr

    def die(study, key, value) -> None:
        if key == "dataset":
            raise KeyboardInterrupt
        set_user_attr(study, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "set_user_attr", die)
        with pytest.raises(KeyboardInterrupt):
            sweep()
    made = sweep()
    assert made.study.user_attrs["dataset"] == "tiny"
    assert states(made) == ["WAITING"]


def test_other_choices_are_one_clear_error(sweep, scored):
    scored(lambda number, config: [0.5])
    Worker(sweep("architecture", SMALL[1:])).run()
    with pytest.raises(InputError, match=r"started differently: choices of prompt_length: \[2, 4, 8\] != \[2, 16\]"):
        sweep("architecture", (Choice("prompts.prompt_length", (2, 16)),))


def test_ctrl_c_queues_the_running_trial_again(sweep, scored):
    def scores(number, config):
        if number == 2:
            raise KeyboardInterrupt
        return [0.5]

    scored(scores)
    with pytest.raises(KeyboardInterrupt):
        Worker(sweep(trials=3)).run()
    again = sweep(trials=3)
    Worker(again).run()
    assert states(again) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert again.study.trials[2].params == again.study.trials[1].params


def test_a_trial_that_ends_its_process_is_tried_again_but_not_for_ever(sweep, scored):
    scored(lambda number, config: [0.5])
    made = sweep(trials=3)
    for times in range(1, 2 + MAX_RETRY):
        cut = made.study.ask()
        suggest(cut, made.space)
        assert [trial.number for trial in made.running()] == [cut.number] == [times - 1]
        made.retry_cut_off()
    assert made.missing()
    Worker(made).run()
    assert states(made) == ["FAIL"] * (1 + MAX_RETRY) + ["COMPLETE"] * 2
    tried = [trial.params for trial in made.study.trials[: 1 + MAX_RETRY]]
    assert tried == [tried[0]] * len(tried)
    assert tried[0]["prompt_encoder_lr"] == made.training.prompt_encoder_lr


def test_trials_of_the_version_before_count_as_they_did(sweep):
    """It marked the trial that repeats another by an attribute."""
    made = sweep(trials=2)
    made.study.tell(made.study.ask(), state=TrialState.FAIL)
    made.study.enqueue_trial({}, user_attrs={"retry_of": 0})
    assert made.missing()
    made.study.ask()
    assert made.missing()
    made.study.ask()
    assert not made.missing()


def test_no_trial_starts_after_the_time(sweep, scored, monkeypatch):
    scored(lambda number, config: [0.5])
    clock = iter([0.0, 1.0, 30.0, 61.0])
    made = sweep(trials=9)
    worker = Worker(made)
    monkeypatch.setattr(common.sweeps.trials.time, "monotonic", lambda: next(clock, 62.0))
    worker.run(60)
    assert len(made.study.trials) == 2


def test_features_are_computed_once_and_no_run_folder_is_left(sweep, monkeypatch, tmp_path):
    monkeypatch.setattr(common.sweeps.trials.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made = sweep(trials=2)
    worker = Worker(made)
    computed = []
    original = worker.cache._compute
    monkeypatch.setattr(
        worker.cache, "_compute", lambda *arguments: (computed.append(arguments[-1]), original(*arguments))
    )
    worker.run()
    assert computed == ["validation", "train"]
    assert states(made) == ["COMPLETE"] * 2
    assert not list(made.spec.savings.glob("*"))
    assert not [path for path in (tmp_path / "temporary").iterdir() if path.is_dir()]


# -- storages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["x.journal", "sqlite:///x.db"])
def test_other_storages(sweep, scored, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    scored(lambda number, config: [0.5])
    made = sweep(trials=2, storage=url)
    Worker(made).run()
    assert states(made) == ["COMPLETE"] * 2
    assert (tmp_path / url.removeprefix("sqlite:///")).is_file()


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b é"])
def test_a_sweep_is_where_its_output_is_whatever_the_folders_name(sweep, tmp_path, monkeypatch, name):
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path / name))
    assert sweep().opened.file == tmp_path / name / "injection_bi" / "optuna" / "tiny_training.db"
    assert len(sweep().study.trials) == 1
    assert list(tmp_path.glob("*/injection_bi/optuna/tiny_training.db"))


def test_a_journal_needs_no_symbolic_links(sweep, monkeypatch):
    """Few users of Windows may make one."""

    def refuse(*_):
        raise OSError(22, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    made = sweep(workers=2)
    made.begin()
    assert len(made.study.get_trials()) == 1
    assert not list(made.folder.glob("*.lock"))


def test_several_workers_share_a_journal_and_a_sweep_stays_in_its_file(sweep):
    assert sweep(workers=2).opened.file.name == "tiny_training.journal"
    assert sweep(workers=1).opened.file.name == "tiny_training.journal"
    assert sweep(study="other").opened.file.name == "other.db"
    with pytest.raises(InputError, match=r"--workers 2: sqlite:.*other\.db is SQLite, which is for one"):
        sweep(study="other", workers=2)


def test_a_file_is_for_one_command(sweep):
    first, second = sweep(), sweep()
    with first.alone(), pytest.raises(InputError, match="another command is at work on it"), second.alone():
        pass
    with second.alone():
        pass


def test_a_storage_out_of_reach_is_one_clear_error(sweep, monkeypatch):
    with pytest.raises(InputError, match=r"^--storage : no storage URL"):
        sweep(storage="")
    with pytest.raises(InputError, match=r"--storage nonsense://x: "):
        open_storage("nonsense://x")
    with pytest.raises(InputError, match=r"--storage sqlite:////nowhere/at/all\.db: "):
        open_storage("sqlite:////nowhere/at/all.db")
    with pytest.raises(InputError, match=r"^--storage study\.db: no storage URL; one is sqlite:///study\.db"):
        open_storage("study.db")
    with pytest.raises(InputError, match=r"^--storage sqlite://: a database in memory"):
        open_storage("sqlite://")
    with pytest.raises(InputError, match=r"^--storage \.\.\.: no storage URL"):
        open_storage("me:secret@host/x")
    # Whether the driver or the server is missing: the password is in no message.
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    with pytest.raises(InputError, match=r"--storage postgresql://me:\*\*\*@127\.0\.0\.1:1/x: ") as caught:
        open_storage("postgresql://me@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_a_driver_that_repeats_the_password(monkeypatch):
    def refuse(url, **_):
        raise RuntimeError(f"no driver for {url}; me, s@cr:et: wrong")

    monkeypatch.setattr(common.sweeps.storage, "RDBStorage", refuse)
    monkeypatch.setenv(PASSWORD_VARIABLE, "s@cr:et")
    shown = "postgresql://me:***@host/x"
    for read in (open_storage, read_study):
        with pytest.raises(InputError) as caught:
            read("postgresql://me@host/x")
        assert str(caught.value).endswith(f"no driver for {shown}; me, ***: wrong")
        with pytest.raises(InputError) as caught:
            read("mysql://host/x?passwd=hush")
        assert "hush" not in str(caught.value)


def test_a_storage_that_is_lost_in_a_sweep_is_one_clear_error(sweep, scored, monkeypatch):
    scored(lambda number, config: [0.1])
    made = sweep(trials=3)
    written = made.study._storage.set_trial_user_attr
    calls = []

    def lost(*arguments):
        calls.append(1)
        if len(calls) > 5:
            raise OperationalError("UPDATE ...", {}, Exception("server closed the connection"))
        written(*arguments)

    monkeypatch.setattr(made.study._storage, "set_trial_user_attr", lost)
    message = r"--storage .*: lost in the middle of the sweep \(server closed the connection\); when it is back"
    with pytest.raises(InputError, match=message):
        Worker(made).run()


@pytest.mark.parametrize(
    "option",
    [
        "--storage=postgresql://me:secret@host/x",
        "--storge=mysql://host/x?password=secret",
        "--storage=mysql://host/x?a=b&passwd=secret",
        "a://b:secret@c",
    ],
)
def test_a_password_among_the_arguments_is_refused_before_anything_repeats_it(option, capsys):
    from glinerev.tune import main

    with pytest.raises(InputError, match=f"set {PASSWORD_VARIABLE}") as caught:
        main(["--dataset", "x", option])
    assert "secret" not in str(caught.value) + capsys.readouterr().err


def test_an_unknown_space_names_those_there_are(dataset_path, gliner_folder):
    from glinerev.tune import main

    with pytest.raises(InputError, match="--space architecture: SP-GLiNER has training"):
        main(["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), "--space", "architecture"])


# -- whole processes --------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_two_workers_of_which_one_is_killed_make_the_right_number_of_trials(gliner_folder, dataset_path, output):
    """On a journal: the killed one's trial is tried again at the end, nothing of it is left, Ctrl-C stops both."""
    base = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), *QUICK, "--epochs", "40"]
    command = [sys.executable, "-m", "injection_bi.tune", *base, "--trials", "4", "--workers", "2"]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True)
    folder = output / "injection_bi" / "optuna"

    def trials():
        if not (folder / "tiny_training.journal").is_file():
            return []
        storage = open_storage(str(folder / "tiny_training.journal")).storage
        names = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=names[0], storage=storage).trials if names else []

    deadline = time.monotonic() + 150
    while sum(bool(trial.intermediate_values) for trial in trials()) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    # Those that a server has forked are children of its.
    started = psutil.Process(process.pid).children()
    workers = [worker for server in started for worker in server.children()] or started
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert re.search(r"worker \d ended by SIGKILL", errors)
    assert "was cut off" in errors
    found = [trial.state for trial in trials()]
    assert found.count(TrialState.FAIL) == 1
    assert found.count(TrialState.COMPLETE) + found.count(TrialState.PRUNED) == 4
    assert len(found) == 5
    assert len(list((output / "features").glob("*.float32"))) == 2
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert (folder / "tiny_training_best.json").is_file()
