"""Tables come from result files alone, and the README's table is the one that the committed files give."""

from __future__ import annotations

import copy
import json

import pytest

from common import compare
from common.errors import InputError
from common.paths import PROJECT_ROOT
from common.results import predictions_path
from common.tables import MARKERS, comparison, find_results, main, put_between_markers

RESULT = {
    "created": "2026-01-01T00:00:00.000000+00:00",
    "dataset_sha256": "abc",
    "precision": "bf16",
    "approach": "glinerev",
    "variant": "residual",
    "dataset": "mine",
    "split": "test",
    "base_model": {"name": "owner/base", "revision": "1", "encoder": "bi"},
    "seed": 42,
    "scores": {"micro": {"f1": 0.81234}, "macro": {"f1": 0.70049}},
    "intervals": {"micro_f1": [0.8, 0.82], "macro_f1": [0.69, 0.71]},
    "parameters": {"total": 1000, "trainable": 105, "with_gradient": 100},
    "speed": {"sentences_per_second": 99.6},
    "config": {},
    "provenance": {},
    "training": {
        "dataset": {"train": 4560},
        "epochs": 5,
        "seconds_per_epoch": 12.34,
        "feature_seconds": 8.44,
        "peak_memory_mb": {"cpu": 800.4},
    },
}


def write(path, day=2, **changes):
    result = copy.deepcopy(RESULT) | {"created": f"2026-01-{day:02}T00:00:00.000000+00:00"} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def test_row_by_hand(tmp_path):
    table = comparison([write(tmp_path / "a.json")])
    assert table.splitlines()[2] == (
        "| mine | glinerev | residual | owner/base | 42 | 4,560 | 5 | 0.8123 | 0.800-0.820 | 0.7005 | 0.690-0.710 "
        "| 105 | 10.50 | 10.00 | 12.3 | 8.4 | 800 CPU | bf16 | 100 |"
    )


def test_rows_rise_with_micro_f1_inside_a_data_set(tmp_path):
    better = write(tmp_path / "a.json", variant="better", scores={"micro": {"f1": 0.9}, "macro": {"f1": 0.1}})
    other = write(tmp_path / "b.json", variant="other corpus", dataset="a corpus")
    worse = write(tmp_path / "c.json", variant="worse")
    rows = comparison([better, other, worse]).splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["other corpus", "worse", "better"]


def test_newest_result_of_a_kind_is_shown(tmp_path):
    new = write(tmp_path / "test_results" / "a_new.json", day=3)
    write(tmp_path / "test_results" / "z_old.json", day=1)
    seed = write(tmp_path / "test_results" / "seed.json", seed=43)
    small = write(tmp_path / "small.json", training=RESULT["training"] | {"dataset": {"train": 100}})
    assert set(find_results([tmp_path], None)) == {new, seed, small}
    with pytest.raises(InputError, match="no results found on nothing"):
        find_results([tmp_path], "nothing")


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"approach": "glinerev"}')
    with pytest.raises(InputError, match=r"x\.json: is no result file, it lacks \['created', 'variant'"):
        comparison([tmp_path / "x.json"])
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_results([tmp_path / "missing"], None)


def predictions(path, gold, predicted):
    write(path, labels=["chemical", "disease"])
    lines = [
        json.dumps({"tokenized_text": ["w"] * 9, "ner": ner, "predicted": [[*span, 0.9] for span in found]})
        for ner, found in zip(gold, predicted, strict=True)
    ]
    predictions_path(path).write_text("\n".join(lines) + "\n")
    return path


def test_compare_two_results(tmp_path, capsys):
    gold = [[[0, 0, "chemical"], [2, 3, "disease"]]] * 60
    better = predictions(tmp_path / "a.json", gold, gold)
    worse = predictions(tmp_path / "b.json", gold, [spans[:1] for spans in gold])
    compare.main([str(better), str(worse)])
    # micro F1: 1 against 2 * 60 / (60 + 120) = 2/3; macro F1: 1 against 1/2.
    assert capsys.readouterr().out.splitlines() == [
        "micro_f1: first - second = +33.33 points, 95 % interval [+33.33, +33.33], p = 0.002",
        "macro_f1: first - second = +50.00 points, 95 % interval [+50.00, +50.00], p = 0.002",
    ]
    other = predictions(tmp_path / "c.json", gold[:1], gold[:1])
    with pytest.raises(InputError, match=r"a\.json and .*c\.json: the two runs were not scored on the same sentences"):
        compare.main([str(better), str(other)])
    predictions_path(other).write_text('{"ner": []}\n')
    with pytest.raises(InputError, match=r"c_predictions\.jsonl: line 1 is no prediction record: 'predicted'"):
        compare.main([str(better), str(other)])
    predictions_path(other).unlink()
    with pytest.raises(InputError, match="the comparison needs the predictions of both results"):
        compare.main([str(better), str(other)])


def test_table_between_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    put_between_markers(path, "| new |\n")
    assert path.read_text() == f"before\n{MARKERS[0]}\n| new |\n{MARKERS[1]}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(InputError, match=r"README\.md: needs the lines"):
        put_between_markers(path, "x")


def test_readme_shows_the_committed_results(tmp_path):
    readme = tmp_path / "README.md"
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    main(["--results", str(PROJECT_ROOT / "results"), "--readme", str(readme)])
    assert readme.read_text(encoding="utf-8") == text
