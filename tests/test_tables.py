"""Tables come from result files alone, whatever these hold; the README's is the one that the committed files give."""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import compare
from common.data.spans import Span
from common.errors import InputError
from common.evaluation.metrics import bootstrap_intervals, count_spans, holm, paired_bootstrap, span_scores
from common.evaluation.results import counts_path, read_counts, write_counts
from common.files import put_between_markers
from common.paths import OUTPUT_VARIABLE, PROJECT_ROOT
from common.registry import spec, specs
from common.tables import documents, render
from common.tables.__main__ import main
from common.tables.groups import benchmarks, with_approaches
from common.tables.results import read_results
from common.tables.transfers import read_transfers, transfer_table
from common.tables.write import OF_APPROACHES, OF_VARIANTS

TYPES = ("chemical", "disease")
MACHINE = {"provenance": {"machine": {"gpu": None, "threads": 2}}}
TRAINING = {
    "dataset": {"train": 4560},
    "epochs": 5,
    "seconds_per_epoch": 12.34,
    "feature_seconds": 8.44,
    "peak_memory_mb": {"cpu": 800.4},
}
RESULT = {
    "created": "2026-01-01T00:00:00.000000+00:00",
    "dataset_sha256": "abc",
    "precision": "bf16",
    "approach": "glinerev",
    "variant": {"prompt encoder": "residual"},
    "dataset": "mine",
    "split": "test",
    "base_model": {"name": "owner/base", "revision": "1", "kind": "bi"},
    "seed": 42,
    "scores": {"micro": {"f1": 0.81234}, "macro": {"f1": 0.70049}},
    "intervals": {"micro_f1": [0.8, 0.82], "macro_f1": [0.69, 0.71]},
    "parameters": {"total": 1000, "trainable": 105, "with_gradient": 100},
    "speed": {"sentences_per_second": 99.6},
    "config": {},
    "provenance": {"packages": {"torch": "2.13.0+cpu"}},
    "training": TRAINING,
}


def write(path, day=2, **changes):
    result = copy.deepcopy(RESULT) | {"created": f"2026-01-{day:02}T00:00:00.000000+00:00"} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def scored(micro, macro=None):
    return {"micro": {"f1": micro}, "macro": {"f1": micro if macro is None else macro}}


def trained(n_train, **more):
    return TRAINING | {"dataset": {"train": n_train}} | more


def sample(n_train):
    return {"config": {"data": {"train_size": n_train}}, "training": trained(n_train)}


def full(kind="bi", **changes):
    base = {"name": "owner/base" if kind == "bi" else "owner/cross", "revision": "1", "kind": kind}
    return {
        "approach": "full_finetune",
        "variant": {"encoder": kind},
        "base_model": base,
        "dataset": "bc5cdr",
    } | changes


def predicted(path, predicted_spans, gold_spans, **changes):
    """A result with its counts; spans are of (start, end, type) triples."""
    gold, found = ([[Span(*span) for span in spans] for spans in side] for side in (gold_spans, predicted_spans))
    counts = count_spans(gold, found, TYPES)
    intervals = {name: list(ends) for name, ends in bootstrap_intervals(counts).items()}
    write(path, scores=span_scores(counts).as_dict(), intervals=intervals, **changes)
    write_counts(path, counts)
    return path


GOLD = [[(0, 0, "chemical"), (2, 3, "disease")]] * 40 + [[(1, 1, "disease")]] * 20


def noisy(seed, share):
    """The gold spans less a random part of them."""
    generator = np.random.default_rng(seed)
    return [[span for span in spans if generator.random() < share] for spans in GOLD]


def lines_of(build, *places, section=0):
    """The lines of a table as they are read, by their first cell; and the notes below."""
    results = read_results(places)
    table = build(results if build is documents.runs_table else benchmarks(results))
    texts = table.texts(table.sections[section])
    return {row.iloc[0]: dict(row) for _, row in texts.iterrows()}, table.sections[section].notes


def values_of(build, *places):
    text = render.csv(build(benchmarks(read_results(places))))
    return list(csv.DictReader(io.StringIO(text)))


# ------------------------------------------------------------------------------------------------------------- reading


def paths_of(*places):
    return {result.path for result in read_results(places)}


def test_newest_result_of_a_setting_and_seed_counts(tmp_path, caplog):
    new = write(tmp_path / "test_results" / "a_new.json", day=3)
    old = write(tmp_path / "test_results" / "z_old.json", day=1)
    seed = write(tmp_path / "test_results" / "seed.json", seed=43)
    small = write(tmp_path / "small.json", training=trained(100))
    caplog.set_level(logging.INFO)
    assert paths_of(tmp_path) == {new, seed, small}
    assert f"{old}: not used, {new} is newer and has the same settings and seed" in caplog.text
    assert caplog.text.count("not used") == 1
    with pytest.raises(InputError, match="no results found on nothing"):
        read_results([tmp_path], "nothing")


def test_precision_is_a_setting_and_the_place_of_a_run_is_none(tmp_path):
    config = {"train": {"epochs": 5, "seed": 42}, "runtime": {"device": "cpu"}, "data": {"train_size": None}}
    first = write(tmp_path / "a.json", config=config)
    moved = config | {"runtime": {"device": "cuda"}, "data": {"train_size": 4560}}
    second = write(tmp_path / "b.json", day=3, config=moved)
    longer = write(tmp_path / "c.json", config=config | {"train": {"epochs": 9, "seed": 42}})
    exact = write(tmp_path / "d.json", config=config, precision="fp32")
    assert paths_of(first, second, longer, exact) == {second, longer, exact}


def test_a_test_at_another_threshold_is_no_repetition_and_gives_way(tmp_path):
    own = write(tmp_path / "own.json", scores=scored(0.8), threshold=0.4)
    given = write(tmp_path / "given.json", day=3, scores=scored(0.5), threshold=0.9, given_threshold=0.9)
    write(tmp_path / "seed.json", day=4, seed=43, scores=scored(0.5), threshold=0.9, given_threshold=0.9)
    assert {own, given} < paths_of(tmp_path)
    rows, _ = lines_of(documents.main_table, tmp_path)
    assert (rows["SP-GLiNER"]["micro F1"], rows["SP-GLiNER"]["seeds"]) == ("0.8000", "1")


def test_of_two_copies_the_one_with_its_counts_is_read(tmp_path):
    with_them = predicted(tmp_path / "a.json", noisy(0, 0.8), GOLD)
    (tmp_path / "b.json").write_text(with_them.read_text())
    assert paths_of(tmp_path) == {with_them}


BAD = [
    (
        '{"approach": "glinerev"}',
        "is no result file, it lacks created, variant, dataset, config, scores.micro.f1, scores.macro.f1",
    ),
    ("[" * 100_000, "cannot be read as JSON: nested too deep"),
    ('{"approach": "x', "not whole JSON"),
    ("1" * 5000, "cannot be read as JSON: Exceeds the limit"),
    (json.dumps(RESULT | {"dataset": "../../etc"}), "dataset must be a name without a path in it"),
    (json.dumps(RESULT | {"seed": -1}), r"seed must be a whole number from 0, got '-1'"),
    (
        json.dumps(RESULT | {"training": {"epochs": "5\n6"}}),
        r"training.epochs must be a whole number from 0, got '5\\n6'",
    ),
    (json.dumps(RESULT | {"scores": scored(float("nan"))}), "scores.micro.f1 must be a number from 0, got 'nan'"),
    (json.dumps(RESULT | {"scores": scored(1.5)}), "scores: an F1 is at most 1"),
    (json.dumps(RESULT | {"intervals": {"micro_f1": [0.1]}}), "intervals.micro_f1 must be a pair"),
    (json.dumps(RESULT | {"config": []}), "config must be an object"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_result_is_passed_over_and_named_unless_there_is_no_other(tmp_path, caplog, content, message):
    bad = tmp_path / "results" / "bad.json"
    bad.parent.mkdir()
    bad.write_text(content)
    with pytest.raises(InputError, match=rf"bad\.json: {message}"):
        read_results([bad])
    with pytest.raises(InputError, match=r"bad\.json"):
        read_results([bad.parent])
    good = write(bad.parent / "good.json")
    assert paths_of(bad.parent) == paths_of(bad, good) == {good}
    assert f"passed over: {bad}: " in caplog.text


def test_other_files_of_a_folder_are_no_results(tmp_path, caplog):
    good = write(tmp_path / "y.json")
    (tmp_path / "benchmark.json").write_text('{"speed": 1}')
    caplog.set_level(logging.INFO)
    assert paths_of(tmp_path) == {good}
    assert "benchmark.json: passed over, it is no result" in caplog.text
    with pytest.raises(InputError, match="missing: no such file or folder"):
        read_results([good, tmp_path / "missing"])


def test_bad_counts_are_not_used(tmp_path, caplog):
    good = predicted(tmp_path / "a.json", GOLD, GOLD)
    other = predicted(tmp_path / "b.json", noisy(0, 0.7), GOLD, seed=43)
    other.write_text(json.dumps(json.loads(other.read_text()) | {"scores": scored(0.5)}))
    assert lines_of(documents.main_table, good, other)[0]["SP-GLiNER"]["micro 95 %"] == "missing"
    assert "b_counts.npz: not used, does not give the scores of the result" in caplog.text
    counts_path(other).write_text("no counts")
    lines_of(documents.main_table, good, other)
    assert "not used: " in caplog.text
    assert "b_counts.npz: is no file of counts" in caplog.text


@pytest.mark.parametrize(("place", "value"), [(4, 255), (6, 1), (6, 32), (8, 77)])
def test_counts_with_a_damaged_head_are_not_used(tmp_path, place, value):
    """Version, flags and compression of each ZIP entry, as its central directory (after ``PK 1 2``) has them."""
    path = predicted(tmp_path / "a.json", GOLD, GOLD)
    data = bytearray(counts_path(path).read_bytes())
    start = -1
    while (start := data.find(b"PK\1\2", start + 1)) >= 0:
        data[start + 2 + place] = value
    counts_path(path).write_bytes(data)
    with pytest.raises(InputError, match=r"a_counts\.npz: is no file of counts: "):
        read_counts(path)


HOSTILE = "=$x^{$ <b>|[a](b)\n\\end *_ &amp;"


def test_text_of_files_stays_text(tmp_path):
    """Names with formulas, markup and line breaks go through all tables and figures, and do nothing there."""
    types = {HOSTILE: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 7}}
    base = {"name": f"+{HOSTILE}", "revision": "1", "kind": f"@{HOSTILE}"}
    machine = {"provenance": {"machine": {"gpu": HOSTILE}}, "train_seconds": 1.0}
    changes = {"approach": HOSTILE, "variant": HOSTILE, "base_model": base, "training": TRAINING | machine}
    write(tmp_path / "a.json", **changes, scores=scored(0.5) | {"per_type": types})
    write(tmp_path / "b.json", approach="LDSA", variant="-1")
    write(tmp_path / "ldsa.json", approach="ldsa", variant={"scheme": "io"})
    # As of a data set in such a folder.
    write(tmp_path / "c.json", dataset="mein Korpus+$x^{$ |é", scores=scored(0.5) | {"per_type": types})
    main(["--results", str(tmp_path), "--output", str(tmp_path / "out")])
    page = (tmp_path / "out" / "main.md").read_text()
    assert r"=\$x^{\$ \<b>\|[a\](b) \\end \*\_ \&amp;" in page
    assert "<b>" not in page.replace(r"\<b>", "")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    latex = (tmp_path / "out" / "main.tex").read_text()
    assert r"=\$x\textasciicircum{}\{\$ \textless{}b\textgreater{}\textbar{}{[}a{]}(b) \textbackslash{}end" in latex
    cells = {cell for row in csv.reader((tmp_path / "out" / "types.csv").open(newline="")) for cell in row}
    assert {f"'{HOSTILE}", f"'+{HOSTILE}", f"'@{HOSTILE}"} <= cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    # An approach that calls itself like one of ours has a line of its own.
    assert "| LDSA' |" in page
    assert {path.stem for path in (tmp_path / "out").glob("*.pdf")} == {
        "pareto_parameters",
        "pareto_time",
        "types_mine",
        "types_mein Korpus+$x^{$ |é",
    }


# --------------------------------------------------------------------------------------------------------- main table


def test_main_row_by_hand(tmp_path):
    parameters = {"total": 51_778_944, "trainable": 5_464_704, "with_gradient": 5_000_000}
    training = TRAINING | MACHINE | {"train_seconds": 61.7}
    path = write(tmp_path / "a.json", dataset="bc5cdr", training=training, parameters=parameters)
    # 5,464,704 * 4 bytes / 2**20 = 20.8 MiB; 100 * 5,464,704 / 51,778,944 = 10.55.
    assert list(lines_of(documents.main_table, path)[0]["SP-GLiNER"].values()) == [
        *("SP-GLiNER", "owner/base", "1", "5", "0.8123", "0.800-0.820", "0.7005", "0.690-0.710", "sentences", "0.8526"),
        *("5,464,704", "10.55", "9.66", "≈ 13", "12.3", "800 CPU", "≈ 20.8", "CPU, 2 threads"),
    ]
    (value,) = [row for row in values_of(documents.main_table, path) if row["approach"] == "glinerev"]
    assert value["checkpoint_bytes"] == str(4 * 5_464_704)
    # Epochs and features: 61.7 + 8.44.
    assert float(value["training_seconds"]) == pytest.approx(70.14)
    assert (value["thesis_macro_f1"], value["thesis_macro_f1_approximate"]) == ("0.852600", "False")
    path = write(tmp_path / "b.json", training=training | {"checkpoint_bytes": 3 * 2**20})
    assert lines_of(documents.main_table, path)[0]["SP-GLiNER"]["checkpoint MiB"] == "3.0"


def test_every_approach_has_a_row_and_what_is_missing_says_so(tmp_path):
    path = write(tmp_path / "a.json", dataset="jnlpba")
    rows, notes = lines_of(documents.main_table, path)
    assert list(rows) == [
        f"{spec.title} ({kind})" if len(spec.kinds) > 1 else spec.title
        for spec in specs()
        if spec.in_all
        for kind in spec.kinds
    ]
    reported = {"macro F1 reported by the thesis": "≈ 0.60", "trained % reported by the thesis": "≈ 3"}
    assert rows["SP-Cross"] == {
        **dict.fromkeys(rows["SP-Cross"], "missing"), "approach": "SP-Cross", "base": "cross", **reported,
    }  # fmt: skip
    (value,) = [row for row in values_of(documents.main_table, path) if row["approach"] == "injection_cross"]
    known = {name for name, text in value.items() if text != "NA" and not name.startswith("thesis")}
    assert known == {"dataset", "label", "approach", "kind", "base_or_kind"}
    assert "2,000 test sentences" in notes[-1]


def test_of_a_data_set_of_ones_own_only_what_was_run_has_a_row(tmp_path):
    """Neither rows for approaches, kinds of base and controls that nobody asked for, nor figures of the thesis."""
    write(tmp_path / "a.json")
    write(tmp_path / "b.json", **full("cross", dataset="mine"))
    write(tmp_path / "c.json", variant={"prompt encoder": "head only"})
    rows, notes = lines_of(documents.main_table, tmp_path)
    assert list(rows) == ["SP-GLiNER", "Full-FT (cross)"]
    assert not [title for title in rows["SP-GLiNER"] if "thesis" in title]
    assert not [note for note in notes if "thesis" in note]
    assert "Not run here: Zero-shot, LDSA, SP-Base, SP-Cross, SP-Bi, LoRA." in notes
    assert list(controls(tmp_path)[0]) == [("SP-GLiNER", "head only")]
    assert list(lines_of(documents.differences_table, tmp_path)[0]) == ["Full-FT (cross)"]
    assert not documents.few_shot_table(benchmarks(read_results([tmp_path]))).sections
    # Beside a data set of the thesis its columns are there, and say nothing of other data.
    write(tmp_path / "d.json", dataset="bc5cdr")
    rows, _ = lines_of(documents.main_table, tmp_path, section=1)
    assert list(rows) == ["SP-GLiNER", "Full-FT (cross)"]
    assert rows["SP-GLiNER"]["macro F1 reported by the thesis"] == "-"


def test_results_of_earlier_versions_are_read(tmp_path):
    """A variant in one text, another name for the kind, and none of what was added since."""
    old = copy.deepcopy(RESULT) | {"approach": "full_finetune", "variant": "cross", "config": {"encoder": "cross"}}
    old["config"] |= {"data": {"dataset": "mine"}, "train": {"tensorboard": False}}
    old["base_model"] = {"name": "owner/cross", "encoder": "cross"}
    for name in ("intervals", "precision", "split", "training", "dataset_sha256"):
        del old[name]
    old["parameters"], old["speed"] = {"total": 10, "trainable": 1}, {}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(old))
    assert lines_of(documents.main_table, path)[0]["Full-FT (cross)"]["micro F1"] == "0.8123"
    (row,) = lines_of(documents.runs_table, path)[0].values()
    assert list(row.values()) == [
        *("mine", "full_finetune", "cross", "owner/cross", "42", "-", "-", "0.8123", "missing", "0.7005", "missing"),
        *("1", "10.00", "-", "-", "-", "-", "missing", "missing"),
    ]


def test_seeds_give_mean_deviation_and_two_level_interval(tmp_path):
    for seed, f1, epochs in ((42, 0.70, 5), (43, 0.72, 5), (44, 0.77, 4)):
        write(tmp_path / f"{seed}.json", seed=seed, scores=scored(f1, f1 - 0.1), training=trained(4560, epochs=epochs))
    row = lines_of(documents.main_table, tmp_path)[0]["SP-GLiNER"]
    # sd = sqrt((.03^2 + .01^2 + .04^2) / 2) = .0361. Without counts there is no interval.
    assert (row["micro F1"], row["macro F1"]) == ("0.7300 ± 0.0361", "0.6300 ± 0.0361")
    assert (row["micro 95 %"], row["interval over"], row["seeds"], row["epochs"]) == ("missing", "missing", "3", "4-5")
    assert {value["seeds"] for value in values_of(documents.main_table, tmp_path)} == {"42;43;44"}
    predicted(tmp_path / "with" / "a.json", GOLD, GOLD)
    predicted(tmp_path / "with" / "b.json", [[] for _ in GOLD], GOLD, seed=43)
    row = lines_of(documents.main_table, tmp_path / "with")[0]["SP-GLiNER"]
    # One seed finds everything and the other nothing: on whatever sentences, a fourth of draws is the worse one twice.
    assert (row["micro F1"], row["micro 95 %"]) == ("0.5000 ± 0.7071", "0.000-1.000")
    assert row["interval over"] == "seeds, sentences"


def test_other_settings_are_set_aside(tmp_path, caplog):
    """The group with more seeds is shown, then the newer one; runs with different settings are never averaged."""
    config = {"train": {"epochs": 5}}
    for seed in (42, 43):
        write(tmp_path / f"s{seed}.json", seed=seed, config=config, scores=scored(0.5 + seed / 1000))
    other = write(tmp_path / "other.json", day=9, config={"train": {"epochs": 9}}, scores=scored(0.9))
    caplog.set_level(logging.INFO)
    row = lines_of(documents.main_table, tmp_path)[0]["SP-GLiNER"]
    assert (row["micro F1"], row["seeds"]) == ("0.5425 ± 0.0007", "2")
    assert f"{other}: only in the list of runs" in caplog.text


def test_what_differs_unseen_is_said(tmp_path, caplog):
    write(tmp_path / "a.json", seed=1)
    write(tmp_path / "b.json", seed=2, provenance={"packages": {"torch": "2.14.0"}})
    packages = {"torch": "2.13.0"}
    write(
        tmp_path / "c.json",
        **full(dataset="mine", precision="fp32", provenance={"packages": packages, "behaviour": 2}),
    )
    # Another build of the same version is no other version.
    write(tmp_path / "d.json", seed=3, provenance={"packages": {"torch": "2.14.0+cu129"}})
    _, notes = lines_of(documents.main_table, tmp_path)
    care = "Not alike in all rows, so compare with care: "
    assert f"{care}precision bf16: SP-GLiNER; fp32: Full-FT (bi)." in notes
    assert f"{care}torch 2.13.0: SP-GLiNER, Full-FT (bi); 2.14.0: SP-GLiNER." in notes
    assert f"{care}behaviour version 1: SP-GLiNER; 2: Full-FT (bi)." in notes
    assert len([note for note in notes if note.startswith(care)]) == 3
    assert (
        "mine: not alike in all results: precision bf16: glinerev (residual); fp32: full_finetune (bi)" in caplog.text
    )
    *_, note = documents.glance_table(benchmarks(read_results([tmp_path]))).sections[0].notes
    told = [text.removeprefix(care).removesuffix(".") for text in notes if text.startswith(care)]
    assert note == f"Not alike in all rows, so compare with care. mine: {'. '.join(told)}."
    assert not [note for note in lines_of(documents.main_table, tmp_path / "a.json")[1] if care in note]


def test_runs_on_fewer_sentences_are_marked_and_give_way(tmp_path):
    small = write(tmp_path / "a.json", **full("cross", **sample(1000), scores=scored(0.99)))
    bi = write(tmp_path / "b.json", **full())
    rows, notes = lines_of(documents.main_table, small, bi)
    assert {"Full-FT (cross) †", "Full-FT (bi)"} <= rows.keys()
    assert "†: no run on all training sentences: Full-FT (cross), 1,000 of 4,560." in notes
    whole = write(tmp_path / "c.json", **full("cross", scores=scored(0.6)))
    rows, notes = lines_of(documents.main_table, small, bi, whole)
    assert rows["Full-FT (cross)"]["micro F1"] == "0.6000"
    assert not [note for note in notes if "†" in note]
    # Where all were trained on samples, no result says how many sentences there are.
    notes = lines_of(documents.main_table, small)[1]
    assert "†: no run on all training sentences: Full-FT (cross), a sample of 1,000." in notes


def test_times_are_those_of_one_machine(tmp_path, caplog):
    def on(gpu, seconds):
        return TRAINING | {"provenance": {"machine": {"gpu": gpu, "threads": 8}}, "seconds_per_epoch": seconds}

    trainings = (on("H100", 2.0), on("H100", 4.0), on(None, 900.0), on(None, 901.0), on(None, 902.0))
    for seed, training in enumerate(trainings):
        write(tmp_path / f"{seed}.json", seed=seed, training=training)
    caplog.set_level(logging.INFO)
    row = lines_of(documents.main_table, tmp_path)[0]["SP-GLiNER"]
    assert (row["s/epoch"], row["machine"], row["seeds"]) == ("3.0", "H100", "5")
    assert "times are those of H100" in caplog.text
    gpu, one, two = ({"machine": {"gpu": name, "threads": n}} for name, n in (("H100", 8), (None, 1), (None, 2)))
    moved = write(
        tmp_path / "moved.json", training=TRAINING | {"provenance": two, "earlier_provenance": [one, gpu, one]}
    )
    row = lines_of(documents.main_table, moved)[0]["SP-GLiNER"]
    assert row["machine"] == "CPU, 1 thread and H100 and CPU, 2 threads"


def test_at_a_glance_the_machines_of_the_seconds_are_told(tmp_path):
    gpu = TRAINING | {"provenance": {"machine": {"gpu": "H100", "threads": 8}}}
    for kind in ("bi", "cross"):
        write(tmp_path / f"{kind}.json", **full(kind, training=gpu))
    write(tmp_path / "cpu.json", dataset="bc5cdr", training=TRAINING | MACHINE)
    write(tmp_path / "unknown.json", dataset="jnlpba")
    notes = documents.glance_table(benchmarks(read_results([tmp_path]))).sections[0].notes
    found = next(note for note in notes if note.startswith("s/epoch"))
    assert found.startswith("s/epoch: training alone. BC5CDR on H100; SP-GLiNER on CPU, 2 threads. Where ")


def test_rows_name_the_bases_that_are_not_the_usual_one_of_their_kind(tmp_path):
    write(tmp_path / "a.json", scores=scored(0.5))
    other = {"name": "another/base", "revision": "1", "kind": "bi"}
    write(tmp_path / "b.json", base_model=other, scores=scored(0.6))
    write(tmp_path / "c.json", approach="mine", variant="v2", base_model=other, scores=scored(0.7))
    rows, _ = lines_of(documents.main_table, tmp_path)
    known = [(name, row["micro F1"]) for name, row in rows.items() if row["micro F1"] != "missing"]
    assert known == [("SP-GLiNER", "0.6000"), ("SP-GLiNER (owner/base)", "0.5000"), ("mine", "0.7000")]
    assert list(rows)[-1] == "mine"
    table = documents.differences_table(benchmarks(read_results([tmp_path])))
    assert "Base models: bi another/base, owner/base where named." in table.sections[0].notes
    mixed = {"variant": {"form": "v2", "data": "mine+x"}, "mixture": "mine+x"}
    write(tmp_path / "d.json", 3, approach="mine", base_model=other, scores=scored(0.9), seed=43, **mixed)
    assert lines_of(documents.main_table, tmp_path)[0]["mine"]["micro F1"] == "0.7000"
    assert controls(tmp_path)[0]["mine", "v2, mine+x"]["micro F1"] == "0.9000"


# -------------------------------------------------------------------------------------------------------- other tables


def test_list_of_runs_by_hand(tmp_path):
    better = write(tmp_path / "a.json")
    last = write(tmp_path / "b.json", variant="worse", scores=scored(0.5))
    other = write(tmp_path / "c.json", split="validation", dataset="another")
    first = write(tmp_path / "d.json", dataset="bc5cdr")
    table = documents.runs_table(read_results([better, last, other, first]))
    lines = render.markdown_table(table, table.sections[0]).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| bc5cdr", "| another (validation)", "| mine", "| mine"]
    assert lines[-1] == (
        "| mine | glinerev | residual | owner/base | 42 | 4,560 | 5 | 0.8123 | 0.800-0.820 | 0.7005 | 0.690-0.710 "
        "| 105 | 10.50 | 10.00 | 12.3 | 8.4 | 800 CPU | bf16 | 100 |"
    )
    assert [item.name for item in benchmarks(read_results([better, other]))] == ["mine"]


def test_types_by_hand(tmp_path):
    for seed, shift in ((42, 0.0), (43, 0.2)):
        row = {"precision": 0.5 + shift, "recall": 0.25, "f1": 1 / 3, "support": 1200}
        scores = scored(0.4) | {"per_type": {"disease": row}}
        write(tmp_path / f"{seed}.json", scores=scores, seed=seed, dataset="bc5cdr")
    rows, _ = lines_of(documents.types_table, tmp_path)
    # sd of .5 and .7: .2 / sqrt(2).
    assert list(rows["SP-GLiNER"].values()) == [
        *("SP-GLiNER", "disease", "0.6000 ± 0.1414", "0.2500 ± 0.0000", "0.3333 ± 0.0000", "1,200", "2"),
    ]
    assert set(list(rows["LDSA"].values())[2:]) == {"missing"}


def test_types_are_those_of_the_data_set(tmp_path):
    """Not those that a mixture has joined; one result may tell a support that another does not."""

    def typed(**more):
        return {"scores": scored(0.5) | {"per_type": {name: {"f1": 0.5} | more for name in ("dna", "rna")}}}

    write(tmp_path / "a.json", **typed())
    write(tmp_path / "b.json", approach="ldsa", variant=dict(spec("ldsa").default_variant("bi")), **typed(support=3))
    joined = {"mixture": "mine+x", "variant": {"prompt encoder": "residual", "data": "mine+x"}}
    write(tmp_path / "c.json", scores=scored(0.5) | {"per_type": {"nucleic": {"f1": 0.5}}}, **joined)
    rows = values_of(documents.types_table, tmp_path)
    assert {(row["type"], row["support"]) for row in rows if row["f1"] != "NA"} == {("dna", "3"), ("rna", "3")}
    assert "nucleic" not in {row["type"] for row in rows}


def test_differences_are_those_of_the_paired_bootstrap_corrected_by_holm(tmp_path):
    sides: dict[str, dict[int, Path]] = {"cross": {}, "bi": {}}
    for kind, share in (("cross", 0.71), ("bi", 0.8)):
        for seed in (1, 2, 3):
            place = tmp_path / f"{kind}{seed}.json"
            sides[kind][seed] = predicted(place, noisy(7 * seed + len(kind), share), GOLD, **full(kind, seed=seed))
    predicted(tmp_path / "d.json", noisy(2, 0.1), GOLD, dataset="bc5cdr", approach="mine", variant="v")
    write(tmp_path / "c.json", dataset="bc5cdr")
    counts = [{seed: read_counts(path) for seed, path in sides[kind].items()} for kind in ("cross", "bi")]
    expected = paired_bootstrap(*counts)["micro_f1"]
    values = [row for row in values_of(documents.differences_table, tmp_path) if row["metric"] == "micro_f1"]
    known = {(row["first"], row["second"]): row for row in values if row["difference"] != "NA"}
    assert list(known) == [("Full-FT (cross)", "Full-FT (bi)"), ("mine", "Full-FT (bi)"), ("mine", "Full-FT (cross)")]
    row = known["Full-FT (cross)", "Full-FT (bi)"]
    found = [float(row[name]) for name in ("difference", "low", "high", "p_value")]
    assert found == pytest.approx(list(vars(expected).values()), abs=1e-6)
    corrected = [float(row["p_holm"]) for row in known.values()]
    assert corrected == pytest.approx(holm([float(row["p_value"]) for row in known.values()]), abs=2e-6)
    # The largest of three p-values stays, the others grow: and the stars follow them.
    assert float(row["p_value"]) == corrected[0]
    assert corrected[1] == pytest.approx(3 * float(known["mine", "Full-FT (bi)"]["p_value"]))
    lines, notes = lines_of(documents.differences_table, tmp_path)
    points = [f"{100 * value:+.1f}".replace("-", "−") for value in (expected.difference, expected.low, expected.high)]
    assert lines["Full-FT (cross)"]["Full-FT (bi)"] == "{} [{}, {}]".format(*points) + " *" * (corrected[0] < 0.05)
    assert lines["mine"]["Full-FT (bi)"].endswith(" *")
    assert (lines["Full-FT (bi)"]["SP-GLiNER"], lines["Full-FT (bi)"]["Full-FT (bi)"]) == ("missing", "")
    assert "Holm" in notes[0]


def test_a_variant_stands_beside_its_approach_at_few_sentences(tmp_path):
    head_only = {"variant": {"prompt encoder": "head only"}}
    sides: dict[str, dict[int, Path]] = {"default": {}, "head only": {}}
    for seed in (1, 2):
        for name, changes, share in (("default", {}, 0.8), ("head only", head_only, 0.7)):
            place = tmp_path / f"{name}{seed}.json"
            sides[name][seed] = predicted(
                place, noisy(7 * seed + len(name), share), GOLD, dataset="bc5cdr", seed=seed, **sample(50), **changes
            )
    write(tmp_path / "whole.json", **full())
    write(tmp_path / "post_norm.json", dataset="bc5cdr", variant={"prompt encoder": "post_norm"})
    few, _ = lines_of(documents.few_shot_table, tmp_path)
    assert few["SP-GLiNER, head only"]["50"] != "missing"
    assert (few["SP-GLiNER, head only"]["all (4,560)"], few["Full-FT (bi)"]["50"]) == ("missing", "missing")
    assert "SP-GLiNER, post_norm" not in few, "a variant on all sentences stands among the controls"
    rows = [row for row in values_of(documents.differences_table, tmp_path) if row["training_sentences"] == "50"]
    assert [(row["first"], row["second"]) for row in rows] == [("SP-GLiNER, head only", "SP-GLiNER")] * 2
    counts = [{seed: read_counts(path) for seed, path in sides[name].items()} for name in ("head only", "default")]
    for row, metric in zip(rows, ("micro_f1", "macro_f1"), strict=True):
        found = [float(row[name]) for name in ("difference", "low", "high", "p_holm")]
        assert found == pytest.approx(list(vars(paired_bootstrap(*counts)[metric]).values()), abs=1e-6)
        assert (row["metric"], row["first_seeds"]) == (metric, "1;2")
    table = documents.differences_table(benchmarks(read_results([tmp_path])))
    assert [section.title for section in table.sections][2:] == [
        f"BC5CDR, 50 training sentences, {metric} F1" for metric in ("micro", "macro")
    ]


def test_a_star_needs_the_corrected_p_value(tmp_path):
    rows = [{"difference": 0.1, "low": 0.01, "high": 0.2, "p_value": p} for p in (0.04, 0.03, 0.001)]
    documents._correct(rows, "")
    assert [row["p_holm"] for row in rows] == pytest.approx([0.06, 0.06, 0.003])
    assert [documents._difference("x").text(row) for row in rows] == ["+10.0 [+1.0, +20.0]"] * 2 + [
        "+10.0 [+1.0, +20.0] *"
    ]


def test_results_on_other_sentences_are_not_compared(tmp_path):
    predicted(tmp_path / "a.json", noisy(1, 0.8), GOLD, **full())
    predicted(tmp_path / "b.json", noisy(2, 0.6)[:50], GOLD[:50], **full("cross"))
    rows, _ = lines_of(documents.differences_table, tmp_path)
    assert rows["Full-FT (cross)"]["Full-FT (bi)"] == "missing"


def test_scores_on_other_sentences_have_no_difference(tmp_path):
    write(tmp_path / "a.json", scores=scored(0.8), dataset_sha256="whole")
    write(tmp_path / "b.json", scores=scored(0.5), dataset_sha256="part", variant={"prompt encoder": "post_norm"})
    rows, _ = controls(tmp_path)
    found = rows["SP-GLiNER", "post_norm"]
    assert (found["micro F1"], found["default micro F1"]) == ("0.5000", "0.8000")
    assert found["micro: variant − default"] == "missing"


def controls(*places):
    table = documents.controls_table(benchmarks(read_results(places)))
    rows = table.texts(table.sections[0]).to_dict("records")
    return {(row["approach"], row["variant"]): row for row in rows}, table.sections[0].notes


def test_controls_stand_beside_their_default(tmp_path):
    here, own = {"dataset": "bc5cdr"}, {"head": True, "prompt_encoder": True, "lr": 1}
    default = predicted(tmp_path / "a.json", noisy(1, 0.8), GOLD, config=own, **here)
    control = {"config": own | {"prompt_encoder": False, "lr": 2}, "variant": {"prompt encoder": "head only"}}
    predicted(tmp_path / "b.json", noisy(2, 0.5), GOLD, **control, **here)
    write(tmp_path / "post.json", variant={"prompt encoder": "post_norm"}, scores=scored(0.5), seed=43, **here)
    focal = {"prompt encoder": "residual", "loss": "focal"}
    write(tmp_path / "focal.json", variant=focal, scores=scored(0.6), **here)
    rows, notes = controls(tmp_path)
    f1 = json.loads(default.read_text())["scores"]["micro"]["f1"]
    head_only = rows["SP-GLiNER", "head only"]
    assert (head_only["control"], head_only["default"]) == ("head only", "residual")
    assert head_only["default micro F1"] == f"{f1:.4f}"
    assert head_only["micro: variant − default"].startswith("−")
    assert head_only["micro: variant − default"].endswith("*")
    assert "SP-GLiNER, head only, differs from its default also in lr: 1 != 2." in notes
    # Without counts the difference has no interval; without a result there is none.
    without = f"{100 * (0.5 - f1):+.1f} [missing]".replace("-", "−")
    assert rows["SP-GLiNER", "post_norm"]["micro: variant − default"] == without
    prompt_only = rows["SP-GLiNER", "residual, prompt only"]
    assert (prompt_only["micro: variant − default"], prompt_only["seeds"], prompt_only["default seeds"]) == (
        *("missing", "missing"), "1",
    )  # fmt: skip
    assert rows["SP-GLiNER", "residual, focal"]["control"] == "other variant"
    assert {("LDSA", "bio"), ("Zero-shot (cross)", "cross, descriptions")} <= rows.keys()


def test_no_control_is_missed_on_another_base_than_the_usual_one(tmp_path):
    write(tmp_path / "a.json", dataset="bc5cdr")
    write(tmp_path / "b.json", dataset="bc5cdr", base_model={"name": "another/base", "revision": "1", "kind": "bi"})
    assert {name for name, variant in controls(tmp_path)[0] if variant == "head only"} == {"SP-GLiNER"}


def test_a_variant_on_a_base_without_the_default_has_a_row(tmp_path):
    write(tmp_path / "a.json")
    write(tmp_path / "c.json", seed=43)
    other = {"name": "another/base", "revision": "1", "kind": "bi"}
    write(tmp_path / "b.json", base_model=other, variant={"prompt encoder": "post_norm"}, scores=scored(0.6))
    rows, _ = controls(tmp_path)
    found = rows["SP-GLiNER (another/base)", "post_norm"]
    assert (found["micro F1"], found["default micro F1"]) == ("0.6000", "missing")
    # It has no other rows, and none in the main table.
    assert [name for name, _ in rows if name == "SP-GLiNER (another/base)"] == ["SP-GLiNER (another/base)"]
    assert "SP-GLiNER (another/base)" not in lines_of(documents.main_table, tmp_path)[0]
    unreachable = documents.unreachable_table(benchmarks(read_results([tmp_path]))).sections[0].rows
    assert ("SP-GLiNER (another/base)", "post_norm") in {
        (row["label"], row["variant"]) for row in unreachable if "variant" in row
    }


def test_a_control_on_fewer_sentences_is_compared_with_its_like(tmp_path):
    write(tmp_path / "a.json", scores=scored(0.9))
    write(tmp_path / "b.json", **sample(50), scores=scored(0.5))
    write(tmp_path / "c.json", **sample(50), scores=scored(0.4), variant={"prompt encoder": "post_norm"})
    rows, notes = controls(tmp_path)
    assert rows["SP-GLiNER †", "post_norm"]["default micro F1"] == "0.5000"
    assert "SP-GLiNER, post_norm: trained on 50 of 4,560, and so is its default." in notes


def test_unreachable_gold_of_all_variants(tmp_path):
    report = {"gold": 2000, "lost": 30, "share": 0.015, "by_reason": {"touching": 28, "truncation": 2, "width": 0}}
    write(tmp_path / "a.json", approach="ldsa", variant={"scheme": "io"}, unreachable_gold=report)
    report = report | {"lost": 2, "by_reason": {}, "ceiling": {"micro_f1": 0.98765, "macro_f1": 0.9}}
    write(tmp_path / "b.json", approach="ldsa", variant={"scheme": "bio"}, unreachable_gold=report)
    table = documents.unreachable_table(benchmarks(read_results([tmp_path])))
    assert [list(row) for row in table.texts(table.sections[0]).to_numpy() if row[0] == "LDSA"] == [
        ["LDSA", "io", "2,000", "30", "1.50", "28 touching, 2 truncation", "missing", "missing"],
        ["LDSA", "bio", "2,000", "2", "0.10", "none", "0.9877", "0.9000"],
    ]


def test_missed_gold_by_kind_and_words(tmp_path):
    kinds = {"boundary": 100, "type": 40, "boundary_and_type": 10, "missed": 50, "spurious": 30, "confusion": {}}
    token = {"approach": "ldsa", "variant": {"scheme": "io"}, "unreachable_gold": {"gold": 1000}}
    token |= {"token_report": {"macro": {"f1": 0.7}}}
    write(tmp_path / "a.json", **token, errors=kinds, scores=scored(0.5, 0.4))
    write(tmp_path / "b.json", **token, errors=kinds | {"missed": 150}, seed=43, scores=scored(0.5, 0.6))
    # An older result that says nothing of errors.
    write(tmp_path / "c.json")
    rows, _ = lines_of(documents.errors_table, tmp_path)
    assert rows["LDSA"] == {
        "approach": "LDSA", "macro F1": "0.5000 ± 0.1414", "macro F1 of words": "0.7000 ± 0.0000",
        "gold spans": "1,000", "found %": "75.0", "other boundaries %": "10.0", "other type %": "4.0",
        "both other %": "1.0", "not touched %": "10.0", "spurious %": "3.0", "seeds": "2",
    }  # fmt: skip
    assert [rows["SP-GLiNER"][name] for name in ("found %", "spurious %", "macro F1 of words")] == ["missing"] * 3


def test_few_shot_columns(tmp_path):
    write(tmp_path / "a.json", dataset="bc5cdr", scores=scored(0.9))
    for seed, f1 in ((42, 0.5), (43, 0.7)):
        write(tmp_path / f"{seed}.json", **sample(200), dataset="bc5cdr", seed=seed, scores=scored(f1))
    assert lines_of(documents.few_shot_table, tmp_path)[0]["SP-GLiNER"] == {
        "approach": "SP-GLiNER", "50": "missing", "200": "0.6000 ± 0.1414", "1,000": "missing", "all (4,560)": "0.9000",
    }  # fmt: skip


def test_at_a_glance_the_data_sets_stand_side_by_side(tmp_path):
    write(tmp_path / "a.json", dataset="bc5cdr", scores=scored(0.7, 0.6))
    write(tmp_path / "b.json", **full(scores=scored(0.8)))
    write(tmp_path / "c.json", **full(scores=scored(0.5), dataset="jnlpba", training=trained(14_837, epochs=1)))
    write(tmp_path / "e.json", **full("cross", scores=scored(0.3), dataset="jnlpba", training=trained(14_837)))
    write(tmp_path / "d.json", dataset="jnlpba", scores=scored(0.4), **sample(50))
    table = documents.glance_table(benchmarks(read_results([tmp_path])))
    rows = {row["approach"]: row for row in table.texts(table.sections[0]).to_dict("records")}
    assert len(rows) == len(table.sections[0].rows), "one row for each, also where a data set has no result"
    assert rows["SP-GLiNER"]["BC5CDR macro F1"] == "0.600 [0.690, 0.710]¹"
    assert rows["SP-GLiNER"]["JNLPBA macro F1"] == "0.400 [0.690, 0.710]¹ †"
    assert rows["Full-FT (bi)"] == {
        "approach": "Full-FT (bi)", "base": "owner/base", "trained %": "10.50", "seeds / epochs": "1 / 1, 5",
        "JNLPBA macro F1": "0.500 [0.690, 0.710]¹", "BC5CDR macro F1": "0.800 [0.690, 0.710]¹", "s/epoch": "12.3",
    }  # fmt: skip
    assert rows["Full-FT (cross)"]["BC5CDR macro F1"] == "missing"
    assert "LDSA" not in rows, "what has no result anywhere stands in the main table"
    assert any("One run: the interval is over sentences alone" in note for note in table.sections[0].notes)


def test_shares_of_trained_weights_that_differ_are_all_told(tmp_path):
    """Such as of a rank that was tuned to each data set."""
    write(tmp_path / "a.json", **full(scores=scored(0.8), parameters={"total": 1000, "trainable": 200}))
    write(tmp_path / "b.json", **full(scores=scored(0.8), dataset="jnlpba"))
    write(tmp_path / "c.json", dataset="bc5cdr", scores=scored(0.7), parameters={"total": 1000, "trainable": 110})
    write(tmp_path / "d.json", dataset="jnlpba", scores=scored(0.7))
    found = benchmarks(read_results([tmp_path]))
    assert "| Full-FT (bi) | owner/base | 10.50, 20.00 |" in documents.glance(found)
    answer = documents.answer(found)
    assert "| trains the fewest weights | SP-GLiNER | 10.50, 11.00 |" in answer
    assert "| best of those that train at most 15 % | SP-GLiNER |" in answer
    assert "| best | Full-FT (bi) | 10.50, 20.00 |" in answer


def test_at_a_glance_what_has_only_variants_is_named(tmp_path):
    write(tmp_path / "a.json", dataset="mine", variant={"prompt encoder": "post_norm"})
    write(tmp_path / "b.json", **full(dataset="mine", mixture="mine+other", variant={"encoder": "bi", "data": "mixed"}))

    def notes():
        (section,) = documents.glance_table(benchmarks(read_results([tmp_path]))).sections
        return [note for note in section.notes if note.startswith("Only variants")]

    assert notes() == ["Only variants or mixtures, and so in controls.md: SP-GLiNER, Full-FT (bi)."]
    write(tmp_path / "c.json", dataset="mine")
    write(tmp_path / "d.json", dataset="other")
    assert notes() == ["Only variants or mixtures, and so in controls.md: Full-FT (bi) on mine."]


def test_data_sets_stand_side_by_side_where_approaches_are_compared(tmp_path, caplog):
    def names(least):
        return [item.name for item in with_approaches(benchmarks(read_results([tmp_path])), least)]

    mixed = {"mixture": "mixed+several", "variant": {"encoder": "bi", "data": "mixed+several"}}
    write(tmp_path / "a.json", **full(dataset="mixed", **mixed))
    assert names(1) == names(2) == ["mixed"], "there is nothing else"
    write(tmp_path / "b.json", dataset="alone")
    write(tmp_path / "c.json", **full(dataset="alone", **mixed))
    assert (names(1), names(2)) == (["alone"], ["alone", "mixed"])
    write(tmp_path / "d.json", dataset="several")
    write(tmp_path / "e.json", **full(dataset="several"))
    with caplog.at_level("INFO"):
        assert (names(1), names(2)) == (["alone", "several"], ["several"])
    assert "not among the data sets with results of 2 or more approaches: alone, mixed" in caplog.text


def test_one_approach_on_a_data_set_stays_in_its_own_tables(tmp_path, capsys):
    for name, changes in {"a": {"dataset": "mine"}, "b": {"dataset": "several"}, "c": full(dataset="several")}.items():
        write(tmp_path / f"{name}.json", **changes)
    main(["--results", str(tmp_path), "--output", str(tmp_path / "out")])
    assert "mine" not in capsys.readouterr().out
    assert "## mine" in (tmp_path / "out" / "main.md").read_text()


def test_variants_alone_on_a_data_set_leave_nothing_missing(tmp_path, capsys):
    """No other approach is expected there, nor the default's controls."""
    write(tmp_path / "a.json", **full(dataset="several"))
    write(tmp_path / "b.json", dataset="mine", variant={"prompt encoder": "post_norm"}, **sample(50))
    main(["--results", str(tmp_path), "--output", str(tmp_path / "out")])
    pages = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.md")}
    assert {name for name, page in pages.items() if "## mine" in page} == {"controls", "few_shot"}
    mine = pages["controls"].partition("## mine\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split(" | ")[:3] for line in mine] == [["| post_norm against residual", "SP-GLiNER †", "post_norm"]]
    assert "- SP-GLiNER, post_norm: trained on a sample of 50.\n" in pages["controls"]


# ----------------------------------------------------------------------------------------------- rendering and command


def kept(path, checkpoint, variant=(), trained_on=(), **corpora):
    """A record of what Full-FT keeps, of micro F1 before and after by corpus."""

    def side(value):
        return {"at_half": scores(value), "best": scores(value), "threshold": 0.4}

    def scores(value):
        return {"micro_f1": value, "macro_f1": value}

    base = {"name": "owner/base", "revision": "1", "kind": "bi"}
    model = {"approach": "full_finetune", "variant": {"encoder": "bi", **dict(variant)}, "base_model": base, "seed": 42}
    model |= {"trained_on": dict(trained_on) or {"name": "bc5cdr"}}
    model |= {"checkpoint": checkpoint, "weights_sha256": checkpoint}
    measured = {
        name: {
            "dataset_sha256": name, "sentences": 9, "types": ["x"], "before": side(before), "after": side(after),
            "difference_at_half": scores([0.0] * 3), "difference_best": scores([after - before] * 3),
            "foreign_types": [], "predictions_per_100_sentences": {"before": None, "after": None},
        }
        for name, (before, after) in corpora.items()
    }  # fmt: skip
    record = {"created": "2026-01-02", "model": model | {"interpolate": 1.0, "precision": "bf16"}, "provenance": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"corpora": measured}))


def test_what_is_kept_stands_beside_what_is_won(tmp_path):
    """Mean over seeds, on corpora that the base knew; of the checkpoints that were tested and no others."""
    same = {"dataset": "bc5cdr"}
    for seed in (42, 43):
        training = trained(4560, checkpoint=f"run{seed}")
        result = full(training=training, seed=seed, parameters={"total": 9, "trainable": 9}, scores=scored(0.8))
        write(tmp_path / f"f{seed}.json", **result)
    write(tmp_path / "g.json", training=trained(4560, checkpoint="run1"), **same)
    write(tmp_path / "l.json", approach="ldsa", variant=dict(spec("ldsa").default_variant("bi")), **same)
    zero = {"variant": {"encoder": "bi", "labels": "names"}, "training": None, "seed": None}
    write(tmp_path / "z.json", approach="zeroshot_baseline", **zero, **same)
    found = benchmarks(read_results([tmp_path]))
    assert "kept" not in render.markdown(documents.main_table(found)) + documents.glance(found) + documents.answer(
        found
    )

    kept(tmp_path / "transfer" / "a.json", "run42", known=(0.8, 0.4), other=(0.6, 0.3), new=(0.3, 0.6))
    kept(tmp_path / "transfer" / "b.json", "run43", known=(0.8, 0.6), other=(0.6, 0.3), new=(0.3, 0.6))
    kept(tmp_path / "transfer" / "c.json", "never tested", known=(0.8, 0.0), other=(0.6, 0.0), new=(0.3, 0.0))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- answer -->\n<!-- /answer -->\n<!-- results -->\n<!-- /results -->\n")
    main(["--results", str(tmp_path), "--output", str(tmp_path / "with"), "--readme", str(readme)])
    # (50 + 900 / 14) / 2
    expected = {"Full-FT (bi)": "57", "SP-GLiNER": "missing", "LDSA": "-", "Zero-shot (bi)": "-"}
    transfers = read_transfers([tmp_path])
    table = documents.main_table(benchmarks(read_results([tmp_path]), transfers))
    texts = table.texts(table.sections[0]).set_index("approach")["kept %"]
    assert {name: texts[name] for name in expected} == expected
    note = next(note for note in table.sections[0].notes if note.startswith("kept: "))
    assert "at least 0.5 before" in note
    assert "Measured on BC5CDR: known, other (2 runs each). -: " in note
    answer, glance = readme.read_text().split("<!-- /answer -->")
    assert "| best | Full-FT (bi) | 100.00 | 0.800 | 57 | 12.3 |" in answer
    assert "| Full-FT (bi) | owner/base | 100.00 | 2 / 5 | 0.800 | 57 | 12.3 |" in glance
    assert "- kept: " in glance
    page = (tmp_path / "with" / "transfer.md").read_text()
    assert "| Full-FT (bi) | 1 | 2 | 0.800 → 0.500 | 0.300 → 0.600 | 0.600 → 0.300 |" in page
    assert (tmp_path / "with" / "transfer.png").is_file()
    # Beside a file of results, and measured in two parts.
    alone = read_transfers([tmp_path / "f42.json"])
    assert [item["model"]["checkpoint"] for item in alone] == ["run42", "run43", "never tested"]
    kept(tmp_path / "transfer" / "d.json", "run42", further=(0.5, 0.5))
    assert list(read_transfers([tmp_path])[0]["corpora"]) == ["known", "other", "new", "further"]


def test_a_corpus_measured_on_fewer_runs_has_their_number(tmp_path):
    for seed in (42, 43):
        write(tmp_path / f"{seed}.json", **full(training=trained(4560, checkpoint=f"run{seed}"), seed=seed))
    kept(tmp_path / "transfer" / "a.json", "run42", both=(0.8, 0.4), one=(0.6, 0.3))
    kept(tmp_path / "transfer" / "b.json", "run43", both=(0.8, 0.6))
    table = transfer_table(benchmarks(read_results([tmp_path]), read_transfers([tmp_path])))
    rows = {(row["corpus"], row["n_seeds"]): row["after"] for row in table.sections[0].rows if "after" in row}
    assert rows == {("both", 2): pytest.approx(0.5), ("one", 1): 0.3}
    page = render.markdown(table)
    assert "| Full-FT (bi) | 1 | 2 | 0.800 → 0.500 |  |" in page
    assert "| Full-FT (bi) | 1 | 1 |  | 0.600 → 0.300 [−30.0, −30.0] |" in page


def test_what_a_model_of_a_mixture_keeps_stands_with_each_of_its_data_sets(tmp_path):
    mixed = {"encoder": "bi", "data": "several+bc5cdr"}
    for name in ("several", "bc5cdr", "third"):
        write(tmp_path / f"{name}.json", **full(dataset=name))
        training = trained(9000, checkpoint="mixed")
        write(
            tmp_path / f"{name}_m.json",
            **full(dataset=name, mixture="several+bc5cdr", variant=mixed, training=training),
        )
    members = {"name": "several+bc5cdr", "members": [{"name": "several"}, {"name": "bc5cdr"}]}
    kept(tmp_path / "transfer" / "m.json", "mixed", mixed, members, known=(0.8, 0.6))
    table = transfer_table(benchmarks(read_results([tmp_path]), read_transfers([tmp_path])))
    assert [section.title for section in table.sections] == ["BC5CDR", "several"]
    for section in table.sections:
        shown = [(row["label"], row["after"]) for row in section.rows if "after" in row]
        assert shown == [("Full-FT (bi), bi, several+bc5cdr", 0.6)]


def test_escapes():
    assert render.escape_latex(r"a_b & 5 % of $x^2$ {~#} \ <|>") == (
        r"a\_b \& 5 \% of \$x\textasciicircum{}2\$ \{\textasciitilde{}\#\} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert render.escape_latex("≈ 0.5 ± 0.1 † −1 * [¹") == (
        r"$\approx$ 0.5 $\pm$ 0.1 \textdagger{} $-$1 $^{*}$ {[}$^{1}$"
    )
    # What no Markdown reader would take for markup stays readable.
    assert (
        render.escape_markdown("focal_cb −1.3 [−2, −1] * p < 0.05 A & B") == "focal_cb −1.3 [−2, −1] * p < 0.05 A & B"
    )
    assert render.escape_markdown("_a_ *b* `c` [d](e) <f>") == r"\_a\_ \*b\* \`c\` [d\](e) \<f>"


def make_results(folder):
    """Results with several seeds, sizes, kinds of base and a control, half of them with counts."""
    machine = MACHINE | {"train_seconds": 90.0}
    zero = {"approach": "zeroshot_baseline", "seed": None, "training": None, "dataset": "bc5cdr"}
    zero |= {"variant": {"encoder": "bi", "labels": "names"}, "parameters": {"total": 1000, "trainable": 0}}
    predicted(folder / "z.json", noisy(9, 0.3), GOLD, **zero)
    for seed in (42, 43):
        training = {"training": trained(4560, **machine), "seed": seed}
        predicted(folder / f"f{seed}.json", noisy(seed, 0.8), GOLD, **full(**training))
        write(folder / f"g{seed}.json", **training, dataset="bc5cdr", scores=scored(seed / 60))
    for n in (50, 200):
        part = sample(n) | {"training": trained(n, **machine)}
        predicted(folder / f"n{n}.json", noisy(n, 0.5), GOLD, **full(**part))
    write(folder / "post.json", variant={"prompt encoder": "post_norm"}, dataset="bc5cdr", scores=scored(0.3))


def test_latex_tables_are_whole(tmp_path):
    make_results(tmp_path)
    found = benchmarks(read_results([tmp_path]))
    for build in (*OF_APPROACHES, *OF_VARIANTS):
        text = render.latex(build(found))
        assert text.isascii()
        plain = text.replace(r"\{", "").replace(r"\}", "").replace(r"\$", "")
        assert plain.count("{") == plain.count("}")
        assert plain.count("$") % 2 == 0
        columns = text.partition(r"\begin{tabular}{")[2].partition("}")[0]
        lines = [line for line in text.partition(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        assert len(lines) > 1
        assert {line.replace(r"\&", "").count("&") for line in lines} == {len(columns) - 1}
    text = render.latex(documents.controls_table(found))
    assert r"\label{tab:controls-bc5cdr}" in text
    assert r"focal\_cb" in text


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path, capsys):
    make_results(tmp_path / "results")
    arguments = ["--results", str(tmp_path / "results"), "--output"]
    main([*arguments, str(tmp_path / "first")])
    assert capsys.readouterr().out.startswith("| approach |")
    # Another process hashes strings in another way, and files are found in another order under other names.
    for number, path in enumerate(sorted((tmp_path / "results").glob("*.json"), reverse=True)):
        renamed = path.with_name(f"{number}.json")
        if counts_path(path).is_file():
            counts_path(path).rename(counts_path(renamed))
        path.rename(renamed)
    subprocess.run(
        [sys.executable, "-m", "common.tables", *arguments, str(tmp_path / "second")],
        check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"}, cwd=PROJECT_ROOT,
    )  # fmt: skip
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("first", "second"))
    names = ("main", "types", "errors", "differences", "controls", "unreachable", "few_shot", "runs")
    figures = ("pareto_parameters", "pareto_time", "few_shot", "types_bc5cdr")
    assert sorted(first) == sorted(
        [f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex")]
        + [f"{name}.{suffix}" for name in figures for suffix in ("pdf", "png")]
    )
    assert [name for name in first if first[name] != second[name]] == []


def test_a_figure_without_data_is_not_left_over(tmp_path):
    stale = tmp_path / "out" / "few_shot.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    main(["--results", str(write(tmp_path / "a.json")), "--output", str(stale.parent)])
    # No per-type scores, no training time: neither bars nor seconds.
    assert {path.name for path in stale.parent.glob("*.p*")} == {"pareto_parameters.pdf", "pareto_parameters.png"}


def test_a_table_without_rows_is_not_left_over(tmp_path):
    write(tmp_path / "a.json", **full(training=trained(4560, checkpoint="run")))
    kept(tmp_path / "transfer" / "a.json", "run", known=(0.8, 0.4))
    write(tmp_path / "x" / "b.json", **full())
    tables = tmp_path / "out"
    for place, found in ((tmp_path, True), (tmp_path / "x", False)):
        main(["--results", str(place), "--output", str(tables)])
        assert [(tables / f"transfer.{suffix}").exists() for suffix in ("md", "csv", "tex")] == [found] * 3
    # Of a model that has no result.
    kept(tmp_path / "x" / "transfer" / "a.json", "run", trained_on={"name": "other"}, known=(0.8, 0.4))
    main(["--results", str(tmp_path / "x"), "--output", str(tables)])
    assert not (tables / "transfer.md").exists()


def test_a_page_without_markers_is_refused_before_anything_is_written(tmp_path):
    text = "<!-- answer -->\n<!-- /answer -->\n"
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(InputError, match=r"page\.md: needs the lines <!-- results -->"):
        main([
            *("--results", str(write(tmp_path / "a.json"))),
            *("--output", str(tmp_path / "out"), "--readme", str(tmp_path / "page.md")),
        ])  # fmt: skip
    assert ((tmp_path / "page.md").read_text(), (tmp_path / "out").exists()) == (text, False)


def test_the_answer_needs_no_parameters(tmp_path):
    write(tmp_path / "a.json", parameters={}, scores=scored(0.9))
    other = {"approach": "ldsa", "variant": dict(spec("ldsa").default_variant("bi")), "scores": scored(0.5)}
    found = benchmarks(read_results([tmp_path]))
    assert "| best | SP-GLiNER | missing | 0.900 |" in documents.answer(found)
    write(tmp_path / "b.json", **other)
    lines = documents.answer(benchmarks(read_results([tmp_path]))).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["LDSA", "LDSA", "SP-GLiNER"]


def test_the_answer_marks_what_was_trained_on_few_sentences(tmp_path):
    write(tmp_path / "a.json", scores=scored(0.5))
    few = sample(50) | {"approach": "ldsa", "variant": dict(spec("ldsa").default_variant("bi"))}
    write(tmp_path / "b.json", scores=scored(0.9), parameters={"total": 1000, "trainable": 900}, **few)
    answer = documents.answer(benchmarks(read_results([tmp_path])))
    assert "| best | LDSA † | 90.00 | 0.900 |" in answer
    assert "| trains the fewest weights | SP-GLiNER | 10.50 | 0.500 |" in answer
    assert "- †: no run on all training sentences: LDSA, 50 of 4,560.\n" in answer


def test_places_and_output_are_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUT_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="no results found"):
        main([])
    write(tmp_path / "glinerev" / "test_results" / "a.json")
    write(tmp_path / "study" / "results" / "b.json", seed=43)
    committed = write(tmp_path / "results" / "c.json", seed=44)
    main([])
    table = (tmp_path / "tables" / "runs.csv").read_bytes()
    assert b",43," in table
    assert b",44," not in table
    assert list(committed.parent.iterdir()) == [committed]
    # What was written is no result, and does not change what is written next.
    main([])
    assert (tmp_path / "tables" / "runs.csv").read_bytes() == table
    with pytest.raises(InputError, match=r"--output .*c\.json: is a file, a folder is needed"):
        main(["--results", str(committed), "--output", str(committed)])


@pytest.mark.parametrize("changes", [{"split": "validation"}, {"variant": {"prompt encoder": "head only"}}])
def test_results_that_no_main_table_shows(tmp_path, capsys, changes):
    main(["--results", str(write(tmp_path / "a.json", **changes)), "--output", str(tmp_path / "out")])
    assert len(capsys.readouterr().out.partition("\n\n")[0].splitlines()) == 2
    assert "0.8123" in (tmp_path / "out" / "runs.md").read_text()


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


@pytest.mark.slow
def test_readme_shows_the_committed_results(tmp_path, monkeypatch):
    """After new results: ``python -m common.tables --results results --readme README.md --output results/tables``."""
    # Other tests look at figures.
    monkeypatch.setattr("common.tables.write.write_figures", lambda *_: None)
    readme, output = tmp_path / "README.md", tmp_path / "tables"
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    main(["--results", str(PROJECT_ROOT / "results"), "--readme", str(readme), "--output", str(output)])
    assert readme.read_text(encoding="utf-8") == text
    committed = [
        path for path in (PROJECT_ROOT / "results" / "tables").iterdir() if path.suffix in (".md", ".csv", ".tex")
    ]
    made = [path.name for path in output.iterdir() if path.suffix in (".md", ".csv", ".tex")]
    assert sorted(path.name for path in committed) == sorted(made)
    for path in committed:
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name


# ------------------------------------------------------------------------------------------------------------- compare


def test_compare_two_results(tmp_path, capsys):
    gold = [[(0, 0, "chemical"), (2, 3, "disease")]] * 60
    better = predicted(tmp_path / "a.json", gold, gold)
    worse = predicted(tmp_path / "b.json", [spans[:1] for spans in gold], gold)
    compare.main([str(better), str(worse)])
    # micro F1: 1 against 2 * 60 / (60 + 120) = 2/3; macro F1: 1 against 1/2.
    assert capsys.readouterr().out.splitlines() == [
        "micro_f1: first - second = +33.33 points, 95 % interval [+33.33, +33.33] over 60 sentences, p = 0.0002",
        "macro_f1: first - second = +50.00 points, 95 % interval [+50.00, +50.00] over 60 sentences, p = 0.0002",
    ]
    counts_path(worse).write_bytes(counts_path(better).read_bytes())
    with pytest.raises(InputError, match=r"b_counts\.npz: is not of b\.json: its micro F1 is 1\.000000, .* 0\.666667"):
        compare.main([str(better), str(worse)])
    other = predicted(tmp_path / "c.json", gold[:1], gold[:1])
    with pytest.raises(InputError, match=r"a\.json, .*c\.json: the runs were not scored on the same sentences"):
        compare.main([str(better), str(other)])
    for content in ("no counts", ""):
        counts_path(other).write_text(content)
        with pytest.raises(InputError, match=r"c_counts\.npz: is no file of counts"):
            compare.main([str(better), str(other)])
    counts_path(other).unlink()
    with pytest.raises(InputError, match=r"c_counts\.npz: no such file; it belongs beside c\.json, test again"):
        compare.main([str(better), str(other)])


def test_compare_several_seeds(tmp_path, capsys, caplog):
    sides = {}
    for name, share in (("a", 0.8), ("b", 0.7)):
        sides[name] = [
            str(predicted(tmp_path / f"{name}{seed}.json", noisy(seed * len(GOLD), share), GOLD, seed=seed))
            for seed in (1, 2, 3)
        ]
    compare.main(["--first", *sides["a"], "--second", *sides["b"]])
    counts = [{n: read_counts(Path(path)) for n, path in enumerate(paths, 1)} for paths in sides.values()]
    expected = paired_bootstrap(*counts)["micro_f1"]
    line = capsys.readouterr().out.splitlines()[0]
    assert f"= {100 * expected.difference:+.2f} points" in line
    assert f"[{100 * expected.low:+.2f}, {100 * expected.high:+.2f}] over 60 sentences, 3 and 3 seeds in pairs" in line
    other = predicted(tmp_path / "c.json", noisy(0, 0.5), GOLD, seed=9, precision="fp32")
    compare.main(["--first", *sides["a"], str(other), "--second", *sides["b"]])
    assert "over 60 sentences, 4 and 3 seeds, p" in capsys.readouterr().out
    assert "first: the files differ in more than the seed" in caplog.text
    assert "not alike: precision bf16: first, second; fp32: first" in caplog.text
    with pytest.raises(InputError, match=r"first: each file must be of another seed, got 2 of \[1\]"):
        compare.main(["--first", sides["a"][0], sides["a"][0], "--second", *sides["b"]])
    with pytest.raises(InputError, match="give two result files"):
        compare.main(["--first", *sides["a"]])


def test_the_answer_in_three_rows_is_what_the_main_table_says():
    with (PROJECT_ROOT / "results" / "tables" / "main.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["trained"] == "True"]
    share = {row["label"]: float(row["trainable_percent"]) for row in rows}
    mean = {label: sum(float(row["macro_f1"]) for row in rows if row["label"] == label) for label in share}
    light = [label for label in share if share[label] <= 15]
    expected = [min(share, key=share.__getitem__), max(light, key=mean.__getitem__), max(mean, key=mean.__getitem__)]
    # That it is made anew from the results, and no otherwise, is tested above.
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    answer = readme.partition("<!-- answer -->\n")[2].partition("<!-- /answer -->")[0]
    table, _, note = answer.partition("\n\n")
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == expected
    once = [label for label in share if sum(row["label"] == label for row in rows) == 1]
    assert note == (f"- Not on every data set, and so not compared here: {', '.join(once)}.\n" if once else "")
