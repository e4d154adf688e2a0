"""Run folders: what is in them, and that one which does not fit is refused with the reason."""

import json
import re
import shutil
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import save_file
from tiny import LABELS, message_of, predictions, save_gliner, set_threshold

import common.checkpoint
import common.paths
import full_finetune.model
import full_finetune.spec
import glinerev.model
import glinerev.spec
from common.checkpoint import load_checkpoint
from common.data.labels import LabelSet
from common.errors import InputError
from common.files import read_json, write_json
from common.paths import new_run_dir
from common.training.records import RUN_FILE, WEIGHTS_FILE, find_checkpoint
from common.training.run_folder import load_tensors, save_tensors

SP, FT = glinerev.spec.SPEC, full_finetune.spec.SPEC


@pytest.fixture
def finished(trial):
    """A finished run of one epoch and its trial."""
    made = trial(SP, "bi-bert", train={"epochs": 1})
    return made, made.train()[1]


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def edit(run, **values) -> None:
    write_json(run.path / RUN_FILE, read_json(run.path / RUN_FILE) | values)


def error(run, spec=SP) -> str:
    return message_of(load_checkpoint, spec, run.path)


# -- what a run folder holds ------------------------------------------------------------------------------------------


def test_files_of_a_run(trial, output):
    made = trial(SP, "bi-bert", train={"epochs": 2})
    seen = []
    model, run = made.model(), made.start()
    assert files(run.path) == {RUN_FILE}
    made.fit(model, run, on_validation=lambda entry: seen.append(files(run.path)))
    assert seen == [
        {RUN_FILE, WEIGHTS_FILE, f"state_{step:08d}/state.json", f"state_{step:08d}/state.safetensors"}
        for step in (5, 10)
    ]
    assert files(run.path) == {RUN_FILE, WEIGHTS_FILE}
    assert run.path.parent == output / "glinerev" / "savings"
    assert re.fullmatch(r"tiny_\d{8}_\d{6}", run.path.name)


def test_record_of_a_run(finished, gliner_folder):
    made, run = finished
    record = read_json(run.path / RUN_FILE)
    assert record == run.record
    assert set(record) == {
        "format_version", "status", "created", "updated", "feature_seconds", "processes", "approach", "variant",
        "base_model", "dataset", "labels", "config", "seed", "provenance", "precision", "unreachable_gold", "best",
        "parameters", "threshold", "type_thresholds", "history", "untrained", "steps", "epochs", "train_seconds",
        "seconds_per_epoch", "peak_memory_mb",
    }  # fmt: skip
    assert (record["format_version"], record["status"], record["approach"]) == (2, "finished", "glinerev")
    assert (record["variant"], record["seed"], record["precision"]) == ({"prompt encoder": "residual"}, 1, "fp32")
    base = gliner_folder("bi-bert")
    assert record["base_model"]["source"] == str(base.resolve())
    assert record["base_model"]["name"] == base.name
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", record["base_model"]["revision"])
    assert record["dataset"] == {
        "name": "tiny", "sha256": made.data.sha256, "train": 40, "validation": 16, "test": 16,
    }  # fmt: skip
    assert record["labels"] == {
        "names": list(LABELS.names),
        "descriptions": list(LABELS.descriptions),
        "outside_description": LABELS.outside_description,
    }
    assert record["config"]["train"]["batch_size"] == 8
    assert record["provenance"]["packages"]["torch"] == version("torch")
    lost = record["unreachable_gold"]
    assert set(lost) == {"train", "validation"}
    for split in lost.values():
        assert split["by_reason"]["truncation"] == 1
        assert split["by_reason"]["maximum width"] >= 1
        assert split["lost"] == sum(split["by_reason"].values())
    (entry,) = record["history"]
    assert set(entry) == {
        "epoch", "epochs", "step", "train_loss", "learning_rates", "train_seconds", "sentences_per_second",
        "validation",
    }  # fmt: skip
    assert set(entry["validation"]) == {"macro_f1", "micro_f1", "threshold", "seconds"}
    assert record["train_seconds"] == record["seconds_per_epoch"] == entry["train_seconds"] > 0
    assert record["peak_memory_mb"]["cpu"] > 50


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(common.paths, "timestamp", lambda: "20260102_030405")
    names = [new_run_dir(tmp_path, "tiny").name for _ in range(3)]
    assert names == ["tiny_20260102_030405", "tiny_20260102_030405-2", "tiny_20260102_030405-3"]


def test_a_failed_save_leaves_the_old_weights(tmp_path, monkeypatch):
    path = tmp_path / WEIGHTS_FILE
    save_tensors(path, {"a": torch.ones(2)})

    def fail(tensors, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(common.training.run_folder, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_tensors(path, {"a": torch.zeros(2)})
    assert load_tensors(path)["a"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == [WEIGHTS_FILE]


# -- loading ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_needs_nothing_but_itself_and_the_base(finished, tmp_path, monkeypatch):
    """Not its place, not the working directory, not the data set."""
    made, run = finished
    model = made.load(run)
    set_threshold(model, made.data.test)
    moved = tmp_path / "elsewhere"
    shutil.move(run.path, moved)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.data.dataset.load_dataset", None)
    checkpoint = load_checkpoint(SP, moved)
    checkpoint.model.threshold = model.threshold
    assert predictions(checkpoint.model, made.data.test) == predictions(model, made.data.test)
    assert checkpoint.config == made.config
    assert checkpoint.labels == LABELS


def test_labels_are_those_of_the_checkpoint_in_their_order(trial):
    made = trial(SP, "bi-bert", train={"epochs": 1})
    order = LabelSet(tuple(reversed(LABELS.names)), tuple(reversed(LABELS.descriptions)), "other")
    made = made.but(data=replace(made.data, labels=order))
    _, run = made.train()
    assert load_checkpoint(SP, run.path).model.labels == order


def test_tensors_that_do_not_fit(finished):
    _, run = finished
    path = run.path / WEIGHTS_FILE
    tensors = load_tensors(path)
    name = sorted(tensors)[3]

    save_file({key: value for key, value in tensors.items() if key != name}, path)
    assert f"does not fit the model: missing ['{name}'], unexpected []" in error(run)

    save_file(tensors | {"core.rnn.extra": torch.zeros(1)}, path)
    assert "missing [], unexpected ['core.rnn.extra']" in error(run)

    shape = tuple(tensors[name].shape)
    save_file(tensors | {name: torch.zeros(*shape, 2)}, path)
    assert f"{path}: {name} has shape {(*shape, 2)}, the model {shape}" in error(run)

    save_file(tensors, path)
    whole = path.read_bytes()
    for cut in (whole[:-5], whole[:20], b""):
        path.write_bytes(cut)
        assert f"{path}: no whole safetensors file" in error(run)
    path.unlink()
    assert error(run) == f"{path}: no such file"


def test_records_that_do_not_fit(finished):
    _, run = finished
    path = run.path / RUN_FILE
    whole = path.read_text(encoding="utf-8")

    assert error(run, FT) == f"{run.path}: is a run of 'glinerev', not of 'full_finetune'"
    edit(run, format_version=3)
    assert error(run) == f"{path}: is no run record of format 1 to 2"
    path.write_text("[]")
    assert error(run) == f"{path}: is no run record of format 1 to 2"
    path.write_text(whole[: len(whole) // 2])
    assert "is the file truncated?" in error(run)
    path.write_text(whole)
    record = json.loads(whole)
    edit(run, config=record["config"] | {"colour": "red"})
    assert f"{run.path}: unknown settings ['colour']" in error(run)
    edit(run, config=record["config"] | {"prompt_form": "inverse"})
    assert f"{run.path}: prompt_form must be one of 'post_norm', 'residual', got 'inverse'" in error(run)
    path.unlink()
    assert error(run) == f"{path}: no such file"
    shutil.rmtree(run.path)
    assert error(run) == f"{run.path}: no such run folder"


def test_a_base_whose_weights_changed(trial, tmp_path, gliner_folder):
    base = tmp_path / "base"
    shutil.copytree(gliner_folder("bi-bert"), base)
    made = trial(SP, "bi-bert", train={"epochs": 1})
    made.config = replace(made.config, base_model=str(base))
    run = made.train()[1]
    made.load(run)
    tensors = load_tensors(base / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, base / "model.safetensors")
    assert re.search(r"was trained on base model .*base' at sha256:\w+, .*base' is sha256:", error(run))
    shutil.rmtree(base)
    assert error(run) == (f"{run.path}: base model {str(base)!r} is no longer there; say where it is with --base-model")
    save_gliner(base, "cross", "bert")
    assert "is a UniEncoderSpanGLiNER; the bi-encoder approaches need a BiEncoderSpanGLiNER" in error(run)


def test_a_base_that_moved(trial, tmp_path, gliner_folder):
    base, moved = tmp_path / "base", tmp_path / "moved"
    shutil.copytree(gliner_folder("bi-bert"), base)
    made = trial(SP, "bi-bert", train={"epochs": 1})
    made.config = replace(made.config, base_model=str(base))
    model, run = made.train()
    base.rename(moved)
    loaded = load_checkpoint(SP, run.path, str(moved)).model
    assert predictions(loaded, made.data.test) == predictions(model, made.data.test)
    # The weights decide, not the name.
    with pytest.raises(InputError, match=r"was trained on base model 'base' at sha256:\w+, '.*' is sha256:"):
        load_checkpoint(SP, run.path, str(gliner_folder("bi-deberta")))


# -- which run is the latest ------------------------------------------------------------------------------------------


@pytest.fixture
def stamped(finished):
    """Makes copies of the finished run with another state, data set and age."""
    _, run = finished

    def make(name: str, age: int, **values):
        path = run.path.parent / name
        shutil.copytree(run.path, path)
        write_json(path / RUN_FILE, read_json(path / RUN_FILE) | {"created": created(age)} | values)
        return path

    def created(age: int) -> str:
        return f"2026-01-01T00:00:{1000 - age:06}"

    edit(run, created=created(1000))
    return run.path, make


def test_latest_is_the_newest_finished_run_of_the_data_set(stamped, caplog):
    oldest, make = stamped
    assert find_checkpoint(SP, "latest", "tiny") == find_checkpoint(SP, "latest") == oldest
    newer = make("tiny_a", age=500)
    running = make("tiny_b", age=100, status="running")
    other = make("other_c", age=50, dataset={"name": "other"})
    assert find_checkpoint(SP, "latest", "tiny") == newer
    assert f"passed over {running}: status running" in caplog.text
    assert find_checkpoint(SP, "latest", "other") == find_checkpoint(SP, "latest") == other
    # A folder that is no run of ours is passed over, not stumbled upon.
    (other / RUN_FILE).write_text("{")
    assert find_checkpoint(SP, "latest") == newer
    assert "passed over" in caplog.text
    assert "not whole JSON" in caplog.text


def test_an_interrupted_run_counts_if_it_has_weights(stamped):
    oldest, make = stamped
    interrupted = make("tiny_a", age=10, status="interrupted")
    assert find_checkpoint(SP, "latest", "tiny") == interrupted
    (interrupted / WEIGHTS_FILE).unlink()
    assert find_checkpoint(SP, "latest", "tiny") == oldest


def test_no_run_says_how_to_make_one(finished):
    with pytest.raises(
        InputError, match=r"no finished run of glinerev on other in .*; train one with: python -m glinerev\.train"
    ):
        find_checkpoint(SP, "latest", "other")
    with pytest.raises(InputError, match=r"train one with: python -m full_finetune\.train"):
        find_checkpoint(FT, "latest")
