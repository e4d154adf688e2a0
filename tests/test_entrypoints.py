"""Every entry script as a user runs it: its files, its result, its help, and a table of wrong input."""

import importlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
from tiny import LABELS, QUICK, SIZES, generated_split, python, write_dataset
from torch.multiprocessing import start_processes

import common.settings
import common.training.loop
from common.config import DataConfig
from common.data.dataset import SPLITS
from common.data.labels import LabelSet
from common.data.spans import Span
from common.errors import InputError
from common.evaluation.metrics import bootstrap_intervals, count_spans, span_scores
from common.evaluation.results import REQUIRED, companions, read_counts, read_result
from common.files import read_json, write_json
from common.paths import PROJECT_ROOT
from common.script import run_script
from common.settings import parse_training
from common.training.records import RUN_FILE, WEIGHTS_FILE
from glinerev.config import Config
from glinerev.spec import SPEC

FIT = [*QUICK, "--epochs", "1", "--batch-size", "8"]


def main(script: str, arguments: list[str]):
    """Calls a script by its module's name."""
    return importlib.import_module(script).main(arguments)


def check_result(path: Path, folder: Path, split: str = "test") -> dict:
    """The files of a result, and that its figures are those of its predictions."""
    stem = path.stem
    assert re.fullmatch(r"tiny_\d{8}_\d{6}(-\d+)?", stem)
    assert set(folder.iterdir()) >= set(companions(path))
    result = read_result(path)
    assert set(REQUIRED) <= set(result)

    rows = [json.loads(line) for line in (folder / f"{stem}_predictions.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == SIZES[split]
    assert {tuple(row) for row in rows} == {("tokenized_text", "ner", "predicted")}
    sentences = generated_split(SIZES[split], seed=SPLITS.index(split))
    assert [tuple(row["tokenized_text"]) for row in rows] == [sentence.words for sentence in sentences]
    gold = [[Span(*span) for span in row["ner"]] for row in rows]
    assert gold == [list(sentence.spans) for sentence in sentences]
    found = [[Span(*span[:3]) for span in row["predicted"]] for row in rows]
    counts = count_spans(gold, found, LABELS.names)
    kept = read_counts(path)
    assert (kept.types, counts.types) == (LABELS.names, LABELS.names)
    for plane in ("true_positives", "predicted", "gold"):
        assert (getattr(kept, plane) == getattr(counts, plane)).all()
    assert result["scores"] == span_scores(counts).as_dict()
    assert result["intervals"] == {name: list(ends) for name, ends in bootstrap_intervals(counts).items()}
    assert set(result["scores"]["per_type"]) == set(LABELS.names)
    assert result["speed"]["sentences"] == SIZES[split]
    assert result["unreachable_gold"]["by_reason"]["truncation"] >= 1
    assert result["split"] == split
    assert result["base_model"]["name"]
    assert result["labels"] == list(LABELS.names)

    page = path.with_suffix(".md").read_text("utf-8")
    for name in LABELS.names:
        assert f"| {name} | " in page
    assert f"| **micro** | {result['scores']['micro']['precision']:.4f} |" in page
    # No path of the machine: all of this test's lie under the temporary folder.
    for text in (page, path.read_text("utf-8")):
        assert tempfile.gettempdir() not in text
        assert str(PROJECT_ROOT) not in text
    return result


@pytest.mark.parametrize("base", ["bi-bert", "cross-bert"])
@pytest.mark.parametrize("labels", ["names", "descriptions"])
def test_zero_shot(dataset_path, gliner_folder, output, capsys, base, labels):
    encoder = base.split("-")[0]
    path = main(
        "zeroshot_baseline.test",
        ["--dataset", str(dataset_path), "--encoder", encoder, "--base-model", str(gliner_folder(base)),
         "--labels", labels, "--threshold", "0.45", *QUICK]
    )  # fmt: skip
    folder = output / "zeroshot_baseline" / "test_results"
    assert path.parent == folder
    assert len(list(folder.iterdir())) == 4
    result = check_result(path, folder)
    assert (result["approach"], result["seed"], result["threshold"]) == ("zeroshot_baseline", None, 0.45)
    assert result["variant"] == {"encoder": encoder, "labels": labels}
    assert result["parameters"]["trainable"] == result["parameters"]["with_gradient"] == 0
    assert capsys.readouterr().out == path.with_suffix(".md").read_text("utf-8") + "\n"


def test_two_results_in_one_second_are_two(dataset_path, gliner_folder, output, monkeypatch):
    monkeypatch.setattr("common.evaluation.results.timestamp", lambda: "20260102_030405")
    arguments = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), *QUICK]
    paths = [main("zeroshot_baseline.test", arguments) for _ in range(2)]
    assert [path.name for path in paths] == ["tiny_20260102_030405.json", "tiny_20260102_030405-2.json"]
    assert len(list(paths[0].parent.iterdir())) == 8


CASES = {
    "glinerev post_norm": ("glinerev", "bi-deberta", ["--prompt-form", "post_norm", "--threshold", "0.6"]),
    "full_finetune cross": ("full_finetune", "cross-deberta", ["--encoder", "cross", "--labels", "descriptions"]),
    "full_finetune gliner": ("full_finetune", "bi-bert", ["--trainer", "gliner"]),
    "ldsa": ("ldsa", "bi-deberta", ["--scheme", "bio", "--temperature", "0.2"]),
    "softprompt_base": ("softprompt_base", "bi-bert", ["--variant", "focal", "--gamma", "2"]),
    "injection_bi": ("injection_bi", "bi-bert", ["--pooling", "conv1d_strided", "--prompt-length", "5"]),
    "injection_cross span": (
        "injection_cross",
        "cross-bert",
        ["--level", "span", "--prompt-length", "4", "--train-embedding-table"],
    ),
}
WITHOUT_THRESHOLD = ("ldsa", "softprompt_base", "injection_bi", "injection_cross")
"""They take the best class."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_train_then_test(dataset_path, gliner_folder, output, case):
    approach, base, options = CASES[case]
    arguments = ["--dataset", str(dataset_path), *QUICK]
    run = main(f"{approach}.train", [*arguments, *FIT, "--base-model", str(gliner_folder(base)), *options])
    assert run.parent == output / approach / "savings"
    assert {path.name for path in run.iterdir()} == {RUN_FILE, WEIGHTS_FILE}
    record = read_json(run / RUN_FILE)

    tested = main(f"{approach}.test", arguments)
    folder = output / approach / "test_results"
    result = check_result(tested, folder)
    for key in ("approach", "variant", "seed", "parameters"):
        assert result[key] == record[key]
    assert result["training"]["checkpoint"] == run.name
    assert result["training"]["epochs"] == 1
    assert result["threshold"] == record["threshold"]
    assert "given_threshold" not in result
    assert result["dataset_sha256"] == record["dataset"]["sha256"]

    threshold = None if approach in WITHOUT_THRESHOLD else 0.02
    chosen = [] if threshold is None else ["--threshold", str(threshold)]
    other = main(f"{approach}.test", [*arguments, "--checkpoint", str(run), "--split", "validation", *chosen])
    result = check_result(other, folder, "validation")
    assert (result["threshold"], result.get("given_threshold")) == (threshold, threshold)
    # The test leaves the checkpoint as it was.
    assert read_json(run / RUN_FILE) == record


def test_sizes_limit_training_and_validation_but_not_the_test(dataset_path, gliner_folder):
    arguments = ["--dataset", str(dataset_path), *QUICK]
    limits = ["--train-size", "9", "--validation-size", "5"]
    run = main("glinerev.train", [*arguments, *FIT, *limits, "--base-model", str(gliner_folder("bi-bert"))])
    stored = read_json(run / RUN_FILE)["dataset"]
    assert (stored["train"], stored["validation"], stored["test"]) == (9, 5, SIZES["test"])
    assert read_result(main("glinerev.test", arguments))["speed"]["sentences"] == SIZES["test"]


# -- as processes -----------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_script_runs_as_a_file_from_another_folder(dataset_path, gliner_folder, output, tmp_path):
    script = str(PROJECT_ROOT / "glinerev" / "train.py")
    base = gliner_folder("bi-bert")
    # Relative paths are relative to where the user is.
    link = tmp_path / "base"
    shutil.copytree(base, link)
    done = python(script, "--dataset", dataset_path, "--base-model", "./base", *FIT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    # Beside it lies the file that is locked while it trains.
    (run,) = (path for path in (output / "glinerev" / "savings").iterdir() if path.is_dir())
    assert {path.name for path in run.iterdir()} == {RUN_FILE, WEIGHTS_FILE}
    assert str(run) in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "output"]


@pytest.mark.slow
def test_a_module_says_what_is_wrong_in_one_line(output, tmp_path):
    done = python("-m", "full_finetune.train", "--dataset", "no-such-set")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        r"error: data set 'no-such-set' does not exist \(.*\); make it with: "
        r"python -m dataset_generation\.generate --dataset no-such-set "
        r"\(with --source and --descriptions for a corpus of your own\)\n",
        done.stderr,
    )
    assert not output.exists()


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process with threads")
def test_two_processes_make_one_run_and_one_result(dataset_path, gliner_folder, output):
    """With the environment that torchrun gives, but forks of this process, which spares them the import of torch."""
    data = ["--dataset", str(dataset_path)]
    train = [*data, "--base-model", str(gliner_folder("bi-bert")), *FIT]
    test = [*data, *QUICK, "--eval-batch-size", "4"]

    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def train_and_test(rank):
        os.environ.update(place, WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
        run_script(lambda: (main("glinerev.train", train), main("glinerev.test", test)))

    start_processes(train_and_test, nprocs=2, start_method="fork")
    # Beside it lies the file that is locked while it trains.
    (run,) = (path for path in (output / "glinerev" / "savings").iterdir() if path.is_dir())
    record = read_json(run / RUN_FILE)
    # 40 sentences in batches of 8 are 5 batches: 3 for each process, the sixth being a repeated one.
    assert (record["processes"], record["status"], record["steps"]) == (2, "finished", 3)

    folder = output / "glinerev" / "test_results"
    (path,) = folder.glob("*.json")
    result = check_result(path, folder)
    assert result["speed"]["processes"] == 2
    # Split over processes or not, every sentence has its own predictions.
    alone = main("glinerev.test", test)
    assert read_result(alone)["scores"] == result["scores"]


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("zeroshot_baseline.test", {"--dataset", "--encoder", "--base-model", "--labels", "--split", "--threshold"}),
        ("glinerev.train", {"--dataset", "--train-size", "--prompt-form", "--no-head", "--rest-lr", "--resume"}),
        ("glinerev.test", {"--dataset", "--checkpoint", "--split", "--threshold", "--eval-batch-size"}),
        ("glinerev.export", {"--output", "--checkpoint", "--dataset", "--onnx", "--push-to-hub", "--data-license"}),
        ("full_finetune.export", {"--output", "--checkpoint", "--dataset"}),
        ("full_finetune.train", {"--encoder", "--trainer", "--encoder-lr", "--epochs", "--precision", "--config"}),
        ("full_finetune.test", {"--dataset", "--checkpoint", "--split", "--threshold"}),
        ("ldsa.train", {"--learning-rate", "--temperature", "--scheme", "--base-model"}),
        ("softprompt_base.train", {"--variant", "--table-lr", "--projection-lr", "--gamma", "--beta", "--scheme"}),
        ("injection_bi.train", {"--pooling", "--prompt-length", "--prompt-encoder-lr", "--train-embedding-table"}),
        ("injection_cross.train", {"--level", "--pooling", "--prompt-length", "--dropout", "--learning-rate"}),
    ],
)
def test_help(script, options, capsys):
    with pytest.raises(SystemExit) as stop:
        main(script, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert {option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)} == set()


# -- wrong input ------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(dataset_path, gliner_folder, tmp_path):
    """What command lines of the table refer to as {name}; most are made only when asked for."""

    def other_types() -> Path:
        names = ("protein", "cell type", "disease", "drug")
        return write_dataset(tmp_path / "tiny", LabelSet(names, names, "other"))

    def settings(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        return path

    def trained(script: str) -> Path:
        return main(script, ["--dataset", str(dataset_path), *FIT, "--base-model", str(gliner_folder("bi-bert"))])

    return {
        "tiny": lambda: dataset_path,
        "bi": lambda: gliner_folder("bi-bert"),
        "cross": lambda: gliner_folder("cross-bert"),
        "other_types": other_types,
        "empty": lambda: (tmp_path / "empty").mkdir() or tmp_path / "empty",
        "unknown_key": lambda: settings("unknown_key", '{"train": {"epoch": 3}}'),
        "wrong_type": lambda: settings("wrong_type", '{"train": {"epochs": "three"}}'),
        "data_text": lambda: settings("data_text", '{"data": "bc5cdr"}'),
        "group_text": lambda: settings("group_text", '{"train": 3}'),
        "out_of_range": lambda: settings("out_of_range", '{"train": {"epochs": 0}}'),
        "trained": lambda: trained("glinerev.train"),
        "trained_ldsa": lambda: trained("ldsa.train"),
    }  # fmt: skip


SP_TRAIN, SP_TEST, FT_TRAIN = "glinerev.train", "glinerev.test", "full_finetune.train"
ZERO, EXPORT = "zeroshot_baseline.test", "glinerev.export"
ON_TINY = "--dataset {tiny} --base-model {bi}"
WRONG = [
    # data
    (SP_TRAIN, "--dataset nope", r"data set 'nope' does not exist .*--dataset nope"),
    (SP_TRAIN, "--dataset .hidden", r"data set name must be letters, digits.*got '\.hidden'"),
    (SP_TRAIN, f"{ON_TINY} --train-size 41", r"train size must be between 1 and 40, got 41"),
    (SP_TRAIN, f"{ON_TINY} --validation-size 99", r"validation size must be between 1 and 16, got 99"),
    # base models
    (SP_TRAIN, "--dataset {tiny} --base-model {empty}", r"has no gliner_config\.json, so it holds no GLiNER model"),
    (SP_TRAIN, "--dataset {tiny} --base-model {tiny}/nope", r"neither a folder nor a hub id \(owner/name\) nor one of"),
    (
        SP_TRAIN,
        "--dataset {tiny} --base-model no/such",
        r"'no/such' could not be loaded: .*Without the hub, give a folder",
    ),
    (SP_TRAIN, "--dataset {tiny} --base-model {cross}", r"UniEncoderSpanGLiNER; the bi-encoder approaches need a Bi"),
    (
        ZERO,
        "--dataset {tiny} --encoder cross --base-model {bi}",
        r"BiEncoderSpanGLiNER; the cross-encoder approaches need",
    ),
    # configuration files
    (SP_TRAIN, f"{ON_TINY} --config {{empty}}/nope.json", r"nope\.json: no such file"),
    (SP_TRAIN, f"{ON_TINY} --config {{empty}}", r"is a folder, a file is needed"),
    (
        SP_TRAIN,
        f"{ON_TINY} --config {{unknown_key}}",
        r"unknown_key\.json: train: unknown settings \['epoch'\]; known are",
    ),
    (
        SP_TRAIN,
        f"{ON_TINY} --config {{wrong_type}}",
        r"wrong_type\.json: train: epochs must be a whole number, got 'three'",
    ),
    (SP_TRAIN, f"{ON_TINY} --config {{data_text}}", r"data_text\.json: data must be an object, got 'bc5cdr'"),
    (SP_TRAIN, f"{ON_TINY} --config {{group_text}}", r"group_text\.json: train must be an object, got 3"),
    (SP_TRAIN, f"{ON_TINY} --config {{out_of_range}}", r"epochs must be at least 1, got 0"),
    (SP_TRAIN, "--config {wrong_type}", r"--dataset is missing"),
    # checkpoints
    (
        SP_TEST,
        "--dataset {tiny}",
        r"no finished run of glinerev on tiny in .*; train one with: python -m glinerev\.train",
    ),
    (
        SP_TEST,
        "--dataset {other_types} --checkpoint {trained}",
        r"was trained on the types \['protein', 'cell type', 'disease'\]",
    ),
    (SP_TEST, "--dataset nope --checkpoint {trained}", r"data set 'nope' does not exist"),
    (SP_TRAIN, f"{ON_TINY} --resume {{empty}}", r"run\.json: no such file"),
    (
        "ldsa.test",
        "--dataset {tiny} --checkpoint {trained_ldsa} --threshold 0.5",
        r"--threshold: LDSA takes the best class",
    ),
    (EXPORT, "--checkpoint {trained} --output {empty}/new --result nowhere.json", r"nowhere.json: no such file"),
    # thresholds
    ("ldsa.train", f"{ON_TINY} --thresholds per-type", r"--thresholds: LDSA takes the best class and has no threshold"),
    (
        SP_TRAIN,
        f"{ON_TINY} --thresholds per-type --threshold 0.3",
        r"--thresholds: nothing is chosen, --threshold .*0\.3",
    ),
]


def fill(line: str, places: dict) -> list[str]:
    """The arguments of a line of the table."""
    for name in re.findall(r"\{(\w+)\}", line):
        line = line.replace(f"{{{name}}}", str(places[name]()), 1)
    return line.split()


@pytest.mark.parametrize(("script", "line", "message"), WRONG, ids=[f"{script} {line}" for script, line, _ in WRONG])
def test_wrong_input_is_one_line_and_status_2(script, line, message, places, capsys, output):
    arguments = fill(line, places)
    before = set(output.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_script(partial(main, script, arguments))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (error,) = [text for text in printed.err.splitlines() if text.startswith("error: ")]
    assert printed.err.endswith(f"{error}\n")
    assert re.search(message, error)
    assert "Traceback" not in printed.err
    # Nothing was begun.
    assert set(output.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "line", "message"),
    [
        (SP_TRAIN, "", "--dataset"),
        (SP_TRAIN, f"{ON_TINY} --colour red", "--colour"),
        (SP_TRAIN, f"{ON_TINY} --epochs ten", "ten"),
        (SP_TRAIN, f"{ON_TINY} --prompt-form inverse", "inverse"),
        (ZERO, f"{ON_TINY} --split train", "train"),
        (SP_TRAIN, f"{ON_TINY} --precision", "--precision"),
        (EXPORT, "--checkpoint latest", "--output"),
        (SP_TRAIN, f"{ON_TINY} --train-size 0", "train_size must be at least 1, got 0"),
        (SP_TRAIN, f"{ON_TINY} --epochs 0", "epochs must be at least 1, got 0"),
        (ZERO, f"{ON_TINY} --threshold -0.1", "threshold must be between 0 and 1, got -0.1"),
        (SP_TEST, "--dataset {tiny} --threshold nan", "threshold must be between 0 and 1, got nan"),
        (FT_TRAIN, f"{ON_TINY} --encoder-lr 0", "encoder_lr must be positive, got 0.0"),
        (ZERO, f"{ON_TINY} --eval-batch-size 0", "eval_batch_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_command_line_names_the_option(script, line, message, places, capsys, monkeypatch, output):
    """tyro frames these; with a wide terminal a message stays on its line."""
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stop:
        run_script(partial(main, script, fill(line, places)))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert not output.exists()


def test_ctrl_c_is_status_130(capsys):
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_a_bug_is_no_input_error():
    """Anything that is not the user's to see keeps its traceback."""

    def main() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_script(main)


# -- where settings come from -----------------------------------------------------------------------------------------


@pytest.fixture
def defaults(tmp_path, monkeypatch):
    """An approach folder with settings for the data set tiny."""
    monkeypatch.setattr(common.settings, "files", lambda package: tmp_path / package)
    write_json(
        tmp_path / "glinerev" / "configs" / "tiny.json",
        {"prompt_encoder_lr": 0.5, "downstream_lr": 0.5, "rest_lr": 0.5, "train": {"epochs": 5, "seed": 5}},
    )
    return tmp_path


def test_later_settings_win(defaults):
    file = defaults / "sweep.json"
    write_json(file, {"downstream_lr": 0.25, "rest_lr": 0.25, "train": {"seed": 25}})
    config, resume = parse_training(
        SPEC, ["--dataset", "tiny", "--config", str(file), "--rest-lr", "0.125", "--resume", "latest"]
    )
    assert (config.prompt_encoder_lr, config.downstream_lr, config.rest_lr) == (0.5, 0.25, 0.125)
    assert (config.train.epochs, config.train.seed) == (5, 25)
    assert config.train.batch_size == Config(data=config.data).train.batch_size
    assert config.data.dataset == ("tiny",)
    assert resume == "latest"


def test_an_empty_resume_begins_no_other_training(dataset_path):
    with pytest.raises(InputError, match="--resume needs latest or a run folder"):
        parse_training(SPEC, ["--dataset", str(dataset_path), "--resume", ""])


def test_the_command_line_can_turn_off_what_a_file_turned_on(defaults):
    file = defaults / "sweep.json"
    write_json(file, {"head": False, "threshold": 0.25, "data": {"train_size": 7}})
    config, _ = parse_training(SPEC, ["--dataset", "tiny", f"--config={file}", "--head"])
    assert (config.head, config.threshold, config.data.train_size) == (True, 0.25, 7)


def test_the_data_set_may_come_from_the_file_and_brings_its_defaults(defaults):
    file = defaults / "sweep.json"
    write_json(file, {"data": {"dataset": "tiny"}, "rest_lr": 0.25})
    config, _ = parse_training(SPEC, ["--config", str(file)])
    assert (config.data.dataset, config.rest_lr, config.downstream_lr) == (("tiny",), 0.25, 0.5)


def test_a_data_set_without_defaults_has_those_of_the_code(defaults):
    config, resume = parse_training(SPEC, ["--dataset", "other"])
    assert config == Config(data=config.data)
    assert resume is None


def test_defaults_are_for_a_corpus_and_not_for_its_name(defaults, dataset_path):
    """A data set of the same name with other types gets none of them."""
    path = defaults / "glinerev" / "configs" / "tiny.json"
    for types, rate in ((list(LABELS.names), 0.25), (["protein"], Config(DataConfig("any")).rest_lr)):
        write_json(path, {"types": types, "rest_lr": 0.25})
        assert parse_training(SPEC, ["--dataset", str(dataset_path)])[0].rest_lr == rate


@pytest.mark.parametrize(("labels", "message"), [(5, "the record must be an object, got 5"), ({"a": []}, "a must be")])
def test_defaults_of_a_data_set_without_types(defaults, tmp_path, labels, message):
    write_json(defaults / "glinerev" / "configs" / "tiny.json", {"types": ["protein"], "rest_lr": 0.25})
    file = tmp_path / "data" / "tiny" / "label2id.json"
    write_json(file, labels)
    with pytest.raises(InputError, match=re.escape(f"{file}: {message}")):
        parse_training(SPEC, ["--dataset", str(file.parent)])


def test_a_bad_default_file_is_named(defaults):
    path = defaults / "glinerev" / "configs" / "tiny.json"
    write_json(path, {"colour": "red"})
    with pytest.raises(InputError, match=r"glinerev/configs/tiny\.json: unknown settings \['colour'\]"):
        parse_training(SPEC, ["--dataset", "tiny"])
