"""Tables come from result files alone, and the README's table is the one that the committed files give."""

from __future__ import annotations

import copy
import csv
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from common import compare
from common.config import DataConfig
from common.data.spans import Span
from common.errors import InputError
from common.evaluation.metrics import bootstrap_intervals, count_spans, paired_bootstrap, span_scores
from common.evaluation.results import counts_path, write_counts
from common.files import put_between_markers
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT
from common.registry import spec, trained
from common.tables import documents as tables
from common.tables import thesis
from common.tables.__main__ import main
from common.tables.documents import (
    controls_table,
    differences_table,
    errors_table,
    few_shot_table,
    glance,
    main_table,
    runs_table,
    types_table,
    unreachable_table,
)
from common.tables.render import escape_latex, latex, markdown, markdown_table
from common.tables.runs import MISSING, corpora, read_runs

TYPES = ("chemical", "disease")
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


def list_of_runs(*paths):
    return markdown_table(runs_table(read_runs(paths)).sections[0])


def scored(micro, macro=None):
    return {"micro": {"f1": micro}, "macro": {"f1": micro if macro is None else macro}}


def trained(n_train, **more):
    return RESULT["training"] | {"dataset": {"train": n_train}} | more


def full(encoder="bi", **changes):
    base = {"name": "owner/base" if encoder == "bi" else "owner/cross", "revision": "1", "encoder": encoder}
    return {"approach": "full_finetune", "variant": encoder, "base_model": base, "dataset": "bc5cdr"} | changes


def predicted(path, predicted_spans, gold_spans, types=TYPES, **changes):
    """A result with its counts; spans are of (start, end, type) triples."""
    gold, found = ([[Span(*span) for span in spans] for spans in side] for side in (gold_spans, predicted_spans))
    counts = count_spans(gold, found, types)
    intervals = {name: list(ends) for name, ends in bootstrap_intervals(counts).items()}
    write(path, labels=list(types), scores=span_scores(counts).as_dict(), intervals=intervals, **changes)
    write_counts(path, counts)
    return path


GOLD = [[(0, 0, "chemical"), (2, 3, "disease")]] * 40 + [[(1, 1, "disease")]] * 20


def noisy(seed, share):
    """The gold spans less a random part of them."""
    generator = np.random.default_rng(seed)
    return [[span for span in spans if generator.random() < share] for spans in GOLD]


def corpus_of(*paths):
    (found,) = corpora(read_runs(paths))
    return found


def rows_of(section):
    return {row[0]: dict(zip(section.rows.columns, row, strict=True)) for row in section.rows.itertuples(index=False)}


def cells_of(document):
    return list(csv.DictReader(document.values.to_csv(index=False, na_rep="NA").splitlines()))


# ------------------------------------------------------------------------------------------------------- list of runs


def test_row_by_hand(tmp_path):
    table = list_of_runs(write(tmp_path / "a.json"))
    assert table.splitlines()[2] == (
        "| mine | glinerev | residual | owner/base | 42 | 4,560 | 5 | 0.8123 | 0.800-0.820 | 0.7005 | 0.690-0.710 "
        "| 105 | 10.50 | 10.00 | 12.3 | 8.4 | 800 CPU | bf16 | 100 |"
    )


def test_rows_rise_with_micro_f1_inside_a_data_set(tmp_path):
    better = write(tmp_path / "a.json", variant="better", scores=scored(0.9, 0.1))
    other = write(tmp_path / "b.json", variant="other corpus", dataset="a corpus")
    worse = write(tmp_path / "c.json", variant="worse")
    last = write(tmp_path / "d.json", variant="of the thesis", dataset="bc5cdr")
    rows = list_of_runs(better, other, worse, last).splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["of the thesis", "other corpus", "worse", "better"]


def test_a_result_of_an_older_version_lacks_what_it_lacks(tmp_path):
    path = write(tmp_path / "a.json")
    old = json.loads(path.read_text())
    for name in ("intervals", "precision", "split", "training", "dataset_sha256"):
        del old[name]
    old["parameters"], old["speed"] = {"total": 10, "trainable": 1}, {}
    path.write_text(json.dumps(old))
    assert list_of_runs(path).splitlines()[2] == (
        "| mine | glinerev | residual | owner/base | 42 | - | - | 0.8123 | missing | 0.7005 | missing "
        "| 1 | 10.00 | - | - | - | - | missing | missing |"
    )


# ------------------------------------------------------------------------------------------------------------ reading


def paths_of(runs):
    return {run.path for run in runs}


def test_newest_result_of_a_cell_and_seed_counts(tmp_path, caplog):
    new = write(tmp_path / "test_results" / "a_new.json", day=3)
    old = write(tmp_path / "test_results" / "z_old.json", day=1)
    seed = write(tmp_path / "test_results" / "seed.json", seed=43)
    small = write(tmp_path / "small.json", training=trained(100))
    caplog.set_level(logging.INFO)
    assert paths_of(read_runs([tmp_path])) == {new, seed, small}
    assert f"{old}: not used, {new} is newer and has the same settings and seed" in caplog.text
    assert caplog.text.count("not used") == 1
    with pytest.raises(InputError, match="no results found on nothing"):
        read_runs([tmp_path], "nothing")


def test_where_a_run_was_made_is_no_setting(tmp_path):
    config = {"train": {"epochs": 5, "seed": 42}, "runtime": {"device": "cpu"}, "data": {"train_size": None}}
    first = write(tmp_path / "a.json", config=config)
    other_machine = config | {"runtime": {"device": "cuda"}, "data": {"train_size": 4560}}
    second = write(tmp_path / "b.json", day=3, config=other_machine)
    longer = write(tmp_path / "c.json", config=config | {"train": {"epochs": 9, "seed": 42}})
    assert paths_of(read_runs([first, second, longer])) == {second, longer}


def test_of_two_copies_the_one_with_its_counts_is_read(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with_them = predicted(tmp_path / "a.json", noisy(0, 0.8), GOLD)
    copied = tmp_path / "b.json"
    copied.write_text(with_them.read_text())
    assert paths_of(read_runs([tmp_path])) == {with_them}
    assert "not used" not in caplog.text


def test_a_file_that_is_no_result_is_named(tmp_path, caplog):
    path = tmp_path / "folder" / "x.json"
    path.parent.mkdir()
    path.write_text('{"approach": "glinerev"}')
    with pytest.raises(InputError, match=r"x\.json: is no result file, it lacks \['created', 'variant'"):
        list_of_runs(path)
    with pytest.raises(InputError, match=r"x\.json: is no result file"):
        read_runs([path.parent])
    with pytest.raises(InputError, match="missing: no such file or folder"):
        read_runs([tmp_path / "missing"])
    # A folder of results may hold other JSON files.
    path.write_text('{"speed": 1}')
    write(tmp_path / "folder" / "y.json")
    caplog.set_level(logging.INFO)
    assert len(read_runs([path.parent])) == 1
    assert f"{path}: passed over" in caplog.text


def test_other_settings_are_set_aside(tmp_path, caplog):
    """The cell with more seeds is shown, then the newer one; runs with different settings are never averaged."""
    config = {"train": {"epochs": 5}}
    for seed in (42, 43):
        write(tmp_path / f"s{seed}.json", seed=seed, config=config, scores=scored(0.5 + seed / 1000))
    other = write(tmp_path / "other.json", day=9, config={"train": {"epochs": 9}}, scores=scored(0.9))
    caplog.set_level(logging.INFO)
    row = rows_of(main_table([corpus_of(tmp_path)]).sections[0])["SP-GLiNER"]
    assert (row["micro F1"], row["seeds"]) == ("0.5425 ± 0.0007", "2")
    assert f"{other}: only in the list of runs" in caplog.text
    assert len(list_of_runs(tmp_path).splitlines()) == 2 + 3


def test_the_validation_split_is_only_in_the_list_of_runs(tmp_path):
    runs = read_runs([write(tmp_path / "a.json"), write(tmp_path / "b.json", split="validation", scores=scored(0.1))])
    (corpus,) = corpora(runs)
    assert rows_of(main_table([corpus]).sections[0])["SP-GLiNER"]["micro F1"] == "0.8123"
    assert "| mine (validation) |" in markdown_table(tables.runs_table(runs).sections[0])


# --------------------------------------------------------------------------------------------------------- main table


def test_main_row_by_hand(tmp_path):
    machine = {"provenance": {"machine": {"gpu": None, "threads": 2}}, "train_seconds": 61.7}
    path = write(
        tmp_path / "a.json", dataset="bc5cdr", training=RESULT["training"] | machine,
        parameters={"total": 51_778_944, "trainable": 5_464_704, "with_gradient": 5_000_000},
    )  # fmt: skip
    document = main_table([corpus_of(path)])
    # 5,464,704 * 4 bytes / 2**20 = 20.8 MiB; 100 * 5,464,704 / 51,778,944 = 10.55.
    assert list(rows_of(document.sections[0])["SP-GLiNER"].values()) == [
        *("SP-GLiNER", "owner/base", "0.8123", "0.800-0.820", "0.7005", "0.690-0.710", "run", "0.8526"),
        *("5,464,704", "10.55", "9.66", "≈ 13", "12.3", "800 CPU", "≈ 20.8", "CPU, 2 threads", "1"),
    ]
    record = next(cell for cell in cells_of(document) if cell["approach"] == "SP-GLiNER")
    assert record["checkpoint_bytes"] == str(4 * 5_464_704)
    # Epochs and features: 61.7 + 8.44.
    assert float(record["training_seconds"]) == pytest.approx(70.14)
    assert (record["thesis_macro_f1"], record["thesis_macro_f1_approximate"]) == ("0.8526", "False")


def test_checkpoint_size_of_the_result_is_no_estimate(tmp_path):
    path = write(tmp_path / "a.json", training=RESULT["training"] | {"checkpoint_bytes": 3 * 2**20})
    assert rows_of(main_table([corpus_of(path)]).sections[0])["SP-GLiNER"]["checkpoint MiB"] == "3.0"


def test_every_approach_has_a_row_and_what_is_missing_says_so(tmp_path):
    document = main_table([corpus_of(write(tmp_path / "a.json", dataset="jnlpba"))])
    rows = rows_of(document.sections[0])
    assert list(rows) == [
        *("Zero-shot (bi)", "Zero-shot (cross)", "LDSA", "SP-Base", "SP-Cross", "SP-Bi", "SP-GLiNER"),
        *("Full-FT (bi)", "Full-FT (cross)"),
    ]
    reported = {"macro F1 reported by the thesis": "≈ 0.60", "trained % reported by the thesis": "≈ 3"}
    ours = {name: value for name, value in rows["SP-Cross"].items() if name not in ("approach", "base", *reported)}
    assert set(ours.values()) == {"missing"}
    assert rows["SP-Cross"].items() >= reported.items()
    (record,) = [cell for cell in cells_of(document) if cell["approach"] == "SP-Cross"]
    known = {name for name, value in record.items() if value != "NA"}
    assert {name for name in known if not name.startswith("thesis")} == {
        *("dataset", "approach", "encoder", "dataset_training_sentences")
    }
    assert "2,000 test sentences" in markdown(document)


def test_mean_standard_deviation_and_t_interval_over_seeds(tmp_path):
    for seed, f1 in ((42, 0.70), (43, 0.72), (44, 0.77)):
        write(tmp_path / f"{seed}.json", seed=seed, scores=scored(f1, f1 - 0.1))
    corpus = corpus_of(tmp_path)
    row = rows_of(main_table([corpus]).sections[0])["SP-GLiNER"]
    # sd = sqrt((.03^2 + .01^2 + .04^2) / 2) = .0361; t(2) = 4.303: .73 -+ 4.303 * .0361 / sqrt(3) = .73 -+ .0896.
    assert (row["micro F1"], row["micro 95 %"]) == ("0.7300 ± 0.0361", "0.640-0.820")
    assert (row["macro F1"], row["interval"], row["seeds"]) == ("0.6300 ± 0.0361", "t", "3")
    assert cells_of(main_table([corpus]))[6]["seeds"] == "42;43;44"


def test_interval_of_the_mean_over_seeds_resamples_sentences(tmp_path):
    predicted(tmp_path / "a.json", GOLD, GOLD)
    predicted(tmp_path / "b.json", [[] for _ in GOLD], GOLD, seed=43)
    row = rows_of(main_table([corpus_of(tmp_path)]).sections[0])["SP-GLiNER"]
    # One seed finds everything and the other nothing, on whatever sentences.
    assert (row["micro F1"], row["micro 95 %"], row["interval"]) == ("0.5000 ± 0.7071", "0.500-0.500", "mean")
    spans = noisy(0, 0.7)
    for name, seed in (("a", 42), ("b", 43)):
        predicted(tmp_path / f"{name}.json", spans, GOLD, seed=seed)
    corpus = corpus_of(tmp_path)
    estimate = corpus.estimate(corpus.cells[0], "macro_f1")
    one = corpus.cells[0].first.result["intervals"]["macro_f1"]
    assert ([estimate.low, estimate.high], estimate.sd, estimate.kind) == (pytest.approx(one), 0, "mean")


def test_counts_that_do_not_give_the_scores_are_not_used(tmp_path, caplog):
    predicted(tmp_path / "a.json", GOLD, GOLD)
    path = predicted(tmp_path / "b.json", noisy(0, 0.7), GOLD, seed=43)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": scored(0.5)}))
    assert rows_of(main_table([corpus_of(tmp_path)]).sections[0])["SP-GLiNER"]["interval"] == "t"
    assert "b_counts.npz: not used, does not give the scores of the result" in caplog.text


def test_runs_on_fewer_sentences_are_marked_and_give_way(tmp_path):
    sample = {"config": {"data": {"train_size": 1000}}, "training": trained(1000)}
    small = write(tmp_path / "a.json", **full("cross", **sample, scores=scored(0.99)))
    bi = write(tmp_path / "b.json", **full())
    section = main_table([corpus_of(small, bi)]).sections[0]
    rows = rows_of(section)
    assert "Full-FT (cross) †" in rows
    assert "Full-FT (bi)" in rows
    assert "Full-FT (cross) †: trained on 1,000 of 4,560 sentences; no run on all of them." in section.notes
    whole = write(tmp_path / "c.json", **full("cross", scores=scored(0.6)))
    section = main_table([corpus_of(small, bi, whole)]).sections[0]
    assert rows_of(section)["Full-FT (cross)"]["micro F1"] == "0.6000"
    assert not [note for note in section.notes if "†" in note]
    # Where all were trained on samples, no result says how many sentences there are.
    section = main_table([corpus_of(small)]).sections[0]
    assert "Full-FT (cross) †: trained on a sample of 1,000 sentences; no run on all of them." in section.notes


def test_times_are_those_of_one_machine(tmp_path, caplog):
    def on(gpu, seconds):
        return RESULT["training"] | {
            "provenance": {"machine": {"gpu": gpu, "threads": 8}},
            "seconds_per_epoch": seconds,
        }

    trainings = (on("H100", 2.0), on("H100", 4.0), on(None, 900.0), on(None, 901.0), on(None, 902.0))
    for seed, training in enumerate(trainings):
        write(tmp_path / f"{seed}.json", seed=seed, training=training)
    caplog.set_level(logging.INFO)
    row = rows_of(main_table([corpus_of(tmp_path)]).sections[0])["SP-GLiNER"]
    assert (row["s/epoch"], row["machine"], row["seeds"]) == ("3.0", "H100", "5")
    assert "times are those of H100" in caplog.text


def test_a_run_that_changed_machines_has_the_names_of_both(tmp_path):
    gpu, one, two = ({"machine": {"gpu": name, "threads": n}} for name, n in (("H100", 8), (None, 1), (None, 2)))
    training = RESULT["training"] | {"provenance": two, "earlier_provenance": [one, gpu, one]}
    write(tmp_path / "a.json", training=training)
    row = rows_of(main_table([corpus_of(tmp_path)]).sections[0])["SP-GLiNER"]
    assert row["machine"] == "CPU, 1 thread and H100 and CPU, 2 threads"


def test_bases_of_one_kind_have_rows_of_their_own(tmp_path):
    write(tmp_path / "a.json", scores=scored(0.5))
    other = {"name": "another/base", "revision": "1", "encoder": "bi"}
    write(tmp_path / "b.json", base_model=other, scores=scored(0.6))
    rows = rows_of(main_table([corpus_of(tmp_path)]).sections[0])
    assert [(name, row["micro F1"]) for name, row in rows.items() if "GLiNER" in name] == [
        ("SP-GLiNER (another/base)", "0.6000"),
        ("SP-GLiNER (owner/base)", "0.5000"),
    ]


def test_an_approach_that_the_thesis_has_not_comes_last(tmp_path):
    rows = rows_of(main_table([corpus_of(write(tmp_path / "a.json", approach="mine", variant="v2"))]).sections[0])
    assert list(rows)[-1] == "mine"
    assert rows["mine"]["macro F1 reported by the thesis"] == "-"


# ------------------------------------------------------------------------------------------------------- other tables


def test_types_by_hand(tmp_path):
    def per_type(shift):
        row = {"precision": 0.5 + shift, "recall": 0.25, "f1": 1 / 3, "support": 1200}
        return scored(0.4) | {"per_type": {"disease": row}}

    write(tmp_path / "a.json", scores=per_type(0.0))
    write(tmp_path / "b.json", scores=per_type(0.2), seed=43)
    document = types_table([corpus_of(tmp_path)])
    rows = rows_of(document.sections[0])
    # sd of .5 and .7: .2 / sqrt(2).
    assert list(rows["SP-GLiNER"].values()) == [
        *("SP-GLiNER", "disease", "0.6000 ± 0.1414", "0.2500 ± 0.0000", "0.3333 ± 0.0000", "1,200", "2"),
    ]
    assert set(list(rows["LDSA"].values())[2:]) == {"missing"}
    assert "0.000" not in "".join(rows["LDSA"].values())


def test_differences_are_those_of_the_paired_bootstrap(tmp_path):
    better = predicted(tmp_path / "a.json", noisy(1, 0.8), GOLD, **full())
    worse = predicted(tmp_path / "b.json", noisy(2, 0.6), GOLD, **full("cross"))
    write(tmp_path / "c.json", dataset="bc5cdr")
    document = differences_table([corpus_of(tmp_path)])
    expected = paired_bootstrap(compare.read_counts(worse), compare.read_counts(better))
    records = {(r["metric"], r["first"], r["second"]): r for r in cells_of(document)}
    for metric, difference in expected.items():
        record = records[metric, "Full-FT (cross)", "Full-FT (bi)"]
        found = [float(record[name]) for name in ("difference", "low", "high", "p_value")]
        assert found == pytest.approx([difference.difference, difference.low, difference.high, difference.p_value])
    assert records["micro_f1", "Full-FT (cross)", "SP-GLiNER"]["difference"] == "NA"
    rows = rows_of(document.sections[0])
    micro = expected["micro_f1"]
    points = [f"{100 * value:+.1f}".replace("-", "−") for value in (micro.difference, micro.low, micro.high)]
    assert rows["Full-FT (cross)"]["Full-FT (bi)"] == "{} [{}, {}] *".format(*points)
    assert rows["Full-FT (bi)"]["SP-GLiNER"] == "missing"
    assert rows["Full-FT (bi)"]["Full-FT (bi)"] == ""
    notes = document.sections[0].notes
    assert "Missing for want of counts (_counts.npz) beside the result files: SP-GLiNER." in notes
    assert any(
        note.startswith("Missing for want of results: Zero-shot (bi), Zero-shot (cross), LDSA") for note in notes
    )


def test_results_on_other_sentences_are_not_compared(tmp_path):
    predicted(tmp_path / "a.json", noisy(1, 0.8), GOLD, **full())
    predicted(tmp_path / "b.json", noisy(2, 0.6)[:50], GOLD[:50], **full("cross"))
    section = differences_table([corpus_of(tmp_path)]).sections[0]
    assert rows_of(section)["Full-FT (cross)"]["Full-FT (bi)"] == "missing"
    assert "Missing between results that were not scored on the same sentences." in section.notes


def controls(corpus):
    section = controls_table([corpus]).sections[0]
    rows = [dict(zip(section.rows.columns, row, strict=True)) for row in section.rows.itertuples(index=False)]
    return {(row["approach"], row["variant"]): row for row in rows}, section.notes


def test_controls_stand_beside_their_default(tmp_path):
    predicted(tmp_path / "default.json", noisy(1, 0.8), GOLD, config={"head": True, "prompt_encoder": True, "lr": 1})
    control = {"head": True, "prompt_encoder": False, "lr": 2, "new": 1}
    predicted(tmp_path / "control.json", noisy(2, 0.5), GOLD, variant="head only", config=control)
    write(tmp_path / "post.json", variant="post_norm", scores=scored(0.5), seed=43)
    write(tmp_path / "focal.json", variant="residual, focal", scores=scored(0.6))
    corpus = corpus_of(tmp_path)
    rows, notes = controls(corpus)
    f1 = corpus.rows[6].cell.first.result["scores"]["micro"]["f1"]
    head_only = rows["SP-GLiNER", "head only"]
    assert (head_only["control"], head_only["default"], head_only["default micro F1"]) == (
        *("head only", "residual"), f"{f1:.4f}",
    )  # fmt: skip
    assert head_only["micro: variant − default"].startswith("−")
    assert head_only["micro: variant − default"].endswith("*")
    assert "SP-GLiNER, head only, differs from its default also in lr: 1 != 2." in notes
    # Without predictions the difference has no interval; without a result there is none.
    expected = f"{100 * (0.5 - f1):+.1f} [missing]".replace("-", "−")
    assert rows["SP-GLiNER", "post_norm"]["micro: variant − default"] == expected
    assert rows["SP-GLiNER", "residual, prompt only"]["micro: variant − default"] == "missing"
    assert rows["SP-GLiNER", "residual, prompt only"]["seeds"] == "missing / 1"
    assert rows["SP-GLiNER", "residual, focal"]["control"] == "other variant"
    assert ("LDSA", "bio") in rows
    assert ("Zero-shot (cross)", "cross, descriptions") in rows


def test_a_control_on_fewer_sentences_is_compared_with_its_like(tmp_path):
    write(tmp_path / "a.json", scores=scored(0.9))
    sample = {"config": {"data": {"train_size": 50}}, "training": trained(50)}
    write(tmp_path / "b.json", **sample, scores=scored(0.5))
    write(tmp_path / "c.json", **sample, scores=scored(0.4), variant="post_norm")
    rows, notes = controls(corpus_of(tmp_path))
    assert rows["SP-GLiNER †", "post_norm"]["default micro F1"] == "0.5000"
    assert any("post_norm: trained on 50 of 4,560 sentences" in note for note in notes)


def test_unreachable_gold_of_all_variants(tmp_path):
    report = {"gold": 2000, "lost": 30, "share": 0.015, "by_reason": {"touching": 28, "truncation": 2, "width": 0}}
    token = {"approach": "ldsa", "base_model": full()["base_model"]}
    write(tmp_path / "a.json", **token, variant="io", unreachable_gold=report)
    ceiling = {"ceiling": {"micro_f1": 0.98765, "macro_f1": 0.9}}
    write(tmp_path / "b.json", **token, variant="bio", unreachable_gold=report | {"lost": 2, "by_reason": {}} | ceiling)
    section = unreachable_table([corpus_of(tmp_path)]).sections[0]
    rows = [list(row) for row in section.rows.itertuples(index=False) if row[0] == "LDSA"]
    assert rows == [
        ["LDSA", "io", "2,000", "30", "1.50", "28 touching, 2 truncation", "missing", "missing"],
        ["LDSA", "bio", "2,000", "2", "0.10", "-", "0.9877", "0.9000"],
    ]


def test_missed_gold_by_kind_and_words(tmp_path):
    kinds = {"boundary": 100, "type": 40, "boundary_and_type": 10, "missed": 50, "spurious": 30, "confusion": {}}
    token = {
        "approach": "ldsa",
        "base_model": full()["base_model"],
        "variant": "io",
        "unreachable_gold": {"gold": 1000},
    }
    words = {"token_report": {"macro": {"f1": 0.7}}}
    write(tmp_path / "a.json", **token, **words, errors=kinds, scores=scored(0.5, 0.4))
    write(tmp_path / "b.json", **token, **words, errors=kinds | {"missed": 150}, seed=43, scores=scored(0.5, 0.6))
    # An older result that says nothing of errors.
    write(tmp_path / "c.json")
    section = errors_table([corpus_of(tmp_path)]).sections[0]
    row = dict(rows_of(section)["LDSA"])
    assert row.pop("macro F1").startswith("0.5000 ± 0.1414")
    assert row == {
        "approach": "LDSA", "macro F1 of words": "0.7000 ± 0.0000", "gold spans": "1,000", "found %": "75.0",
        "other boundaries %": "10.0", "other type %": "4.0", "both other %": "1.0", "not touched %": "10.0",
        "spurious %": "3.0", "seeds": "2",
    }  # fmt: skip
    older = rows_of(section)["SP-GLiNER"]
    assert (older["found %"], older["spurious %"], older["macro F1 of words"]) == ("missing",) * 3


def test_few_shot_columns(tmp_path):
    write(tmp_path / "a.json", dataset="bc5cdr", scores=scored(0.9))
    for seed, f1 in ((42, 0.5), (43, 0.7)):
        sample = {"config": {"data": {"train_size": 200}}, "training": trained(200), "dataset": "bc5cdr"}
        write(tmp_path / f"{seed}.json", **sample, seed=seed, scores=scored(f1))
    row = rows_of(few_shot_table([corpus_of(tmp_path)]).sections[0])["SP-GLiNER"]
    assert row == {
        "approach": "SP-GLiNER", "50": "missing", "200": "0.6000 ± 0.1414", "1,000": "missing", "all (4,560)": "0.9000",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- rendering


def test_latex_escapes():
    assert escape_latex(r"a_b & 5 % of $x^2$ {~#} \ <|>") == (
        r"a\_b \& 5 \% of \$x\textasciicircum{}2\$ \{\textasciitilde{}\#\} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert escape_latex("≈ 0.5 ± 0.1 † −1 *") == r"$\approx$ 0.5 $\pm$ 0.1 \textdagger{} $-$1 $^{*}$"


def test_latex_tables_are_whole(tmp_path):
    make_results(tmp_path)
    found = [corpus_of(tmp_path)]
    for build in (
        main_table,
        types_table,
        errors_table,
        differences_table,
        controls_table,
        unreachable_table,
        few_shot_table,
    ):
        text = latex(build(found))
        assert text.isascii()
        plain = text.replace(r"\{", "").replace(r"\}", "").replace(r"\$", "")
        assert plain.count("{") == plain.count("}")
        assert plain.count("$") % 2 == 0
        columns = text.partition(r"\begin{tabular}{")[2].partition("}")[0]
        lines = [line for line in text.partition(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        assert len(lines) > 1
        assert all(line.replace(r"\&", "").count("&") == len(columns) - 1 for line in lines)
    assert r"\label{tab:controls-bc5cdr}" in latex(controls_table(found))
    assert r"focal\_cb" in latex(controls_table(found))


def test_markdown_cells_keep_bars(tmp_path):
    path = write(tmp_path / "a.json", variant="a|b")
    assert r"| a\|b |" in list_of_runs(path)


def make_results(folder):
    """Results with several seeds, sizes, kinds of encoder and a control, half of them with predictions."""
    machine = {"provenance": {"machine": {"gpu": None, "threads": 2}}, "train_seconds": 90.0}
    zero = {"approach": "zeroshot_baseline", "seed": None, "training": None, "dataset": "bc5cdr"}
    zero |= {"parameters": {"total": 1000, "trainable": 0, "with_gradient": 0}}
    predicted(folder / "z.json", noisy(9, 0.3), GOLD, **zero, variant="bi, names")
    for seed in (42, 43):
        training = {"training": trained(4560, **machine)}
        predicted(folder / f"f{seed}.json", noisy(seed, 0.8), GOLD, **full(seed=seed, **training))
        write(folder / f"g{seed}.json", **training, seed=seed, dataset="bc5cdr", scores=scored(seed / 60))
    for n in (50, 200):
        sample = {"config": {"data": {"train_size": n}}, "training": trained(n, **machine)}
        predicted(folder / f"n{n}.json", noisy(n, 0.5), GOLD, **full(**sample))
    write(folder / "post.json", variant="post_norm", dataset="bc5cdr", scores=scored(0.3))


def test_the_same_results_give_the_same_bytes(tmp_path, capsys):
    make_results(tmp_path / "results")
    arguments = ["--results", str(tmp_path / "results"), "--output"]
    main([*arguments, str(tmp_path / "first")])
    assert capsys.readouterr().out.startswith("**BC5CDR**")
    # Another process hashes strings in another way, and files are found in another order under other names.
    for path in (tmp_path / "results").iterdir():
        path.rename(path.with_name(f"x{path.name[::-1].partition('.')[0]}_{path.name}"))
    for path in (tmp_path / "results").glob("*_counts.npz"):
        stem = path.name.removesuffix("_counts.npz").rpartition("_")[2]
        (result,) = (tmp_path / "results").glob(f"*_{stem}.json")
        path.rename(counts_path(result))
    subprocess.run(
        [sys.executable, "-m", "common.tables", *arguments, str(tmp_path / "second")],
        check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"}, cwd=PROJECT_ROOT,
    )  # fmt: skip
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("first", "second"))
    documents = ("main", "types", "errors", "differences", "controls", "unreachable", "few_shot", "runs")
    figures = ("pareto_parameters", "pareto_time", "few_shot", "types_bc5cdr")
    assert sorted(first) == sorted(
        [f"{name}.{suffix}" for name in documents for suffix in ("md", "csv", "tex")]
        + [f"{name}.{suffix}" for name in figures for suffix in ("pdf", "png")]
    )
    assert [name for name in first if first[name] != second[name]] == []


def test_a_figure_without_data_is_not_left_over(tmp_path):
    stale = tmp_path / "out" / "few_shot.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    main(["--results", str(write(tmp_path / "a.json")), "--output", str(stale.parent)])
    assert not stale.exists()
    # No per-type scores, no training time: neither bars nor seconds.
    assert {path.name for path in stale.parent.glob("*.p*")} == {"pareto_parameters.pdf", "pareto_parameters.png"}


def test_output_is_a_folder(tmp_path):
    path = write(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"--output .*a\.json: is a file, a folder is needed"):
        main(["--results", str(path), "--output", str(path)])


def test_places_and_output_have_defaults(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="no results found"):
        main([])
    write(tmp_path / "glinerev" / "test_results" / "a.json")
    write(tmp_path / "results" / "b.json", seed=43)
    main([])
    assert "| 2 |" in (tmp_path / "results" / "tables" / "main.md").read_text()
    # What was written is no result, and does not change what is written next.
    before = (tmp_path / "results" / "tables" / "runs.csv").read_bytes()
    main([])
    assert (tmp_path / "results" / "tables" / "runs.csv").read_bytes() == before


# ------------------------------------------------------------------------------------------------- what the code says


def test_the_thesis_approaches_are_those_of_the_code():
    assert {name: spec(name).title for name in trained()[: len(thesis.APPROACHES) - 1]} == thesis.TITLES
    by_title = {approach.title: approach for approach in thesis.APPROACHES}
    for name in thesis.TITLES:
        kind, approach = spec(name), by_title[spec(name).title]
        for encoder, variant in approach.variants.items():
            config = kind.config(data=DataConfig("any"))
            config = replace(config, encoder=encoder) if len(approach.variants) > 1 else config
            assert (kind.variant(config), kind.encoder(config)) == (variant, encoder)
            assert approach.is_default(variant)


def test_the_controls_are_those_of_the_code():
    def named(name, **changes):
        config = spec(name).config(data=DataConfig("any"))
        token = {"token": replace(config.token, scheme="bio")} if "scheme" in changes else changes
        return spec(name).variant(replace(config, **token))

    found = {
        (control.name, title): control.of(approach.variants[encoder])
        for control in thesis.CONTROLS
        for approach in thesis.APPROACHES
        for encoder in approach.variants
        for title in [approach.title]
        if title in control.titles
    }
    assert found == {
        ("head only", "SP-GLiNER"): named("glinerev", prompt_encoder=False),
        ("prompt only", "SP-GLiNER"): named("glinerev", head=False),
        ("post_norm against residual", "SP-GLiNER"): named("glinerev", prompt_form="post_norm"),
        **{
            ("BIO against IO", spec(name).title): named(name, scheme="bio")
            for name in ("ldsa", "softprompt_base", "injection_cross", "injection_bi")
        },
        ("descriptions against names", "SP-GLiNER"): named("glinerev", labels="descriptions"),
        ("descriptions against names", "Zero-shot"): "cross, descriptions",
    }
    assert not any(
        approach.is_default(variant)
        for approach in thesis.APPROACHES
        for (_, title), variant in found.items()
        if title == approach.title
    )


# ------------------------------------------------------------------------------------------------------------ compare


def test_compare_two_results(tmp_path, capsys):
    gold = [[(0, 0, "chemical"), (2, 3, "disease")]] * 60
    better = predicted(tmp_path / "a.json", gold, gold)
    worse = predicted(tmp_path / "b.json", [spans[:1] for spans in gold], gold)
    compare.main([str(better), str(worse)])
    # micro F1: 1 against 2 * 60 / (60 + 120) = 2/3; macro F1: 1 against 1/2.
    assert capsys.readouterr().out.splitlines() == [
        "micro_f1: first - second = +33.33 points, 95 % interval [+33.33, +33.33], p = 0.002",
        "macro_f1: first - second = +50.00 points, 95 % interval [+50.00, +50.00], p = 0.002",
    ]
    other = predicted(tmp_path / "c.json", gold[:1], gold[:1])
    with pytest.raises(InputError, match=r"a\.json and .*c\.json: the two runs were not scored on the same sentences"):
        compare.main([str(better), str(other)])
    for content in ("no counts", ""):
        counts_path(other).write_text(content)
        with pytest.raises(InputError, match=r"c_counts\.npz: is no file of counts"):
            compare.main([str(better), str(other)])
    counts_path(other).unlink()
    with pytest.raises(InputError, match=r"c_counts\.npz: no such file; it belongs beside c\.json, test again"):
        compare.main([str(better), str(other)])


# ------------------------------------------------------------------------------------------------------------- README


def test_at_a_glance_the_data_sets_stand_side_by_side(tmp_path):
    write(tmp_path / "a.json", dataset="bc5cdr", scores=scored(0.7, 0.6))
    write(tmp_path / "b.json", **full(scores=scored(0.8), dataset="bc5cdr", training=trained(4560)))
    write(tmp_path / "c.json", **full(scores=scored(0.5), dataset="jnlpba", training=trained(14_837)))
    write(tmp_path / "e.json", **full("cross", scores=scored(0.3), dataset="jnlpba", training=trained(14_837)))
    write(
        tmp_path / "d.json",
        dataset="jnlpba",
        scores=scored(0.4),
        config={"data": {"train_size": 50}},
        training=trained(50),
    )
    section = glance(main_table(corpora(read_runs([tmp_path]))))
    rows = {row["approach"]: row for row in section.rows.to_dict("records")}
    assert (rows["SP-GLiNER"]["BC5CDR macro F1"], rows["SP-GLiNER"]["BC5CDR micro F1"]) == ("0.6000", "0.7000")
    assert rows["SP-GLiNER"]["JNLPBA macro F1"] == "0.4000 †"
    assert (rows["Full-FT (bi)"]["JNLPBA macro F1"], rows["Full-FT (bi)"]["BC5CDR macro F1"]) == ("0.5000", "0.8000")
    assert rows["LDSA"]["BC5CDR macro F1"] == MISSING
    assert len(rows) == len(section.rows), "one row for each, also where a data set has no result"
    assert rows["Full-FT (cross)"]["BC5CDR macro F1"] == MISSING
    assert "†: trained on a part of the training sentences." in section.notes
    assert rows["SP-GLiNER"]["BC5CDR macro F1, thesis"] == "0.8526"


def test_table_between_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n<!-- speed -->\n<!-- /speed -->\n")
    put_between_markers(path, "results", "| new |\n")
    put_between_markers(path, "speed", "fast\n")
    assert path.read_text() == (
        "before\n<!-- results -->\n| new |\n<!-- /results -->\nafter\n<!-- speed -->\nfast\n<!-- /speed -->\n"
    )
    with pytest.raises(InputError, match=r"README\.md: needs the lines <!-- other --> and <!-- /other -->"):
        put_between_markers(path, "other", "x")


def test_readme_shows_the_committed_results(tmp_path):
    """After new results: ``python -m common.tables --results results --readme README.md``."""
    readme = tmp_path / "README.md"
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    output = tmp_path / "tables"
    main(["--results", str(PROJECT_ROOT / "results"), "--readme", str(readme), "--output", str(output)])
    assert readme.read_text(encoding="utf-8") == text
    committed = [
        path for path in (PROJECT_ROOT / "results" / "tables").glob("*") if path.suffix in (".md", ".csv", ".tex")
    ]
    for path in committed:
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name
