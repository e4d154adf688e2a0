"""The study: its plan, what counts as done, and what it survives."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from tiny import write_dataset

import common.study.identity
import common.study.runner
import common.study.work
import common.transfer
from common.config import TestConfig, parse, to_dict
from common.data.dataset import dataset_dir, load_dataset
from common.engine import RETRIES, SWITCH, Place
from common.errors import InputError
from common.evaluation.results import companions
from common.files import read_json, write_json, write_text
from common.models.published import DEFAULT_BASE
from common.paths import PROJECT_ROOT
from common.registry import cheapest_first, spec, specs, trained
from common.study import demo
from common.study.__main__ import main
from common.study.estimates import Pace, duration, paces
from common.study.identity import changes, stored_result
from common.study.plan import Cell, StudyConfig, configuration, make_plan
from common.study.runner import Study
from common.study.work import Outcome, Work, _Doing, do_cell

pytestmark = pytest.mark.slow

ZERO_SHOT = "zeroshot_baseline"
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
    config = parse(StudyConfig, demo.arguments())
    cells = make_plan(config)
    assert {cell.approach for cell in cells} == {spec.name for spec in specs() if spec.in_all}
    assert {dataset_dir(cell.dataset).name for cell in cells} == set(demo.CORPORA)
    asked = read_json(demo.OPTIONS)
    for cell in cells:
        settings = to_dict(configuration(cell))
        if "--epochs" in asked.get(cell.approach, ()):
            assert settings["train"]["epochs"] == int(said(cell, "--epochs"))


def test_the_help_of_the_demo_shows_its_own_settings(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    said = capsys.readouterr().out
    assert "required" not in said
    assert all(name in said for name in ("demo-bi", "demo-cross", demo.OPTIONS.name))


def test_the_example_for_two_cores_is_understood():
    path = PROJECT_ROOT / "examples" / "study_two_cores.json"
    cells = planned("--config", str(path), "--train-sizes", "50", "--controls")
    whole = [cell for cell in cells if cell.seed == 42 and not cell.train_size]
    epochs = {(cell.approach, cell.dataset): configuration(cell).train.epochs for cell in whole}
    assert epochs["glinerev", "jnlpba"] < epochs["glinerev", "bc5cdr"]
    few = [cell for cell in cells if cell.train_size]
    assert {configuration(cell).train.batch_size for cell in few} == {8}


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_every_approach_has_its_cells_on_every_data_set_with_every_seed():
    cells = planned()
    assert set(cheapest_first()) == {ZERO_SHOT, *trained()}
    # Five approaches of one encoder and two of two, three seeds; zero-shot of two without a seed.
    assert len(cells) == 2 * (9 * 3 + 2)
    assert len({cell.id for cell in cells}) == len(cells)
    zero_shot = [cell for cell in cells if cell.approach == ZERO_SHOT]
    assert cells[:4] == zero_shot
    assert {(cell.kind, cell.base_model) for cell in zero_shot} == set(DEFAULT_BASE.items())
    assert all(cell.seed is None and said(cell, "--seed") is None for cell in zero_shot)
    full = [cell for cell in cells if cell.approach == "full_finetune"]
    assert cells[-12:] == full
    assert {said(cell, "--encoder") for cell in full} == {"bi", "cross"}
    (cross,) = {(cell.kind, cell.base_model) for cell in cells if cell.approach == "injection_cross"}
    assert cross == ("cross", DEFAULT_BASE["cross"])
    assert {said(cell, "--seed") for cell in full} == {"42", "43", "44"}


def test_an_approach_that_is_not_in_all_is_run_when_it_is_named():
    special = {spec.name for spec in specs() if not spec.in_all}
    assert special
    assert {cell.approach for cell in planned("--approaches", "all", *special)} == set(cheapest_first())
    (cell, *_) = planned("--approaches", "vaner", "--other-base-models", "causal=demo-llm")
    assert (cell.kind, cell.base_model) == ("causal", "demo-llm")


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
    assert {cell.approach for cell in cells} == {"glinerev", "full_finetune", "ldsa", "injection_bi", "lora"}
    # Full fine-tuning and LoRA with two encoders.
    assert len(cells) == 2 * 2 * 7
    assert all(said(cell, "--train-size") == str(cell.train_size) for cell in cells)
    assert all(configuration(cell).data.train_size == cell.train_size for cell in cells)
    chosen = planned("--train-sizes", "50", "--approaches", "ldsa", "softprompt_base")
    assert {cell.approach for cell in chosen if cell.train_size} == {"ldsa"}
    named = planned("--train-sizes", "50", "--approaches", ZERO_SHOT, "--few-shot-approaches", "softprompt_base")
    assert {(cell.approach, cell.train_size) for cell in named} == {(ZERO_SHOT, None), ("softprompt_base", 50)}


def test_other_data_sets_are_asked_of_adapted_models_that_can_answer():
    plan = "--dataset jnlpba bc5cdr --approaches all vaner --seeds 1 --train-sizes 50 --controls"
    config = parse(StudyConfig, [*plan.split(), "--transfer", "other", "bc5cdr"])
    asked = {
        (cell.dataset, cell.approach, cell.control, cell.train_size): config.transfer_sets(cell)
        for cell in make_plan(config)
    }
    assert asked["jnlpba", "glinerev", "", None] == ("other", "bc5cdr")
    assert asked["bc5cdr", "glinerev", "", None] == ("other",), "its own is no other"
    assert asked["jnlpba", "glinerev", "head only", None] == ("other", "bc5cdr")
    assert asked["jnlpba", "glinerev", "", 50] == ()
    # Nothing is trained, no other types can be asked for, the base finds nothing before it is trained.
    for approach in (ZERO_SHOT, "ldsa", "vaner"):
        assert asked["jnlpba", approach, "", None] == ()
    assert config.data_sets == ("jnlpba", "bc5cdr", "other")


def test_kinds_of_base_models_can_be_chosen():
    cells = planned("--kinds", "bi", "--approaches", "lora", "injection_cross", "ldsa", "--seeds", "1")
    assert {(cell.approach, cell.kind) for cell in cells} == {("lora", "bi"), ("ldsa", "bi")}


def test_control_cells_have_the_right_options():
    cells = [cell for cell in planned("--controls", "--seeds", "1") if cell.control]
    configs = {(cell.approach, cell.control): configuration(cell) for cell in cells}
    token = {"ldsa", "softprompt_base", "injection_bi", "injection_cross"}
    controls = {"head only", "prompt only", "post_norm", "descriptions"}
    assert set(configs) == {
        (ZERO_SHOT, "descriptions"),
        *(("glinerev", name) for name in controls),
        *((name, "bio") for name in token),
        *(("lora", name) for name in ("dora", "ia3", "bitfit", "encoder dropout", "adapters only")),
    }
    assert {configs["lora", name].method for name in ("dora", "ia3", "bitfit")} == {"dora", "ia3", "bitfit"}
    assert not configs["lora", "adapters only"].head
    assert configs["lora", "encoder dropout"].encoder_dropout
    assert configs[ZERO_SHOT, "descriptions"].labels == "descriptions"
    assert not configs["glinerev", "head only"].prompt_encoder
    assert not configs["glinerev", "prompt only"].head
    assert configs["glinerev", "post_norm"].prompt_form == "post_norm"
    assert configs["glinerev", "descriptions"].labels == "descriptions"
    assert all(configs[name, "bio"].token.scheme == "bio" for name in token)


def test_options_of_an_approach_reach_all_its_cells_and_the_commands_own_win(tmp_path):
    given = {"glinerev": ["--epochs", "8", "--word-dropout", "0.1"], ZERO_SHOT: ["--threshold", "0.3"]}
    options = options_file(tmp_path, **given)
    cells = planned(*options, "--controls", "--seeds", "1", *ON_CPU)
    for cell in cells:
        config = configuration(cell)
        assert (config.runtime.device, config.runtime.precision) == ("cpu", "fp32")
        if cell.approach == "glinerev":
            assert (config.train.epochs, config.word_dropout) == (8, 0.1)
        elif cell.approach == ZERO_SHOT:
            assert config.threshold == 0.3
        else:
            assert config.train.epochs == spec(cell.approach).config.train.epochs
    short = planned(*options, "--epochs", "2")
    epochs = {configuration(cell).train.epochs for cell in short if cell.seed is not None}
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


def test_variants_of_a_file_are_run_at_all_sizes_beside_the_approach_itself(tmp_path):
    options = options_file(
        tmp_path,
        remark="Why.",
        glinerev=["--epochs", "8"],
        variants={"glinerev": {"head only": ["--no-prompt-encoder"], "fast": ["--prompt-encoder-lr", "0.01"]}},
        **{"few-shot": {"glinerev": ["--epochs", "20"]}},
    )
    chosen = ["--approaches", "glinerev", "ldsa", "--seeds", "1", "--train-sizes", "50", *options]
    cells = [cell for cell in planned(*chosen) if cell.dataset == "bc5cdr" and cell.approach == "glinerev"]
    found = {(cell.control, cell.train_size): configuration(cell) for cell in cells}
    assert list(found) == [(name, size) for size in (None, 50) for name in ("", "head only", "fast")]
    assert {key: config.train.epochs for key, config in found.items()} == {key: 20 if key[1] else 8 for key in found}
    assert not found["head only", 50].prompt_encoder
    assert (found["fast", None].prompt_encoder_lr, found["fast", None].prompt_encoder) == (0.01, True)
    assert len({cell.id for cell in cells}) == len(cells)
    assert cells[4].id.startswith("bc5cdr_glinerev_bi_head-only_n50_s1_")
    # A control of the same name is the same cell.
    both = [cell for cell in planned(*chosen, "--controls") if cell.control == "head only" and not cell.train_size]
    assert len(both) == 2
    few = planned(*chosen[3:], "--approaches", ZERO_SHOT, "--few-shot-approaches", "glinerev")
    assert {(cell.control, cell.train_size) for cell in few if cell.approach == "glinerev"} == {
        ("", 50), ("head only", 50), ("fast", 50),
    }  # fmt: skip


def test_two_variants_of_one_name_are_refused(tmp_path):
    options = options_file(tmp_path, variants={"glinerev": {"head only": ["--no-prompt-encoder"], "head-only": []}})
    with pytest.raises(InputError, match="are two cells of the same name, jnlpba_glinerev_bi_head-only_s42_"):
        planned(*options)


def test_the_examples_for_a_gpu_are_understood():
    for name in ("study_gpu", "study_prompt_encoder"):
        cells = planned("--config", str(PROJECT_ROOT / "examples" / f"{name}.json"), "--train-sizes", "50", "1000")
        assert all(configuration(cell).train.patience > 0 for cell in cells if cell.seed == 42)
        sizes = {cell.train_size for cell in cells if (cell.approach, cell.control) == ("glinerev", "head only")}
        assert sizes == {None, 50, 1000}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["glinerev"]}, "variants: expected an object of options by approach"),
        ({"variants": {"gliner": {}}}, "variants: expected an object of options by approach"),
        ({"variants": {"glinerev": ["--epochs"]}}, "variants: glinerev: expected an object of options by name"),
        ({"variants": {"glinerev": {"a": "x"}}}, "variants: glinerev: a: expected a list of strings, got 'x'"),
        (
            {"variants": {"glinerev": {"a": ["--seed", "1"]}}},
            "variants: glinerev: a: --seed is set by the study itself",
        ),
        ({"variants": {"glinerev": {"../a": []}}}, "variants: glinerev: name of a variant must be letters"),
        ({"variants": {"glinerev": {"head only": ["--no-head"]}}}, "'head only' is the name of a control"),
        ({"variants": {"glinerev": {"a": ["--epoch", "3"]}}}, "options of glinerev are not right"),
        ({"variants": {"glinerev": {"a": ["--prompt-layers", "0"]}}}, "GLiNER bi, a on x, .*prompt_layers must be"),
        ({"variants": {"glinerev": {"a" * 200: []}}}, "its name is too long for a file"),
        ({"glinerev": ["--output-root", "/x"]}, "glinerev: --output-root is set by the study itself"),
        ({"remark": 3}, "remark: expected a text"),
        ({"glinerev": ["--seed", "3"]}, "glinerev: --seed is set by the study itself"),
        ({"glinerev": ["--train_size=3"]}, "glinerev: --train_size=3 is set by the study itself"),
        ({"glinerev": "--epochs 3"}, "expected a list of strings"),
        ({"gliner": []}, "expected an object of options by approach"),
        ({"y": {"gliner": []}}, "y: expected an object of options by approach"),
        ({"x": {"gliner": []}}, "x: expected an object of options by approach"),
        ({"few-shot": {"glinerev": ["--seed", "3"]}}, "few-shot: glinerev: --seed is set by the study itself"),
        ({"glinerev": ["--epoch", "3"]}, "options of glinerev are not right"),
        ({"full_finetune": ["--trainer", "gliner"]}, "trains by --trainer common"),
    ],
)
def test_wrong_options_end_the_command_before_anything_is_run(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        Study(parse(StudyConfig, ["--dataset", "x", *options_file(tmp_path, **options)]))


def test_a_file_of_settings_does_not_say_how_many_sentences_a_cell_is_trained_on(tmp_path):
    write_json(tmp_path / "settings.json", {"data": {"train_size": 5}, "train": {"seed": 9, "epochs": 4}})
    options = options_file(tmp_path, glinerev=["--config", str(tmp_path / "settings.json")])
    with pytest.raises(InputError, match=r"seed 42: options of glinerev: the study itself sets train_size, got 5"):
        Study(parse(StudyConfig, ["--dataset", "x", *options]))
    few = Cell(
        "glinerev", "bi", "demo-bi", "x", 1, train_size=50, options=("--config", str(tmp_path / "settings.json"))
    )
    config = configuration(few)
    assert (config.data.train_size, config.train.seed, config.train.epochs) == (50, 1, 4)


@pytest.mark.parametrize(("approach", "script"), [("glinerev", "train"), ("zeroshot_baseline", "test")])
def test_a_wrong_option_is_explained_by_the_help_of_its_own_script(tmp_path, capsys, approach, script):
    with pytest.raises(InputError):
        Study(parse(StudyConfig, ["--dataset", "x", *options_file(tmp_path, **{approach: ["--wrong", "3"]})]))
    assert f"python -m {approach}.{script} --help" in capsys.readouterr().err


def test_a_repeated_name_in_an_options_file_is_refused(tmp_path):
    path = tmp_path / "options.json"
    path.write_text('{"variants": {"glinerev": {"a": ["--epochs", "2"], "a": ["--epochs", "3"]}}}', "utf-8")
    with pytest.raises(InputError, match=r"options\.json: .*repeated key 'a'"):
        planned("--config", str(path))


def test_a_variant_that_is_the_approach_itself_is_named(tmp_path, caplog):
    options = options_file(tmp_path, variants={"glinerev": {"same": [], "other": ["--prompt-layers", "2"]}})
    Study(parse(StudyConfig, ["--dataset", "x", "--approaches", "glinerev", "--seeds", "1", *options]))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == "SP-GLiNER bi, same on x, seed 1: has the settings of SP-GLiNER bi on x, seed 1, one run is enough"


def test_a_part_without_cells_has_an_outline():
    study = Study(parse(StudyConfig, ["--dataset", "x", "--approaches", "glinerev", "--seeds", "1", "--part", "2/5"]))
    assert study.outline().startswith("no cell is in part 2/5")


@pytest.mark.parametrize(
    "options",
    [
        ["--approaches", "gliner"], ["--kinds", "both"], ["--kinds", "causal", "--approaches", "glinerev"],
        ["--few-shot-approaches", ZERO_SHOT], ["--train-sizes", "0"],
        ["--dataset", "a", "b/a"], ["--transfer", "a", "b/a"],
        ["--part", "3/2"], ["--part", ""], ["--workers", "0"], ["--workers", "2", "--cluster", "tcp://a:1"],
        ["--other-base-models", "cuasal=x"],
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(options):
    with pytest.raises(InputError, match=options[0]):
        planned(*options)


def test_an_estimate_counts_training_validation_and_test():
    sizes = {"train": 100, "validation": 20, "test": 30}
    assert Pace(test=0.1, train=None).seconds(sizes, 0) == pytest.approx(3)
    assert Pace(test=0.1, train=0.5).seconds(sizes, 4) == pytest.approx(4 * (50 + 2) + 3)
    assert Pace(test=0.1, train=None).seconds(sizes, 4) is None
    assert [duration(seconds) for seconds in (3.2, 600, 5400, 12000)] == ["3 s", "10 min", "1 h 30 min", "3 h 20 min"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda result: result["training"].pop("dataset"),
        lambda result: result["speed"].update(sentences_per_second=0),
        lambda result: result["provenance"].update(machine=None),
    ],
    ids=["lacks a field", "no pace", "no machine"],
)
def test_a_result_that_says_no_pace_gives_no_estimate(tmp_path, edit):
    result = read_json(min((PROJECT_ROOT / "results").glob("bc5cdr_glinerev*.json")))
    result["provenance"]["machine"]["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    write_json(tmp_path / "result.json", result)
    assert len(paces(tmp_path)) == 1
    edit(result)
    write_json(tmp_path / "result.json", result)
    assert paces(tmp_path) == {}


def test_the_pace_of_a_training_that_ended_within_an_epoch_is_of_whole_ones(tmp_path):
    result = read_json(min((PROJECT_ROOT / "results").glob("bc5cdr_glinerev*.json")))
    result["provenance"]["machine"]["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    # --max-steps has ended it after a tenth of its first epoch.
    result["training"] |= {"train_seconds": 7.0, "epochs": 1, "seconds_per_epoch": 70.0}
    write_json(tmp_path / "result.json", result)
    (pace,) = paces(tmp_path).values()
    assert pace.train == pytest.approx(70 / result["training"]["dataset"]["train"])


# -- data -------------------------------------------------------------------------------------------------------------


def test_missing_data_are_generated_from_the_source(tmp_path, output):
    def sentences(first):
        return "".join(f"IL-{number}\tB-protein\nbinds\tO\n.\tO\n\n" for number in range(first, first + 20))

    for first, split in ((0, "train"), (20, "test")):
        path = tmp_path / "corpora" / "mine" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentences(first))
    (tmp_path / "corpora" / "other.tsv").write_text(sentences(0))
    config = StudyConfig(("mine", "other", "third"), ("ldsa",), source=tmp_path / "corpora")
    study = Study(config)
    assert "not there yet, to be generated first: mine, other, third\n" in study.outline()
    study.generate_missing()
    assert "not there yet, to be generated first: third\n" in study.outline()
    with pytest.raises(InputError, match=r"needs one folder third or one file third\.\*, found 0"):
        study.content("third")
    for name in ("mine", "other"):
        assert load_dataset(name).labels.names == ("protein",)
    before = (output / "datasets" / "mine" / "manifest.json").stat().st_mtime_ns
    study.generate_missing()
    assert (output / "datasets" / "mine" / "manifest.json").stat().st_mtime_ns == before
    # A kill before the label files are there leaves a data set to generate.
    for name in ("manifest.json", "label2desc.json"):
        (output / "datasets" / "mine" / name).unlink()
    study.generate_missing()
    assert (output / "datasets" / "mine" / "manifest.json").is_file()


# -- finding what is done ---------------------------------------------------------------------------------------------


@pytest.fixture
def arguments(gliner_folder, dataset_path):
    """The command line of a study of SP-Base on the tiny data."""
    return [
        "--dataset", str(dataset_path), "--approaches", "softprompt_base", "--seeds", "1",
        "--base-model", str(gliner_folder("bi-bert")), "--epochs", "2", *ON_CPU,
    ]  # fmt: skip


@pytest.fixture
def done(arguments, output):
    """A study with one cell, which is done."""
    study = Study(parse(StudyConfig, arguments))
    collect(study)
    return study


def collect(study):
    """Trains and tests the one cell of a study in this process."""
    (cell,) = study.cells
    run = importlib.import_module(f"{cell.approach}.train").main(cell.arguments)
    result = importlib.import_module(f"{cell.approach}.test").main(
        ["--dataset", cell.dataset, "--checkpoint", str(run), *ON_CPU, "--no-progress"]
    )
    study.results.mkdir(parents=True)
    for source, target in zip(companions(result), companions(study.result_path(cell)), strict=True):
        shutil.copyfile(source, target)


def state(arguments):
    """What a dry run says of the first cell."""
    line = Study(parse(StudyConfig, [*arguments, "--dry-run"])).outline().splitlines()[0]
    return re.fullmatch(r" +1  .*?  +(?:unknown|-|\d.*?s)  (.*)", line)[1]


def test_a_result_of_the_same_settings_is_done_and_others_are_to_do_again(done, arguments, tmp_path, dataset_path):
    (cell,) = done.cells
    assert state(arguments) == "done"
    assert done.run() == {cell.id: "done before"}
    for changed, what in {
        ("--epochs", "3"): "configuration.train.epochs: 2 != 3",
        ("--precision", "auto"): 'precision: "fp32" != "auto"',
        tuple(options_file(tmp_path, softprompt_base=["--batch-size", "3"])): "configuration.train.batch_size: ",
    }.items():
        assert state([*arguments, *changed]).startswith(f"to do again: {what}")
    # Neither places nor what changes no result.
    assert state([*arguments, *options_file(tmp_path, softprompt_base=["--eval-batch-size", "3"])]) == "done"
    elsewhere = shutil.copytree(dataset_path, tmp_path / "elsewhere" / "tiny")
    assert state([*arguments, "--dataset", str(elsewhere)]) == "done"
    write_dataset(elsewhere, sizes={"train": 30, "validation": 16, "test": 16})
    assert state([*arguments, "--dataset", str(elsewhere)]).startswith("to do again: dataset_sha256")
    # Another base model of the same name is another one.
    weights = shutil.copytree(cell.base_model, tmp_path / Path(cell.base_model).name) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    again = Study(parse(StudyConfig, [*arguments, "--base-model", str(weights.parent)]))
    wanted = again.wanted(cell, again.revision(again.cells[0]))
    assert [change.partition(":")[0] for change in changes(stored_result(done.result_path(cell))[1], wanted)] == [
        "base_model.revision"
    ]


def test_a_data_set_whose_folders_name_is_a_pattern(arguments, dataset_path, tmp_path, output, monkeypatch):
    elsewhere = shutil.copytree(dataset_path, tmp_path / "elsewhere" / "tiny [2]")
    study = Study(parse(StudyConfig, [*arguments, "--dataset", str(elsewhere)]))
    (cell,) = study.cells
    work = Work(cell, study.wanted(cell, study.revision(cell)), (*ON_CPU,), tmp_path / "log", output, tmp_path)

    def here(_, module, options) -> int:
        importlib.import_module(module).main(options)
        return 0

    monkeypatch.setattr(_Doing, "run", here)
    assert _Doing(work).result().name.startswith("tiny [2]_")


def test_the_time_of_cells_that_run_at_once_is_said_to_be_their_sum(done, arguments):
    plan = [*arguments, "--seeds", "5", "6"]
    for more, said_to_be in (([], r"about \d+ s; "), (["--workers", "2"], r"about \d+ s one after the other; ")):
        assert re.search(f"2 to do: {said_to_be}", Study(parse(StudyConfig, [*plan, *more])).outline())


def test_a_run_that_failed_is_not_said_to_be_resumed(done, arguments, output):
    """Nor is it resumed: it would fail alike."""
    done.result_path(done.cells[0]).unlink()
    (path,) = output.glob("softprompt_base/savings/*/run.json")
    for status, said_to_be in {"running": "to resume", "interrupted": "to resume", "failed": "to do"}.items():
        write_json(path, read_json(path) | {"status": status})
        assert state(arguments) == said_to_be


def test_a_result_without_all_its_files_is_none(done, arguments):
    companions(done.result_path(done.cells[0]))[0].unlink()
    assert state(arguments) == "to resume"


def test_another_behaviour_version_is_done_again(done, arguments, monkeypatch):
    monkeypatch.setattr(common.study.identity.identity, "__defaults__", (3,))
    assert state(arguments) == "to do again: behaviour: 2 != 3"


def test_a_study_of_the_version_before_is_recognised(done, arguments):
    """Results of format 1: the variant is a text, the base's kind is called encoder, no behaviour version."""
    path = done.result_path(done.cells[0])
    result = read_json(path)
    base = result["base_model"]
    base["encoder"] = base.pop("kind")
    train = {name: value for name, value in result["config"]["train"].items() if name not in NEW_SETTINGS}
    result |= {"variant": "focal_cb, io", "config": result["config"] | {"train": train | {"tensorboard": False}}}
    for provenance in (result["provenance"], result["training"]["provenance"]):
        del provenance["behaviour"]
    write_json(path, result)
    assert state(arguments) == "to do again: behaviour: 1 != 2"


NEW_SETTINGS = (
    "thresholds",
    "patience_steps",
    "track",
    "max_steps",
    "eval_every",
    "optimizer",
    "gradient_checkpointing",
)


def test_what_has_no_data_or_no_base_fails_alone(done, arguments, tmp_path, dataset_path, caplog):
    write_dataset(tmp_path / "more" / "other")
    study = Study(parse(StudyConfig, [*arguments, "--dataset", str(tmp_path / "nowhere"), str(dataset_path)]))
    assert [*study.run().values()] == ["failed", "done before"]
    summary = study.summary({})
    assert "failed: SP-Base bi on nowhere, seed 1: data set 'nowhere' is none of" in summary
    assert (
        "generate it before the study, with options: python -m dataset_generation.generate --dataset nowhere" in summary
    )
    study = Study(parse(StudyConfig, [*arguments, "--base-model", str(tmp_path)]))
    write_text(study.folder / "logs" / f"{study.cells[0].id}.log", "an earlier error\n")
    assert [*study.run().values()] == ["failed"]
    assert "an earlier error" not in caplog.text, "nothing was run this time"
    assert "no gliner_config.json" in study.summary({})


@pytest.fixture
def kept(gliner_folder, dataset_path, output, tmp_path):
    """The command line of a study that measures what SP-GLiNER keeps on another data set."""
    other = write_dataset(tmp_path / "more" / "other")
    return [
        "--dataset", str(dataset_path), "--approaches", "glinerev", "--seeds", "1", "--epochs", "1",
        "--base-model", str(gliner_folder("bi-bert")), "--transfer", str(other), *ON_CPU,
    ]  # fmt: skip


def test_only_what_is_missing_of_a_transfer_is_to_do(kept, tmp_path, caplog):
    """Of a cell with a result; records of another checkpoint or version are moved away."""
    study = Study(parse(StudyConfig, kept))
    (cell,) = study.cells
    assert state(kept) == "to do, then transfer to other"
    collect(study)
    assert state(kept) == "to do: transfer to other"
    record = study.transfer_path(cell)
    checkpoint = next(spec(cell.approach).savings.glob("*/run.json")).parent
    common.transfer.main(
        ["--checkpoint", str(checkpoint), "--dataset", kept[-5], "--output", str(record), *ON_CPU, "--no-progress"]
    )
    assert (state(kept), study.run()) == ("done", {cell.id: "done before"})
    further = write_dataset(tmp_path / "more" / "further")
    assert state([*kept, "--transfer", kept[-5], str(further)]) == "to do: transfer to further"
    assert state([*kept, "--transfer", str(tmp_path / "nowhere")]) == "to do: transfer to nowhere"
    whole = read_json(record)
    for part, change in (("model", {"checkpoint": "tiny_1"}), ("provenance", {"behaviour": 1})):
        write_json(record, whole | {part: whole[part] | change})
        assert state(kept) == "to do: transfer to other"
    write_dataset(Path(kept[-5]), sizes={"train": 30, "validation": 16, "test": 18})
    write_json(record, whole)
    assert state(kept) == "to do: transfer to other"

    # The record is of another checkpoint, and that of the result is gone.
    write_json(record, whole | {"model": whole["model"] | {"checkpoint": "tiny_1"}})
    shutil.rmtree(checkpoint)
    study = Study(parse(StudyConfig, kept))
    with caplog.at_level("INFO"):
        assert study.run() == {cell.id: "failed"}
    assert f"{checkpoint}: is no longer there" in study.summary({})
    assert not record.exists()
    (moved,) = (study.folder / "superseded" / "transfer").iterdir()
    assert read_json(moved)["model"]["checkpoint"] == "tiny_1"
    assert stored_result(study.result_path(cell)), "the result stays"


def test_a_transfer_that_was_cut_off_is_all_that_is_done_then(kept, output, monkeypatch, capsys):
    """Each step in this process; a cut off transfer costs no training and no test."""
    begun, ends = [], [-signal.SIGKILL, None]

    def in_this_process(module, arguments, *_):
        begun.append(module)
        if module == "common.transfer" and ends:
            return ends.pop(0)
        importlib.import_module(module).main(arguments)
        return 0

    monkeypatch.setattr("common.study.work.run_module", in_this_process)
    # Killed once, and tried again; then stopped.
    assert main(kept) == 1
    printed = capsys.readouterr().out
    assert "1 cells: 0 done, 0 done before, 1 failed" in printed
    assert "failed: SP-GLiNER bi on tiny, seed 1: stopped" in printed
    assert begun == ["glinerev.train", "glinerev.test", *2 * ["common.transfer"]]
    (result,) = (output / "study" / "results").glob("*.json")
    assert state(kept) == "to do: transfer to other"
    assert not (output / "study" / "tables" / "transfer.md").exists()

    begun.clear()
    assert main(kept) == 0
    assert "1 cells: 1 done, 0 done before, 0 failed" in capsys.readouterr().out
    assert begun == ["common.transfer"]
    record = read_json(result.parent / "transfer" / result.name)
    assert list(record["corpora"]) == ["other"]
    assert record["model"]["checkpoint"] == read_json(result)["training"]["checkpoint"]
    assert (output / "study" / "tables" / "transfer.md").is_file()
    assert "| kept % |" in (output / "study" / "tables" / "main.md").read_text("utf-8")
    assert state(kept) == "done"


# -- running: real processes, some of which misbehave -----------------------------------------------------------------

FAULTS = """
import os, runpy, sys
run_module = runpy.run_module
def run_or_fail(module, **options):
    told = " ".join([module, *sys.argv[1:]])
    if module == "softprompt_base.train":
        with open(os.environ["FAULTS"], "a") as stream:
            stream.write(told + "\\n")
        if "--seed 3" in told or "ABORT" in os.environ:
            os.abort()
        if "--seed 4" in told:
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
        if "--seed 5" in told:
            raise ZeroDivisionError("nobody expects this")
    return run_module(module, **options)
runpy.run_module = run_or_fail
"""
"""A sitecustomize.py: trainings of some seeds abort, have little memory, or end with an error."""


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """Puts the faults in the way of every process; returns the command lines of trainings so far."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "faults"))
    monkeypatch.setenv("FAULTS", str(tmp_path / "begun"))
    # A fork server may be there already, without them.
    monkeypatch.setenv(SWITCH, "off")
    return lambda: (tmp_path / "begun").read_text().splitlines() if (tmp_path / "begun").is_file() else []


def test_a_result_of_other_settings_leaves_the_tables_though_no_new_one_comes(
    done, arguments, faults, monkeypatch, caplog
):
    monkeypatch.setenv("ABORT", "1")
    study = Study(parse(StudyConfig, [*arguments, "--epochs", "3"]))
    with caplog.at_level("INFO"):
        assert [*study.run().values()] == ["failed"]
    assert "to do again: configuration.train.epochs: 2 != 3" in caplog.text
    assert len(faults()) == 1 + RETRIES
    assert not any(study.results.iterdir())
    assert len(list((study.folder / "superseded").iterdir())) == 4


@pytest.fixture
def elsewhere(arguments, monkeypatch):
    """A study whose cells are given to a function instead of :func:`do_cell`."""

    def study_of(function, *more):
        monkeypatch.setattr(common.study.runner, "do_cell", function)
        return Study(parse(StudyConfig, [*arguments, *more]))

    return study_of


def test_where_and_how_a_cell_computes_holds_for_its_test_too(elsewhere, tmp_path):
    works = []

    def refused(work):
        works.append(work)
        return Outcome(None, 0.0, "refused")

    study = elsewhere(refused, *options_file(tmp_path, softprompt_base=["--eval-batch-size", "3"]))
    study.run()
    found = parse(TestConfig, ["--dataset", "tiny", *works[0].overrides]).runtime
    assert (found.device, found.precision, found.eval_batch_size) == ("cpu", "fp32", 3)


@pytest.mark.parametrize("missing", ["folder", "output", "log"])
def test_a_worker_without_the_studys_folders_ends_the_study(elsewhere, missing, tmp_path):
    nowhere = tmp_path / "nowhere"

    def on_another_machine(work):
        return do_cell(replace(work, **{missing: nowhere / "log" if missing == "log" else nowhere}))

    study = elsewhere(on_another_machine)
    with pytest.raises(InputError, match=rf"^worker 1: has no folder {nowhere}; all workers need the study's folders"):
        study.run()
    assert not nowhere.exists()


def test_a_result_that_is_on_another_machine_ends_the_study(elsewhere, tmp_path):
    study = elsewhere(lambda work: Outcome(tmp_path / "there.json", 1.0))
    with pytest.raises(InputError, match=r"there\.json: was written by a worker and is not here; all workers need"):
        study.run()


def test_a_process_that_ends_with_its_study_is_not_tried_again(elsewhere, monkeypatch):
    monkeypatch.setattr(common.study.work, "run_module", lambda *arguments: -signal.SIGKILL)
    monkeypatch.setattr(common.study.work, "place", lambda: Place("worker 1", lambda: True))
    study = elsewhere(do_cell)
    study.run()
    assert [*study.errors.values()] == ["stopped"]
    (log,) = (study.folder / "logs").iterdir()
    assert (log.read_text().count("-- softprompt_base.train"), "SIGKILL" in log.read_text()) == (1, False)


def test_a_scheduler_that_ends_ends_the_study(elsewhere, monkeypatch):
    class Lost(ThreadPoolExecutor):
        def submit(self, *arguments):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    monkeypatch.setattr(common.study.runner, "executor", lambda workers, cluster: Lost())
    study = elsewhere(do_cell)
    study.config = replace(study.config, cluster="tcp://a:1")
    with pytest.raises(InputError, match=r"^--cluster tcp://a:1: the Dask scheduler has ended; with another one"):
        study.run()
    assert not study.errors


@pytest.mark.processes
def test_a_study_survives_its_cells_and_its_own_end(arguments, faults, output, tmp_path, capsys, caplog, monkeypatch):
    """Killed in a training; then cells that abort, lack memory and end with an error beside one that resumes."""
    options = options_file(tmp_path, softprompt_base=["--patience", "0", "--epochs", "80"])
    position = arguments.index("--epochs")
    arguments = [*arguments[:position], *arguments[position + 2 :], *options]
    first = subprocess.Popen(
        [sys.executable, "-m", "common.study", *arguments], cwd=PROJECT_ROOT, env=os.environ | {SWITCH: "on"}
    )
    deadline = time.monotonic() + 120
    while not list(output.glob("softprompt_base/savings/*/state_*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    for process in started:
        process.wait(30)
    assert state(arguments) == "to resume"

    # Another test counts the retries that users have.
    monkeypatch.setattr("common.study.work.RETRIES", 1)
    with caplog.at_level("INFO"):
        assert main([*arguments, "--seeds", "1", "3", "4", "5", "--workers", "2"]) == 1
    printed, folder = capsys.readouterr().out, output / "study"
    assert "4 cells: 1 done, 0 done before, 3 failed" in printed
    assert re.search(r"failed: SP-Base bi on tiny, seed 3: train.py ended by SIGABRT, after 1 retries", printed)
    assert re.search(r"failed: SP-Base bi on tiny, seed 5: train.py exit status 1, after 1 retries", printed)
    assert "seed 4: failed: train.py" in caplog.text
    assert "    ZeroDivisionError: nobody expects this" in caplog.text
    (log,) = (folder / "logs").glob("*_s1_*.log")
    assert "resumed at step" in log.read_text()
    assert re.match(r"worker [12]: SP-Base bi on tiny, seed 1\n", log.read_text())
    # Each of the others was begun twice, the first one once more than before.
    begun = [line for line in faults() if "--seed 1" in line]
    assert (len(faults()), len(begun), "--resume" in begun[1]) == (2 + 3 * 2, 2, True)
    assert len(list((folder / "results").glob("*.json"))) == 1
    assert len(read_json(next(output.glob("softprompt_base/savings/*/run.json")))["history"]) == 80
    assert len(list(output.glob("softprompt_base/savings/*/run.json"))) == 1, "trained once"
    assert len(list(output.glob("softprompt_base/test_results/*.json"))) == 1, "and tested once"
    assert (folder / "tables" / "main.md").is_file()
