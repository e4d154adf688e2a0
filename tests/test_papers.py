"""The papers' tables, our results beside the figures that they report."""

from pathlib import Path

import pytest
from test_tables import RESULT, write

from common.errors import InputError
from common.paths import PROJECT_ROOT
from common.registry import spec, specs
from common.schema import read_record
from common.tables.papers import REPORTED_FILE, Reported, papers_table
from common.tables.render import markdown
from common.tables.results import read_results

CAUSAL = {"name": "owner/llm", "revision": "1", "kind": "causal"}
REPORTED = {path.parent.name: path for path in sorted(PROJECT_ROOT.glob(f"*/{REPORTED_FILE}"))}


def result(path, f1, *, day=2, **changes):
    """A VANER result with the F1 of each type."""
    scores = RESULT["scores"] | {"per_type": {name: {"f1": value} for name, value in f1.items()}}
    return write(path, day, **({"approach": "vaner", "base_model": CAUSAL, "scores": scores} | changes))


def lines(table, section):
    return {(row["row"], row["of"], row["corpus"]): row["f1"] for row in table.sections[section].rows}


def test_ours_stand_below_what_they_repeat(tmp_path):
    plain, causal = {"dbr": "no DBR"}, {"dbr": "no DBR", "attention": "causal attention"}
    both = {"Chemical": 0.8, "disease": 0.7}
    result(tmp_path / "a.json", both, dataset="bc5cdr", variant=plain, seed=1)
    result(tmp_path / "b.json", both | {"disease": 0.72}, dataset="bc5cdr", variant=plain, seed=2)
    result(tmp_path / "c.json", {"disease": 0.5}, dataset="bc5cdr", variant=causal)
    data = {"data": {"dataset": ["a", "b"], "map": []}}
    of_mixture = {"mixture": "a+b", "variant": plain | {"data": "a+b"}, "config": data}
    result(tmp_path / "d.json", {"gene": 0.3}, dataset="craft", **of_mixture)
    # Of the validation split, of another variant: nowhere.
    result(tmp_path / "e.json", {"disease": 0.9}, dataset="bc5cdr", variant=plain, split="validation", seed=3)
    result(tmp_path / "f.json", {"disease": 0.9}, dataset="bc5cdr", variant=plain | {"quantization": "nf4"}, seed=4)
    table = papers_table(read_results([tmp_path]))
    found = lines(table, 1)
    row = "one corpus each, without DBR"
    assert found[row, "ours", "BC5CDR disease"] == pytest.approx(71.0)
    assert found[row, "ours", "BC5CDR chemical"] == pytest.approx(80.0)
    assert found[row, "ours", "S800"] is None
    assert found[row, "reported", "BC5CDR disease"] == 86.72
    assert found[f"{row} - causal attention", "ours", "BC5CDR disease"] == pytest.approx(50.0)
    assert ("one corpus each", "ours", "BC5CDR disease") not in found
    assert lines(table, 2)["VANER - no DBR", "ours", "Gene"] == pytest.approx(30.0)
    page = markdown(table)
    assert "| one corpus each, without DBR | ours | owner/llm | - | 71.00 | - | - | - | 80.00 | - | - |" in page
    assert "90.00" not in page


def test_other_settings_are_no_other_seeds(tmp_path):
    """The group with the most seeds counts, of as many the newest, as in the other tables."""
    plain = {"variant": {"dbr": "no DBR"}, "dataset": "bc5cdr"}
    result(tmp_path / "a.json", {"disease": 0.8}, **plain, config={"lr": 1})
    result(tmp_path / "b.json", {"disease": 0.4}, day=3, **plain, config={"lr": 2})
    row = "one corpus each, without DBR", "ours", "BC5CDR disease"
    assert lines(papers_table(read_results([tmp_path])), 1)[row] == pytest.approx(40.0)
    result(tmp_path / "c.json", {"disease": 0.6}, **plain, config={"lr": 1}, seed=43)
    assert lines(papers_table(read_results([tmp_path])), 1)[row] == pytest.approx(70.0)


def test_a_sample_of_the_training_sentences_is_named(tmp_path):
    few = {"config": {"data": {"train_size": 50}}}
    result(tmp_path / "a.json", {"disease": 0.4}, dataset="bc5cdr", variant={"dbr": "DBR"}, **few)
    table = papers_table(read_results([tmp_path]))
    assert {row["base"] for row in table.sections[0].rows if row["of"] == "ours"} == {
        "owner/llm, 50 training sentences"
    }


def test_what_a_model_says_of_its_answers_is_noted(tmp_path):
    account = {"account": {"summary": ["Generated: 10 tokens in 1.0 s.", "Copies, greedy: 4 answers."]}}
    result(tmp_path / "a.json", {"disease": 0.4}, dataset="bc5cdr", variant={"dbr": "DBR"}, **account)
    notes = papers_table(read_results([tmp_path])).sections[0].notes
    assert notes[-1] == "bc5cdr, DBR, seed 42: Generated: 10 tokens in 1.0 s. Copies, greedy: 4 answers."


def test_approaches_without_results_or_without_a_paper_have_no_table(tmp_path):
    assert papers_table(read_results([write(tmp_path / "a.json")])) is None


def test_there_are_reported_figures_of_approaches():
    assert set() < set(REPORTED) <= {item.name for item in specs()}


@pytest.mark.parametrize("name", REPORTED)
def test_reported_figures_are_whole(name):
    stored = read_record(REPORTED[name], Reported)
    for table in stored["tables"]:
        for row in table["rows"]:
            assert len(row["values"]) == len(table["columns"])
            assert all(value is None or 0 < value <= 100 for value in row["values"])
            aspects = {aspect for own in row.get("own", ()) for aspect in own["aspects"]}
            known = set(spec(name).default_variant("causal")) | {
                aspect for control in spec(name).controls for aspect in control.change
            }
            assert aspects <= known | {"name_datasets"}


def test_reported_figures_that_are_none_are_refused(tmp_path):
    path = Path(tmp_path / REPORTED_FILE)
    path.write_text('{"paper": "a", "base": "b", "tables": [{"title": "c"}]}', "utf-8")
    with pytest.raises(InputError, match="columns"):
        read_record(path, Reported)
