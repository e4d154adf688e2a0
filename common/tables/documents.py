"""The thesis's tables and figures from result files alone: ``python -m common.tables --results results --readme README.md``.

Written are Markdown, CSV and LaTeX: ``main``, ``types``, ``differences``, ``controls``, ``unreachable``, ``few_shot``, ``runs``; and
the figures of ``common.plots``. The same result files give the same bytes.

Words: a *run* is one result file; a *cell* is the runs that differ in nothing but the seed; a *row* is the cell that stands for an
approach, a kind of encoder and a base in the main table. A cell without a result is shown as missing, never as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from common.config import differences
from common.evaluation.metrics import METRICS, Difference
from common.spec import variant_text
from common.tables import thesis
from common.tables.render import Document, Section, markdown_table
from common.tables.runs import (
    DAGGER,
    INTERVALS,
    MISSING,
    NONE,
    Cell,
    Corpus,
    Cost,
    Estimate,
    Row,
    Run,
    dataset_order,
    f1_of,
    with_sd,
)

_N_TEXT_COLUMNS = 5
COLUMNS = (
    "data set", "approach", "variant", "base", "seed", "trained on", "epochs", "micro F1", "micro 95 %", "macro F1", "macro 95 %",
    "trained", "trained %", "with gradient %", "s/epoch", "features s", "peak MiB",
    "precision", "sentences/s",
)  # fmt: skip
"""Of the list of runs."""


# --------------------------------------------------------------------------------------------------------------- tables


def _section(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], n_text: int, notes: Iterable[str] = ()
) -> Section:
    return Section(title, pd.DataFrame(list(rows), columns=list(columns), dtype=object), n_text, tuple(notes))


def _document(name: str, title: str, sections: Iterable[Section], records: Sequence[Mapping[str, Any]]) -> Document:
    values = pd.DataFrame(list(records))
    for column in map(str, values):
        known = [value for value in (record.get(column) for record in records) if value is not None]
        if known and all(type(value) is int for value in known):
            # Whole numbers stay whole beside missing ones.
            values[column] = values[column].astype("Int64")
    return Document(name, title, tuple(sections), values)


def _who(corpus: Corpus, row: Row, cell: Cell | None) -> dict[str, Any]:
    """The first columns of a CSV file."""
    return {
        "dataset": corpus.name,
        "approach": row.approach.title,
        "encoder": row.kind,
        "base": cell.first.base if cell else row.base,
        "variant": cell.variant if cell else None,
        "training_sentences": cell.first.n_train if cell else None,
        "seeds": _seeds(cell) if cell else None,
    }


def _seeds(cell: Cell) -> str | None:
    return ";".join(str(run.result["seed"]) for run in cell.runs if run.result["seed"] is not None) or None


def _n_seeds(cell: Cell | None) -> str:
    return MISSING if cell is None else NONE if cell.first.result["seed"] is None else str(len(cell.runs))


def _number(value: float | None, form: str = ".2f") -> str:
    return MISSING if value is None else format(value, form)


def _percent(value: float | None, total: float | None) -> float | None:
    return 100 * value / total if value is not None and total else None


def _reported(figure: thesis.Reported | None, digits: int) -> str:
    """A figure of the thesis; an approximate one has the two digits that it is given with."""
    if figure is None:
        return NONE
    return f"≈ {figure.value:.{min(digits, 2)}f}" if figure.approximate else f"{figure.value:.{digits}f}"


def _memory(peak: Mapping[str, float]) -> str:
    return " + ".join(f"{value:.0f} {kind.upper()}" for kind, value in peak.items()) or MISSING


def _base_note(corpus: Corpus) -> str:
    kinds = {kind: sorted({c.first.base for c in corpus.cells if c.first.kind == kind}) for kind in ("bi", "cross")}
    return "Base models: " + "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names) + "."


def _part(corpus: Corpus, cell: Cell) -> str:
    n_train = f"{cell.first.n_train:,}"
    return f"a sample of {n_train} sentences" if corpus.size is None else f"{n_train} of {corpus.size:,} sentences"


def _dagger_notes(corpus: Corpus) -> list[str]:
    return [
        f"{row.marked}: trained on {_part(corpus, cell)}; no run on all of them."
        for row, cell in corpus.shown
        if not row.whole
    ]


MAIN_COLUMNS = (
    "approach", "base", "micro F1", "micro 95 %", "macro F1", "macro 95 %", "interval", "macro F1 reported by the thesis",
    "trained", "trained %", "with gradient %", "trained % reported by the thesis", "s/epoch", "peak MiB", "checkpoint MiB", "machine",
    "seeds",
)  # fmt: skip
REPORTED_NOTE = (
    "Reported by the thesis: the figures of its README, ≈ where it gives them with a tilde. They were measured on other base models, on "
    "2,000 test sentences, one figure for an approach whatever its encoder, and its shares of trained parameters leave some trained "
    "tables out: they are not to be compared digit by digit."
)
MAIN_NOTES = (
    f"Strict exact match on the test split, best epoch by validation. {MISSING}: no result; {NONE}: does not apply. Mean ± standard "
    "deviation over seeds where there are several.",
    INTERVALS,
    "trained: parameters that the optimizer holds; with gradient: those of them that a gradient reached; both of all parameters. "
    "s/epoch: training alone, on the machine named. checkpoint: ≈ is 4 bytes for each trained parameter, where the result does not say.",
    REPORTED_NOTE,
)


def main_table(found: Sequence[Corpus]) -> Document:
    """Scores and costs of each approach's default variant, the thesis's own figures beside them."""
    sections, records = [], []
    for corpus in found:
        pairs = [_main_row(corpus, row) for row in corpus.rows]
        records += [record for _, record in pairs]
        notes = [_test_note(corpus), *_dagger_notes(corpus), *_zero_shot_note(corpus), *MAIN_NOTES]
        sections.append(_section(corpus.title, MAIN_COLUMNS, [texts for texts, _ in pairs], 2, notes))
    return _document("main", "Approaches: scores and costs", sections, records)


def _test_note(corpus: Corpus) -> str:
    tested = sorted({cell.first.n_test or 0 for cell in corpus.cells} - {0})
    sizes = " or ".join(f"{size:,}" for size in tested) or "An unknown number of"
    training = "" if corpus.size is None else f", {corpus.size:,} training sentences"
    return f"{sizes} test sentences{training}."


def _zero_shot_note(corpus: Corpus) -> list[str]:
    files = thesis.ZERO_SHOT_FILES.get(corpus.name)
    if files is None:
        return []
    figures = ", ".join(f"{value:.4f} ({encoder})" for encoder, value in files.items())
    return [f"The thesis's own zero-shot result files say otherwise than its README: macro F1 {figures}."]


def _main_row(corpus: Corpus, row: Row) -> tuple[list[str], dict[str, Any]]:
    name, cell = row.approach.name, row.cell
    reported, share = thesis.MACRO_F1.get(corpus.name, {}).get(name), thesis.TRAINED_PERCENT.get(name)
    micro, macro = (corpus.estimate(cell, metric) if cell else None for metric in METRICS)
    counts = [cell.first.get("parameters", name) if cell else None for name in ("trainable", "total", "with_gradient")]
    trained, total, gradient = counts
    spent = cell.cost if cell else None
    record = _who(corpus, row, cell) | {
        "dataset_training_sentences": corpus.size,
        "test_sentences": cell.first.n_test if cell else None,
        **_estimate_values("micro_f1", micro),
        **_estimate_values("macro_f1", macro),
        "interval": micro.kind if micro else None,
        **_reported_values("thesis_macro_f1", reported),
        "trainable": trained,
        "parameters": total,
        "trainable_percent": _percent(trained, total),
        "with_gradient_percent": _percent(gradient, total),
        **_reported_values("thesis_trainable_percent", share),
        **_cost_values(spent),
    }
    texts = dict.fromkeys(MAIN_COLUMNS, MISSING) | {
        "approach": row.marked,
        "base": row.base or row.kind,
        "macro F1 reported by the thesis": _reported(reported, 4),
        "trained % reported by the thesis": _reported(share, 0),
    }
    if cell is not None and micro is not None and macro is not None:
        texts |= {
            "micro F1": str(micro),
            "micro 95 %": micro.interval,
            "macro F1": str(macro),
            "macro 95 %": macro.interval,
            "interval": micro.kind,
            "trained": _number(trained, ","),
            "trained %": _number(_percent(trained, total)),
            "with gradient %": _number(_percent(gradient, total)),
            "seeds": _n_seeds(cell),
            **_cost_texts(spent),
        }
    return list(texts.values()), record


def _cost_texts(spent: Cost | None) -> dict[str, str]:
    if spent is None:
        return dict.fromkeys(("s/epoch", "peak MiB", "checkpoint MiB", "machine"), NONE)
    size = None if spent.checkpoint_bytes is None else spent.checkpoint_bytes / 2**20
    return {
        "s/epoch": _number(spent.seconds_per_epoch, ".1f"),
        "peak MiB": _memory(spent.peak),
        "checkpoint MiB": ("≈ " if spent.checkpoint_estimated and size is not None else "") + _number(size, ".1f"),
        "machine": spent.machine,
    }


def _reported_values(name: str, figure: thesis.Reported | None) -> dict[str, Any]:
    return {name: figure.value if figure else None, f"{name}_approximate": figure.approximate if figure else None}


def _estimate_values(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {
        name: estimate.mean if estimate else None,
        f"{name}_sd": estimate.sd if estimate else None,
        f"{name}_low": estimate.low if estimate else None,
        f"{name}_high": estimate.high if estimate else None,
    }


def _cost_values(spent: Cost | None) -> dict[str, Any]:
    return {
        "seconds_per_epoch": spent.seconds_per_epoch if spent else None,
        "training_seconds": spent.seconds if spent else None,
        "machine": spent.machine if spent else None,
        "peak_cpu_mib": spent.peak.get("cpu") if spent else None,
        "peak_gpu_mib": spent.peak.get("gpu") if spent else None,
        "checkpoint_bytes": spent.checkpoint_bytes if spent else None,
        "checkpoint_bytes_estimated": spent.checkpoint_estimated if spent else None,
    }


def types_table(found: Sequence[Corpus]) -> Document:
    """Precision, recall and F1 of each type."""
    columns = ("approach", "type", "precision", "recall", "F1", "support", "seeds")
    sections, records = [], []
    for corpus in found:
        rows = []
        for row in corpus.rows:
            for name in corpus.types:
                cell, keys = row.cell, ("scores", "per_type", name)
                scores = {part: cell.mean_sd(*keys, part) if cell else None for part in ("precision", "recall", "f1")}
                support = cell.first.get(*keys, "support") if cell else None
                texts = [with_sd(score) for score in scores.values()]
                rows.append([row.marked, name, *texts, _number(support, ","), _n_seeds(cell)])
                record = _who(corpus, row, cell) | {"type": name, "support": support}
                for part, score in scores.items():
                    record |= {part: score[0] if score else None, f"{part}_sd": score[1] if score else None}
                records.append(record)
        notes = [_base_note(corpus), *_dagger_notes(corpus)]
        sections.append(_section(corpus.title, columns, rows, 2, notes))
    return _document("types", "Scores by type", sections, records)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _difference(found: Difference | None) -> str:
    if found is None:
        return MISSING
    star = "" if found.low <= 0 <= found.high else " *"
    return f"{_points(found.difference)} [{_points(found.low)}, {_points(found.high)}]{star}"


DIFFERENCE_NOTE = (
    "Percentage points of F1 with 95 % interval: paired bootstrap over test sentences of the mean over seeds; * where the interval "
    "leaves out 0, not corrected for the number of comparisons."
)


def differences_table(found: Sequence[Corpus]) -> Document:
    """Paired-bootstrap differences between the rows of the main table."""
    sections, records = [], []
    for corpus in found:
        rows = corpus.rows
        deltas = {(i, j): corpus.difference(rows[i].cell, rows[j].cell) for i in range(len(rows)) for j in range(i)}
        notes = [
            f"Row minus column. {DIFFERENCE_NOTE}", *_missing_notes(corpus), _base_note(corpus), *_dagger_notes(corpus),
        ]  # fmt: skip
        for metric in METRICS:
            known = {place: delta[metric] if delta else None for place, delta in deltas.items()}
            records += [
                {"dataset": corpus.name, "metric": metric, "first": rows[i].label, "second": rows[j].label}
                | _difference_values("", delta)
                for (i, j), delta in known.items()
            ]
            # The upper half would say the same with the signs turned; nothing is subtracted from the first row.
            texts = [
                [rows[i].marked, *(_difference(known[i, j]) if j < i else "" for j in range(len(rows) - 1))]
                for i in range(1, len(rows))
            ]
            columns = ["first − second", *(row.marked for row in rows[:-1])]
            sections.append(_section(f"{corpus.title}, {METRICS[metric].title}", columns, texts, 1, notes))
    return _document("differences", "Differences between approaches", sections, records)


def _difference_values(prefix: str, found: Difference | None) -> dict[str, float | None]:
    return {
        f"{prefix}difference": found.difference if found else None,
        f"{prefix}low": found.low if found else None,
        f"{prefix}high": found.high if found else None,
        f"{prefix}p_value": found.p_value if found else None,
    }


def _missing_notes(corpus: Corpus) -> list[str]:
    groups = {row.label: corpus.samples(cell) for row, cell in corpus.shown}
    why = {
        "for want of results": [row.label for row in corpus.rows if row.cell is None],
        "for want of counts (_counts.npz) beside the result files": [
            label for label, found in groups.items() if found is None
        ],
    }
    notes = [f"Missing {reason}: {', '.join(labels)}." for reason, labels in why.items() if labels]
    if len({found[0] for found in groups.values() if found is not None}) > 1:
        notes.append("Missing between results that were not scored on the same sentences.")
    return notes


@dataclass(frozen=True)
class _Pair:
    """A control and the default that it is compared with."""

    control: str
    row: Row
    variant: str
    cell: Cell | None
    default: Cell | None

    def label(self, corpus: Corpus) -> str:
        """The approach, with a dagger if what is shown was trained on a part of the sentences."""
        cell = self.cell or self.default
        return self.row.label + ("" if cell is None or corpus.is_whole(cell) else f" {DAGGER}")


def controls_table(found: Sequence[Corpus]) -> Document:
    """Variants that differ from an approach's default in one thing, with their paired differences."""
    columns = (
        "control", "approach", "variant", "default", "micro F1", "default micro F1", "micro: variant − default", "macro F1",
        "default macro F1", "macro: variant − default", "seeds",
    )  # fmt: skip
    sections, records = [], []
    for corpus in found:
        rows, notes = [], [DIFFERENCE_NOTE, _base_note(corpus), *_dagger_notes(corpus)]
        for pair in _pairs(corpus):
            texts, record = _control_row(corpus, pair)
            rows.append(texts)
            records.append(record)
            notes += _control_notes(corpus, pair)
        sections.append(_section(corpus.title, columns, rows, 4, notes))
    return _document("controls", "Controls and variants", sections, records)


def _pairs(corpus: Corpus) -> list[_Pair]:
    pairs, told = [], set()
    for row in corpus.rows:
        for control in row.approach.controls:
            default = row.cell.first.variant if row.cell else row.approach.default_variant(row.kind)
            variant = variant_text({**default, **control.change})
            pairs.append(_pair(corpus, control.title, row, variant))
            told.add((row, variant))
    for row in corpus.rows:
        cells = corpus.of(row.approach.name, row.kind, row.base)
        for variant in sorted({cell.variant for cell in cells} - {row.variant}):
            if (row, variant) not in told:
                pairs.append(_pair(corpus, "other variant", row, variant))
    return pairs


def _pair(corpus: Corpus, control: str, row: Row, variant: str) -> _Pair:
    cells = corpus.of(row.approach.name, row.kind, row.base)
    cell = corpus.pick(cell for cell in cells if cell.variant == variant)
    default = row.cell
    if cell is not None:
        # A control is compared with the default on the same base and sentences.
        same = (cell.first.base, cell.first.n_train)
        default = corpus.pick(c for c in cells if c.variant == row.variant and (c.first.base, c.first.n_train) == same)
    return _Pair(control, row, variant, cell, default)


def _control_row(corpus: Corpus, pair: _Pair) -> tuple[list[str], dict[str, Any]]:
    cell, default = pair.cell, pair.default
    deltas = corpus.difference(cell, default)
    texts = [pair.control, pair.label(corpus), pair.variant, pair.row.variant]
    record = {"control": pair.control} | _who(corpus, pair.row, cell)
    record |= {
        "variant": pair.variant,
        "default": pair.row.variant,
        "default_seeds": _seeds(default) if default else None,
    }
    for metric in METRICS:
        ours, other = (corpus.estimate(item, metric) if item else None for item in (cell, default))
        texts += [str(ours or MISSING), str(other or MISSING)]
        record |= {metric: ours.mean if ours else None, f"{metric}_sd": ours.sd if ours else None}
        record |= {
            f"default_{metric}": other.mean if other else None,
            f"default_{metric}_sd": other.sd if other else None,
        }
        record |= _difference_values(f"{metric}_", deltas[metric] if deltas else None)
        if deltas is None and ours is not None and other is not None:
            # Without counts the difference is known and its interval is not.
            record[f"{metric}_difference"] = ours.mean - other.mean
            texts.append(f"{_points(ours.mean - other.mean)} [{MISSING}]")
        else:
            texts.append(_difference(deltas[metric] if deltas else None))
    return [*texts, f"{_n_seeds(cell)} / {_n_seeds(default)}"], record


def _control_notes(corpus: Corpus, pair: _Pair) -> list[str]:
    cell, default, notes = pair.cell, pair.default, []
    told = pair.row.approach.spec.variant_settings if pair.row.approach.spec else frozenset()
    if cell is not None and not corpus.is_whole(cell):
        notes.append(f"{pair.label(corpus)}, {pair.variant}: trained on {_part(corpus, cell)}, and so is its default.")
    if cell is not None and default is not None and (others := _other_settings(default, cell, told)):
        notes.append(f"{pair.label(corpus)}, {pair.variant}, differs from its default also in {'; '.join(others)}.")
    return notes


def _other_settings(default: Cell, control: Cell, told: frozenset[str]) -> list[str]:
    """Settings that differ although the variant does not tell; those that a file of an older version lacks are left out."""
    first, second = (
        {name: value for name, value in cell.first.result["config"].items() if name not in ("runtime", "data")}
        for cell in (default, control)
    )
    found = {text.partition(": ")[0]: text for text in differences(first, second)}
    left_out = told | {"train.seed", "train.tensorboard", "train.track"}
    return [text for name, text in found.items() if name not in left_out and _has(first, name) and _has(second, name)]


def _has(config: Mapping[str, Any], dotted: str) -> bool:
    value: Any = config
    for name in dotted.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def unreachable_table(found: Sequence[Corpus]) -> Document:
    """Gold spans that an approach cannot predict, and the best F1 that they leave, of all variants."""
    columns = ("approach", "variant", "gold spans", "unreachable", "%", "why", "best micro F1", "best macro F1")
    sections, records = [], []
    for corpus in found:
        pairs = []
        for row in corpus.rows:
            cells = corpus.of(row.approach.name, row.kind, row.base)
            others = sorted({cell.variant for cell in cells} - {row.variant})
            shown = [row.cell, *(corpus.pick(cell for cell in cells if cell.variant == name) for name in others)]
            pairs += [_unreachable_row(corpus, row, cell) for cell in shown]
        records += [record for _, record in pairs]
        notes = [
            f"{MISSING}: no result, or one of an older version that does not say. The best F1 is that of a model that finds all "
            "reachable gold spans and nothing else.",
            _base_note(corpus),
        ]
        sections.append(_section(corpus.title, columns, [texts for texts, _ in pairs], 2, notes))
    return _document("unreachable", "Gold spans out of reach", sections, records)


def _unreachable_row(corpus: Corpus, row: Row, cell: Cell | None) -> tuple[list[str], dict[str, Any]]:
    # It depends on words, tags and variant and not on the weights: any seed tells, and a newer file may say more.
    newest = max(cell.runs, key=lambda run: run.result["created"]) if cell else None
    found = (newest.get("unreachable_gold") if newest else None) or {}
    gold, lost, reasons = found.get("gold"), found.get("lost"), found.get("by_reason")
    why = None if reasons is None else ", ".join(f"{n:,} {name}" for name, n in reasons.items() if n) or NONE
    best = {f"best_{metric}": (found.get("ceiling") or {}).get(metric) for metric in METRICS}
    texts = [row.label, cell.variant if cell else row.variant, _number(gold, ","), _number(lost, ",")]
    texts += [_number(_percent(lost, gold)), why or MISSING, *(_number(value, ".4f") for value in best.values())]
    record = _who(corpus, row, cell) | {"gold": gold, "unreachable": lost, "unreachable_percent": _percent(lost, gold)}
    return texts, record | {"why": why} | best


ERROR_KINDS = {
    "boundary": "other boundaries",
    "type": "other type",
    "boundary_and_type": "both other",
    "missed": "not touched",
}
"""What became of a gold span that was not found, as :class:`common.metrics.ErrorReport` and the columns call it."""


def errors_table(found: Sequence[Corpus]) -> Document:
    """What became of the gold spans that were not found, and F1 over words, which forgives wrong boundaries."""
    columns = (
        "approach", "macro F1", "macro F1 of words", "gold spans", "found %", *(f"{name} %" for name in ERROR_KINDS.values()),
        "spurious %", "seeds",
    )  # fmt: skip
    sections, records = [], []
    for corpus in found:
        pairs = [_errors_row(corpus, row, row.cell) for row in corpus.rows]
        records += [record for _, record in pairs]
        notes = [
            "Of all gold spans; those not found by the first kind that fits: a prediction with the same boundaries and another type, one "
            "of the same type that overlaps, one of another type that overlaps, none. spurious: predictions that overlap no gold span, "
            "in % of the gold spans. Means over seeds.",
            "macro F1 of words: each word has the type of the span that it lies in.",
            *_dagger_notes(corpus),
        ]
        sections.append(_section(corpus.title, columns, [texts for texts, _ in pairs], 1, notes))
    return _document("errors", "What is missed", sections, records)


def _errors_row(corpus: Corpus, row: Row, cell: Cell | None) -> tuple[list[str], dict[str, Any]]:
    def mean(*keys: str) -> float | None:
        found = cell.mean_sd(*keys) if cell else None
        return found[0] if found else None

    gold = mean("unreachable_gold", "gold")
    counts = {name: mean("errors", name) for name in (*ERROR_KINDS, "spurious")}
    shares = {name: _percent(count, gold) for name, count in counts.items()}
    lost = [shares[name] for name in ERROR_KINDS]
    found = None if None in lost else 100 - sum(share for share in lost if share is not None)
    words = cell.mean_sd("token_report", "macro", "f1") if cell else None
    macro = corpus.estimate(cell, "macro_f1") if cell else None
    texts = [row.marked, str(macro or MISSING), with_sd(words), _number(gold, ",.0f")]
    texts += [*(_number(share, ".1f") for share in (found, *shares.values())), _n_seeds(cell)]
    record = _who(corpus, row, cell) | {
        "macro_f1": macro.mean if macro else None,
        "word_macro_f1": words[0] if words else None,
    }
    record |= {"gold": gold, "found_percent": found}
    return texts, record | {f"{name}_percent": share for name, share in shares.items()}


def curve(corpus: Corpus, row: Row) -> dict[int, Cell]:
    """The cells of a row's approach by their number of training sentences."""
    cells = [
        c
        for c in corpus.of(row.approach.name, row.kind, row.base)
        if row.approach.is_default(c.first.variant, row.kind)
    ]
    sizes = sorted({cell.first.n_train or 0 for cell in cells} - {0})
    picked = {n: corpus.pick((cell for cell in cells if cell.first.n_train == n), row.variant) for n in sizes}
    return {n: cell for n, cell in picked.items() if cell is not None}


def few_shot_table(found: Sequence[Corpus]) -> Document:
    """F1 by the number of training sentences."""
    sections, records = [], []
    for corpus in found:
        curves = [(row, curve(corpus, row)) for row in corpus.rows if row.approach.trains]
        expected = thesis.FEW_SHOT_SIZES if corpus.name in thesis.DATASETS else ()
        sizes = {n for _, cells in curves for n in cells} | {n for n in expected if n < (corpus.size or math.inf)}
        columns = {n: f"all ({n:,})" if n == corpus.size else f"{n:,}" for n in sorted(sizes)}
        for metric in METRICS:
            rows = []
            for row, cells in curves:
                found_f1 = {n: corpus.estimate(cells[n], metric) if n in cells else None for n in columns}
                rows.append([row.label, *(str(estimate or MISSING) for estimate in found_f1.values())])
                for n, estimate in found_f1.items():
                    record = _who(corpus, row, cells.get(n)) | {"training_sentences": n, "metric": metric}
                    kind = estimate.kind if estimate else None
                    records.append(record | _estimate_values("f1", estimate) | {"interval": kind})
            notes = [
                "Columns: training sentences. Mean ± standard deviation over seeds where there are several.",
                _base_note(corpus),
            ]
            title = f"{corpus.title}, {METRICS[metric].title}"
            sections.append(_section(title, ["approach", *columns.values()], rows, 1, notes))
    return _document("few_shot", "Training sentences", sections, records)


def runs_table(runs: Sequence[Run]) -> Document:
    """The list of runs, best micro F1 of a data set last."""
    ordered = sorted(runs, key=lambda run: (dataset_order(run.dataset), f1_of(run, "micro_f1"), run.result["created"]))
    pairs = [_run_row(run) for run in ordered]
    section = _section("Runs", COLUMNS, [texts for texts, _ in pairs], _N_TEXT_COLUMNS)
    return _document("runs", "Runs", [section], [record for _, record in pairs])


def _run_row(run: Run) -> tuple[list[str], dict[str, Any]]:
    trained, total, gradient = (run.get("parameters", name) for name in ("trainable", "total", "with_gradient"))
    training = run.get("training")
    epochs, epoch, features = (run.get("training", name) for name in ("epochs", "seconds_per_epoch", "feature_seconds"))
    peak = run.get("training", "peak_memory_mb") or {}
    speed, split = run.get("speed", "sentences_per_second"), run.get("split")
    intervals = {metric: run.get("intervals", metric) for metric in METRICS}
    text = {metric: "{:.3f}-{:.3f}".format(*ends) if ends else MISSING for metric, ends in intervals.items()}

    def of_training(value: str) -> str:
        return value if training else NONE

    texts = [
        run.dataset if split in (None, "test") else f"{run.dataset} ({split})",
        run.result["approach"],
        variant_text(run.variant),
        run.base,
        NONE if run.result["seed"] is None else str(run.result["seed"]),
        of_training(_number(run.n_train, ",")),
        of_training(_number(epochs, "d")),
        f"{f1_of(run, 'micro_f1'):.4f}",
        text["micro_f1"],
        f"{f1_of(run, 'macro_f1'):.4f}",
        text["macro_f1"],
        _number(trained, ","),
        _number(_percent(trained, total)),
        NONE if gradient is None else _number(_percent(gradient, total)),
        of_training(_number(epoch, ".1f")),
        NONE if features is None else f"{features:.1f}",
        of_training(_memory(peak)),
        run.get("precision") or MISSING,
        _number(speed, ".0f"),
    ]
    record = {name: run.get(name) for name in ("dataset", "split", "approach")} | {"variant": variant_text(run.variant)}
    record |= {"base": run.base, "encoder": run.kind, "seed": run.result["seed"], "training_sentences": run.n_train}
    record |= {"epochs": epochs}
    for metric, ends in intervals.items():
        low, high = ends or (None, None)
        record |= {metric: f1_of(run, metric), f"{metric}_low": low, f"{metric}_high": high}
    record |= {"trainable": trained, "with_gradient": gradient, "parameters": total, "seconds_per_epoch": epoch}
    record |= {"feature_seconds": features, "peak_cpu_mib": peak.get("cpu"), "peak_gpu_mib": peak.get("gpu")}
    return texts, record | {
        "precision": run.get("precision"),
        "sentences_per_second": speed,
        "created": run.get("created"),
    }


# ------------------------------------------------------------------------------------------------------------ rendering


def glance(main: Document) -> Section:
    """The main table's scores and costs of all data sets side by side, one row for each approach, kind of encoder and base."""
    texts = [(section.title, row) for section in main.sections for row in section.rows.to_dict("records")]
    values = [
        ((value["approach"], value["encoder"]), value["base"] if isinstance(value["base"], str) else None)
        for value in main.values.to_dict("records")
    ]
    bases: dict[tuple[str, str], list[str]] = {}
    for who, base in values:
        if base is not None and base not in bases.setdefault(who, []):
            bases[who].append(base)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for (title, row), (who, base) in zip(texts, values, strict=True):
        name, mark, _ = str(row["approach"]).partition(f" {DAGGER}")
        # An approach without a result here belongs to the bases that it has results with elsewhere.
        for place in [base] if base is not None else bases.get(who) or [str(row["base"])]:
            line = rows.setdefault((*who, place), {"approach": name, "base": place, "trained %": MISSING})
            line |= {
                f"{title} macro F1": row["macro F1"] + mark,
                f"{title} macro 95 %": row["macro 95 %"],
                f"{title} micro F1": row["micro F1"] + mark,
                f"{title} macro F1, thesis": row["macro F1 reported by the thesis"],
                f"{title} s/epoch": row["s/epoch"] + mark,
            }
            line |= {"trained %": row["trained %"]} if line["trained %"] == MISSING else {}
    frame = pd.DataFrame(list(rows.values()), dtype=object).fillna(MISSING)
    frame = frame.loc[:, (frame != NONE).any()]
    notes = (
        "Strict exact match on the test splits, best epoch by validation, 95 % intervals; s/epoch: training alone.",
        *(["thesis: reported by the thesis, on other base models."] * any("thesis" in str(name) for name in frame)),
        *([f"{DAGGER}: trained on a part of the training sentences."] * bool(frame.apply(_has_dagger).any())),
    )
    return Section("At a glance", frame, 2, notes)


def _has_dagger(texts: pd.Series) -> bool:
    return any(DAGGER in text for text in texts)


def overview(main: Document) -> str:
    """The main table of each data set and its notes."""
    parts = []
    for section in main.sections:
        own = [note for note in section.notes if note not in MAIN_NOTES]
        parts.append(f"**{section.title}**\n\n{markdown_table(section)}\n" + "".join(f"- {note}\n" for note in own))
    parts.append("On all of them:\n\n" + "".join(f"- {note}\n" for note in MAIN_NOTES))
    return "\n".join(parts)


def readme_block(main: Document) -> str:
    """The table at a glance; all figures of the main table folded away."""
    first = glance(main)
    notes = "".join(f"- {note}\n" for note in first.notes)
    details = f"<details>\n<summary>All figures</summary>\n\n{overview(main)}\n</details>\n"
    return "\n".join([markdown_table(first), notes, details])


# -------------------------------------------------------------------------------------------------------------- figures


# ----------------------------------------------------------------------------------------------------------------- main
