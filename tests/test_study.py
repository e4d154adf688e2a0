"""The study: its plan, what it keeps and does again, what survives a kill, and several processes on one folder."""

import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import write_dataset

import common.data.dataset
import common.study.__main__
import common.study.plan
import common.study.runner
import common.training.loop
from common.config import parse, to_dict
from common.data.dataset import dataset_dir, load_dataset
from common.errors import InputError, TrainingError
from common.evaluation.results import companions, read_result
from common.files import read_json, write_json
from common.liveness import DEAD_AFTER
from common.models.published import DEFAULT_BASE
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT
from common.registry import spec, trained
from common.settings import parse_training
from common.study import demo
from common.study.__main__ import main
from common.study.estimates import Pace, duration
from common.study.plan import CHEAPEST_FIRST, ZERO_SHOT, StudyConfig, configuration, make_plan
from common.study.runner import Study
from common.tables import thesis
from common.training.records import WEIGHTS_FILE

ON_CPU = ["--device", "cpu", "--precision", "fp32"]


def planned(*arguments):
    return make_plan(parse(StudyConfig, ["--dataset", "jnlpba", "bc5cdr", *arguments]))


def said(cell, option):
    """What a cell's last ``option`` is."""
    found = [cell.arguments[index + 1] for index, argument in enumerate(cell.arguments) if argument == option]
    return found[-1] if found else None


def options_file(tmp_path, **options):
    write_json(tmp_path / "options.json", options)
    return ["--config", str(tmp_path / "options.json")]


def test_the_demo_is_a_study_of_every_approach_that_its_scripts_understand():
    config = parse(StudyConfig, demo.ARGUMENTS)
    cells = make_plan(config)
    assert {cell.approach for cell in cells} == set(CHEAPEST_FIRST)
    assert {dataset_dir(cell.dataset).name for cell in cells} == set(demo.CORPORA)
    asked = read_json(demo.OPTIONS)
    for cell in cells:
        settings = to_dict(configuration(cell))
        if "--epochs" in asked.get(cell.approach, ()):
            assert settings["train"]["epochs"] == int(said(cell, "--epochs"))


def test_the_example_for_two_cores_is_understood():
    path = PROJECT_ROOT / "examples" / "study_two_cores.json"
    cells = planned("--config", str(path), "--train-sizes", "50", "--controls")
    epochs = {(cell.approach, cell.dataset): configuration(cell).train.epochs for cell in cells if cell.seed == 42 and not cell.train_size}  # fmt: skip
    assert epochs["glinerev", "jnlpba"] < epochs["glinerev", "bc5cdr"]
    few = [cell for cell in cells if cell.train_size]
    assert {configuration(cell).train.batch_size for cell in few} == {8}


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_every_approach_has_its_cells_on_every_data_set_with_every_seed():
    cells = planned()
    assert set(CHEAPEST_FIRST) == {ZERO_SHOT, *trained()}
    # Five approaches of one encoder and full fine-tuning of two, three seeds; zero-shot of two without a seed.
    assert len(cells) == 2 * (7 * 3 + 2)
    assert len({cell.id for cell in cells}) == len(cells)
    zero_shot = [cell for cell in cells if cell.approach == ZERO_SHOT]
    assert cells[:4] == zero_shot
    assert {(cell.encoder, cell.base_model) for cell in zero_shot} == set(DEFAULT_BASE.items())
    assert all(cell.seed is None and said(cell, "--seed") is None for cell in zero_shot)
    full = [cell for cell in cells if cell.approach == "full_finetune"]
    assert cells[-12:] == full
    assert {said(cell, "--encoder") for cell in full} == {"bi", "cross"}
    (cross,) = {(cell.encoder, cell.base_model) for cell in cells if cell.approach == "injection_cross"}
    assert cross == ("cross", DEFAULT_BASE["cross"])
    assert {said(cell, "--seed") for cell in full} == {"42", "43", "44"}


def test_a_cells_name_says_what_it_is_and_does_not_depend_on_its_options(tmp_path):
    more = options_file(tmp_path, glinerev=["--epochs", "8"])
    cells = planned("--approaches", "glinerev", "--seeds", "43", "--train-sizes", "1000")
    assert [cell.title for cell in cells][1::2] == [
        "SP-GLiNER bi on bc5cdr, seed 43",
        "SP-GLiNER bi on bc5cdr, 1,000 training sentences, seed 43",
    ]
    assert re.fullmatch(r"bc5cdr_glinerev_bi_s43_[0-9a-f]{6}", cells[1].id)
    assert re.fullmatch(r"bc5cdr_glinerev_bi_n1000_s43_[0-9a-f]{6}", cells[3].id)
    other = planned("--approaches", "glinerev", "--seeds", "43", "--train-sizes", "1000", *more, "--device", "cpu")
    assert [cell.id for cell in other] == [cell.id for cell in cells]
    assert other[0].arguments != cells[0].arguments
    assert {cell.id for cell in planned("--approaches", "glinerev", "--seeds", "43", "--base-model", "a/b")}.isdisjoint(
        cell.id for cell in cells
    )


def test_few_shot_cells_have_their_size_and_only_the_approaches_for_it():
    cells = [cell for cell in planned("--train-sizes", "50", "200", "--seeds", "1") if cell.train_size]
    assert {cell.approach for cell in cells} == {"glinerev", "full_finetune", "ldsa", "injection_bi"}
    # Full fine-tuning with two encoders.
    assert len(cells) == 2 * 2 * 5
    assert all(said(cell, "--train-size") == str(cell.train_size) for cell in cells)
    assert all(common.study.plan.configuration(cell).data.train_size == cell.train_size for cell in cells)
    chosen = planned("--train-sizes", "50", "--approaches", "ldsa", "softprompt_base")
    assert {cell.approach for cell in chosen if cell.train_size} == {"ldsa"}
    named = planned("--train-sizes", "50", "--approaches", ZERO_SHOT, "--few-shot-approaches", "softprompt_base")
    assert {(cell.approach, cell.train_size) for cell in named} == {(ZERO_SHOT, None), ("softprompt_base", 50)}


def test_control_cells_have_the_right_options():
    cells = [cell for cell in planned("--controls", "--seeds", "1") if cell.variant]
    configs = {(cell.approach, cell.variant): common.study.plan.configuration(cell) for cell in cells}
    token = {"ldsa", "softprompt_base", "injection_bi", "injection_cross"}
    controls = {"head only", "prompt only", "post_norm", "descriptions"}
    assert set(configs) == {
        (ZERO_SHOT, "descriptions"),
        *(("glinerev", name) for name in controls),
        *((name, "bio") for name in token),
    }
    assert configs[ZERO_SHOT, "descriptions"].labels == "descriptions"
    assert not configs["glinerev", "head only"].prompt_encoder
    assert not configs["glinerev", "prompt only"].head
    assert configs["glinerev", "post_norm"].prompt_form == "post_norm"
    assert configs["glinerev", "descriptions"].labels == "descriptions"
    assert all(configs[name, "bio"].token.scheme == "bio" for name in token)


def test_the_table_of_controls_waits_for_the_cells_that_a_study_runs():
    configs = {
        cell: common.study.plan.configuration(cell) for cell in planned("--controls", "--seeds", "1") if cell.variant
    }
    run = {
        (spec(cell.approach).title, spec(cell.approach).variant(config))
        for cell, config in configs.items()
        if cell.approach != ZERO_SHOT
    }
    assert run == {
        (approach.title, control.of(variant))
        for approach in thesis.APPROACHES[1:]
        for control in thesis.CONTROLS
        for variant in approach.variants.values()
        if approach.title in control.titles
    }


def test_options_of_an_approach_reach_all_its_cells_and_the_commands_own_win(tmp_path):
    options = options_file(tmp_path, glinerev=["--epochs", "8", "--word-dropout", "0.1"], zeroshot_baseline=["--threshold", "0.3"])  # fmt: skip
    cells = planned(*options, "--controls", "--seeds", "1", *ON_CPU)
    for cell in cells:
        config = common.study.plan.configuration(cell)
        assert (config.runtime.device, config.runtime.precision) == ("cpu", "fp32")
        if cell.approach == "glinerev":
            assert (config.train.epochs, config.word_dropout) == (8, 0.1)
        elif cell.approach == ZERO_SHOT:
            assert config.threshold == 0.3
        else:
            assert config.train.epochs == spec(cell.approach).config.train.epochs
    short = planned(*options, "--epochs", "2")
    epochs = {common.study.plan.configuration(cell).train.epochs for cell in short if cell.seed is not None}
    assert epochs == {2}


def test_options_for_one_data_set_and_for_few_sentences(tmp_path):
    options = options_file(
        tmp_path,
        ldsa=["--epochs", "8", "--batch-size", "7"],
        bc5cdr={"ldsa": ["--epochs", "3"], "zeroshot_baseline": ["--threshold", "0.3"]},
        **{"few-shot": {"ldsa": ["--batch-size", "4", "--epochs", "20"]}},
    )
    cells = planned("--approaches", "ldsa", "--seeds", "42", "--train-sizes", "50", *options)
    found = {
        (cell.dataset, cell.train_size): (config.train.epochs, config.train.batch_size)
        for cell in cells
        for config in [configuration(cell)]
    }
    assert found == {
        ("jnlpba", None): (8, 7), ("bc5cdr", None): (3, 7), ("jnlpba", 50): (20, 4), ("bc5cdr", 50): (20, 4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"glinerev": ["--seed", "3"]}, "glinerev: --seed is for the study to say"),
        ({"glinerev": ["--train_size=3"]}, "glinerev: --train_size=3 is for the study to say"),
        ({"glinerev": "--epochs 3"}, "expected a list of strings"),
        ({"gliner": []}, "expected an object of options by approach"),
        ({"y": {"gliner": []}}, "y: expected an object of options by approach"),
        ({"x": {"gliner": []}}, "x: expected an object of options by approach"),
        ({"few-shot": {"glinerev": ["--seed", "3"]}}, "few-shot: glinerev: --seed is for the study to say"),
        ({"glinerev": ["--epoch", "3"]}, "options of glinerev are not right"),
        ({"full_finetune": ["--trainer", "gliner"]}, "trains by --trainer common"),
    ],
)
def test_wrong_options_end_the_command_before_anything_is_run(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        Study(parse(StudyConfig, ["--dataset", "x", *options_file(tmp_path, **options)]))


@pytest.mark.parametrize(
    "options",
    [["--approaches", "gliner"], ["--few-shot-approaches", ZERO_SHOT], ["--train-sizes", "0"], ["--dataset", "a", "b/a"]],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(options):
    with pytest.raises(SystemExit):
        planned(*options)


# -- a study whose trainings take no time -----------------------------------------------------------------------------


@pytest.fixture
def folder(output):
    return output / "study"


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data" / "tiny")


@pytest.fixture
def run(monkeypatch, gliner_folder, dataset):
    """Runs a study on the tiny data and returns its exit status."""
    made = []
    monkeypatch.setattr(common.study.__main__.tables, "main", made.append)

    def start(*options, approaches=("ldsa", "injection_bi"), seeds=(1,)):
        return main([
            "--dataset", str(dataset), "--approaches", *approaches, "--seeds", *map(str, seeds),
            "--base-model", str(gliner_folder("bi-bert")), "--cross-base-model", str(gliner_folder("cross-bert")),
            *ON_CPU, *options,
        ])  # fmt: skip

    start.tables = made
    return start


class Scripts:
    """Stands in for train.py and test.py; ``hooks`` are called at their steps and may raise."""

    def __init__(self, output):
        self.output, self.trained, self.resumed, self.tested, self.hooks = output, [], [], [], {}

    def at(self, step, cell):
        self.hooks.get(step, lambda cell: None)(cell)

    def prepare_run(self, approach, argv):
        config, resume = parse_training(approach.config, approach.name, argv)
        if resume is not None:
            self.at("resume", (approach.name, config.train.seed))
        path = approach.savings / f"run{len(self.trained)}" if resume is None else resume
        write_json(self.output / path / "run.json", {"status": "running"})
        cell = approach.name, config.train.seed
        (self.trained if resume is None else self.resumed).append(cell)
        return config, SimpleNamespace(path=self.output / path, cell=cell), None, None

    def fit(self, model, data, train, runtime, run):
        self.at("training", run.cell)
        (run.path / WEIGHTS_FILE).touch()
        write_json(run.path / "run.json", {"status": "finished"})
        return run

    def run_test_script(self, approach, arguments):
        cell = approach, arguments[arguments.index("--checkpoint") + 1] if "--checkpoint" in arguments else None
        self.at("test", cell)
        self.tested.append(cell)
        path = self.output / approach / "test_results" / f"{len(self.tested)}.json"
        keys = ("variant", "dataset", "base_model", "seed", "parameters", "speed", "config", "provenance")
        record = {key: {} for key in keys} | {"created": str(len(self.tested)), "approach": approach}
        write_json(path, record | {"scores": {"micro": {"f1": 0.5}}})
        for companion in companions(path)[:-1]:
            companion.touch()
        return path


@pytest.fixture
def scripts(monkeypatch, output):
    fakes = Scripts(output)
    for name in ("prepare_run", "fit", "run_test_script"):
        monkeypatch.setattr(common.study.runner, name, getattr(fakes, name))
    # There is no model to free, and the collection takes longer than all else.
    monkeypatch.setattr(common.study.runner.gc, "collect", lambda: None)
    return fakes


def states(folder):
    return {path.stem.rpartition("_")[0]: read_json(path)["state"] for path in (folder / "cells").glob("*.json")}


def raiser(error, only=None):
    def hook(cell):
        if only is None or cell[0] == only:
            raise error

    return hook


def test_every_cell_is_done_once_and_the_tables_are_made(run, scripts, folder, capsys):
    assert run(approaches=("injection_bi", "ldsa", ZERO_SHOT), seeds=(1, 2)) == 0
    # Cheap ones first, whatever the order of the command line.
    assert scripts.trained == [("ldsa", 1), ("ldsa", 2), ("injection_bi", 1), ("injection_bi", 2)]
    assert [approach for approach, _ in scripts.tested] == [ZERO_SHOT] * 2 + ["ldsa"] * 2 + ["injection_bi"] * 2
    assert set(states(folder).values()) == {"done"}
    assert len(list((folder / "results").glob("*.json"))) == 6
    assert len(list((folder / "results").iterdir())) == 24
    assert run.tables == [["--results", str(folder / "results"), "--output", str(folder / "tables")]]
    record = read_json(next((folder / "cells").glob("tiny_ldsa_bi_s1_*.json")))
    assert record["seconds"] >= 0
    assert record["process"]["pid"] == os.getpid()
    assert str(folder.parent) not in json.dumps(record["settings"]), "a hash holds no path"
    assert "6 cells: 6 done, 0 done before, 0 failed" in capsys.readouterr().out


def test_what_is_done_is_kept_and_a_new_seed_is_added(run, scripts, folder, capsys, caplog):
    assert run() == 0
    with caplog.at_level("INFO"):
        assert run(seeds=(1, 2)) == 0
    assert scripts.trained == [("ldsa", 1), ("injection_bi", 1), ("ldsa", 2), ("injection_bi", 2)]
    assert "4 cells: 2 done, 2 done before" in capsys.readouterr().out
    assert "[1/4] LDSA bi on tiny, seed 1: done before" in caplog.text
    assert "[2/4] LDSA bi on tiny, seed 2: micro F1 0.5000" in caplog.text
    assert "1 cells left: unknown time for 1 of them" in caplog.text
    assert len(run.tables) == 2


def test_a_changed_option_does_its_cells_again_and_the_old_result_leaves_the_tables(
    run, scripts, folder, tmp_path, caplog
):
    run()
    with caplog.at_level("INFO"):
        run(*options_file(tmp_path, ldsa=["--learning-rate", "0.01"]))
    assert scripts.trained == [("ldsa", 1), ("injection_bi", 1), ("ldsa", 1)]
    assert "other settings than before: configuration.learning_rate: 0.0003 != 0.01" in caplog.text
    assert len(list((folder / "results").glob("*.json"))) == 2
    assert read_result(next((folder / "results").glob("tiny_ldsa_*.json")))["created"] == "3"
    assert read_result(next((folder / "superseded").glob("*.json")))["created"] == "1"
    assert len(list((folder / "superseded").iterdir())) == 4


def test_runtime_and_places_change_no_hash(run, scripts, tmp_path, dataset):
    run()
    dataset.rename(dataset.parent / "moved")
    (dataset.parent / "elsewhere").mkdir()
    (dataset.parent / "moved").rename(dataset.parent / "elsewhere" / "tiny")
    (dataset.parent / "elsewhere" / "tiny").rename(dataset)
    run(*options_file(tmp_path, ldsa=["--eval-batch-size", "3", "--feature-cache", "off"]))
    assert len(scripts.trained) == 2


def test_changed_data_does_everything_again(run, scripts, dataset, caplog):
    run()
    write_dataset(dataset, sizes={"train": 30, "validation": 16, "test": 16})
    with caplog.at_level("INFO"):
        run()
    assert len(scripts.trained) == 4
    assert "other settings than before: dataset_sha256" in caplog.text


def test_other_weights_of_the_base_model_do_everything_again(run, scripts, monkeypatch):
    run()
    load = common.study.runner.load_base
    monkeypatch.setattr(common.study.runner, "load_base", lambda *a: SimpleNamespace(revision=load(*a).revision + "0"))
    run()
    assert len(scripts.trained) == 4


def test_a_result_that_was_deleted_comes_back_without_training(run, scripts, folder):
    run()
    (path,) = (folder / "results").glob("tiny_ldsa_*.md")
    path.unlink()
    run()
    assert path.is_file()
    assert (len(scripts.trained), len(scripts.tested)) == (2, 2)


@pytest.mark.parametrize("error", [InputError("no"), TrainingError("loss is nan"), torch.OutOfMemoryError("no memory")])
def test_a_failing_cell_is_reported_and_the_others_go_on(run, scripts, folder, capsys, error):
    scripts.hooks["training"] = raiser(error, only="ldsa")
    assert run() == 1
    assert states(folder) == {"tiny_ldsa_bi_s1": "failed", "tiny_injection_bi_bi_s1": "done"}
    printed = capsys.readouterr().out
    assert "2 cells: 1 done, 0 done before, 1 failed" in printed
    assert f"failed: LDSA bi on tiny, seed 1: {error} (tiny_ldsa_bi_s1_" in printed
    assert run.tables
    del scripts.hooks["training"]
    assert run() == 0
    assert set(states(folder).values()) == {"done"}


def test_a_run_that_failed_starts_again_and_one_that_was_cut_off_goes_on(run, scripts, folder):
    def diverges(cell):
        write_json(next((folder.parent / "ldsa" / "savings").glob("*/run.json")), {"status": "failed"})
        raise TrainingError("loss is nan")

    scripts.hooks["training"] = diverges
    run(approaches=["ldsa"])
    del scripts.hooks["training"]
    run(approaches=["ldsa"])
    assert scripts.trained == [("ldsa", 1)] * 2
    assert scripts.resumed == []


def test_the_command_ends_with_its_exit_status(run, scripts, monkeypatch):
    monkeypatch.setattr(common.study.runner, "main", lambda: 1)
    with pytest.raises(SystemExit) as ending:
        common.study.__main__.script()
    assert ending.value.code == 1
    monkeypatch.setattr(common.study.runner, "main", lambda: 0)
    common.study.__main__.script()


def test_without_any_result_there_are_no_tables(run, scripts):
    scripts.hooks["training"] = raiser(TrainingError("no"))
    assert run() == 1
    assert run.tables == []


def test_data_that_cannot_be_had_fails_its_cells_only(run, scripts, tmp_path, folder, capsys):
    assert run("--dataset", str(tmp_path / "nowhere"), str(tmp_path / "data" / "tiny")) == 1
    assert "failed: LDSA bi on nowhere, seed 1: data set 'nowhere' is none of" in capsys.readouterr().out
    assert states(folder)["tiny_ldsa_bi_s1"] == "done"
    assert len(scripts.trained) == 2


def test_a_machine_without_the_data_leaves_what_is_done_as_it_is(run, scripts, folder, dataset):
    run()
    dataset.rename(dataset.with_name("away"))
    assert run() == 1
    assert set(states(folder).values()) == {"done"}
    dataset.with_name("away").rename(dataset)
    assert run() == 0
    assert len(scripts.trained) == 2


# -- kills ------------------------------------------------------------------------------------------------------------


class Killed(RuntimeError):
    """What nothing catches: the process is gone."""


@pytest.mark.parametrize(
    ("step", "trained", "resumed", "tested"),
    [("training", 2, 1, 2), ("test", 2, 0, 2), ("copying", 2, 0, 2), ("collected", 2, 0, 2)],
)
def test_a_kill_at_any_point_costs_no_finished_step(run, scripts, monkeypatch, folder, step, trained, resumed, tested):
    copy, read, copied = common.study.runner.shutil.copyfile, common.study.runner.read_result, []

    def killed_copy(source, target):
        copied.append(source)
        if len(copied) == 2:
            raise Killed
        return copy(source, target)

    with monkeypatch.context() as patch:
        if step == "copying":
            patch.setattr(common.study.runner.shutil, "copyfile", killed_copy)
        elif step == "collected":
            patch.setattr(common.study.runner.Study, "_collect", lambda *_: (_ for _ in ()).throw(Killed))
        else:
            scripts.hooks[step] = raiser(Killed())
        with pytest.raises(Killed):
            run()
    scripts.hooks.clear()
    assert states(folder) == {"tiny_ldsa_bi_s1": "running"}
    assert not list((folder / "results").glob("*.json"))
    assert run() == 0
    assert (len(scripts.trained), len(scripts.resumed), len(scripts.tested)) == (trained, resumed, tested)
    assert set(states(folder).values()) == {"done"}
    assert all(read(path) for path in (folder / "results").glob("*.json"))
    assert len(list((folder / "results").iterdir())) == 8, "nothing unfinished is left"


def test_ctrl_c_leaves_the_cell_to_go_on_with(run, scripts, folder, capsys):
    scripts.hooks["training"] = raiser(KeyboardInterrupt(), only="injection_bi")
    with pytest.raises(KeyboardInterrupt):
        run()
    assert states(folder) == {"tiny_ldsa_bi_s1": "done", "tiny_injection_bi_bi_s1": "interrupted"}
    run("--dry-run")
    assert re.search(r"SP-Bi bi on tiny, seed 1 +unknown  to go on with", capsys.readouterr().out)
    del scripts.hooks["training"]
    assert run() == 0
    assert scripts.resumed == [("injection_bi", 1)]


def test_a_cut_off_run_that_other_settings_made_is_not_gone_on_with(run, scripts, tmp_path):
    scripts.hooks["training"] = raiser(Killed())
    with pytest.raises(Killed):
        run(approaches=["ldsa"])
    scripts.hooks.clear()
    run("--epochs", "2", approaches=["ldsa"])
    assert scripts.trained == [("ldsa", 1)] * 2
    assert scripts.resumed == []


def test_a_run_that_cannot_be_gone_on_with_here_starts_again(run, scripts, caplog):
    scripts.hooks["training"] = raiser(Killed())
    with pytest.raises(Killed):
        run(approaches=["ldsa"])
    # As another device or precision makes it: neither is part of the hash.
    scripts.hooks = {"resume": raiser(InputError("run was started differently: runtime.precision"))}
    assert run(approaches=["ldsa"]) == 0
    assert scripts.trained == [("ldsa", 1)] * 2
    assert "starts again: run was started differently" in caplog.text


def test_a_run_folder_that_is_gone_is_trained_again(run, scripts, folder):
    scripts.hooks["test"] = raiser(Killed())
    with pytest.raises(Killed):
        run(approaches=["ldsa"])
    scripts.hooks.clear()
    (weights,) = folder.parent.rglob(WEIGHTS_FILE)
    weights.unlink()
    run(approaches=["ldsa"])
    assert len(scripts.trained) == 2


# -- several processes ------------------------------------------------------------------------------------------------


def test_a_cell_that_another_machine_is_at_is_passed_over_until_that_is_long_silent(run, scripts, folder, capsys):
    run(approaches=["ldsa"])
    (path,) = (folder / "cells").glob("*.json")
    other = {"host": "elsewhere", "pid": 1, "created": 0.0}
    write_json(path, read_json(path) | {"state": "running", "process": other, "alive": time.time()})
    (folder / "results" / path.name).unlink()
    assert run() == 0
    assert "1 done, 0 done before, 0 failed, 1 at work in other processes" in capsys.readouterr().out
    run("--dry-run")
    assert "running on elsewhere, process 1" in capsys.readouterr().out
    write_json(path, read_json(path) | {"alive": time.time() - 2 * DEAD_AFTER})
    assert run() == 0
    assert "2 cells: 1 done, 1 done before" in capsys.readouterr().out
    assert len(scripts.trained) == 2, "the result was there"


def test_a_locked_cell_is_passed_over_and_taken_if_it_is_free_in_the_end(run, scripts, folder, capsys, caplog):
    run(approaches=["ldsa"])
    (path,) = (folder / "locks").glob("*.lock")
    held = common.study.runner.FileLock(path)
    held.acquire()
    # It is let go while the other cell is trained.
    scripts.hooks["training"] = lambda cell: held.release()
    with caplog.at_level("INFO"):
        assert run() == 0
    assert "LDSA bi on tiny, seed 1: another process is at it" in caplog.text
    assert "2 cells: 1 done, 1 done before" in capsys.readouterr().out


def test_what_failed_in_another_process_meanwhile_is_not_tried_again(run, scripts, folder, capsys):
    def first(cell):
        scripts.hooks["training"] = raiser(TrainingError("nan"), "injection_bi")
        assert run(approaches=["injection_bi"]) == 1

    scripts.hooks["training"] = first
    assert run() == 1
    assert scripts.trained == [("ldsa", 1), ("injection_bi", 1)]
    assert "failed: SP-Bi bi on tiny, seed 1: nan" in capsys.readouterr().out


PROCESS = """
import sys
import common.tables.__main__
common.tables.__main__.main = lambda argv: None
from common.study import __main__ as study
sys.exit(study.main(sys.argv[1:]))
"""


def test_two_processes_on_one_folder_do_each_cell_once(gliner_folder, dataset_path, output, folder):
    environment = os.environ | {OUTPUT_VARIABLE: str(output), "OMP_NUM_THREADS": "1"}
    options = ["--approaches", "ldsa", "softprompt_base", ZERO_SHOT, "--seeds", "1", "2", "--epochs", "1", *ON_CPU]
    bases = ["--base-model", str(gliner_folder("bi-bert")), "--cross-base-model", str(gliner_folder("cross-bert"))]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, "--dataset", str(dataset_path), *options, *bases],
            cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = ""
    for process in processes:
        out, errors = process.communicate(timeout=200)
        assert process.returncode == 0, out + errors
        printed += out
    assert len(list((folder / "results").glob("*.json"))) == 6
    assert set(states(folder).values()) == {"done"}
    assert len(list(output.glob("*/savings/*/run.json"))) == 4, "each was trained once"
    assert len(list(output.glob("*/test_results/*.json"))) == 6, "and tested once"
    assert sum(map(int, re.findall(r"6 cells: (\d) done", printed))) == 6


# -- dry run and estimates --------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_writes_nothing(run, scripts, output, monkeypatch, capsys):
    monkeypatch.setattr(common.study.runner, "load_base", None)
    assert run("--dry-run", "--controls", "--train-sizes", "5") == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 + 1
    assert re.fullmatch(r" +1  LDSA bi on tiny, seed 1 +unknown  to do", printed[0])
    assert "LDSA bi, bio on tiny, seed 1" in printed[1]
    assert "LDSA bi on tiny, 5 training sentences, seed 1" in printed[2]
    assert printed[-1].startswith("6 cells, 6 to do: unknown time for 6 of them")
    assert not output.exists()
    assert scripts.trained == run.tables == []


def test_a_dry_run_needs_no_data(run, tmp_path, capsys):
    assert run("--dry-run", "--dataset", "demo-nothing") == 0
    assert "2 cells, 2 to do" in capsys.readouterr().out


def test_a_dry_run_says_what_is_done_and_what_a_change_does_again(run, scripts, capsys, tmp_path):
    run()
    assert run("--dry-run", "--seeds", "1", "2") == 0
    printed = capsys.readouterr().out
    assert re.search(r"LDSA bi on tiny, seed 1 +-  done\n", printed)
    assert "4 cells, 2 to do" in printed
    run("--dry-run", *options_file(tmp_path, ldsa=["--learning-rate", "0.01"]))
    assert re.search(r"LDSA bi on tiny, seed 1 +unknown  to do again: settings, data or files", capsys.readouterr().out)


def test_an_estimate_counts_training_validation_and_test():
    sizes = {"train": 100, "validation": 20, "test": 30}
    assert Pace(test=0.1, train=None).seconds(sizes, 0) == pytest.approx(3)
    assert Pace(test=0.1, train=0.5).seconds(sizes, 4) == pytest.approx(4 * (50 + 2) + 3)
    assert Pace(test=0.1, train=None).seconds(sizes, 4) is None
    assert [duration(seconds) for seconds in (3.2, 600, 5400, 12000)] == ["3 s", "10 min", "1 h 30 min", "3 h 20 min"]


# -- data -------------------------------------------------------------------------------------------------------------


def test_missing_data_are_generated_from_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(common.data.dataset, "DATASETS_DIR", tmp_path / "datasets")
    words = "".join(f"IL-{number}\tB-protein\nbinds\tO\n.\tO\n\n" for number in range(10))
    for split in ("train", "test"):
        path = tmp_path / "corpora" / "mine" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words)
    (tmp_path / "corpora" / "other.tsv").write_text(words)
    config = StudyConfig(("mine", "other", "third"), ("ldsa",), source=tmp_path / "corpora")
    study = Study(config)
    study.generate_missing()
    assert set(study._without_data) == {"third"}
    assert "needs one folder third or one file third.*, found 0" in study._without_data["third"]
    for name in ("mine", "other"):
        assert load_dataset(name).labels.names == ("protein",)
    before = (tmp_path / "datasets" / "mine" / "manifest.json").stat().st_mtime_ns
    study.generate_missing()
    assert (tmp_path / "datasets" / "mine" / "manifest.json").stat().st_mtime_ns == before
    # A kill before the label files are there leaves a data set to generate.
    for name in ("manifest.json", "label2desc.json"):
        (tmp_path / "datasets" / "mine" / name).unlink()
    study.generate_missing()
    assert (tmp_path / "datasets" / "mine" / "manifest.json").is_file()


# -- in earnest -------------------------------------------------------------------------------------------------------


def test_a_real_study_is_cut_off_in_training_and_goes_on(run, monkeypatch, folder, output, caplog, capsys):
    options = ["--epochs", "2", "--train-sizes", "12", "--few-shot-approaches", "softprompt_base"]
    fit = common.study.runner.fit

    def cut_off(*arguments):
        def kill(entry):
            if arguments[1].name == "tiny" and len(arguments[1].train) == 12:
                raise Killed

        return fit(*arguments, on_validation=kill)

    with monkeypatch.context() as patch:
        patch.setattr(common.study.runner, "fit", cut_off)
        with pytest.raises(Killed):
            run(*options, approaches=(ZERO_SHOT, "softprompt_base"))
    assert len(list((folder / "results").glob("*.json"))) == 3
    with caplog.at_level("INFO"):
        assert run(*options, approaches=(ZERO_SHOT, "softprompt_base")) == 0
    assert "resumed after epoch 1 of 2" in caplog.text
    runs = sorted((read_json(path) for path in output.glob("softprompt_base/savings/*/run.json")), key=lambda r: r["created"])  # fmt: skip
    assert [(record["dataset"]["train"], len(record["history"])) for record in runs] == [(40, 2), (12, 2)]
    results = [read_result(path) for path in sorted((folder / "results").glob("*.json"))]
    assert [(result["approach"], result["base_model"]["encoder"], result["seed"]) for result in results] == [
        ("softprompt_base", "bi", 1), ("softprompt_base", "bi", 1), (ZERO_SHOT, "bi", None), (ZERO_SHOT, "cross", None),
    ]  # fmt: skip
    assert {result["training"]["dataset"]["train"] for result in results[:2]} == {12, 40}
    assert "# softprompt_base" not in capsys.readouterr().out, "pages of results are files of the study"
    assert run("--dry-run", *options, approaches=(ZERO_SHOT, "softprompt_base"), seeds=(1, 2)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"SP-Base bi on tiny, seed 2 +\d+ s  to do", printed)
    assert "6 cells, 2 to do: about" in printed
