"""What an adaptation destroys, measured: before and after, at two thresholds, and on the way between them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny import LABELS, QUICK, RUNTIME, write_dataset

import common.tables.__main__
import common.transfer
import full_finetune.spec
import glinerev.spec
import ldsa.spec
import vaner.spec
from common.checkpoint import load_checkpoint
from common.data.dataset import make_sentence
from common.data.spans import ScoredSpan, Span
from common.entry import run_test
from common.errors import InputError
from common.evaluation.zero_shot import answer, foreign_predictions
from common.files import read_json, sha256_file, write_json
from common.paths import CACHE_VARIABLE
from common.tables.plots import Point, Series, share_figure
from common.tables.transfers import kept, known_corpora, read_transfers

pytestmark = pytest.mark.slow

FT, SP, TOKENS = full_finetune.spec.SPEC, glinerev.spec.SPEC, ldsa.spec.SPEC


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another corpus."""
    return write_dataset(tmp_path_factory.mktemp("datasets") / "other")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A corpus without any of the types that the models are trained on."""
    folder = write_dataset(tmp_path_factory.mktemp("datasets") / "foreign")
    names = {"protein": "gene", "cell type": "tissue", "disease": "syndrome"}
    for path in folder.glob("*.json"):
        text = path.read_text("utf-8")
        for name, new in names.items():
            text = text.replace(f'"{name}"', f'"{new}"')
        path.write_text(text, "utf-8")
    written = read_json(folder / "manifest.json")
    for name in written["files"]:
        written["files"][name]["sha256"] = sha256_file(folder / name)
    write_json(folder / "manifest.json", written)
    return folder


def test_a_corpus_without_any_trained_type(trial, foreign):
    _, run = trial(FT, "bi-bert", train={"epochs": 1}).train()
    corpus = record_of(None, "--checkpoint", str(run.path), "--dataset", str(foreign))["corpora"]["foreign"]
    assert corpus["types"] == ["gene", "tissue", "syndrome"]
    assert corpus["foreign_types"] == ["protein", "cell type", "disease"]
    assert None not in corpus["predictions_per_100_sentences"].values()


def record_of(path, *more):
    printed = common.transfer.transfer(common.transfer.parse(common.transfer.Config, [*more, *QUICK]))
    assert printed == path or path is None
    return read_json(printed)


def test_an_untrained_adaptation_keeps_everything(trial, other):
    """A whole interpolation towards the base is the base: not a score differs."""
    made = trial(FT, "bi-bert", train={"epochs": 8, "patience": 0}, encoder_lr=3e-3, others_lr=1e-2)
    _, run = made.train()
    arguments = ["--checkpoint", str(run.path), "--dataset", str(other)]
    none = record_of(None, *arguments, "--interpolate", "0")["corpora"]["other"]
    assert none["before"] == none["after"]
    assert none["difference_best"] == {"micro_f1": [0, 0, 0], "macro_f1": [0, 0, 0]}
    adapted = record_of(None, *arguments)["corpora"]["other"]
    assert adapted["before"] == none["before"]
    assert adapted["after"] != adapted["before"]
    difference, low, high = adapted["difference_best"]["micro_f1"]
    assert low <= difference <= high
    assert difference == pytest.approx(adapted["after"]["best"]["micro_f1"] - adapted["before"]["best"]["micro_f1"])


def test_a_base_that_finds_nothing_before_it_is_trained_has_nothing_to_keep(trial, data, other):
    made = trial(vaner.spec.SPEC, "causal-llama", dbr="off", train={"epochs": 1}).but(
        data=replace(data, train=data.train[2:6], validation=data.validation[2:4])
    )
    _, run = made.train()
    arguments = ["--checkpoint", str(run.path), "--dataset", str(other), *QUICK]
    assert common.transfer.transfer(common.transfer.parse(common.transfer.Config, arguments)) is None


def test_the_untouched_base_is_measured_once(trial, other, dataset_path, tmp_path, monkeypatch):
    """For all models trained on the same types; what is taken from the cache is what was measured."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    asked = []

    def counted(model, data, runtime):
        asked.append(type(model).__module__)
        return answer(model, data, runtime)

    monkeypatch.setattr("common.evaluation.zero_shot.answer", counted)
    records = []
    for spec in (FT, SP):
        _, run = trial(spec, "bi-bert", train={"epochs": 1}).train()
        records.append(record_of(None, "--checkpoint", str(run.path), "--dataset", str(other))["corpora"]["other"])
    assert len(asked) == 3
    assert records[0]["before"] == records[1]["before"]
    (folder,) = (tmp_path / "cache" / "zero-shot").iterdir()
    # What is not whole is measured again, to the same figures.
    (folder / "best_counts.npz").write_bytes(b"")
    again = record_of(
        None, "--checkpoint", str(run.path), "--dataset", str(other), "--output", str(tmp_path / "a.json")
    )
    assert len(asked) == 5
    assert again["corpora"]["other"] == records[1]
    # A cache that cannot be written costs nothing that was measured.
    monkeypatch.setenv(CACHE_VARIABLE, str(dataset_path / "manifest.json"))
    uncached = record_of(
        None, "--checkpoint", str(run.path), "--dataset", str(other), "--output", str(tmp_path / "c.json")
    )
    assert uncached["corpora"]["other"] == records[1]
    assert len(asked) == 7
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    # Another precision is another measurement.
    arguments = ["--checkpoint", str(run.path), "--dataset", str(other), "--output", str(tmp_path / "b.json")]
    config = common.transfer.parse(common.transfer.Config, [*arguments, *QUICK, "--precision", "bf16"])
    common.transfer.transfer(config)
    assert len(asked) == 9


@pytest.mark.parametrize(("spec", "base"), [(FT, "bi-bert"), (SP, "bi-bert")], ids=lambda item: str(item)[:20])
def test_interpolation_goes_from_the_untrained_to_the_trained_weights(trial, spec, base):
    made = trial(spec, base, train={"epochs": 1})
    model, run = made.train()
    weights = [
        {
            name: value.clone()
            for name, value in load_checkpoint(spec, run.path, interpolate=share).model.named_parameters()
        }
        for share in (0.0, 0.25, 1.0)
    ]
    changed = 0
    for name, parameter in model.named_parameters():
        start, quarter, end = (side[name] for side in weights)
        assert torch.equal(end, parameter)
        assert torch.allclose(quarter, 0.75 * start + 0.25 * end, atol=1e-6)
        changed += not torch.equal(start, end)
    assert changed


def test_a_type_that_the_mixture_has_mapped_is_annotated():
    known = ("gene", "disease", "chemical")
    assert common.transfer.not_annotated(known, ("Protein", "Chemical"), {"protein": "gene"}) == ["disease"]
    assert common.transfer.not_annotated(known, ("Protein", "Chemical"), {}) == ["gene", "disease"]


def test_two_data_sets_of_one_name_are_refused(other, tmp_path):
    """The record keeps them by name: one would take the place of the other."""
    shutil.copytree(other, tmp_path / "other")
    with pytest.raises(InputError, match="--dataset: two data sets have the same name, by which the record keeps them"):
        common.transfer.main(["--checkpoint", str(tmp_path), "--dataset", str(other), str(tmp_path / "other")])


def test_what_is_done_is_kept_and_another_model_is_refused(trial, other, dataset_path, monkeypatch):
    _, run = trial(FT, "bi-bert", train={"epochs": 1}).train()
    arguments = ["--checkpoint", str(run.path), "--dataset", str(other)]
    first = record_of(None, *arguments)
    output = FT.savings.parent / "transfer" / f"{run.path.name}.json"
    assert read_json(output) == first

    def measured(approach, path, data, *_):
        assert data.name == dataset_path.name, "the other one is done"
        return first["corpora"]["other"] | {"dataset_sha256": data.sha256}

    monkeypatch.setattr(common.transfer, "_measured", measured)
    both = record_of(output, *arguments, str(dataset_path))
    assert list(both["corpora"]) == ["other", dataset_path.name]
    with pytest.raises(InputError, match=r"is of another model: interpolate: 1\.0 != 0\.5"):
        record_of(None, *arguments, "--interpolate", "0.5", "--output", str(output))


class Scripted(torch.nn.Module):
    """Finds what a table says, above its threshold."""

    labels, threshold = LABELS, 0.5

    def __init__(self, *found: ScoredSpan) -> None:
        super().__init__()
        self.found = found


def test_scores_at_both_thresholds_by_hand(monkeypatch, data):
    """One sentence a split: gold a protein; found with 0.4, and a false one with 0.3."""
    right, wrong = ScoredSpan(Span(0, 0, "protein"), 0.4), ScoredSpan(Span(1, 1, "disease"), 0.3)

    def found(model, split, runtime, accelerator, what):
        return [[item for item in model.found if item.score > model.threshold] for _ in split.encoded]

    monkeypatch.setattr("common.evaluation.zero_shot.predict_split", found)
    monkeypatch.setattr(Scripted, "encode", lambda self, sentences: sentences, raising=False)

    sentence = make_sentence(["IL-2", "binds"], [Span(0, 0, "protein")])
    tiny = replace(data, validation=[sentence], test=[sentence, sentence])
    scored = answer(Scripted(right, wrong), tiny, RUNTIME)
    assert scored.threshold == pytest.approx(0.39)
    found_scores = scored.scores()
    assert found_scores["at_half"] == {"micro_f1": 0.0, "macro_f1": 0.0}
    assert found_scores["best"] == {"micro_f1": 1.0, "macro_f1": 1.0}
    foreign = Scripted(right, wrong)
    foreign.threshold = 0.2
    assert foreign_predictions(foreign, tiny.test, ["disease"], RUNTIME) == 100
    assert json.dumps(found_scores)


def test_the_table_shows_what_is_kept(trial, other, dataset_path, tmp_path, capsys):
    """Of a model with a zero-shot path and of one without; half the way is a line of its own."""
    for spec in (FT, TOKENS):
        _, run = trial(spec, "bi-bert", train={"epochs": 1}).train()
        arguments = ["--checkpoint", str(run.path), "--dataset", str(other), *QUICK]
        capsys.readouterr()
        common.transfer.main(arguments)
        common.transfer.main([*arguments, "--interpolate", "0.5"])
        assert (capsys.readouterr().out == "none\nnone\n") == (spec is TOKENS)
        run_test(spec, ["--dataset", str(dataset_path), "--checkpoint", str(run.path), *QUICK])
    common.tables.__main__.main(["--output", str(tmp_path / "tables")])
    page = (tmp_path / "tables" / "transfer.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[0] == "| approach | share of adapted weights | seeds | other |"
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| LDSA", "-", "-"], ["| Full-FT (bi)", "1", "1"], ["| Full-FT (bi)", "0.5", "1"],
    ]  # fmt: skip
    assert lines[2].endswith("| - |")
    assert "→" in lines[3]
    assert (tmp_path / "tables" / "transfer.csv").is_file()


@pytest.mark.parametrize("difference", [{}, {"micro_f1": [0.1], "macro_f1": [0, 0, 0]}, {"micro_f1": [0, 0, 2]}])
def test_a_record_with_damaged_differences_is_passed_over_by_name(kept_record, tmp_path, caplog, difference):
    path = tmp_path / "transfer" / "a.json"
    write_json(path, kept_record(difference_best=difference))
    assert read_transfers([tmp_path]) == []
    assert "a.json: corpora.c.difference_best" in caplog.text


def test_records_of_several_behaviour_versions_are_warned_of(kept_record, tmp_path, caplog):
    write_json(tmp_path / "transfer" / "a.json", kept_record())
    assert (len(read_transfers([tmp_path])), caplog.text) == (1, "")
    old = kept_record()
    write_json(tmp_path / "transfer" / "b.json", old | {"provenance": {}, "model": old["model"] | {"seed": 2}})
    assert len(read_transfers([tmp_path])) == 2
    assert "records of behaviour versions [1, 2] stand side by side" in caplog.text


@pytest.fixture
def kept_record():
    """Makes a record of one corpus with some of its fields changed."""
    f1 = {"micro_f1": 0.5, "macro_f1": 0.5}
    side = {"at_half": f1, "best": f1, "threshold": 0.5}
    difference = {name: [0.0, 0.0, 0.0] for name in f1}
    one = {
        "dataset_sha256": "a", "sentences": 1, "types": ["t"], "before": side, "after": side, "foreign_types": [],
        "difference_at_half": difference, "difference_best": difference,
        "predictions_per_100_sentences": {"before": None, "after": None},
    }  # fmt: skip
    model = {
        "approach": "glinerev", "variant": {}, "base_model": {"name": "b", "revision": "r", "kind": "bi"}, "seed": 1,
        "trained_on": {"name": "d"}, "checkpoint": "d_1", "weights_sha256": "w", "interpolate": 1, "precision": "fp32",
    }  # fmt: skip

    def made(**changes):
        return {"created": "1", "model": model, "provenance": {"behaviour": 2}, "corpora": {"c": one | changes}}

    return made


def test_a_variant_has_a_line_of_its_own_in_the_table(trial, other, dataset_path, tmp_path):
    """One line, even if it was not measured on all corpora."""
    more = shutil.copytree(other, tmp_path / "more")
    for settings, corpora in (({}, [other, more]), ({"prompt_encoder": False}, [other])):
        _, run = trial(SP, "bi-bert", train={"epochs": 1}, **settings).train()
        common.transfer.main(["--checkpoint", str(run.path), "--dataset", *map(str, corpora), *QUICK])
        run_test(SP, ["--dataset", str(dataset_path), "--checkpoint", str(run.path), *QUICK])
    common.tables.__main__.main(["--output", str(tmp_path / "tables")])
    page = (tmp_path / "tables" / "transfer.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| SP")]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| SP-GLiNER", "1", "1"], ["| SP-GLiNER, head only", "1", "1"],
    ]  # fmt: skip
    assert "missing" in lines[1]
    assert "missing" not in lines[0]


def corpus(before: float, after: float) -> dict:
    def side(value: float) -> dict:
        return {"best": {"micro_f1": value}}

    return {"before": side(before), "after": side(after)}


def test_what_is_kept_by_hand():
    """Of corpora that the base knew, and that all runs were asked for."""
    runs = [
        {"corpora": {"a": corpus(0.8, 0.4), "b": corpus(0.6, 0.3), "unknown": corpus(0.49, 0.1)}},
        {"corpora": {"a": corpus(0.8, 0.9), "b": corpus(0.6, 0.5), "unknown": corpus(0.49, 0.1), "c": corpus(0.9, 0)}},
    ]
    for run in runs:
        # What it was trained on is no other corpus.
        run["model"] = {"trained_on": {"name": "own"}}
        run["corpora"]["own"] = corpus(0.6, 0.9)
    assert known_corpora(runs) == ["a", "b"]
    assert kept(runs) == pytest.approx((50 + 100) / 2)
    assert kept([]) is None
    assert kept([{"model": {"trained_on": {"name": "own"}}, "corpora": {"a": corpus(0.49, 0.2)}}]) is None
    members = {"name": "a+own", "members": [{"name": "a"}, {"name": "own"}]}
    assert known_corpora([runs[0] | {"model": {"trained_on": members}}]) == ["b"]


def test_the_figure_shows_all_that_is_kept_and_nothing_kept():
    points = {Series(0, False, 0, "x"): [Point(0.0, 0.5)], Series(1, False, 0, "y"): [Point(100.0, 0.7, 0.6, 0.8)]}
    (axes,) = share_figure({"data": points}, "kept").axes
    drawn = {tuple(place) for line in axes.lines for place in line.get_xydata().tolist()}
    assert {(0.0, 0.5), (100.0, 0.7)} <= drawn
    assert share_figure({}, "kept") is None
