"""What format 1 has left is read by today's code: runs, results and a study in ``data/format_1``.

They were written by the code of commit 44508c6 on this suite's own tiny bases and data set. What a machine has in its
own way is in braces and filled in here: places, and the hashes of the bases.
"""

import csv
import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
from tiny import QUICK, predictions

import common.device
import common.study.__main__
import common.study.identity
import common.tables.__main__
from common.bases import base_revision
from common.checkpoint import load_checkpoint
from common.data.dataset import load_dataset
from common.entry import run_test
from common.evaluation.results import companions, predictions_path, read_counts, read_result
from common.files import read_json
from common.paths import PROJECT_ROOT
from common.registry import spec
from common.training.records import RUN_FILE, WEIGHTS_FILE, find_checkpoint
from common.training.run_folder import load_tensors

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parent / "data" / "format_1"
BASES = {
    "glinerev": ("bi-bert", {"hidden_size": 12}),
    "softprompt_base": ("bi-bert", {}),
    "injection_bi": ("bi-bert", {}),
    "injection_cross": ("cross-bert", {}),
}
FIT = ["--epochs", "4", "--batch-size", "2", "--patience", "0", "--table-lr", "0.01", "--projection-lr", "0.01"]


@pytest.fixture
def restore(gliner_folder, dataset_path, output):
    """Copies a part of the fixtures to where it would be on this machine, and returns the place."""
    folders = [gliner_folder(name, **settings) for name, settings in BASES.values()]
    here = {"{bases}": folders[0].parent, "{datasets}": dataset_path.parent, "{output}": output}
    texts = {name: str(place) for name, place in here.items()}
    for folder in folders:
        texts[f"sha256:{{revision of {folder.name}}}"] = base_revision(str(folder))

    def copy(part: str, target: Path) -> Path:
        shutil.copytree(FIXTURES / part, target)
        for path in (*target.rglob("*.json"), *target.rglob("*.jsonl")):
            text = path.read_text("utf-8")
            for name, value in texts.items():
                text = text.replace(name, json.dumps(value)[1:-1])
            path.write_text(text, "utf-8")
        return target

    return copy


def predicted(result: Path) -> list[list]:
    """The predicted spans of each sentence with their scores."""
    lines = predictions_path(result).read_text("utf-8").splitlines()
    return [json.loads(line)["predicted"] for line in lines]


def assert_same_predictions(found: list[list], stored: list[list]) -> None:
    """The same spans, with the same scores but for rounding."""
    assert [[span[:3] for span in sentence] for sentence in found] == [
        [span[:3] for span in sentence] for sentence in stored
    ]
    scores = [span[3] for sentence in found for span in sentence]
    assert scores == pytest.approx([span[3] for sentence in stored for span in sentence], abs=2e-4)


@pytest.mark.parametrize("approach", BASES)
def test_a_checkpoint_predicts_what_it_did(approach, restore, dataset_path):
    known = spec(approach)
    run = restore(f"runs/{approach}", known.savings / "tiny_20261125_213202")
    old = FIXTURES / "results" / f"{approach}.json"
    stored, record = read_result(old), read_json(run / RUN_FILE)
    assert record["format_version"] == 1
    assert stored["scores"]["micro"]["f1"] > 0

    assert find_checkpoint(known, "latest", "tiny") == run
    loaded = load_checkpoint(known, run)
    assert loaded.record["variant"] == known.variant(loaded.config)
    found = predictions(loaded.model, load_dataset(str(dataset_path)).test)
    assert_same_predictions([[[*item.span, item.score] for item in sentence] for sentence in found], predicted(old))

    new = run_test(known, ["--dataset", str(dataset_path), *QUICK])
    assert_same_predictions(predicted(new), predicted(old))
    result = read_result(new)
    assert result["scores"] == stored["scores"] | {"defined_types": 3}
    for key in ("parameters", "seed", "threshold", "dataset_sha256", "labels"):
        assert result[key] == stored[key], key
    assert (read_counts(new).true_positives == read_counts(old).true_positives).all()
    assert read_json(run / RUN_FILE) == record, "a test changes no run"


def test_an_unfinished_run_is_resumed_and_ends_as_the_finished_one(restore, gliner_folder, dataset_path):
    """SP-Base has parameters of other names now, and its states were named by epochs."""
    known = spec("softprompt_base")
    run = restore("unfinished", known.savings / "tiny_20261125_213206")
    train = importlib.import_module("softprompt_base.train").main
    arguments = ["--dataset", str(dataset_path), "--base-model", str(gliner_folder("bi-bert")), *QUICK, *FIT]
    assert train([*arguments, "--seed", "1", "--resume", "latest"]) == run
    assert sorted(path.name for path in run.iterdir()) == [RUN_FILE, WEIGHTS_FILE]

    record, whole = read_json(run / RUN_FILE), read_json(FIXTURES / "runs" / "softprompt_base" / RUN_FILE)
    assert (record["status"], record["format_version"], record["steps"]) == ("finished", 2, whole["steps"])
    assert [start["git"]["commit"][:7] for start in record["earlier_provenance"]] == ["44508c6"]
    for entry, before in zip(record["history"], whole["history"], strict=True):
        assert entry["train_loss"] == pytest.approx(before["train_loss"], abs=1e-4)
        assert entry["validation"]["macro_f1"] == pytest.approx(before["validation"]["macro_f1"], abs=1e-4)
    stored = load_tensors(FIXTURES / "runs" / "softprompt_base" / WEIGHTS_FILE, known.renamed)
    weights = load_tensors(run / WEIGHTS_FILE)
    assert set(weights) == set(stored)
    for name, tensor in weights.items():
        assert tensor.numpy() == pytest.approx(stored[name].numpy(), abs=1e-4), name


def test_a_result_is_a_repetition_of_todays(restore, gliner_folder, dataset_path, tmp_path, monkeypatch):
    """Another seed of the same settings, tested today, is a seed of the same row, but for the version of behaviour."""
    monkeypatch.setattr(common.device, "BEHAVIOUR_VERSION", 1)
    results = restore("results", tmp_path / "results")
    arguments = ["--dataset", str(dataset_path), *QUICK]
    train = importlib.import_module("softprompt_base.train").main
    train([*arguments, *FIT, "--seed", "2", "--base-model", str(gliner_folder("bi-bert"))])
    for path in companions(run_test(spec("softprompt_base"), arguments)):
        shutil.copy(path, results)
    common.tables.__main__.main(["--results", str(results), "--output", str(tmp_path / "tables")])
    with (tmp_path / "tables" / "main.csv").open(encoding="utf-8") as stream:
        rows = {row["approach"]: row for row in csv.DictReader(stream)}
    seeds = {name: found for name, row in rows.items() if (found := re.findall(r"\d+", row["seeds"]))}
    assert seeds == {name: ["1", "2"] if name == "softprompt_base" else ["1"] for name in BASES}


def test_a_study_differs_in_the_version_of_behaviour_alone(restore, gliner_folder, dataset_path, output, monkeypatch):
    monkeypatch.setattr(common.study.identity.identity, "__defaults__", (1,))
    folder = restore("study", output / "study")
    results = {path: path.read_bytes() for path in (folder / "results").iterdir()}
    options = ["--approaches", "softprompt_base", "--seeds", "1", "--epochs", "1", "--output", str(folder), *QUICK[:-1]]
    base = ["--base-model", str(gliner_folder("bi-bert"))]
    assert common.study.__main__.main(["--dataset", str(dataset_path), *options, *base]) == 0
    assert not list(output.glob("*/savings")), "nothing was trained"
    assert {path: path.read_bytes() for path in (folder / "results").iterdir()} == results


def test_the_settings_of_all_committed_results_are_read():
    """A setting that gets another name is told by its approach: an unreadable result is a repetition of none."""
    paths = sorted((PROJECT_ROOT / "results").glob("*_counts.npz"))
    assert paths
    for path in paths:
        result = path.with_name(f"{path.name.removesuffix('_counts.npz')}.json")
        stored = read_json(result)
        spec(stored["approach"]).stored_config(stored["config"], str(result))
    old = {"dataset": ["x"], "release_head_after": 3}
    values = {"data": {"dataset": old.pop("dataset")}, "train": {"epochs": 5}, **old}
    assert spec("glinerev").stored_config(values, "a run").unfreeze_head_after == 3
