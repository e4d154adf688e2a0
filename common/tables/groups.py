"""Groups and averages results: every table and figure is made from these groups.

Terms: a *result* is the content of one tested run's file; a *group* is the results that differ only in the seed; a
*benchmark* is all groups on one data set; an *entry* is a line of the main table: an approach on a kind of base model
and a base, and the group that represents it. An entry without a group is missing, never zero.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import Metric
from common.errors import InputError
from common.evaluation.metrics import (
    METRICS,
    N_COMPARED,
    Difference,
    SpanCounts,
    difference_of,
    interval_of,
    mean_over_drawn_seeds,
    resampled_f1,
    span_scores,
)
from common.evaluation.results import counts_path, read_counts
from common.registry import APPROACHES, spec
from common.spec import ApproachSpec, Variant, variant_text
from common.tables import thesis
from common.tables.results import Result

logger = logging.getLogger(__name__)

OVER_SENTENCES, OVER_BOTH = "sentences", "seeds, sentences"
"""What an interval is over: the sentences of one run, or seeds and sentences."""

Transfers = Sequence[Mapping[str, Any]]
"""Records of ``common.transfer``, see :class:`common.evaluation.transfer_record.TransferRecord`."""

Samples = tuple[int, NDArray[np.float64]]
"""On which sentences, by a number; and F1 on bootstrap samples of them, shape ``(metrics, resamples)``."""


@dataclass(frozen=True)
class Cost:
    """What training took, on the fastest of the machines that a group was trained on; named as in CSV tables."""

    machine: str
    seconds_per_epoch: float | None
    """Mean over its results, as the next one."""
    training_seconds: float | None
    """Epochs and frozen features, without validation."""
    peak_cpu_mib: float | None
    """Highest of its results, as the next one."""
    peak_gpu_mib: float | None
    checkpoint_bytes: int | None
    checkpoint_bytes_estimated: bool
    """Whether the size is 4 bytes for each trained parameter, since the result does not say."""


def mean_sd(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over seeds; None where one lacks the value, the latter also of one seed."""
    found = list(values)
    known = [value for value in found if value is not None]
    if len(known) < len(found):
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


@dataclass(frozen=True, eq=False)
class Group:
    """Results that differ in nothing but the seed, by seed."""

    results: tuple[Result, ...]

    def __str__(self) -> str:
        """Its files."""
        return ", ".join(str(result.path) for result in self.results)

    @property
    def first(self) -> Result:
        """Any of them, for what they have in common."""
        return self.results[0]

    @property
    def variant(self) -> str:
        """The variant as text."""
        return variant_text(self.first.variant)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds; none if nothing is random."""
        return tuple(result.seed for result in self.results if result.seed is not None)

    @property
    def rank(self) -> tuple[bool, int, str, str]:
        """Orders groups that differ in settings alone: those with more seeds are higher, then newer ones.

        What was tested at a threshold of the command line is below all that was tested at the checkpoints' own.
        """
        newest = max(result.created for result in self.results)
        return self.first.given_threshold is None, len(self.results), newest, self.first.identity

    @cached_property
    def cost(self) -> Cost | None:
        """What training it took; None if nothing was trained."""
        if self.first.training is None:
            return None
        machines = {
            name: Group(tuple(result for result in self.results if result.machine == name))
            for name in sorted({result.machine for result in self.results})
        }
        paces = {
            name: mean_sd(result.seconds_per_epoch for result in group.results)[0] for name, group in machines.items()
        }
        machine = min(machines, key=lambda name: float("inf") if (pace := paces[name]) is None else pace)
        if len(machines) > 1:
            logger.info("%s: trained on %s; times are those of %s", self, list(machines), machine)
        same = machines[machine]
        epochs = mean_sd(result.train_seconds for result in same.results)[0]
        features = mean_sd(result.feature_seconds or 0.0 for result in same.results)[0]
        peaks = {
            kind: max((result.peak_mib[kind] for result in same.results if kind in result.peak_mib), default=None)
            for kind in ("cpu", "gpu")
        }
        size, trained = self.first.checkpoint_bytes, self.first.trainable
        return Cost(
            machine,
            paces[machine],
            None if epochs is None else epochs + (features or 0.0),
            peaks["cpu"],
            peaks["gpu"],
            checkpoint_bytes=4 * trained if size is None and trained is not None else size,
            checkpoint_bytes_estimated=size is None,
        )


@dataclass(frozen=True)
class Estimate:
    """The F1 of a group."""

    mean: float
    """Over the seeds."""
    sd: float | None
    """Sample standard deviation over the seeds, if there are several."""
    low: float | None
    """Lower end of the 95 % interval, if it is known."""
    high: float | None
    over: str | None
    """What the interval is over."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A line of the main table."""

    approach: str
    spec: ApproachSpec[Any] | None
    """None if it is not registered: then it has no default variant but whatever there is."""
    kind: str
    """Kind of base model."""
    base: str | None
    """None if the approach has no result on this kind."""
    group: Group | None
    look: tuple[int, bool, int]
    """Place of the approach, whether the base is a cross-encoder, and the base's place among those of its kind."""
    label: str
    """The approach, with its kind if it has several, and its base if that is not the usual one of the kind."""

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.spec is None or self.spec.trains

    @property
    def variant(self) -> Variant:
        """Its variant, or the one that it would have."""
        return self.group.first.variant if self.group else self.spec.default_variant(self.kind) if self.spec else {}


@dataclass(frozen=True)
class Benchmark:
    """The test results on a data set."""

    name: str
    groups: tuple[Group, ...]
    bases: Mapping[str, Sequence[str]]
    """The base models by kind, on whatever data set, the one with the most results first: rows name only the others."""
    resampled: Mapping[Path, Samples]
    transfers: Transfers = ()
    """Records of ``common.transfer`` of models trained on it, alone or in a mixture."""

    @cached_property
    def size(self) -> int | None:
        """Training sentences of the data set; None if all runs were trained on samples, since then no result tells."""
        results = [result for group in self.groups for result in group.results if result.mixture is None]
        trained = [(result.n_train, result.train_size) for result in results if result.n_train]
        size = max((n for n, _ in trained), default=None)
        return size if (size, None) in trained else None

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The lines of the main table."""
        shown = {(entry.approach, entry.kind) for entry in self.all_entries if entry.group is not None}
        return tuple(e for e in self.all_entries if e.group is not None or (e.approach, e.kind) not in shown)

    @cached_property
    def all_entries(self) -> tuple[Entry, ...]:
        """Also those of bases on which variants alone have results, which stand in the tables of variants."""
        return tuple(self._entries())

    @property
    def title(self) -> str:
        """Name in headings."""
        return thesis.DATASETS.get(self.name, self.name)

    @property
    def is_thesis(self) -> bool:
        """Whether it is a data set of the thesis: on these, every approach and control is expected to have a result."""
        return self.name in thesis.DATASETS

    @property
    def not_run(self) -> list[str]:
        """Titles of the approaches of a usual study that have no result at all here."""
        own = {group.first.approach for group in self.groups}
        return [known.title for name in APPROACHES if name not in own and (known := spec(name)).in_all]

    @property
    def shown(self) -> list[tuple[Entry, Group]]:
        """The entries that have a result."""
        return [(entry, entry.group) for entry in self.entries if entry.group is not None]

    @cached_property
    def types(self) -> dict[str, int | None]:
        """Entity types in order and their numbers of gold spans."""
        types: dict[str, int | None] = {}
        # A mixture may join types of the data set.
        for group in [group for _, group in self.shown] or self.groups:
            for name, scores in group.first.per_type.items():
                if types.get(name) is None:
                    types[name] = int(scores["support"]) if "support" in scores else None
        return types

    def is_whole(self, group: Group) -> bool:
        """Whether a group was trained on all training sentences, or not at all."""
        first = group.first
        return first.train_size is None if first.mixture else first.n_train in (None, self.size)

    def estimate(self, group: Group, metric: Metric) -> Estimate:
        """F1 of a group with its 95 % interval."""
        values = [result.f1(metric) for result in group.results]
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
        if sd is None and metric in group.first.intervals:
            return Estimate(mean, None, *group.first.intervals[metric], OVER_SENTENCES)
        samples = self.samples(group)
        if samples is None:
            return Estimate(mean, sd, None, None, None)
        low, high = map(float, interval_of(samples[1][list(METRICS).index(metric)]))
        return Estimate(mean, sd, low, high, OVER_SENTENCES if sd is None else OVER_BOTH)

    def samples(self, group: Group) -> Samples | None:
        """A group's mean F1 on samples of sentences and seeds; None if not all have counts of the same sentences."""
        found = [self.resampled[result.path] for result in group.results if result.path in self.resampled]
        if len(found) < len(group.results) or len({sentences for sentences, _ in found}) > 1:
            return None
        f1 = np.stack([f1 for _, f1 in found])
        return found[0][0], mean_over_drawn_seeds(f1, [result.seed for result in group.results])

    def difference(self, first: Group | None, second: Group | None) -> dict[Metric, Difference] | None:
        """Paired bootstrap of the mean F1 over seeds of ``first - second``; None where counts are missing."""
        if first is None or second is None:
            return None
        one, other = self.samples(first), self.samples(second)
        if one is None or other is None or one[0] != other[0]:
            return None
        deltas = one[1] - other[1]
        return {
            metric: difference_of(self.estimate(first, metric).mean - self.estimate(second, metric).mean, delta)
            for metric, delta in zip(METRICS, deltas, strict=True)
        }

    def of(self, entry: Entry) -> list[Group]:
        """All groups of an entry's approach on its kind of base model, and on its base if it has one."""
        what = entry.approach, entry.kind
        of_kind = [group for group in self.groups if (group.first.approach, group.first.kind) == what]
        return [group for group in of_kind if entry.base in (None, group.first.base)]

    def pick(self, groups: Iterable[Group], preferred: str = "") -> Group | None:
        """The group that is shown: more sentences before fewer, then the preferred variant, most seeds, the newest."""

        def rank(group: Group) -> tuple[Any, ...]:
            # What was not trained has no sentences and stands beside no group that was.
            return group.first.n_train or 0, group.variant == preferred, *group.rank

        return max(groups, key=rank, default=None)

    def variants(self, entry: Entry) -> dict[str, Group]:
        """The group that is shown for each variant of an entry's approach."""
        groups = self.of(entry)
        names = sorted({group.variant for group in groups})
        return {name: best for name in names if (best := self.pick(g for g in groups if g.variant == name)) is not None}

    def curve(self, entry: Entry) -> dict[int, Group]:
        """The groups of an entry's approach by their number of training sentences."""
        by_size: dict[int, list[Group]] = {}
        for group in self.of(entry):
            if _is_default(entry.spec, group) and group.first.n_train:
                by_size.setdefault(group.first.n_train, []).append(group)
        preferred = variant_text(entry.variant)
        return {n: best for n in sorted(by_size) if (best := self.pick(by_size[n], preferred)) is not None}

    def curves(self) -> Iterable[tuple[Entry, str, dict[int, Group]]]:
        """What is trained, its label, and its groups by number of training sentences.

        Of each entry, and of each other variant of its approach that was trained on few sentences.
        """
        for entry in (entry for entry in self.all_entries if entry.trains):
            if entry in self.entries:
                yield entry, entry.label, self.curve(entry)
            of_variant: dict[str, list[Group]] = {}
            for group in self.of(entry):
                if group.variant != variant_text(entry.variant) and group.first.n_train and not group.first.mixture:
                    of_variant.setdefault(group.variant, []).append(group)
            for variant in sorted(of_variant):
                by_size = {group.first.n_train or 0: group for group in of_variant[variant]}
                if not all(map(self.is_whole, by_size.values())):
                    yield entry, f"{entry.label}, {variant}", dict(sorted(by_size.items()))

    def _entries(self) -> Iterable[Entry]:
        unknown = sorted({group.first.approach for group in self.groups} - set(APPROACHES))
        # Where variants alone have results, no other approach is expected.
        expected = self.is_thesis and any(_is_default(_known(g.first.approach), g) for g in self.groups)
        labels: set[str] = set()
        for order, name in enumerate((*APPROACHES, *unknown)):
            known = _known(name)
            own = [group for group in self.groups if group.first.approach == name]
            if not own and not (expected and known and known.in_all):
                continue
            groups = [group for group in own if _is_default(known, group)]
            for kind in known.kinds if known else sorted({group.first.kind for group in own}):
                of_kind = self.bases.get(kind, ())
                preferred = variant_text(known.default_variant(kind)) if known else ""
                bases: list[str | None] = [*sorted({g.first.base for g in own if g.first.kind == kind})]
                for base in bases or [None] * expected:
                    shown = self.pick((g for g in groups if (g.first.kind, g.first.base) == (kind, base)), preferred)
                    told = [kind] if known and len(known.kinds) > 1 else []
                    told += [base] if base is not None and base != of_kind[0] else []
                    label = (known.title if known else name) + (f" ({', '.join(told)})" if told else "")
                    while label in labels:
                        # A name in a file may be a title of ours.
                        label += "'"
                    labels.add(label)
                    look = order, kind == "cross", of_kind.index(base) if base is not None else 0
                    yield Entry(name, known, kind, base, shown, look, label)


def _known(approach: str) -> ApproachSpec[Any] | None:
    return spec(approach) if approach in APPROACHES else None


def _is_default(spec: ApproachSpec[Any] | None, group: Group) -> bool:
    return group.first.mixture is None if spec is None else spec.is_default(group.first.variant, group.first.kind)


def trained_on(record: Mapping[str, Any]) -> list[str]:
    """The data set of a transfer record's model, or those of its mixture."""
    data = record["model"]["trained_on"]
    return [part["name"] for part in data.get("members", [data])]


def benchmarks(results: Sequence[Result], transfers: Transfers = ()) -> list[Benchmark]:
    """The results on test splits by data set, those of the thesis first, with what their models keep.

    The log says which results are of other splits, and what differs between results that stand side by side.
    """
    by_dataset: dict[str, dict[str, list[Result]]] = {}
    bases: dict[str, list[str]] = {}
    for result in results:
        if result.split == "test":
            by_dataset.setdefault(result.dataset, {}).setdefault(result.identity, []).append(result)
            bases.setdefault(result.kind, []).append(result.base)
        else:
            logger.info("%s: only in the list of runs, it is of the %s split", result.path, result.split)
    found = []
    for name in sorted(by_dataset, key=dataset_order):
        by_seed = [sorted(group, key=lambda result: result.seed or 0) for group in by_dataset[name].values()]
        groups = _without_other_settings(Group(tuple(group)) for group in by_seed)
        for text in not_alike({f"{group.first.approach} ({group.variant})": group for group in groups}):
            logger.warning("%s: not alike in all results: %s", name, text)
        of_kind = {kind: [name for name, _ in Counter(sorted(names)).most_common()] for kind, names in bases.items()}
        own = [item for item in transfers if name in trained_on(item)]
        found.append(Benchmark(name, tuple(groups), of_kind, _resample(groups), own))
    return found


def with_approaches(found: Sequence[Benchmark], least: int) -> list[Benchmark]:
    """The data sets on which at least so many approaches have results that are not of a mixture; all if none is such.

    The log names the others, whose results are in the list of runs and in the tables of papers.
    """
    approaches = {
        item.name: {group.first.approach for group in item.groups if group.first.mixture is None} for item in found
    }
    chosen = [item for item in found if len(approaches[item.name]) >= least]
    left = [name for name, names in approaches.items() if len(names) < least]
    if chosen and left:
        logger.info("not among the data sets with results of %d or more approaches: %s", least, ", ".join(left))
    return chosen or list(found)


def not_alike(groups: Mapping[str, Group]) -> list[str]:
    """What results differ in although no table shows it and they are averaged or compared, with who has what."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for name, group in groups.items():
        for result in group.results:
            hidden = {
                "precision": result.precision,
                "behaviour version": str(result.behaviour),
                "data": (result.dataset_sha256 or "")[:8] or None,
                **result.versions,
            }
            for aspect, value in hidden.items():
                found.setdefault(aspect, {}).setdefault(value or "unknown", {})[name] = None
    return [
        f"{aspect} " + "; ".join(f"{value}: {', '.join(values[value])}" for value in sorted(values))
        for aspect, values in found.items()
        if len(values) > 1
    ]


def _without_other_settings(groups: Iterable[Group]) -> list[Group]:
    """Of groups that differ in settings that no table shows one, see :attr:`Group.rank`; the log names the others."""
    chosen: dict[tuple[Any, ...], Group] = {}
    for group in sorted(groups, key=lambda group: group.rank, reverse=True):
        first = group.first
        best = chosen.setdefault((first.approach, first.kind, first.base, group.variant, first.n_train or 0), group)
        if best is not group:
            logger.info("%s: only in the list of runs, %s has other settings and more seeds or is newer", group, best)
    return [chosen[key] for key in sorted(chosen)]


def _resample(groups: Iterable[Group]) -> dict[Path, Samples]:
    """Bootstrap samples of the results that have counts beside them; the same for all results on the same sentences."""
    same: dict[tuple[tuple[str, ...], bytes], dict[Path, SpanCounts]] = {}
    for result in (result for group in groups for result in group.results):
        if (counts := _counts(result)) is not None:
            same.setdefault((counts.types, counts.gold.tobytes()), {})[result.path] = counts
    resampled: dict[Path, Samples] = {}
    for number, members in enumerate(same.values()):
        samples = resampled_f1(list(members.values()), N_COMPARED, seed=0)
        resampled |= {path: (number, f1) for path, f1 in zip(members, samples, strict=True)}
    return resampled


def _counts(result: Result) -> SpanCounts | None:
    """The counts beside a result; None if there are none that belong to it."""
    path = counts_path(result.path)
    if not path.is_file():
        return None
    try:
        counts = read_counts(result.path)
    except InputError as error:
        logger.warning("not used: %s", error)
        return None
    scores = span_scores(counts)
    if all(abs(metric.of(scores) - result.f1(name)) <= 1e-6 for name, metric in METRICS.items()):
        return counts
    logger.warning("%s: not used, does not give the scores of the result", path)
    return None


def dataset_order(name: str) -> tuple[int, str]:
    """Sort key: the thesis's data sets first, the others by name."""
    names = list(thesis.DATASETS)
    return (names.index(name) if name in names else len(names), name)
