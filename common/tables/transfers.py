"""What adaptations destroy: ``common.transfer`` records beside the results of the same models."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import Metric
from common.errors import InputError
from common.evaluation.transfer_record import TRANSFER_FOLDER, TransferRecord
from common.registry import has_zero_shot
from common.schema import read_record
from common.spec import variant_text
from common.tables.groups import Benchmark, Entry, Group, Transfers, mean_sd, trained_on
from common.tables.render import NONE, Column, Section, Table
from common.tables.results import own_places

logger = logging.getLogger(__name__)

METRIC: Metric = "micro_f1"
"""Macro F1 of one type, which most of the corpora have, is the same."""

KNOWN = 0.5
"""A base knew the types of a corpus if this was its micro F1 there, untouched; of less there is little to keep."""


def read_transfers(places: Sequence[Path]) -> list[dict[str, Any]]:
    """The records in folders ``transfer`` in some places, or among the user's own output if there are none.

    Of several of one model and corpus the newest counts. A bad record is passed over with a warning.
    """
    records = []
    for path in dict.fromkeys(path for place in places or own_places() for path in _files(place)):
        try:
            records.append(read_record(path, TransferRecord))
        except InputError as error:
            logger.warning("passed over: %s", error)
    models: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: str(record["created"])):
        older = models.get(key := json.dumps(record["model"], sort_keys=True), {"corpora": {}})
        models[key] = record | {"corpora": older["corpora"] | record["corpora"]}
    versions = sorted({record["provenance"].get("behaviour", 1) for record in records})
    if len(versions) > 1:
        logger.warning("%s: records of behaviour versions %s stand side by side", TRANSFER_FOLDER, versions)
    return list(models.values())


def _files(place: Path) -> list[Path]:
    """Those in a folder; those beside a result file or a folder of test results."""
    if place.is_dir() and place.name != "test_results":
        return sorted(place.rglob(f"{TRANSFER_FOLDER}/*.json"))
    return sorted((place.parent / TRANSFER_FOLDER).glob("*.json"))


def of_entry(benchmark: Benchmark, entry: Entry) -> list[Mapping[str, Any]]:
    """The records of the models that a line of the main table stands for, as they were trained."""
    return [item for item in _all_of_entry(benchmark, entry) if item["model"]["interpolate"] == 1]


def _all_of_entry(benchmark: Benchmark, entry: Entry) -> list[Mapping[str, Any]]:
    """Those with weights between base and adapted model too."""
    return _of_group(benchmark, entry, variant_text(entry.variant), entry.group)


def _of_group(benchmark: Benchmark, entry: Entry, variant: str, group: Group | None) -> list[Mapping[str, Any]]:
    """Those of a variant of an entry's approach that its group has results of."""
    wanted = entry.approach, entry.kind, entry.base, variant
    # Where a result does not say of which checkpoint it is, any of the variant is taken for it.
    tested = {result.checkpoint for result in group.results} if group else set()
    return [
        item
        for item in benchmark.transfers
        if _model(item) == wanted and (None in tested or item["model"]["checkpoint"] in tested)
    ]


def _model(item: Mapping[str, Any]) -> tuple[str, str, str, str]:
    model, base = item["model"], item["model"]["base_model"]
    return model["approach"], base["kind"], base["name"], variant_text(model["variant"])


def _keeps(entry: Entry) -> bool:
    """Whether there is anything to measure: what is trained and can still be asked for other types."""
    return entry.spec is None or has_zero_shot(entry.approach, entry.kind)


def known_corpora(records: Transfers) -> list[str]:
    """The corpora of all records whose types the base knew, without those that a model was trained on."""
    names = set.intersection(*(set(record["corpora"]) for record in records)) if records else set()
    names -= {name for record in records for name in trained_on(record)}
    return sorted(
        name for name in names if min(record["corpora"][name]["before"]["best"][METRIC] for record in records) >= KNOWN
    )


def kept(records: Transfers) -> float | None:
    """What is left of the base's zero-shot micro F1 on the corpora that it knew, in percent.

    The mean over the corpora after the adaptation as a share of the mean before; mean over runs. None where the base
    knew none of them.
    """
    names = known_corpora(records)
    if not names:
        return None
    before, after = (
        np.array([[record["corpora"][name][side]["best"][METRIC] for name in names] for record in records]).mean(1)
        for side in ("before", "after")
    )
    return float(np.mean(100 * after / before))


KEPT = Column("kept %", "kept", ".0f", where="keeps_zero_shot")
"""For the table's rows with :func:`kept_values`."""


def is_measured(found: Sequence[Benchmark]) -> bool:
    """Whether there are records of what stands in the main table."""
    return any(of_entry(item, entry) for item in found for entry in item.entries)


def kept_values(benchmark: Benchmark, entry: Entry) -> dict[str, Any]:
    """What a line of the main table keeps."""
    records = of_entry(benchmark, entry)
    names = known_corpora(records)
    can = _keeps(entry) and entry.trains and not (records and not names)
    return {"keeps_zero_shot": can, "kept": kept(records), "kept_runs": len(records), "kept_on": ";".join(names)}


def kept_note(found: Sequence[Benchmark]) -> str:
    """What :data:`KEPT` is, and on which corpora."""
    measured: list[str] = []
    for item in found:
        lines: dict[str, list[str]] = {}
        for entry in item.entries:
            if records := of_entry(item, entry):
                runs = f"{len(records)} run{'s' * (len(records) != 1)}"
                lines.setdefault(f"{', '.join(known_corpora(records)) or 'none'} ({runs} each)", []).append(entry.label)
        for names, labels in lines.items():
            measured.append(f"{', '.join([item.title, *(labels if len(lines) > 1 else ())])}: {names}")
    return (
        "kept: zero-shot micro F1 on other corpora after the adaptation, each at its best threshold on validation: the "
        f"mean over the corpora whose types the base knew (micro F1 of at least {KNOWN:g} before), in percent of the "
        f"untouched base's mean; mean over the runs. Measured on {'; '.join(measured)}. {NONE}: nothing is adapted, or "
        "only the trained types are found, or the base knew none of the corpora."
    )


def transfer_table(found: Sequence[Benchmark]) -> Table:
    """Zero-shot F1 on other corpora before and after, for each approach; a column for each corpus."""

    def change(before: float, after: float, low: float | None, high: float | None) -> str:
        ends = f" [{100 * low:+.1f}, {100 * high:+.1f}]" if low is not None and high is not None else ""
        return f"{before:.3f} → {after:.3f}{ends}".replace("-", "−")

    columns = (
        Column("approach", "label", left=True),
        Column("share of adapted weights", "interpolate", "g", where="keeps_zero_shot"),
        Column("seeds", "n_seeds", where="keeps_zero_shot"),
        Column("", "before after low high", change, where="keeps_zero_shot"),
    )
    sections = [Section(item.title, rows, NOTES) for item in found if item.transfers and (rows := _rows(item))]
    across = Column("", "corpus")
    return Table("transfer", "Zero-shot micro F1 on other corpora, before and after", columns, tuple(sections), across)


NOTES = (
    "Untouched base → adapted model, asked for the corpus's own types; the whole test split, each at its best "
    "threshold on the validation split. In brackets the 95 % interval of the difference in points, paired over "
    "sentences, where there is one run.",
    f"{NONE}: the approach finds only the types that it was trained on.",
)


def _rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    corpora = sorted({name for item in benchmark.transfers for name in item["corpora"]})
    for entry in (entry for entry in benchmark.entries if entry.trains and entry.group is not None):
        head = {"dataset": benchmark.name, "label": entry.label, "approach": entry.approach, "kind": entry.kind}
        if not _keeps(entry):
            rows += [head | {"corpus": name, "keeps_zero_shot": False} for name in corpora]
            continue
        own = {entry.label: _all_of_entry(benchmark, entry)}
        for variant, group in benchmark.variants(entry).items():
            if variant != variant_text(entry.variant):
                own[f"{entry.label}, {variant}"] = _of_group(benchmark, entry, variant, group)
        for label, records in own.items():
            for share in sorted({item["model"]["interpolate"] for item in records}, reverse=True):
                runs = [item for item in records if item["model"]["interpolate"] == share]
                for name in corpora:
                    here = [item["corpora"][name] for item in runs if name in item["corpora"]]
                    # Corpora measured on fewer runs have a line of their own.
                    n_seeds = len(here) or len(runs)
                    row = head | {"label": label, "interpolate": share, "n_seeds": n_seeds, "corpus": name}
                    rows.append(row | (_values(here) if here else {}))
    return rows


def _values(corpora: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {"sentences": corpora[0]["sentences"]}
    for side in ("before", "after"):
        values[side], values[f"{side}_sd"] = mean_sd(item[side]["best"][METRIC] for item in corpora)
        values[f"{side}_at_half"], _ = mean_sd(item[side]["at_half"][METRIC] for item in corpora)
        values[f"foreign_per_100_{side}"], _ = mean_sd(item["predictions_per_100_sentences"][side] for item in corpora)
    if len(corpora) == 1:
        _, values["low"], values["high"] = corpora[0]["difference_best"][METRIC]
    return values
