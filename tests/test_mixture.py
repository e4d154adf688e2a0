"""Mixtures: what each data set does not annotate is no negative, in the loss, in predictions and in results."""

from __future__ import annotations

import importlib.util
import json
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import QUICK, generated_sentence, predictions, set_threshold

import common.settings
import common.training.loop
import full_finetune.test
import full_finetune.train
import glinerev.export
import glinerev.test
import glinerev.train
import ldsa.train
import lora.test
import lora.train
from common.config import DataConfig, values_of
from common.data.dataset import SPLITS, Dataset, Sentence, load_dataset, span_file
from common.data.labels import LabelSet
from common.data.mixture import LONGEST_NAME, as_asked, joint_names, load_training, mix, mixture_name
from common.data.spans import ScoredSpan, Span
from common.errors import InputError
from common.evaluation.metrics import METRICS, count_spans, span_scores
from common.evaluation.results import predictions_path, read_counts, read_result
from common.evaluation.thresholds import best_threshold
from common.files import read_json, write_json, write_json_records
from common.models.span_model import SpanModel
from common.study.identity import stored_result
from common.tables.groups import benchmarks
from common.tables.results import read_results
from common.training.records import RUN_FILE, WEIGHTS_FILE

PROTEINS = LabelSet(("protein", "cell type"), ("A molecule.", "A kind of cell."), "Any other word.")
GENES = LabelSet(("disease", "gene"), ("An illness.", "A stretch of DNA."), "Any other word.")
SIZES = {"train": 12, "validation": 6, "test": 6}


def sentences(size: int, seed: int, names: dict[str, str]) -> list[Sentence]:
    """Sentences that mention all types and are annotated with some, under other names."""
    generator = random.Random(seed)
    made = [generated_sentence(generator, 3) for _ in range(size)]
    return [
        Sentence(s.words, tuple(Span(a, b, names[label]) for a, b, label in s.spans if label in names)) for s in made
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets: one of proteins and cell types, a larger one of diseases and of what it calls genes."""
    parent = tmp_path_factory.mktemp("mixture")
    own = {"first": (PROTEINS, 1, {"protein": "protein", "cell type": "cell type"}),
           "second": (GENES, 2, {"disease": "disease", "protein": "gene"})}  # fmt: skip
    for name, (labels, times, names) in own.items():
        for number, split in enumerate(SPLITS):
            made = sentences(SIZES[split] * (times if split == "train" else 1), 10 * times + number, names)
            records = [{"tokenized_text": sentence.words, "ner": sentence.spans} for sentence in made]
            write_json_records(parent / name / span_file(split, "bi"), records)
        write_json(parent / name / "label2id.json", labels.label2id)
        write_json(parent / name / "label2desc.json", labels.label2desc)
    return [str(parent / name) for name in own]


@pytest.fixture
def first(folders) -> Dataset:
    return load_dataset(folders[0])


@pytest.fixture
def second(folders) -> Dataset:
    return load_dataset(folders[1])


# -- the data ---------------------------------------------------------------------------------------------------------


def test_types_of_one_name_are_one_type_and_each_sentence_has_its_own(first, second):
    both = mix([first, second], {"gene": "protein"}, "size")
    assert both.name == "first+second"
    assert both.labels.names == ("protein", "cell type", "disease")
    assert both.labels.descriptions == ("A molecule.", "A kind of cell.", "An illness.")
    assert [part.name for part in both.parts] == ["first", "second"]
    for split in SPLITS:
        of_first, of_second = first.split(split), second.split(split)
        assert [s.words for s in both.split(split)] == [s.words for s in (*of_first, *of_second)]
        assert {s.types for s in both.split(split)[: len(of_first)]} == {("protein", "cell type")}
        assert {s.types for s in both.split(split)[len(of_first) :]} == {("disease", "protein")}
    named = [[span.label for span in s.spans] for s in second.train]
    assert [[span.label for span in s.spans] for s in both.parts[1].train] == [
        ["protein" if label == "gene" else label for label in labels] for labels in named
    ]


def test_without_a_map_names_stay_apart(first, second):
    assert mix([first, second], {}, "size").labels.names == ("protein", "cell type", "disease", "gene")


def test_the_content_of_a_mixture_is_that_of_its_data_sets_and_the_map(first, second):
    plain = mix([first, second], {}, "size").sha256
    assert mix([first, second], {}, "equal").sha256 == plain
    others = (
        mix([first, second], {"gene": "protein"}, "size"),
        mix([second, first], {}, "size"),
        mix([first, replace(second, sha256="0")], {}, "size"),
    )
    assert len({plain, *(other.sha256 for other in others)}) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"organism": "species"}, "no data set has the type 'organism'; the types are cell type, disease, gene"),
        ({"gene": "O"}, "'O' is the class outside every entity"),
        ({"gene": "Cell_type"}, "'Cell_type' would be another type than 'cell type'; write it as the data sets do"),
    ],
)
def test_wrong_maps(first, second, names, message):
    with pytest.raises(InputError, match=message):
        mix([first, second], names, "size")


def test_two_data_sets_of_one_name_are_refused(first):
    with pytest.raises(InputError, match="two data sets have the same name: first, first"):
        mix([first, first], {}, "size")


def test_a_map_is_read_in_any_writing():
    assert joint_names(["Cell_Type=cell", "GENE= gene  product ", "a=b=c"]) == {
        "cell type": "cell", "gene": "gene product", "a": "b=c",
    }  # fmt: skip
    with pytest.raises(InputError, match="type 'gene' has two names"):
        joint_names(["GENE=a", "gene=b"])


@pytest.mark.parametrize("options", [{"map": ("a=b",)}, {"sampling": "equal"}])
def test_map_and_sampling_need_several_data_sets(options):
    with pytest.raises(InputError, match="--map and --sampling are for several data sets"):
        DataConfig("one", **options)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--dataset a", ("a",)),
        ("--seed 1 --dataset a b --map c=d", ("a", "b")),
        ("--dataset=a b --no-progress", ("a", "b")),
        ("--dataset a b --dataset c", ("c",)),
        ("--dataset a -h", ("a",)),
        ("--seed 1", ()),
    ],
)
def test_values_of_an_option(line, expected):
    assert values_of(line.split(), "--dataset") == expected


def test_two_types_of_a_data_set_may_share_a_name(second):
    names = {"gene": "thing", "disease": "thing"}
    tested, asked = as_asked(second, names, ("thing", "cell type"))
    assert tested.labels.names == asked.types == ("thing",)
    assert tested.labels.descriptions == ("An illness.",)
    assert [len(s.spans) for s in tested.test] == [len(s.spans) for s in second.test]
    assert {span.label for sentence in tested.test for span in sentence.spans} == {"thing"}
    assert as_asked(second, {}, ("thing", "disease")) is None


@pytest.mark.parametrize("text", ["gene", "=gene", "gene= "])
def test_a_map_without_a_name(text):
    with pytest.raises(InputError, match="expected TYPE=NAME"):
        DataConfig(("one", "two"), map=(text,))


def test_names_of_many_data_sets_are_short_and_different():
    many = [f"corpus-number-{number}" for number in range(12)]
    name = mixture_name(many)
    assert name.startswith("corpus-number-0+11_more_")
    assert len(name) <= LONGEST_NAME
    assert mixture_name(many[::-1]) != name != mixture_name([*many[:-1], "other"])


def test_sizes_hold_for_each_data_set(folders):
    data = load_training(DataConfig(tuple(folders), train_size=5, validation_size=2), seed=1)
    assert [(len(part.train), len(part.validation), len(part.test)) for part in data.parts] == [(5, 2, 6), (5, 2, 6)]
    assert (len(data.train), len(data.validation)) == (10, 4)
    with pytest.raises(InputError, match=rf"^{data.parts[0].name}: train size must be between 1 and \d+, got 999"):
        load_training(DataConfig(tuple(folders), train_size=999), seed=1)


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4), seed=st.integers(0, 5), epoch=st.integers(1, 3))
def test_equal_sampling_draws_as_many_of_each(sizes, seed, epoch):
    parts = [
        Dataset(f"d{n}", PROTEINS, [Sentence((f"{n}", f"{i}"), ()) for i in range(size)], [], [], f"{n}")
        for n, size in enumerate(sizes)
    ]
    data = mix(parts, {}, "equal")
    drawn = data.drawn(seed, epoch)
    assert drawn == data.drawn(seed, epoch)
    assert len(drawn) == len(data.train)
    of_each = Counter(data.train[index].words[0] for index in drawn)
    assert max(of_each.values()) - min(of_each.values()) <= 1
    assert len(of_each) == len(sizes)
    for number, size in enumerate(sizes):
        # No sentence comes twice before all have come once.
        times = Counter(data.train[index].words[1] for index in drawn if data.train[index].words[0] == f"{number}")
        counts = [times[f"{i}"] for i in range(size)]
        assert max(counts) - min(counts) <= 1


def test_equal_sampling_draws_others_in_each_epoch_and_size_takes_all(first, second):
    equal, size = (mix([first, second], {}, sampling) for sampling in ("equal", "size"))
    assert len({tuple(equal.drawn(1, epoch)) for epoch in range(5)}) > 1
    assert size.drawn(1, 1) == size.drawn(2, 7) == list(range(len(size.train)))


# -- loss and predictions ---------------------------------------------------------------------------------------------

VARIANTS = [
    ("bi-bert", {}), ("cross-bert", {}), ("cross-deberta", {"subtoken_pooling": "last"}),
    ("bi-bert", {"post_fusion_schema": "l2l-l2t-t2t"}), ("cross-bert", {"span_mode": "conv_max"}),
]  # fmt: skip


@pytest.fixture(params=VARIANTS, ids=lambda item: " ".join([item[0], *item[1]]))
def both(request, load, first, second):
    """A model of the joint types, the mixture, and for each data set the same base asked for its types alone."""
    name, settings = request.param
    data = mix([first, second], {"gene": "protein"}, "size")
    own = []
    for part in data.parts:
        # In the order of the mixture, in which a cross-encoder reads them.
        known = [name for name in data.labels.names if name in part.labels.names]
        labels = LabelSet(tuple(known), tuple(known), "Any other word.")
        own.append(SpanModel(load(name, **settings), labels, labels.names))
    return SpanModel(load(name, **settings), data.labels, data.labels.names), data, own


def mixed(data: Dataset) -> list[Sentence]:
    """Sentences of both data sets in turn."""
    return [sentence for pair in zip(*(part.train[:5] for part in data.parts), strict=True) for sentence in pair]


def test_the_loss_of_a_sentence_is_that_of_a_model_of_its_own_types(both):
    model, data, own = both
    wanted = [
        model(model.collate(model.encode([replace(sentence, types=None)])))
        for pair in zip(*(part.train[:5] for part in data.parts), strict=True)
        for model, sentence in zip(own, pair, strict=True)
    ]
    found = model(model.collate(model.encode(mixed(data))))
    torch.testing.assert_close(found, torch.stack(wanted).mean(), rtol=1e-5, atol=1e-5)


def test_scores_of_other_types_change_no_loss_and_get_no_gradient(both, monkeypatch):
    model, data, _ = both
    batch = model.collate(model.encode(mixed(data)))
    before, kept = model(batch), []
    scores = model._scores

    def changed(given):
        values = scores(given)
        asked = batch.types
        if model.base.kind == "cross":
            asked = torch.arange(values.shape[-1]) < batch.types.sum(dim=1, keepdim=True)
        values = values + torch.where(asked, 0.0, 100.0)[:, None, None]
        values.retain_grad()
        kept.append((values, asked))
        return values

    monkeypatch.setattr(model, "_scores", changed)
    after = model(batch)
    assert torch.equal(before, after)
    after.backward()
    ((values, asked),) = kept
    gradient = values.grad.abs().sum(dim=(1, 2))
    # With two types of three each, a cross-encoder has no column of another type here.
    assert bool((gradient[~asked] == 0).all())
    assert bool((gradient[asked] > 0).all())


def test_label_vectors_of_other_types_change_no_loss(load, first, second, monkeypatch):
    data = mix([first, second], {"gene": "protein"}, "size")
    model = SpanModel(load("bi-bert"), data.labels, data.labels.names)
    batch = model.collate(model.encode(data.parts[0].train[:4]))
    vectors = model._label_vectors().detach().requires_grad_()
    monkeypatch.setattr(model, "_label_vectors", lambda: vectors)
    loss = model(batch)
    loss.backward()
    other = data.labels.names.index("disease")
    assert bool((vectors.grad[other] == 0).all())
    assert bool((vectors.grad[[0, 1]].abs().sum(dim=1) > 0).all())
    with torch.no_grad():
        vectors[other] += 5
    assert torch.equal(model(batch), loss)


def test_predictions_are_those_of_a_model_of_its_own_types(both):
    model, data, own = both
    set_threshold(model, [replace(sentence, types=None) for sentence in data.test])
    found = predictions(model, data.test)
    wanted = []
    for one, part in zip(own, data.parts, strict=True):
        one.threshold = model.threshold
        wanted += predictions(one, [replace(sentence, types=None) for sentence in part.test])
    assert sum(map(len, wanted)) > 5
    assert [[item.span for item in spans] for spans in found] == [[item.span for item in spans] for spans in wanted]
    torch.testing.assert_close(
        torch.tensor([item.score for spans in found for item in spans]),
        torch.tensor([item.score for spans in wanted for item in spans]), rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_a_batch_without_types_is_as_before(both):
    model, data, _ = both
    asked_for_all = [replace(sentence, types=None) for sentence in mixed(data)]
    batch = model.collate(model.encode(asked_for_all))
    assert batch.types is None
    explicit = model.collate(model.encode([replace(s, types=data.labels.names) for s in asked_for_all]))
    torch.testing.assert_close(model(explicit), model(batch))


@pytest.mark.parametrize("by", ["micro_f1", "macro_f1"])
def test_the_threshold_is_the_best_one_for_the_mean_of_the_data_sets(first, second, by):
    data = mix([first, second], {"gene": "protein"}, "size")
    generator = random.Random(4)
    found = [
        [ScoredSpan(span, generator.random()) for span in s.spans]
        + [ScoredSpan(Span(len(s.words) - 1, len(s.words) - 1, s.types[0]), generator.random())]
        for s in data.train
    ]
    parts = [(len(part.train), part.labels.names) for part in data.parts]
    threshold, score = best_threshold([s.spans for s in data.train], found, (), by=by, parts=parts)

    def mean(value: float) -> float:
        kept = iter([[item.span for item in spans if item.score > value] for spans in found])
        scores = []
        for part in data.parts:
            own = [next(kept) for _ in part.train]
            counts = count_spans([s.spans for s in part.train], own, part.labels.names)
            scores.append(METRICS[by].of(span_scores(counts)))
        return sum(scores) / len(scores)

    values = {value / 100: mean(value / 100) for value in range(1, 100)}
    assert score == pytest.approx(max(values.values()))
    assert values[threshold] == pytest.approx(score)


# -- train, test, tables ----------------------------------------------------------------------------------------------

CASES = {
    "glinerev": (glinerev, "bi-bert", []),
    "full_finetune bi": (full_finetune, "bi-bert", ["--sampling", "equal"]),
    "full_finetune cross": (full_finetune, "cross-bert", ["--encoder", "cross"]),
    "lora": (lora, "bi-bert", ["--method", "dora"]),
}


def arguments(folders, gliner_folder, base, *more):
    fit = ["--epochs", "2", "--batch-size", "8", "--base-model", str(gliner_folder(base))]
    return ["--dataset", *folders, "--map", "gene=protein", *QUICK, *fit, *more]


@pytest.mark.parametrize("case", CASES)
def test_train_then_test_on_each(folders, gliner_folder, output, capsys, case):
    package, base, options = CASES[case]
    run = package.train.main(arguments(folders, gliner_folder, base, *options))
    assert run.name.startswith("first+second_")
    record = read_json(run / RUN_FILE)
    assert record["variant"]["data"] == "first+second"
    assert record["labels"]["names"] == ["protein", "cell type", "disease"]
    members = [(member["name"], member["types"], member["train"]) for member in record["dataset"]["members"]]
    assert members == [("first", ["protein", "cell type"], 12), ("second", ["disease", "protein"], 24)]
    for entry in record["history"]:
        scores = entry["validation"]
        for metric in ("micro_f1", "macro_f1"):
            mean = (scores[f"first/{metric}"] + scores[f"second/{metric}"]) / 2
            assert scores[metric] == pytest.approx(mean)

    capsys.readouterr()
    last = package.test.main(["--dataset", *folders, *QUICK, "--threshold", "0.3"])
    paths = sorted(last.parent.glob("*.json"))
    assert [path.name.partition("_")[0] for path in paths] == ["first", "second"]
    results = [read_result(path) for path in paths]
    for result, labels, path in zip(results, (PROTEINS, GENES), paths, strict=True):
        data = load_dataset(folders[results.index(result)])
        assert result["mixture"] == "first+second"
        assert (result["dataset"], result["dataset_sha256"]) == (data.name, data.sha256)
        # The data set's own names, as of a model that was trained on it alone.
        assert result["labels"] == list(labels.names)
        assert tuple(result["scores"]["per_type"]) == read_counts(path).types == labels.names
        rows = [json.loads(line) for line in predictions_path(path).read_text("utf-8").splitlines()]
        found = [[Span(*span[:3]) for span in row["predicted"]] for row in rows]
        gold = [sentence.spans for sentence in data.test]
        assert result["scores"] == span_scores(count_spans(gold, found, labels.names)).as_dict()
        assert result["config"]["data"]["dataset"] == ["first", "second"]
        assert str(output.parent) not in path.read_text("utf-8")
    means = [sum(r["scores"][average]["f1"] for r in results) / 2 for average in ("micro", "macro")]
    assert f"| **mean** | {means[0]:.4f} | {means[1]:.4f} |" in capsys.readouterr().out


def test_a_model_of_a_mixture_is_tested_on_one_data_set_and_refuses_other_types(folders, gliner_folder, tmp_path):
    run = glinerev.train.main(arguments(folders, gliner_folder, "bi-bert"))
    result = read_result(glinerev.test.main(["--dataset", folders[1], "--checkpoint", str(run), *QUICK]))
    assert (result["dataset"], result["mixture"]) == ("second", "first+second")
    other = tmp_path / "other"
    for split in SPLITS:
        records = [{"tokenized_text": ["mice"], "ner": [[0, 0, "species"]]}]
        write_json_records(other / span_file(split, "bi"), records)
    labels = LabelSet(("species",), ("An organism.",), "Any other word.")
    write_json(other / "label2id.json", labels.label2id)
    write_json(other / "label2desc.json", labels.label2desc)
    with pytest.raises(InputError, match=r"was trained on the types .*'disease'\], data set 'other' has \['species'\]"):
        glinerev.test.main(["--dataset", str(other), "--checkpoint", str(run), *QUICK])


def test_an_export_of_a_mixture_knows_all_its_types(folders, gliner_folder, tmp_path):
    onnx = ["--onnx"] if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx") else []
    run = glinerev.train.main(arguments(folders, gliner_folder, "bi-bert"))
    plain = glinerev.export.main(["--checkpoint", str(run), "--output", str(tmp_path / "plain"), *onnx])
    known = read_json(plain / "adaptation.json")
    assert list(known["labels"]) == ["protein", "cell type", "disease"]
    assert "first+second" in (plain / "README.md").read_text("utf-8")
    if onnx:
        report = read_json(plain / "onnx_report.json")
        assert (report["sentences"], report["f1"]) == (12, report["f1_onnx"])


def test_a_resumed_run_of_a_mixture_ends_as_an_uninterrupted_one(folders, gliner_folder, monkeypatch):
    given = arguments(folders, gliner_folder, "bi-bert", "--sampling", "equal", "--eval-every", "3")
    whole = glinerev.train.main(given)
    save_state = common.training.loop._Loop.save_state

    def stop(loop):
        save_state(loop)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(common.training.loop._Loop, "save_state", stop)
        with pytest.raises(KeyboardInterrupt):
            glinerev.train.main(given)
    with pytest.raises(InputError, match=r"data\.sampling"):
        glinerev.train.main([*given, "--sampling", "size", "--resume", "latest"])
    with pytest.raises(InputError, match=r"data\.map"):
        glinerev.train.main([*given, "--map", "gene=protein", "disease=illness", "--resume", "latest"])
    run = glinerev.train.main([*given, "--resume", "latest"])
    assert run != whole
    assert (run / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()


def test_other_approaches_refuse_a_mixture(folders):
    with pytest.raises(InputError, match=r"--dataset: LDSA is trained on one data set, got \S+first \S+second"):
        ldsa.train.main(["--dataset", *folders])


def test_settings_files_name_one_data_set_or_several(folders, tmp_path):
    for named, expected in ((folders[0], (folders[0],)), (folders, tuple(folders))):
        write_json(tmp_path / "s.json", {"data": {"dataset": named}})
        config = common.settings.parse_training(glinerev.spec.SPEC, ["--config", str(tmp_path / "s.json")])[0]
        assert config.data.dataset == expected


def test_tables_and_studies_tell_a_mixture_from_its_data_sets(folders, gliner_folder, output):
    base = ["--base-model", str(gliner_folder("bi-bert"))]
    quick = [*QUICK, "--epochs", "1", "--batch-size", "8", *base]
    runs = [
        glinerev.train.main(["--dataset", *named, *quick, "--seed", str(seed), *more])
        for named, seed, more in (
            ([folders[0]], 42, []),
            (folders, 42, []),
            (folders, 43, []),
            (folders, 42, ["--map", "gene=protein"]),
        )
    ]
    paths = [glinerev.test.main(["--dataset", folders[0], "--checkpoint", str(run), *QUICK]) for run in runs]
    (benchmark,) = benchmarks(read_results(paths))
    assert sorted(len(group.results) for group in benchmark.groups) == [1, 2]
    (entry,) = [entry for entry in benchmark.entries if entry.approach == "glinerev"]
    assert [result.path for result in entry.group.results] == [paths[0]]
    assert benchmark.size == 12
    mixture = benchmark.variants(entry)["residual, first+second"]
    assert [result.mixture for result in mixture.results] == ["first+second"] * 2
    assert benchmark.difference(mixture, entry.group) is not None, "the types and sentences are the same"
    alone, first_mixture, _, mapped = (stored_result(path)[1] for path in paths)
    assert len({json.dumps(found, sort_keys=True) for found in (alone, first_mixture, mapped)}) == 3
    assert "mixture" not in alone
