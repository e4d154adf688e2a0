"""The benchmark: what it measures is what it says, and its tables."""

import json
from dataclasses import asdict

import pytest
from tiny import SIZES

from common.benchmark import measures as benchmark
from common.benchmark.__main__ import main
from common.benchmark.bench import Bench
from common.benchmark.config import Config
from common.benchmark.measures import Measure, child
from common.benchmark.report import read_benchmark, render
from common.errors import InputError
from common.files import read_json, write_json
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT


@pytest.fixture
def ask(gliner_folder, dataset_path, tmp_path, monkeypatch):
    """Measures in this process, as a child does."""
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path))

    def measured(kind, base, **settings):
        options = {"precision": "fp32", "batch_size": 8, "sentences": None} | settings
        asked = Measure(
            kind, base.split("-")[0], dataset=str(dataset_path), base_model=str(gliner_folder(base)), **options
        )
        write_json(tmp_path / "asked.json", asdict(asked))
        child([str(tmp_path / "asked.json"), str(tmp_path / "answer.json")])
        return read_json(tmp_path / "answer.json")

    return measured


@pytest.mark.parametrize("approach", ["softprompt_base", "glinerev", "full_finetune"])
def test_our_training_is_measured(ask, approach):
    answer = ask("train", "bi-bert", approach=approach)
    # One epoch's seconds and speed are of the same epoch.
    assert answer["sentences_per_second"] * answer["seconds_per_epoch"] == pytest.approx(SIZES["train"], rel=1e-6)
    assert (answer["batch_size"], answer["precision"]) == (8, "fp32")
    assert answer["peak_memory_mb"] > 0
    assert (answer["feature_seconds"] > 0) == (approach != "full_finetune")


@pytest.mark.slow
@pytest.mark.parametrize("base", ["bi-bert", "cross-bert"])
def test_gliners_own_training_is_measured(ask, base):
    answer = ask("gliner train", base, sentences=64)
    assert answer["sentences_per_second"] > 0
    assert (answer["batch_size"], answer["precision"]) == (8, "fp32")


@pytest.mark.parametrize("base", ["bi-bert", "cross-bert"])
def test_both_evaluations_are_of_the_same_sentences_and_predict_the_same(ask, base):
    ours, theirs = ask("evaluate", base), ask("gliner evaluate", base)
    assert len(ours["predictions"]) == SIZES["test"]
    assert any(ours["predictions"])
    assert ours["predictions"] == theirs["predictions"]


def test_more_sentences_and_labels_than_the_data_has(ask, monkeypatch):
    seen = []
    original = benchmark.fit
    monkeypatch.setattr(benchmark, "fit", lambda model, data, *rest: seen.append(data) or original(model, data, *rest))
    ask("train", "bi-bert", approach="softprompt_base", sentences=2 * SIZES["train"] + 1, labels=9)
    ask("train", "bi-bert", approach="softprompt_base", sentences=16, labels=1)
    more, fewer = seen
    assert (len(more.train), len(more.labels)) == (2 * SIZES["train"] + 1, 9)
    assert (len(fewer.train), len(fewer.labels)) == (16, 1)
    assert {span.label for sentence in fewer.train for span in sentence.spans} == set(fewer.labels.names)


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """A run of the benchmark whose figures follow from what is asked."""

    def measured(self, kind, encoder, **settings):
        speed = 10.0 if kind.startswith("gliner") else 400.0
        return {
            "sentences_per_second": speed + (settings["batch_size"] or 0) / 8,
            "seconds_per_epoch": 1.0,
            "feature_seconds": 2.0,
            "peak_memory_mb": 100 * speed,
            "batch_size": settings["batch_size"] or 5,
            "precision": settings["precision"],
            "predictions": [[], [[0, 1, "x"]]] if kind == "evaluate" else [[], []],
        }

    monkeypatch.setattr(Bench, "measure", measured)
    return tmp_path / "benchmark.json"


def test_rows_ratios_and_tables(made_up, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- speed -->\n<!-- /speed -->\n")
    main(["--dataset", "mine", "--output", str(made_up), "--readme", str(readme), "--scaling", "injection_bi"])
    record = read_json(made_up)
    rows = {(row["measure"], row["approach"]): row for row in record["rows"]}
    row = rows["training, same settings", "SP-GLiNER, bi"]
    assert row["ours"]["batch_size"] == row["gliner"]["batch_size"] == 16
    assert row["ratio"] == pytest.approx(402 / 12)
    # GLiNER's best is the larger batch; ours is the approach's own default.
    best = rows["training, each at its best", "SP-GLiNER, bi"]
    assert (best["gliner"]["batch_size"], best["ours"]["batch_size"]) == (32, 5)
    assert {row["sentences_with_other_predictions"] for row in record["rows"] if "evaluation" in row["measure"]} == {1}
    assert rows["4000 sentences", "SP-Bi"]["ratio"] is None
    text = made_up.with_suffix(".md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert readme.read_text() == f"<!-- speed -->\n{text}<!-- /speed -->\n"
    assert "| training, same settings | SP-GLiNER, bi | 402 | 12.0 | 33.5 | 40,000 | 1,000 | 2 | 16, " in text
    main(["--show", str(made_up)])
    assert capsys.readouterr().out == text + "\n"


def test_a_run_that_is_stopped_keeps_its_rows_and_the_run_before(made_up, monkeypatch):
    main(["--output", str(made_up)])
    before = made_up.read_bytes()
    done = Bench.measure

    def measured(self, kind, encoder, **settings):
        if len(self.rows) == 2:
            raise KeyboardInterrupt
        return done(self, kind, encoder, **settings)

    monkeypatch.setattr(Bench, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        main(["--output", str(made_up)])
    assert made_up.read_bytes() == before
    assert len(read_json(made_up.with_suffix(".partial.json"))["rows"]) == 2


def test_so_few_sentences_that_no_step_would_be_measured_are_refused():
    few = 2 * 16 * (benchmark.WARM_UP_STEPS + 1)
    assert Config(sentences=few, batch_size=16).sentences == few
    with pytest.raises(InputError, match="sentences must be at least 6 batches, got 95"):
        Config(sentences=few - 1, batch_size=16)


@pytest.mark.parametrize("option", ["scaling", "profile"])
def test_approaches_that_the_bases_do_not_suit_are_refused(option):
    """Before all that comes first has been measured, which takes hours."""
    with pytest.raises(InputError, match=f"--{option}: 'vaner' is not one of"):
        Config(**{option: ("vaner",) if option == "scaling" else "vaner"})
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        Config(batch_size=0)


def test_an_approach_scales_on_a_base_that_suits_it(made_up, monkeypatch):
    asked, measured = [], Bench.measure
    monkeypatch.setattr(Bench, "training", lambda self: None)
    monkeypatch.setattr(Bench, "evaluation", lambda self: None)
    monkeypatch.setattr(
        Bench,
        "measure",
        lambda self, kind, encoder, **more: asked.append(encoder) or measured(self, kind, encoder, **more),
    )
    main(["--output", str(made_up), "--scaling", "injection_cross"])
    assert set(asked) == {"cross"}


def test_wrong_files_end_it_before_anything_is_measured(made_up, tmp_path):
    for name, content, message in (
        ("README.md", None, r"README\.md: no such file"),
        ("README.md", "no markers", r"README\.md: needs the lines <!-- speed -->"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=message):
            main(["--output", str(made_up), "--readme", str(tmp_path / name)])
    assert not made_up.exists()
    write_json(tmp_path / "other.json", {"rows": []})
    with pytest.raises(InputError, match=r"other\.json: is no file of a benchmark"):
        main(["--show", str(tmp_path / "other.json")])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("provenance",), {}, r"provenance lacks \['machine'\]"),
        (("rows", 0), {}, r"rows\[0\] lacks \['approach'"),
        (("rows", 0, "ours", "batch_size"), "many", r"rows\[0\]\.ours\.batch_size must be a whole number, got 'many'"),
        (("rows", 0, "ratio"), None, r"rows\[0\]\.ratio must be a number, got null"),
        (("threads",), None, "threads must be a whole number, got None"),
    ],
)
def test_a_damaged_file_to_show_is_one_clear_error(tmp_path, place, value, message):
    record = json.loads((PROJECT_ROOT / "results" / "benchmark.json").read_text())
    write_json(tmp_path / "good.json", record)
    assert read_benchmark(tmp_path / "good.json") == record
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    write_json(tmp_path / "bad.json", record)
    with pytest.raises(InputError, match=rf"bad\.json: {message}"):
        main(["--show", str(tmp_path / "bad.json")])


@pytest.mark.processes
def test_a_failing_measure_says_what_failed(tmp_path):
    bench = Bench(Config(dataset="nowhere", output=tmp_path / "x.json"))
    with pytest.raises(InputError, match=r"failed with exit code 1: .*'nowhere' does not exist"):
        bench.measure("train", "bi", approach="ldsa", precision="fp32", batch_size=8, sentences=None)


def test_the_documentation_shows_the_committed_benchmark():
    """After a new run: ``python -m common.benchmark --show results/benchmark.json --readme docs/speed.md``."""
    record = json.loads((PROJECT_ROOT / "results" / "benchmark.json").read_text())
    assert f"<!-- speed -->\n{render(record)}<!-- /speed -->" in (PROJECT_ROOT / "docs" / "speed.md").read_text("utf-8")
