"""What the tables are made of: result files read, grouped and averaged.

Words: a *run* is one result file; a *cell* is the runs that differ in nothing but the seed; a *row* is the cell that stands for an
approach, a kind of base model and a base in the main table. A cell without a result is missing, never zero.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from common.config import Metric, to_dict
from common.errors import InputError
from common.evaluation.metrics import (
    METRICS,
    N_RESAMPLES,
    Difference,
    SpanCounts,
    difference_of,
    resampled_f1,
    span_scores,
)
from common.evaluation.results import counts_path, read_counts, read_result
from common.files import read_json
from common.paths import output_root
from common.registry import APPROACHES, spec
from common.spec import ApproachSpec, Control, Variant, variant_text
from common.tables import plots, thesis

logger = logging.getLogger(__name__)

MISSING, NONE, DAGGER = "missing", "-", "†"
"""No result; does not apply; trained on a part of the training sentences."""


@dataclass(frozen=True)
class Listed:
    """An approach as tables know it; one that is not registered has no default variant but whatever there is."""

    name: str
    spec: ApproachSpec[Any] | None
    kinds: tuple[str, ...]
    """Kinds of base model that it has a row for."""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.spec.title if self.spec else self.name

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.spec is None or self.spec.trains

    @property
    def controls(self) -> tuple[Control, ...]:
        """Its control runs."""
        return self.spec.controls if self.spec else ()

    def default_variant(self, kind: str) -> Variant:
        """The variant of its own settings."""
        return self.spec.default_variant(kind) if self.spec else {}

    def is_default(self, variant: Variant, kind: str) -> bool:
        """Whether a variant belongs into the main table."""
        return self.spec is None or self.spec.is_default(variant, kind)


# -------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Run:
    """A result file. Files of older versions lack some keys: what they lack is None."""

    path: Path
    result: dict[str, Any]

    def get(self, *keys: str) -> Any:
        """A nested value, None if it is not there."""
        value: Any = self.result
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.result["dataset"]

    @property
    def approach(self) -> str:
        """Name of the approach."""
        return self.result["approach"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its configuration, complete; that of an earlier version with the defaults of what is new."""
        config = self.result["config"]
        try:
            return to_dict(spec(self.approach).stored_config(config, str(self.path)))
        except InputError:
            # Of an approach that is not here, or of a version that had other settings.
            return config

    @cached_property
    def variant(self) -> Variant:
        """The variant by its aspects."""
        stored = self.result["variant"]
        if not isinstance(stored, str):
            return stored
        # Results of format 1 have a text. Their configuration says what it stands for.
        try:
            known = spec(self.approach)
            return known.variant(known.stored_config(self.result["config"], str(self.path)))
        except InputError:
            return {"variant": stored}

    @property
    def kind(self) -> str:
        """Kind of base model."""
        return self.get("base_model", "kind") or self.get("base_model", "encoder") or "bi"

    @property
    def base(self) -> str:
        """Name of the base model."""
        return self.get("base_model", "name") or MISSING

    @property
    def n_train(self) -> int | None:
        """Number of training sentences; None if nothing was trained."""
        return self.get("training", "dataset", "train")

    @property
    def n_test(self) -> int | None:
        """Number of scored sentences."""
        return self.get("speed", "sentences")

    @property
    def has_counts(self) -> bool:
        """Whether the counts of its sentences lie beside it."""
        return counts_path(self.path).is_file()

    @property
    def machine(self) -> str:
        """What it was trained on; all of them where a resumed run changed machines."""
        training = self.get("training") or {}
        machines = [
            _machine_name(start["machine"])
            for start in (*training.get("earlier_provenance", ()), training.get("provenance", {}))
            if start.get("machine")
        ]
        return " and ".join(dict.fromkeys(machines)) or MISSING

    @cached_property
    def identity(self) -> str:
        """All that a run is but for its seed: runs with the same identity are repetitions.

        Where it ran is not in it. The base is named by its content, so that two bases of one name stay apart.
        """
        config = {name: value for name, value in self.settings.items() if name not in ("runtime", "data")}
        if isinstance(config.get("train"), dict):
            left_out = ("seed", "track")
            config["train"] = {name: value for name, value in config["train"].items() if name not in left_out}
        sizes = [self.n_train, self.get("training", "dataset", "validation"), self.get("speed", "sentences")]
        what = [self.approach, variant_text(self.variant), self.dataset]
        return json.dumps(
            [what, self.get("split"), self.base, self.get("base_model", "revision"), sizes, config], sort_keys=True
        )


def read_runs(places: Sequence[Path], dataset: str | None = None) -> list[Run]:
    """The results in some places; of those with the same identity and seed the newest, the log names the others.

    Args:
        places: Result files and folders; JSON files in a folder that are no results at all are passed over.
        dataset: Only results on this data set.

    Raises:
        InputError: If a place does not exist, a result file is broken or there is no result.
    """
    newest: dict[tuple[str, Any], Run] = {}
    runs = [run for place in places for run in _runs_in(place) if dataset in (None, run.dataset)]
    # A copy with its counts beside it tells more than one without.
    for run in sorted(runs, key=lambda run: (run.result["created"], run.has_counts, str(run.path))):
        older = newest.get(key := (run.identity, run.result["seed"]))
        if older is not None and older.result["created"] != run.result["created"]:
            logger.info("%s: not used, %s is newer and has the same settings and seed", older.path, run.path)
        newest[key] = run
    if not newest:
        raise InputError("no results found" + (f" on {dataset}" if dataset else ""))
    return list(newest.values())


def _runs_in(place: Path) -> Iterable[Run]:
    if not place.exists():
        raise InputError(f"{place}: no such file or folder")
    if not place.is_dir():
        yield Run(place, read_result(place))
        return
    for path in sorted(place.rglob("*.json")):
        value = read_json(path)
        if isinstance(value, dict) and value.keys() & {"approach", "scores"}:
            yield Run(path, read_result(path))
        else:
            logger.info("%s: passed over, it is no result", path)


def _machine_name(machine: Mapping[str, Any]) -> str:
    threads = machine.get("threads")
    on_cpu = "CPU" if threads is None else f"CPU, {threads} thread{'s' * (threads != 1)}"
    return machine.get("gpu") or on_cpu


def default_places() -> list[Path]:
    """Where results are: results/ and every test_results folder of the project."""
    root = output_root()
    return [path for path in (root / "results", *sorted(root.glob("*/test_results"))) if path.is_dir()]


# ---------------------------------------------------------------------------------------------------------- aggregation


def with_sd(score: tuple[float, float | None] | None) -> str:
    """Mean and standard deviation of a score; the latter only if there are several seeds."""
    return MISSING if score is None else f"{score[0]:.4f}" + (f" ± {score[1]:.4f}" if score[1] is not None else "")


@dataclass(frozen=True)
class Estimate:
    """The F1 of a cell."""

    mean: float
    """Over the seeds."""
    sd: float | None
    """Sample standard deviation over the seeds, if there are several."""
    low: float | None
    """Lower end of the 95 % interval, if it is known."""
    high: float | None
    kind: str
    """What the interval is: ``run``, ``mean`` or ``t``; see :data:`INTERVALS`."""

    def __str__(self) -> str:
        """Mean and standard deviation."""
        return with_sd((self.mean, self.sd))

    @property
    def interval(self) -> str:
        """The interval in three digits."""
        return MISSING if self.low is None else f"{self.low:.3f}-{self.high:.3f}"


INTERVALS = (
    "95 % intervals by their kind. run: bootstrap over the sentences of the one run; mean: bootstrap over sentences of the mean over "
    "seeds; t: t interval over seeds, where the counts of a seed's sentences are missing."
)


@dataclass(frozen=True)
class Cost:
    """What training took, on the fastest of the machines that a cell's runs were trained on."""

    machine: str
    seconds_per_epoch: float | None
    """Mean over its runs."""
    seconds: float | None
    """Epochs and frozen features, without validation; mean over its runs."""
    peak: dict[str, float]
    """Highest memory use in MiB by kind of memory."""
    checkpoint_bytes: int | None
    checkpoint_estimated: bool
    """Whether the size is 4 bytes for each trained parameter, since the result does not say."""


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but the seed, by seed."""

    runs: tuple[Run, ...]

    def __str__(self) -> str:
        """Its files."""
        return ", ".join(str(run.path) for run in self.runs)

    @property
    def first(self) -> Run:
        """Any of them, for what they have in common."""
        return self.runs[0]

    @property
    def variant(self) -> str:
        """The variant as text."""
        return variant_text(self.first.variant)

    @property
    def rank(self) -> tuple[int, str, str]:
        """Orders cells that differ in settings alone: those with more seeds are higher, then newer ones."""
        return len(self.runs), max(run.result["created"] for run in self.runs), self.first.identity

    def mean_sd(self, *keys: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation over the seeds of a number in the results; None if one lacks it."""
        values = [run.get(*keys) for run in self.runs]
        if any(value is None for value in values):
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None

    @cached_property
    def cost(self) -> Cost | None:
        """What training it took; None if nothing was trained."""
        if self.first.get("training") is None:
            return None
        machines = {
            name: Cell(tuple(run for run in self.runs if run.machine == name))
            for name in sorted({run.machine for run in self.runs})
        }
        paces = {name: cell.mean_sd("training", "seconds_per_epoch") for name, cell in machines.items()}
        machine = min(machines, key=lambda name: pace[0] if (pace := paces[name]) else math.inf)
        if len(machines) > 1:
            logger.info("%s: trained on %s; times are those of %s", self, list(machines), machine)
        same = machines[machine]
        epoch, epochs = (same.mean_sd("training", name) for name in ("seconds_per_epoch", "train_seconds"))
        features = [run.get("training", "feature_seconds") or 0.0 for run in same.runs]
        peak: dict[str, float] = {}
        for run in same.runs:
            for kind, value in (run.get("training", "peak_memory_mb") or {}).items():
                peak[kind] = max(value, peak.get(kind, 0.0))
        size = self.first.get("training", "checkpoint_bytes")
        trained = self.first.get("parameters", "trainable")
        return Cost(
            machine=machine,
            seconds_per_epoch=epoch[0] if epoch else None,
            seconds=epochs[0] + float(np.mean(features)) if epochs else None,
            peak=peak,
            checkpoint_bytes=size if size is not None or trained is None else 4 * trained,
            checkpoint_estimated=size is None,
        )


@dataclass(frozen=True)
class Resampled:
    """Micro and macro F1 of a run on bootstrap samples of the test sentences."""

    group: int
    """Runs of one group were scored on the same sentences, and so on the same samples."""
    f1: NDArray[np.float64]
    """Shape ``(2, resamples)``."""


def resample(runs: Iterable[Run]) -> dict[Path, Resampled]:
    """Bootstrap samples of the runs that have their counts beside them."""
    groups: dict[tuple[tuple[str, ...], bytes], list[tuple[Path, SpanCounts]]] = {}
    for run in runs:
        if not run.has_counts:
            continue
        counts = read_counts(run.path)
        scores = span_scores(counts)
        found = [metric.of(scores) for metric in METRICS.values()]
        if not len(counts) or not np.allclose(found, [f1_of(run, metric) for metric in METRICS], rtol=0, atol=1e-6):
            logger.warning("%s: not used, does not give the scores of the result", counts_path(run.path))
            continue
        groups.setdefault((counts.types, counts.gold.tobytes()), []).append((run.path, counts))
    resampled: dict[Path, Resampled] = {}
    for group, members in enumerate(groups.values()):
        samples = resampled_f1([counts for _, counts in members], N_RESAMPLES, seed=0)
        resampled |= {path: Resampled(group, f1) for (path, _), f1 in zip(members, samples, strict=True)}
    return resampled


def f1_of(run: Run, metric: Metric) -> float:
    """A score of a run, in [0, 1]."""
    return run.result["scores"][METRICS[metric].average]["f1"]


@dataclass(frozen=True, eq=False)
class Row:
    """What stands for an approach with a kind of encoder and a base."""

    approach: Listed
    kind: str
    base: str | None
    """None if the approach has no result with an encoder of this kind."""
    cell: Cell | None
    whole: bool
    """Whether it was trained on all training sentences, if it was trained."""
    series: plots.Series

    @property
    def label(self) -> str:
        """The approach, with encoder and base where they must be told."""
        return self.series.label

    @property
    def variant(self) -> str:
        """Name of its variant, or of the one that it would have."""
        return self.cell.variant if self.cell else variant_text(self.approach.default_variant(self.kind))

    @property
    def marked(self) -> str:
        """The label, with a dagger if it was trained on a part of the sentences."""
        return self.label + ("" if self.whole else f" {DAGGER}")


@dataclass(frozen=True)
class Corpus:
    """The test results on a data set."""

    name: str
    cells: tuple[Cell, ...]
    resampled: Mapping[Path, Resampled]
    size: int | None = field(init=False)
    """Training sentences of the data set; None if all runs were trained on samples, since then no result tells."""
    rows: tuple[Row, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size(self.cells))
        object.__setattr__(self, "rows", tuple(self._rows()))

    @property
    def title(self) -> str:
        """Name in headings."""
        return thesis.DATASETS.get(self.name, self.name)

    @property
    def shown(self) -> list[tuple[Row, Cell]]:
        """The rows that have a result."""
        return [(row, row.cell) for row in self.rows if row.cell is not None]

    @cached_property
    def types(self) -> dict[str, int | None]:
        """Entity types in order and their numbers of gold spans."""
        types: dict[str, int | None] = {}
        for cell in self.cells:
            for name, scores in (cell.first.get("scores", "per_type") or {}).items():
                types.setdefault(name, scores.get("support"))
        return types

    def is_whole(self, cell: Cell) -> bool:
        """Whether a cell was trained on all training sentences, or not at all."""
        return cell.first.n_train in (None, self.size)

    def estimate(self, cell: Cell, metric: Metric) -> Estimate:
        """F1 of a cell with its 95 % interval."""
        values = [f1_of(run, metric) for run in cell.runs]
        mean = float(np.mean(values))
        if len(values) == 1:
            low, high = cell.first.get("intervals", metric) or (None, None)
            return Estimate(mean, None, low, high, "run")
        sd = float(np.std(values, ddof=1))
        samples = self.samples(cell)
        if samples is not None:
            low, high = (float(end) for end in np.quantile(samples[1][list(METRICS).index(metric)], [0.025, 0.975]))
            return Estimate(mean, sd, low, high, "mean")
        reach = float(student_t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
        return Estimate(mean, sd, max(0.0, mean - reach), min(1.0, mean + reach), "t")

    def samples(self, cell: Cell) -> tuple[int, NDArray[np.float64]] | None:
        """Group and samples of a cell's mean F1 over its seeds; None if the counts of a seed are missing or of other sentences."""
        found = [self.resampled.get(run.path) for run in cell.runs]
        members = [item for item in found if item is not None]
        if len(members) < len(found) or len({item.group for item in members}) > 1:
            return None
        return members[0].group, np.mean([item.f1 for item in members], axis=0)

    def difference(self, first: Cell | None, second: Cell | None) -> dict[Metric, Difference] | None:
        """Paired bootstrap over sentences of the mean F1 over seeds of ``first - second``; None where counts are missing."""
        if first is None or second is None:
            return None
        samples = self.samples(first), self.samples(second)
        if samples[0] is None or samples[1] is None or samples[0][0] != samples[1][0]:
            return None
        result: dict[Metric, Difference] = {}
        for index, metric in enumerate(METRICS):
            observed = self.estimate(first, metric).mean - self.estimate(second, metric).mean
            result[metric] = difference_of(observed, samples[0][1][index] - samples[1][1][index])
        return result

    def of(self, approach: str, kind: str, base: str | None = None) -> list[Cell]:
        """Cells of an approach with a kind of base model, and a base if given."""
        return [
            cell
            for cell in self.cells
            if (cell.first.approach, cell.first.kind) == (approach, kind) and base in (None, cell.first.base)
        ]

    def pick(self, cells: Iterable[Cell], preferred: str = "") -> Cell | None:
        """The cell that is shown: more sentences before fewer, then the preferred variant, most seeds, the newest."""

        def rank(cell: Cell) -> tuple[Any, ...]:
            # What was not trained has no sentences and stands beside no cell that was.
            return cell.first.n_train or 0, cell.variant == preferred, *cell.rank

        return max(cells, key=rank, default=None)

    def _rows(self) -> Iterable[Row]:
        bases: dict[str, set[str]] = {}
        others: dict[str, set[str]] = {}
        for cell in self.cells:
            run = cell.first
            bases.setdefault(run.kind, set()).add(run.base)
            if run.approach not in APPROACHES:
                others.setdefault(run.approach, set()).add(run.kind)
        listed = [Listed(name, spec(name), spec(name).kinds) for name in APPROACHES]
        listed += [Listed(name, None, tuple(sorted(others[name]))) for name in sorted(others)]
        for order, approach in enumerate(listed):
            for kind in approach.kinds:
                of_kind = sorted(bases.get(kind, ()))
                cells = [c for c in self.of(approach.name, kind) if approach.is_default(c.first.variant, kind)]
                preferred = variant_text(approach.default_variant(kind))
                found: list[str | None] = [*sorted({cell.first.base for cell in cells})]
                for base in found or [None]:
                    shown = self.pick((cell for cell in cells if cell.first.base == base), preferred)
                    told: list[str] = [kind] if len(approach.kinds) > 1 else []
                    told += [base] if base is not None and len(of_kind) > 1 else []
                    label = approach.title + (f" ({', '.join(told)})" if told else "")
                    place = of_kind.index(base) if base is not None else 0
                    series = plots.Series(order, kind == "cross", place, label)
                    yield Row(approach, kind, base, shown, shown is None or self.is_whole(shown), series)


def _size(cells: Sequence[Cell]) -> int | None:
    trained = [run for cell in cells for run in cell.runs if run.n_train is not None]
    size = max((run.n_train or 0 for run in trained), default=None)
    whole = any(run.n_train == size and run.get("config", "data", "train_size") is None for run in trained)
    return size if whole else None


def corpora(runs: Sequence[Run]) -> list[Corpus]:
    """The results on test splits by data set, those of the thesis first; the log says which results are of other splits."""
    tested = []
    for run in runs:
        if run.get("split") in (None, "test"):
            tested.append(run)
        else:
            logger.info("%s: only in the list of runs, it is of the %s split", run.path, run.get("split"))
    by_dataset: dict[str, dict[str, list[Run]]] = {}
    for run in tested:
        by_dataset.setdefault(run.dataset, {}).setdefault(run.identity, []).append(run)
    found = []
    for name in sorted(by_dataset, key=dataset_order):
        groups = [Cell(tuple(sorted(group, key=_seed_order))) for group in by_dataset[name].values()]
        cells = _without_other_settings(groups)
        for cell in cells:
            if len({run.get("dataset_sha256") for run in cell.runs}) > 1:
                logger.warning("%s: the seeds were tested on different versions of the data", cell)
        sizes = {cell.first.n_test for cell in cells} - {None}
        if len(sizes) > 1:
            logger.warning("%s: results on different numbers of test sentences: %s", name, sorted(sizes, key=str))
        found.append(Corpus(name, tuple(cells), resample(run for cell in cells for run in cell.runs)))
    return found


def _seed_order(run: Run) -> int:
    return -1 if run.result["seed"] is None else run.result["seed"]


def _without_other_settings(cells: Iterable[Cell]) -> list[Cell]:
    """Of cells that differ in settings that no table shows one, see :attr:`Cell.rank`; the log names the others."""
    chosen: dict[tuple[Any, ...], Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.rank, reverse=True):
        run = cell.first
        best = chosen.setdefault((run.approach, run.kind, run.base, cell.variant, run.n_train or 0), cell)
        if best is not cell:
            logger.info("%s: only in the list of runs, %s has other settings and more seeds or is newer", cell, best)
    return [chosen[key] for key in sorted(chosen)]


def dataset_order(name: str) -> tuple[int, str]:
    """Sort key: the thesis's data sets first, the others by name."""
    names = list(thesis.DATASETS)
    return (names.index(name) if name in names else len(names), name)
