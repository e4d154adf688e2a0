"""The tables: which values each shows, and how. A value that no result gives is missing, never zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from common.config import Metric, differences
from common.evaluation.metrics import METRICS, Difference, holm
from common.spec import variant_text
from common.tables import thesis
from common.tables.groups import (
    OVER_BOTH,
    OVER_SENTENCES,
    Benchmark,
    Entry,
    Estimate,
    Group,
    dataset_order,
    mean_sd,
    not_alike,
)
from common.tables.render import DAGGER, NONE, ONE_RUN, Column, Section, Table, markdown_notes, markdown_table
from common.tables.results import MISSING, Result
from common.tables.transfers import KEPT, is_measured, kept_note, kept_values

Row = dict[str, Any]
"""Values by name, those of a table's line."""

INTERVALS = (
    f"95 % intervals by what was resampled. {OVER_SENTENCES}: the test sentences of the one run, so that another seed "
    f"may well lie outside; {OVER_BOTH}: first seeds, then sentences (two-level bootstrap), too narrow where few seeds "
    "differ much (where they differ far more than samples of sentences, 50 % of the intervals of 2 seeds cover the "
    "true score, 75 % of 3 and some 80 % of 5). None without counts (_counts.npz) beside the result files."
)
REPORTED = (
    "Reported by the thesis: the figures of its README, ≈ where it gives them with a tilde. They were measured on "
    "other base models, on 2,000 test sentences, one figure for an approach whatever its base, and its shares of "
    "trained parameters leave some trained tables out: they are not to be compared digit by digit."
)
DIFFERENCES = (
    "Percentage points of F1 with 95 % interval: paired bootstrap of the mean over seeds, over the test sentences and, "
    "where there are several, over seeds, in pairs where both have the same ones. The seed of a single run is taken as "
    "it is, and with few seeds intervals are too narrow and p-values too small. * where p < 0.05 after Holm's "
    f"correction for all differences in this table. {MISSING}: no result, no counts (_counts.npz) beside the result "
    "files, or other test sentences."
)


# ------------------------------------------------------------------------------------------------- how values are shown


def _range(low: float, high: float) -> str:
    return f"{low:.3f}-{high:.3f}"


def _score(title: str, name: str) -> Column:
    """Mean and standard deviation; the latter only if there are several seeds."""
    return Column(
        title, f"{name} {name}_sd", lambda mean, sd: f"{mean:.4f}" + (f" ± {sd:.4f}" if sd is not None else "")
    )


def _difference(title: str, prefix: str = "") -> Column:
    def points(value: float, low: float | None, high: float | None, p_holm: float | None) -> str:
        texts = [MISSING if end is None else f"{100 * end:+.1f}".replace("-", "−") for end in (value, low, high)]
        star = " *" if p_holm is not None and p_holm < 0.05 else ""
        return f"{texts[0]} [{', '.join(texts[1:]) if low is not None else MISSING}]{star}"

    return Column(title, " ".join(f"{prefix}{part}" for part in ("difference", "low", "high", "p_holm")), points)


def _reported(title: str, name: str, digits: int) -> Column:
    """A figure of the thesis; an approximate one has the two digits that it is given with."""

    def text(value: float, approximate: bool) -> str:
        return f"≈ {value:.{min(digits, 2)}f}" if approximate else f"{value:.{digits}f}"

    return Column(f"{title} reported by the thesis", f"{name} {name}_approximate", text, absent=NONE)


def _memory(cpu: float, gpu: float | None) -> str:
    return f"{cpu:.0f} CPU" + (f" + {gpu:.0f} GPU" if gpu is not None else "")


def _text(title: str, name: str) -> Column:
    return Column(title, name, left=True)


def _marked(text: str, all_sentences: bool | None) -> str:
    return text + (f" {DAGGER}" if all_sentences is False else "")


APPROACH = Column("approach", "label all_sentences", _marked, left=True)
N_SEEDS = Column("seeds", "n_seeds", lambda n: str(n or NONE))
EPOCHS = Column("epochs", "epochs most_epochs", lambda n, most: f"{n}" if n == most else f"{n}-{most}", where="trained")
PACE = Column("s/epoch", "seconds_per_epoch", ".1f", where="trained")
PEAK = Column("peak MiB", "peak_cpu_mib peak_gpu_mib", _memory, where="trained")
TRAINED = Column("trained %", "trainable_percent", ".2f")


# ----------------------------------------------------------------------------------------------------- values and notes


def _who(benchmark: Benchmark, entry: Entry, group: Group | None) -> Row:
    """Of what a row is."""
    row: Row = {"dataset": benchmark.name, "label": entry.label, "approach": entry.approach, "kind": entry.kind}
    if group is None:
        return row | {"base": entry.base}
    return row | {
        "base": group.first.base,
        "variant": group.variant,
        "training_sentences": group.first.n_train,
        "all_sentences": benchmark.is_whole(group),
        "n_seeds": len(group.seeds),
        "seeds": _seeds(group),
    }


def _seeds(group: Group | None) -> str | None:
    return ";".join(map(str, group.seeds)) or None if group else None


def _mean_sd(name: str, values: Iterable[float | None]) -> Row:
    return dict(zip((name, f"{name}_sd"), mean_sd(values), strict=True))


def _estimate(name: str, found: Estimate) -> Row:
    return {name: found.mean, f"{name}_sd": found.sd, f"{name}_low": found.low, f"{name}_high": found.high}


def _delta(prefix: str, found: Difference) -> Row:
    return {f"{prefix}{part}": value for part, value in vars(found).items()}


def _correct(rows: Iterable[Row], *prefixes: str) -> None:
    """Adds Holm's p-values to rows: the differences that are shown in one table are one family."""
    places = [(row, prefix) for row in rows for prefix in prefixes if f"{prefix}p_value" in row]
    corrected = holm([row[f"{prefix}p_value"] for row, prefix in places])
    for (row, prefix), value in zip(places, corrected, strict=True):
        row[f"{prefix}p_holm"] = value


def _percent(value: float | None, total: float | None) -> float | None:
    return 100 * value / total if value is not None and total else None


def _notes(benchmark: Benchmark, shown: Iterable[tuple[Entry, Group]] = ()) -> list[str]:
    """On which bases a table rests, which rows are of a part of the sentences, and what differs unseen between rows."""
    own = {(group.first.kind, group.first.base) for group in benchmark.groups}
    names = {
        kind: [name + " where named" * (name != found[0]) for name in found if (kind, name) in own]
        for kind, found in sorted(benchmark.bases.items())
    }
    bases = "; ".join(f"{kind} {', '.join(found)}" for kind, found in names.items() if found)
    unlike = (f"Not alike in all rows, so compare with care: {text}." for text in _unlike(benchmark, shown))
    return [f"Base models: {bases}.", *_sampled(benchmark), *unlike]


def _sampled(benchmark: Benchmark) -> list[str]:
    part = [f"{entry.label}, {_part(benchmark, g)}" for entry, g in benchmark.shown if not benchmark.is_whole(g)]
    return [f"{DAGGER}: no run on all training sentences: {'; '.join(part)}."] if part else []


def _unlike(benchmark: Benchmark, shown: Iterable[tuple[Entry, Group]] = ()) -> list[str]:
    results: dict[str, Group] = {}
    for entry, group in shown or benchmark.shown:
        known = results[entry.label].results if entry.label in results else ()
        results[entry.label] = Group((*known, *group.results))
    return not_alike(results)


def _part(benchmark: Benchmark, group: Group) -> str:
    n_train = f"{group.first.n_train:,}"
    return f"a sample of {n_train}" if benchmark.size is None else f"{n_train} of {benchmark.size:,}"


# --------------------------------------------------------------------------------------------------------------- tables


def main_table(found: Sequence[Benchmark]) -> Table:
    """Scores and costs of each approach's default variant, the thesis's own figures beside them."""
    measured, reported = is_measured(found), any(item.is_thesis for item in found)
    columns = (
        APPROACH,
        _text("base", "base_or_kind"),
        N_SEEDS,
        EPOCHS,
        _score("micro F1", "micro_f1"),
        Column("micro 95 %", "micro_f1_low micro_f1_high", _range),
        _score("macro F1", "macro_f1"),
        Column("macro 95 %", "macro_f1_low macro_f1_high", _range),
        _text("interval over", "interval"),
        *((_reported("macro F1", "thesis_macro_f1", 4),) if reported else ()),
        *((KEPT,) if measured else ()),
        Column("trained", "trainable", ","),
        TRAINED,
        Column("with gradient %", "with_gradient_percent", ".2f"),
        *((_reported("trained %", "thesis_trainable_percent", 0),) if reported else ()),
        PACE,
        PEAK,
        Column("checkpoint MiB", "checkpoint_bytes checkpoint_bytes_estimated", _mebibytes, where="trained"),
        Column("machine", "machine", where="trained"),
    )
    sections = (
        Section(item.title, [_main_row(item, entry, measured) for entry in item.entries], _main_notes(item))
        for item in found
    )
    return Table("main", "Approaches: scores and costs", columns, tuple(sections))


def _mebibytes(size: int, estimated: bool) -> str:
    return f"{'≈ ' * estimated}{size / 2**20:.1f}"


def _main_row(benchmark: Benchmark, entry: Entry, measured: bool) -> Row:
    row = _who(benchmark, entry, entry.group) | {"base_or_kind": entry.base or entry.kind}
    reported = {
        "thesis_macro_f1": thesis.MACRO_F1.get(benchmark.name, {}).get(entry.approach),
        "thesis_trainable_percent": thesis.TRAINED_PERCENT.get(entry.approach),
    }
    for name, figure in reported.items():
        row |= {name: figure.value, f"{name}_approximate": figure.approximate} if figure else {}
    if entry.group is None:
        return row
    if measured:
        row |= kept_values(benchmark, entry)
    first, cost = entry.group.first, entry.group.cost
    estimates = {metric: benchmark.estimate(entry.group, metric) for metric in METRICS}
    for metric, estimate in estimates.items():
        row |= _estimate(metric, estimate)
    epochs = [result.epochs for result in entry.group.results if result.epochs is not None]
    return row | {
        "dataset_training_sentences": benchmark.size,
        "test_sentences": first.n_test,
        "trained": cost is not None,
        "epochs": min(epochs, default=None),
        "most_epochs": max(epochs, default=None),
        "interval": estimates["macro_f1"].over,
        "trainable": first.trainable,
        "parameters": first.parameters,
        "trainable_percent": _percent(first.trainable, first.parameters),
        "with_gradient_percent": _percent(first.with_gradient, first.parameters),
        **(vars(cost) if cost else {}),
    }


def _main_notes(benchmark: Benchmark) -> list[str]:
    tested = sorted({group.first.n_test for _, group in benchmark.shown if group.first.n_test})
    sizes = " or ".join(f"{size:,}" for size in tested) or "An unknown number of"
    training = "" if benchmark.size is None else f", {benchmark.size:,} training sentences"
    files = ", ".join(f"{value:.4f} ({kind})" for kind, value in thesis.ZERO_SHOT_FILES.get(benchmark.name, {}).items())
    theirs = f" Its own zero-shot result files say otherwise than its README: macro F1 {files}." if files else ""
    return [
        f"{sizes} test sentences{training}.",
        *_notes(benchmark),
        *([f"Not run here: {', '.join(benchmark.not_run)}."] if benchmark.not_run and not benchmark.is_thesis else []),
        f"Strict exact match on the test split, best epoch by validation. {MISSING}: no result; {NONE}: does not "
        "apply. Mean ± standard deviation over seeds where there are several.",
        INTERVALS,
        *([kept_note([benchmark])] if is_measured([benchmark]) else []),
        "trained: parameters that the optimizer holds; with gradient: those of them that a gradient reached; both of "
        "all parameters. s/epoch: training alone, on the machine named. checkpoint: ≈ is 4 bytes for each trained "
        "parameter, where the result does not say.",
        *([f"{REPORTED}{theirs}"] if benchmark.is_thesis else []),
    ]


def types_table(found: Sequence[Benchmark]) -> Table:
    """Precision, recall and F1 of each type."""
    parts = {"precision": "precision", "recall": "recall", "f1": "F1"}
    scores = (_score(title, part) for part, title in parts.items())
    columns = (APPROACH, _text("type", "type"), *scores, Column("support", "support", ","), N_SEEDS)

    def row(item: Benchmark, entry: Entry, name: str) -> Row:
        row = _who(item, entry, entry.group) | {"type": name}
        if entry.group is None:
            return row
        for part in parts:
            row |= _mean_sd(part, (result.per_type.get(name, {}).get(part) for result in entry.group.results))
        return row | {"support": item.types[name]}

    sections = (
        Section(item.title, [row(item, entry, name) for entry in item.entries for name in item.types], _notes(item))
        for item in found
    )
    return Table("types", "Scores by type", columns, tuple(sections))


def differences_table(found: Sequence[Benchmark]) -> Table:
    """Paired differences between the entries of the main table, and between what was trained on as few sentences."""
    sections = []
    for item in found:
        curves = list(item.curves())
        compared: dict[int | None, list[_Compared]] = {}
        if item.shown:
            compared[None] = [(entry, entry.label, entry.group) for entry in item.entries]
        for n in sorted({n for _, _, curve in curves for n in curve if n != item.size}):
            few: list[_Compared] = [(entry, label, curve[n]) for entry, label, curve in curves if n in curve]
            compared |= {n: few} if len(few) > 1 else {}
        for size, groups in compared.items():
            shown = [(entry, group) for entry, _, group in groups if group is not None]
            notes = [f"Row minus column. {DIFFERENCES}", *_notes(item, shown)]
            notes = [note for note in notes if size is None or DAGGER not in note]
            title = item.title if size is None else f"{item.title}, {size:,} training sentences"
            for metric, rows in _difference_rows(item, groups, size).items():
                sections.append(Section(f"{title}, {METRICS[metric].title}", rows, notes))
    columns = (_text("first − second", "first"), _difference("difference"))
    across = Column("second", "second")
    return Table("differences", "Differences between approaches", columns, tuple(sections), across)


_Compared = tuple[Entry, str, Group | None]
"""What is compared: its entry, its label and its group."""


def _difference_rows(benchmark: Benchmark, groups: Sequence[_Compared], n: int | None) -> dict[Metric, list[Row]]:
    """Each with each, by metric; trained on n sentences, on all of them if None."""
    # The upper half would say the same with the signs turned.
    pairs = [(first, second) for place, first in enumerate(groups) for second in groups[:place]]
    found: dict[Metric, list[Row]] = {metric: [] for metric in METRICS}
    for (_, first, first_group), (_, second, second_group) in pairs:
        delta = benchmark.difference(first_group, second_group)
        for metric, rows in found.items():
            row: Row = {"dataset": benchmark.name, "metric": metric, "training_sentences": n}
            row |= {"first": first, "second": second}
            row |= {"first_seeds": _seeds(first_group), "second_seeds": _seeds(second_group)}
            rows.append(row | (_delta("", delta[metric]) if delta else {}))
    for rows in found.values():
        _correct(rows, "")
    return found


Pair = tuple[str, Entry, str, Group | None, Group | None]
"""A control: its title, its approach's entry, its variant, its group, and the default that it is compared with."""


def controls_table(found: Sequence[Benchmark]) -> Table:
    """Variants that differ from an approach's default in one thing, with their paired differences."""
    columns = [_text("control", "control"), APPROACH, _text("variant", "variant"), _text("default", "default")]
    for name, metric in METRICS.items():
        columns += [_score(metric.title, name), _score(f"default {metric.title}", f"default_{name}")]
        columns += [_difference(f"{metric.average}: variant − default", f"{name}_")]
    columns += [N_SEEDS, Column("default seeds", "n_default_seeds", N_SEEDS.form)]
    sections = []
    for item in found:
        pairs = list(_pairs(item))
        rows = [_control_row(item, pair) for pair in pairs]
        _correct(rows, *(f"{metric}_" for metric in METRICS))
        shown = [(pair[1], group) for pair in pairs for group in pair[3:] if group]
        notes = [DIFFERENCES, *_notes(item, shown), *(note for pair in pairs for note in _control_notes(item, pair))]
        sections += [Section(item.title, rows, notes)] if rows else []
    return Table("controls", "Controls and variants", tuple(columns), tuple(sections))


def _pairs(benchmark: Benchmark) -> Iterable[Pair]:
    told = set()
    # On other bases than the usual ones, no control is missed.
    usual = {None, *(names[0] for names in benchmark.bases.values())}
    expected = [e for e in benchmark.entries if benchmark.shown and benchmark.is_thesis and e.base in usual]
    for entry in benchmark.all_entries:
        for control in entry.spec.controls if entry.spec else ():
            variant = variant_text({**entry.variant, **control.change})
            told.add((entry, variant))
            if entry in expected or variant in benchmark.variants(entry):
                yield _pair(benchmark, control.title, entry, variant)
    for entry in benchmark.all_entries:
        for variant in benchmark.variants(entry):
            if variant != variant_text(entry.variant) and (entry, variant) not in told:
                mixed = benchmark.variants(entry)[variant].first.mixture
                yield _pair(benchmark, "trained on a mixture" if mixed else "other variant", entry, variant)


def _pair(benchmark: Benchmark, control: str, entry: Entry, variant: str) -> Pair:
    group, default = benchmark.variants(entry).get(variant), entry.group
    if group is not None:
        # A control is compared with the default on the same base and sentences.
        n_train = benchmark.size if group.first.mixture else group.first.n_train
        same = variant_text(entry.variant), group.first.base, n_train
        default = benchmark.pick(g for g in benchmark.of(entry) if (g.variant, g.first.base, g.first.n_train) == same)
    return control, entry, variant, group, default


def _control_row(benchmark: Benchmark, pair: Pair) -> Row:
    control, entry, variant, group, default = pair
    row: Row = {"control": control} | _who(benchmark, entry, group)
    row |= {"variant": variant, "default": variant_text(entry.variant), "default_seeds": _seeds(default)}
    row |= {"n_default_seeds": len(default.seeds)} if default else {}
    deltas = benchmark.difference(group, default)
    for metric in METRICS:
        for name, item in ((metric, group), (f"default_{metric}", default)):
            row |= _mean_sd(name, (result.f1(metric) for result in item.results)) if item else {}
        if deltas:
            row |= _delta(f"{metric}_", deltas[metric])
        elif group and default and _same_sentences(group, default):
            # Without counts the difference is known and its interval is not.
            row[f"{metric}_difference"] = row[metric] - row[f"default_{metric}"]
    return row


def _same_sentences(*groups: Group) -> bool:
    """Whether groups were tested on the same data, as far as their results say."""
    tested = [(result.dataset_sha256, result.n_test) for group in groups for result in group.results]
    return all(len({value for value in values if value is not None}) <= 1 for values in zip(*tested, strict=True))


def _control_notes(benchmark: Benchmark, pair: Pair) -> list[str]:
    _, entry, variant, group, default = pair
    notes = []
    if group is not None and group.first.mixture:
        n_train = f"{group.first.n_train:,}" if group.first.n_train is not None else "an unknown number of"
        notes.append(f"{entry.label}, {variant}: trained on {n_train} sentences of all its data sets.")
    elif group is not None and not benchmark.is_whole(group):
        so_is = "" if default is None else ", and so is its default"
        notes.append(f"{entry.label}, {variant}: trained on {_part(benchmark, group)}{so_is}.")
    if group is not None and default is not None:
        told = (*(entry.spec.variant_settings if entry.spec else ()), "runtime.", "data.", "train.seed", "train.track")
        others = [
            text for text in differences(default.first.settings, group.first.settings) if not text.startswith(told)
        ]
        if others:
            notes.append(f"{entry.label}, {variant}, differs from its default also in {'; '.join(others)}.")
    return notes


def unreachable_table(found: Sequence[Benchmark]) -> Table:
    """Gold spans that an approach cannot predict, and the best F1 that they leave, of all variants."""
    columns = (
        _text("approach", "label"),
        _text("variant", "shown_variant"),
        Column("gold spans", "gold", ","),
        Column("unreachable", "unreachable", ","),
        Column("%", "unreachable_percent", ".2f"),
        Column("why", "why"),
        *(Column(f"best {metric.title}", f"best_{name}", ".4f") for name, metric in METRICS.items()),
    )

    def row(item: Benchmark, entry: Entry, group: Group | None) -> Row:
        row = _who(item, entry, group) | {"shown_variant": group.variant if group else variant_text(entry.variant)}
        if group is None:
            return row
        # It depends on words, tags and variant and not on the weights: any seed tells, and a newer file may say more.
        newest = max(group.results, key=lambda result: result.created)
        row |= {"gold": newest.gold, "unreachable": newest.unreachable}
        row |= {"unreachable_percent": _percent(newest.unreachable, newest.gold)}
        if (reasons := newest.unreachable_by_reason) is not None:
            row["why"] = ", ".join(f"{n:,} {name}" for name, n in reasons.items() if n) or "none"
        return row | {f"best_{metric}": newest.ceiling.get(metric) for metric in METRICS}

    notes = (
        f"{MISSING}: no result, or one of an older version that does not say.",
        "The best F1 is that of a model that finds all reachable gold spans and nothing else.",
    )
    sections = []
    for item in found:
        rows = []
        for entry in item.all_entries:
            others = (g for name, g in item.variants(entry).items() if name != variant_text(entry.variant))
            own = (entry.group,) if entry in item.entries else ()
            rows += [row(item, entry, group) for group in (*own, *others)]
        sections.append(Section(item.title, rows, [*notes, _notes(item)[0]]))
    return Table("unreachable", "Unreachable gold spans", columns, tuple(sections))


ERROR_KINDS = {
    "boundary": "other boundaries",
    "type": "other type",
    "boundary_and_type": "both other",
    "missed": "not touched",
}
"""What became of a gold span that was not found, by the names of ``ErrorReport`` and of the columns."""


def errors_table(found: Sequence[Benchmark]) -> Table:
    """What became of the gold spans that were not found, and F1 over words, which forgives wrong boundaries."""
    kinds = {"found": "found", **ERROR_KINDS, "spurious": "spurious"}
    shares = (Column(f"{title} %", f"{name}_percent", ".1f") for name, title in kinds.items())
    scores = _score("macro F1", "macro_f1"), _score("macro F1 of words", "word_macro_f1")
    columns = (APPROACH, *scores, Column("gold spans", "gold", ",.0f"), *shares, N_SEEDS)
    notes = (
        "Of all gold spans; those not found by the first kind that fits: a prediction with the same boundaries and "
        "another type, one of the same type that overlaps, one of another type that overlaps, none. spurious: "
        "predictions that overlap no gold span, in % of the gold spans. Means over seeds.",
        "macro F1 of words: each word has the type of the span that it lies in.",
    )

    def row(item: Benchmark, entry: Entry) -> Row:
        row, group = _who(item, entry, entry.group), entry.group
        if group is None:
            return row
        gold, _ = mean_sd(result.gold for result in group.results)
        row |= _mean_sd("macro_f1", (result.macro_f1 for result in group.results)) | {"gold": gold}
        row |= _mean_sd("word_macro_f1", (result.word_macro_f1 for result in group.results))
        for name in kinds:
            mean, _ = mean_sd(result.errors.get(name) for result in group.results)
            row[f"{name}_percent"] = _percent(mean, gold)
        lost = [row[f"{name}_percent"] for name in ERROR_KINDS]
        return row | {"found_percent": None if None in lost else 100 - sum(lost)}

    sections = (Section(i.title, [row(i, entry) for entry in i.entries], [*notes, *_notes(i)]) for i in found)
    return Table("errors", "What is missed", columns, tuple(sections))


def few_shot_table(found: Sequence[Benchmark]) -> Table:
    """F1 by the number of training sentences."""
    sections = []
    for item in found:
        curves = list(item.curves())
        expected = thesis.FEW_SHOT_SIZES if item.is_thesis else ()
        sizes = {n for _, _, curve in curves for n in curve} | {
            n for n in expected if item.size is None or n < item.size
        }
        if sizes <= {item.size}:
            continue  # what the main table says
        shown = [(entry, group) for entry, _, curve in curves for group in curve.values()]
        notes = ["Columns: training sentences. Mean ± standard deviation over seeds where there are several."]
        notes += [note for note in _notes(item, shown) if DAGGER not in note]
        for metric in METRICS:
            rows = []
            for entry, label, curve in curves:
                for n in sorted(sizes):
                    row = _who(item, entry, curve.get(n)) | {"label": label, "metric": metric}
                    row |= {"training_sentences": n, "of": item.size}
                    if n in curve:
                        estimate = item.estimate(curve[n], metric)
                        row |= _estimate("f1", estimate) | {"interval": estimate.over}
                    rows.append(row)
            sections.append(Section(f"{item.title}, {METRICS[metric].title}", rows, notes))
    columns = (_text("approach", "label"), _score("F1", "f1"))
    across = Column("sentences", "training_sentences of", lambda n, of: f"all ({n:,})" if n == of else f"{n:,}")
    return Table("few_shot", "Training sentences", columns, tuple(sections), across)


def runs_table(results: Sequence[Result]) -> Table:
    """The list of runs, best micro F1 of a data set last."""
    scores = []
    for name, metric in METRICS.items():
        scores += [
            Column(metric.title, name, ".4f"),
            Column(f"{metric.average} 95 %", f"{name}_low {name}_high", _range),
        ]
    columns = (
        Column(
            "data set", "dataset split", lambda name, split: name if split == "test" else f"{name} ({split})", left=True
        ),
        *(_text(name, name) for name in ("approach", "variant", "base")),
        Column("seed", "seed", absent=NONE, left=True),
        Column("trained on", "training_sentences", ",", where="trained"),
        Column("epochs", "epochs", where="trained"),
        *scores,
        Column("trained", "trainable", ","),
        TRAINED,
        Column("with gradient %", "with_gradient_percent", ".2f", absent=NONE),
        PACE,
        Column("features s", "feature_seconds", ".1f", absent=NONE),
        PEAK,
        Column("precision", "precision"),
        Column("sentences/s", "sentences_per_second", ".0f"),
    )
    ordered = sorted(results, key=lambda result: (dataset_order(result.dataset), result.micro_f1, result.created))
    return Table("runs", "Runs", columns, (Section("Runs", [_run_row(result) for result in ordered]),))


def _run_row(result: Result) -> Row:
    same = (
        *("dataset", "split", "approach", "base", "kind", "seed", "epochs", "trainable", "with_gradient", "parameters"),
        *("seconds_per_epoch", "feature_seconds", "precision", "sentences_per_second", "created"),
    )
    row = {name: getattr(result, name) for name in same} | {"variant": variant_text(result.variant)}
    row |= {"training_sentences": result.n_train, "trained": result.training is not None}
    row |= {f"peak_{kind}_mib": result.peak_mib.get(kind) for kind in ("cpu", "gpu")}
    row |= {f"{name}_percent": _percent(row[name], result.parameters) for name in ("trainable", "with_gradient")}
    for metric in METRICS:
        low, high = result.intervals.get(metric, (None, None))
        row |= {metric: result.f1(metric), f"{metric}_low": low, f"{metric}_high": high}
    return row | result.versions


def _joined(texts: Iterable[str]) -> str:
    """The texts of several data sets in one cell; once where they are all the same."""
    each = list(texts)
    return each[0] if len(set(each)) == 1 else ", ".join(each)


def _machines(benchmark: Benchmark) -> str:
    """On what the seconds of a data set's rows were measured, the most used machine first."""
    labels: dict[str, list[str]] = {}
    for entry, group in benchmark.shown:
        if group.cost is not None and group.cost.machine != MISSING:
            labels.setdefault(group.cost.machine, []).append(entry.label)
    machines = sorted(labels, key=lambda name: -len(labels[name]))
    others = (f"; {', '.join(labels[name])} on {name}" for name in machines[1:])
    return f"{benchmark.title} on {machines[0]}{''.join(others)}." if machines else ""


def glance_table(found: Sequence[Benchmark]) -> Table:
    """What decides, the data sets side by side: macro F1 and what it took."""
    lines: dict[str, dict[str, Row]] = {}
    measured = is_measured(found)
    for item in found:
        for entry in item.entries:
            lines.setdefault(entry.label, {})[item.name] = _main_row(item, entry, measured) | {"look": entry.look}

    def each(columns: Sequence[Column], line: dict[str, Row]) -> str:
        return " / ".join(_joined(column.text(line.get(item.name, {})) for item in found) for column in columns)

    def f1(mean: float, low: float | None, high: float | None, over: str | None, all_sentences: bool) -> str:
        interval = f" [{low:.3f}, {high:.3f}]{ONE_RUN * (over == OVER_SENTENCES)}" if low is not None else ""
        return _marked(f"{mean:.3f}{interval}", all_sentences)

    score = Column("", "macro_f1 macro_f1_low macro_f1_high interval all_sentences", f1)
    rows = []
    for label, line in sorted(lines.items(), key=lambda item: next(iter(item[1].values()))["look"]):
        known = [row for row in line.values() if "macro_f1" in row]
        if not known:
            continue
        shares = {TRAINED.text(row) for row in known}
        share = shares.pop() if len(shares) == 1 else each((TRAINED,), line)
        scores = (score.text(line.get(item.name, {})) for item in found)
        took = each((N_SEEDS, EPOCHS), line), *scores, *([each((KEPT,), line)] if measured else []), each((PACE,), line)
        rows.append((label, known[0]["base_or_kind"], share, *took))
    titles = " and ".join(item.title for item in found)
    elsewhere = [
        f"{entry.label}{f' on {item.title}' if len(found) > 1 else ''}"
        for item in found
        for entry in item.entries
        if entry.group is None and item.of(entry)
    ]
    unlike = [f" {item.title}: {'. '.join(of)}." for item in found if (of := _unlike(item))]
    notes = [
        "Macro F1 on the test split, strict exact match, best epoch by validation; mean over seeds, with 95 % "
        f"interval over seeds and test sentences (two-level bootstrap). {ONE_RUN} One run: the interval is over "
        "sentences alone, and another seed may well lie outside.",
        " ".join(filter(None, ("s/epoch: training alone.", *map(_machines, found))))
        + f" Where a column has several figures, they are of {titles}." * (len(found) > 1),
        *([kept_note(found)] if measured else []),
        *dict.fromkeys(note for item in found for note in _sampled(item)),
        *([f"Only variants or mixtures, and so in controls.md: {', '.join(elsewhere)}."] if elsewhere else []),
        *([f"Not alike in all rows, so compare with care.{''.join(unlike)}"] if unlike else []),
    ]
    scores = (f"{item.title} macro F1" for item in found)
    kept = (KEPT.title,) if measured else ()
    heads = "approach", "base", "trained %", "seeds / epochs", *scores, *kept, "s/epoch"
    columns = tuple(Column(head, f"{place}", left=place < 2) for place, head in enumerate(heads))
    texts = [{f"{place}": text for place, text in enumerate(row)} for row in rows]
    return Table("glance", "At a glance", columns, (Section("At a glance", texts, notes),))


def glance(found: Sequence[Benchmark]) -> str:
    """The table at a glance with its notes, as Markdown."""
    table = glance_table(found)
    (section,) = table.sections
    return f"{markdown_table(table, section)}\n{markdown_notes(section)}"


LIGHT = 15
"""Percent of the weights that an approach may train to count as light in :func:`answer`."""


def answer(found: Sequence[Benchmark]) -> str:
    """The question of the project in three rows, as Markdown: the cheapest, the best of the light ones, the best."""
    rows: dict[str, list[Row]] = {}
    measured = is_measured(found)
    for item in found:
        for entry in item.entries:
            if entry.group is not None and entry.group.cost is not None:
                rows.setdefault(entry.label, []).append(_main_row(item, entry, measured))
    whole = {label: of for label, of in rows.items() if len(of) == len(found)}
    if not whole:
        return "No approach has a result on every data set.\n"
    shares = {label: [row["trainable_percent"] for row in of] for label, of in whole.items()}
    # An approach may train more on one data set than on another.
    known = {label: max(of) for label, of in shares.items() if None not in of}
    mean = {label: sum(row["macro_f1"] for row in of) for label, of in whole.items()}
    light = [label for label, value in known.items() if value <= LIGHT]
    chosen = {
        "trains the fewest weights": min(known, key=lambda label: known[label], default=None),
        f"best of those that train at most {LIGHT} %": max(light, key=lambda label: mean[label], default=None),
        "best": max(whole, key=lambda label: mean[label]),
    }
    f1 = [Column(f"{item.title} macro F1", f"{place}", ".3f") for place, item in enumerate(found)]
    kept = [Column(KEPT.title, "kept_on_each")] if measured else []
    columns = (_text("", "what"), APPROACH, Column(TRAINED.title, "share"), *f1, *kept, Column(PACE.title, "pace"))
    lines = [
        {"what": what, "label": label, "share": _joined(TRAINED.text(row) for row in whole[label])}
        | {"all_sentences": all(row["all_sentences"] for row in whole[label])}
        | {"pace": ", ".join(PACE.text(row) for row in whole[label])}
        | {"kept_on_each": ", ".join(KEPT.text(row) for row in whole[label])}
        | {f"{place}": row["macro_f1"] for place, row in enumerate(whole[label])}
        for what, label in chosen.items()
        if label is not None
    ]
    others = ", ".join(label for label in rows if label not in whole)
    notes = [f"Not on every data set, and so not compared here: {others}."] if others else []
    if not all(line["all_sentences"] for line in lines):
        notes += dict.fromkeys(note for item in found for note in _sampled(item))
    section = Section("", lines, notes)
    table = Table("answer", "", columns, (section,))
    return markdown_table(table, section) + (f"\n{markdown_notes(section)}" if notes else "")
