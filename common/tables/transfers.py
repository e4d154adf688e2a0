"""What adaptations destroy: records of ``common.transfer`` beside the results of the same models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import Metric
from common.errors import InputError
from common.evaluation.transfer_record import TRANSFER_FOLDER, TransferRecord
from common.paths import output_root
from common.schema import read_record
from common.spec import variant_text
from common.tables import plots
from common.tables.groups import Benchmark, Entry, mean_sd
from common.tables.render import NONE, Column, Section, Table

logger = logging.getLogger(__name__)

METRIC: Metric = "micro_f1"
"""Macro F1 of one type, which most of the corpora have, is the same."""

Transfers = Sequence[Mapping[str, Any]]


def read_transfers(places: Sequence[Path]) -> list[dict[str, Any]]:
    """The records in the folders ``transfer`` of some places, or among the user's own output if there are none.

    A bad record is passed over with a warning.
    """
    own = [*sorted(output_root().glob("*")), output_root() / "study" / "results"]
    folders = [path / TRANSFER_FOLDER for path in places or own]
    records = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
        try:
            records.append(read_record(path, TransferRecord))
        except InputError as error:
            logger.warning("passed over: %s", error)
    return records


def of_entry(transfers: Transfers, benchmark: Benchmark, entry: Entry) -> list[Mapping[str, Any]]:
    """The records of the models that a line of the main table stands for, as they were trained."""
    return [item for item in _all_of_entry(transfers, benchmark, entry) if item["model"]["interpolate"] == 1]


def _all_of_entry(transfers: Transfers, benchmark: Benchmark, entry: Entry) -> list[Mapping[str, Any]]:
    """Those with weights between base and adapted model too."""
    wanted = entry.approach, entry.kind, entry.base, benchmark.name, variant_text(entry.variant)
    return [item for item in transfers if _model(item) == wanted]


def _model(item: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    model, base = item["model"], item["model"]["base_model"]
    return model["approach"], base["kind"], base["name"], model["trained_on"]["name"], variant_text(model["variant"])


def kept(records: Transfers) -> float | None:
    """The mean share of the base's zero-shot micro F1 that is left on the other corpora, in percent, over runs.

    None where the base finds nothing that could be kept.
    """
    shares = []
    for record in records:
        before, after = (
            np.mean([corpus[side]["best"][METRIC] for corpus in record["corpora"].values()])
            for side in ("before", "after")
        )
        if before:
            shares.append(100 * after / before)
    return float(np.mean(shares)) if shares else None


def transfer_table(found: Sequence[Benchmark], transfers: Transfers) -> Table:
    """Zero-shot F1 on other corpora before and after, for each approach; a column for each corpus."""

    def change(before: float, after: float, low: float | None, high: float | None) -> str:
        ends = f" [{100 * low:+.1f}, {100 * high:+.1f}]" if low is not None and high is not None else ""
        return f"{before:.3f} → {after:.3f}{ends}".replace("-", "−")

    columns = (
        Column("approach", "label", left=True),
        Column("share of adapted weights", "interpolate", "g"),
        Column("seeds", "n_seeds"),
        Column("", "before after low high", change, where="keeps_zero_shot"),
    )
    sections = [Section(item.title, _rows(item, transfers), NOTES) for item in found]
    across = Column("", "corpus")
    return Table("transfer", "Zero-shot micro F1 on other corpora, before and after", columns, tuple(sections), across)


NOTES = (
    "Untouched base → adapted model, asked for the corpus's own types; the whole test split, each at its best "
    "threshold on the validation split. In brackets the 95 % interval of the difference in points, paired over "
    "sentences, where there is one run.",
    f"{NONE}: the approach finds only the types that it was trained on.",
)


def _rows(benchmark: Benchmark, transfers: Transfers) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    corpora = sorted({name for item in transfers if _model(item)[3] == benchmark.name for name in item["corpora"]})
    for entry in (entry for entry in benchmark.entries if entry.trains and entry.group is not None):
        head = {"dataset": benchmark.name, "label": entry.label, "approach": entry.approach, "kind": entry.kind}
        if entry.spec is not None and not entry.spec.keeps_zero_shot:
            rows += [head | {"corpus": name, "keeps_zero_shot": False} for name in corpora]
            continue
        own = _all_of_entry(transfers, benchmark, entry)
        for share in sorted({item["model"]["interpolate"] for item in own}, reverse=True):
            runs = [item for item in own if item["model"]["interpolate"] == share]
            for name in corpora:
                here = [item["corpora"][name] for item in runs if name in item["corpora"]]
                rows.append(head | {"interpolate": share, "corpus": name} | (_values(here) if here else {}))
    return rows


def _values(corpora: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {"n_seeds": len(corpora), "sentences": corpora[0]["sentences"]}
    for side in ("before", "after"):
        values[side], values[f"{side}_sd"] = mean_sd(item[side]["best"][METRIC] for item in corpora)
        values[f"{side}_at_half"], _ = mean_sd(item[side]["at_half"][METRIC] for item in corpora)
        values[f"foreign_per_100_{side}"], _ = mean_sd(item["predictions_per_100_sentences"][side] for item in corpora)
    if len(corpora) == 1:
        _, values["low"], values["high"] = corpora[0]["difference_best"][METRIC]
    return values


def gain_and_loss(found: Sequence[Benchmark], transfers: Transfers) -> dict[str, plots.Panel]:
    """For each data set: what of the zero-shot F1 is kept, in percent, against macro F1 on the data set itself."""
    panels: dict[str, plots.Panel] = {}
    for item in found:
        panel: dict[plots.Series, list[plots.Point]] = {}
        shares = {entry: kept(of_entry(transfers, item, entry)) if entry.trains else 100.0 for entry, _ in item.shown}
        for entry, group in item.shown:
            if (share := shares[entry]) is not None:
                macro = item.estimate(group, "macro_f1")
                panel[plots.Series(*entry.look, entry.label)] = [plots.Point(share, macro.mean, macro.low, macro.high)]
        if any(entry.trains and shares[entry] is not None for entry, _ in item.shown):
            panels[item.title] = panel
    return panels
