"""Trains on what was annotated: ``python -m annotation.fit --project Medical --approach NAME`` and train.py's options.

Pull, split by document, train, score the new model and the one before on what was held out, and put the better one
into service.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from annotation.client import Opened, ServerOptions, annotations_of
from annotation.labelling import Labelling, spoken
from annotation.merging import MergeOptions, merge
from annotation.pull import AnnotatedTask, pull, read_export
from annotation.tasks import DOCUMENT, document_of
from annotation.work import Part, Work, WorkOptions
from common.config import Device, Metric, RuntimeConfig, parse_known, require, require_share
from common.data.dataset import count_types, load_dataset
from common.errors import InputError
from common.files import content_hash, write_json_records
from common.models.published import base_name
from common.paths import now
from common.registry import spec
from common.script import run_script
from common.settings import parse_training
from common.spec import ApproachSpec
from dataset_generation.descriptions import make_label_set
from dataset_generation.generate import write_dataset
from dataset_generation.options import ReadOptions
from dataset_generation.sources import read_local
from dataset_generation.splits import shared_sentences

logger = logging.getLogger(__name__)

_FILES: Mapping[Part, str] = {"train": "train.json", "validation": "validation.json", "held out": "test.json"}


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, WorkOptions, MergeOptions):
    """Train on a project's annotations; options that this script does not have go to the approach's train.py."""

    approach: str
    """Approach to train."""
    held_out: float = 0.2
    """Share of documents never trained on, whose tasks give the scores. Once held out, always held out."""
    validation: float = 0.15
    """Share of the other documents, used to choose the best weights and the threshold."""
    descriptions: str = "names"
    """Descriptions of the labels: names, own, hub or a JSON file, as in dataset_generation.generate."""
    test: Path | None = None
    """Further annotated tasks to score both models on, from annotation.tasks --with-gold or a JSON export;
    those annotated in the project are left out."""
    promote: Literal["if-better", "if-surely-better", "always", "never"] = "if-better"
    """When to put the new version into service; if-surely-better: if the interval of the difference is above 0."""
    better_by: Metric = "micro_f1"
    """Score on the held-out tasks in which the new version must beat the old one."""
    baseline: str | None = None
    """Model to compare with if no version is in service yet; as --model of annotation.push."""
    device: Device = "auto"
    """Device; auto: the GPU if there is one."""
    nice: int = 0
    """How much to yield to other processes."""

    def __post_init__(self) -> None:
        for name in ("held_out", "validation"):
            require_share(name, getattr(self, name))
            require(0 < getattr(self, name) < 1, f"{name} must be between 0 and 1, got {getattr(self, name)}")


def check_training(argv: Sequence[str] | None = None) -> tuple[Config, ApproachSpec[Any], list[str]]:
    """The configuration, the approach and the options of its training, all checked.

    Raises:
        InputError: If one is wrong.
    """
    config, rest = parse_known(Config, list(sys.argv[1:] if argv is None else argv))
    approach = spec(config.approach)
    require(approach.trains, f"--approach {approach.name}: nothing is trained")
    for option in ("--dataset", "--resume"):
        given = any(argument == option or argument.startswith(f"{option}=") for argument in rest)
        require(not given, f"{option} is set by annotation.fit itself")
    rest += ["--device", config.device]
    parse_training(approach, [*rest, "--dataset", "annotated"])
    return config, approach, rest


def divide(
    annotated: Sequence[dict[str, Any]], work: Work, held_out: float, validation: float
) -> dict[Part, list[dict[str, Any]]]:
    """The annotated tasks of each part.

    Raises:
        InputError: If there are too few documents for three parts, or nothing to learn from.
    """
    names = [document_of(task["data"], task["id"]) for task in annotated]
    if len(set(names)) < 3:
        raise InputError(
            f"{len(set(names))} annotated documents: one each to train, to validate and to hold out are needed"
        )
    parts = work.parts(names, held_out, validation)
    divided: dict[Part, list[dict[str, Any]]] = {part: [] for part in _FILES}
    for name, task in zip(names, annotated, strict=True):
        divided[parts[name]].append(task)
    empty = [part for part, tasks in divided.items() if not tasks]
    require(not empty, f"no annotated document is for: {', '.join(empty)} ({work.path / 'parts.json'}); annotate more")
    found = any(region for task in divided["train"] for region in task["annotations"][0]["result"])
    require(found, "the documents to train on hold no entity; annotate more")
    return divided


def make_dataset(
    divided: Mapping[Part, Sequence[dict[str, Any]]], labelling: Labelling, work: Work, descriptions: str
) -> Path:
    """Writes the data set of some tasks; its name says its content.

    Raises:
        InputError: If a label has no description.
    """
    records = {part: [_readable(task, labelling) for task in tasks] for part, tasks in divided.items()}
    labels = make_label_set(labelling.types(), descriptions, "annotated")
    name = f"annotated_{content_hash([records, labels.label2desc])[:8]}"
    with tempfile.TemporaryDirectory(prefix="annotation_") as folder:
        for part, tasks in records.items():
            write_json_records(Path(folder) / _FILES[part], tasks)
        corpus = read_local(Path(folder), ReadOptions(off_edges="snap", overlaps="longest", skip_invalid=True))
    lost = [split for split, sentences in corpus.splits.items() if not sentences]
    require(not lost, f"no usable task is left for: {', '.join(lost)}")
    directory = work.path / "datasets" / name
    provenance = {"dataset": name, "source": {"kind": "annotation"}, "read": corpus.counts, "splits": "by document"}
    write_dataset(directory, corpus.splits, labels, {"bi": None, "cross": None}, provenance)
    for where, count in shared_sentences(corpus.splits).items():
        if count:
            logger.warning("%s: %d sentences, word for word: are they of one document?", where, count)
    for split, sentences in corpus.splits.items():
        types = ", ".join(f"{name} {count}" for name, count in sorted(count_types(sentences).items()))
        part = next(part for part, file in _FILES.items() if file == f"{split}.json")
        logger.info("%s: %d tasks, %d sentences: %s", part, corpus.counts[split]["records"], len(sentences), types)
    return directory


def _readable(task: Mapping[str, Any], labelling: Labelling) -> dict[str, Any]:
    """A task as the readers of corpora know it, its labels in words."""
    data = task["data"]
    regions = [
        {**region, "value": {**region["value"], "labels": [spoken(label) for label in region["value"]["labels"]]}}
        for region in task["annotations"][0]["result"]
    ]
    return {
        "id": task["id"],
        "data": {"text": data[labelling.field], "doc_id": document_of(data, task["id"])},
        "annotations": [{"result": regions}],
    }


def train(approach: ApproachSpec[Any], dataset: Path, options: Sequence[str]) -> Path:
    """Trains, or goes on with a training of the same data and settings that was cut off; returns the run folder."""
    from common.study.identity import identity, matching_runs

    arguments = [*options, "--dataset", str(dataset)]
    config, _ = parse_training(approach, arguments)
    source = config.base_model
    base = {"name": base_name(source), "revision": approach.bases.revision(source)}
    wanted = identity(approach.name, config, load_dataset(str(dataset)).sha256, base)
    main = importlib.import_module(f"{approach.name}.train").main
    for path, status in matching_runs(approach.name, dataset.name, wanted, approach.savings):
        if status == "finished":
            logger.info("was trained before: %s", path)
            return path
        if status in ("running", "interrupted"):
            try:
                return main([*arguments, "--resume", str(path)])
            except InputError as error:
                # It was started on another kind of device, for example.
                logger.warning("trained anew: %s", error)
    return main(arguments)


def other_tasks(
    path: Path, annotated: Sequence[Mapping[str, Any]], labelling: Labelling, options: MergeOptions
) -> list[dict[str, Any]]:
    """The annotated tasks of a file that neither are annotated in the project nor have a text or document that is.

    Raises:
        InputError: If the file holds no tasks with annotations, or none is left.
    """
    tasks, report = merge(read_export(path, AnnotatedTask), labelling, options)
    texts = {task["data"][labelling.field] for task in annotated}
    documents = {task["data"][DOCUMENT] for task in annotated if task["data"].get(DOCUMENT)}
    left = [
        task
        for task in tasks
        if task["data"][labelling.field] not in texts and task["data"].get(DOCUMENT) not in documents
    ]
    logger.info("%s: %s; %d of them are not annotated in the project: test", path, report, len(left))
    for place in report.places.get("mismatches", ())[:5]:
        logger.warning("mismatches: %s", place)
    require(bool(left), f"--test {path}: none of its {len(tasks)} annotated tasks is new to the project")
    return left


@dataclass(frozen=True)
class Fitted:
    """A new version."""

    record: dict[str, Any]
    promoted: bool


def assess(
    run: Path,
    divided: Mapping[Part, Sequence[dict[str, Any]]],
    test: Sequence[dict[str, Any]],
    project: Opened,
    work: Work,
    config: Config,
) -> Fitted:
    """Scores the new model and the one before on the held-out tasks, keeps the scores, and promotes by the rule.

    Args:
        run: The new model.
        divided: The annotated tasks of each part.
        test: Further tasks to score both on, which decide nothing.
        project: The project.
        work: Its folder.
        config: The rule.
    """
    from annotation.scoring import comparison, counts_of
    from annotation.suggester import load_suggester

    labelling, runtime = project.labelling, RuntimeConfig(device=config.device, progress=False)
    current = work.current()
    new = load_suggester({"model": str(run)}, labelling, runtime)
    version = new.version(labelling)
    known = work.version(version)
    if known is not None and current is not None and current["version"] == version:
        # The same annotations and settings as before: compared with itself it would lose its scores.
        logger.info("%s is what was trained before: its scores stay", version)
        known |= {"annotations": annotations_of(project.record)}
        if test and "test" not in known:
            known["test"] = comparison(counts_of(new, test, labelling), None)
        work.write_version(known)
        return Fitted(known, True)
    blind_documents = work.blind()
    blind = [
        task
        for task in divided["held out"]
        if document_of(task["data"], task["id"]) in blind_documents and not task["annotations"][0]["suggested"]
    ]
    old_record = current or ({"model": config.baseline} if config.baseline else None)
    old = None if old_record is None else load_suggester(old_record, labelling, runtime)
    compared = {
        name: comparison(counts_of(new, tasks, labelling), None if old is None else counts_of(old, tasks, labelling))
        for name, tasks in (("held_out", divided["held out"]), ("blind", blind), ("test", test))
        if tasks
    }
    promoted = promotes(config, compared["held_out"].get("difference"))
    record = {
        **new.record,
        "version": version,
        "parent": None if old is None else old.version(labelling),
        "created": now(),
        "approach": config.approach,
        "annotations": annotations_of(project.record),
        "tasks": {part: len(tasks) for part, tasks in divided.items()},
        **compared,
        "rule": f"{config.promote} by {config.better_by}",
        "promoted": promoted,
    }
    work.write_version(record)
    if promoted:
        keys = ("version", "model", "labels", "threshold", "base_model")
        work.set_current({key: record[key] for key in keys})
    return Fitted(record, promoted)


def promotes(config: Config, difference: Mapping[str, Mapping[str, float]] | None) -> bool:
    """Whether a version goes into service, from its differences from the one before on the held-out tasks, if any."""
    if config.promote in ("always", "never") or difference is None:
        return config.promote != "never"
    found = difference[config.better_by]
    return found["difference" if config.promote == "if-better" else "low"] > 0


def told(record: Mapping[str, Any]) -> list[str]:
    """The scores of a version in words."""
    lines = []
    for part in ("held_out", "blind", "test"):
        if part not in record:
            continue
        for side in ("new", "old"):
            if side in record[part]:
                found = record[part][side]
                entities = sum(scores["support"] for scores in found["per_type"].values())
                scores = [
                    f"{name} F1 {found[name]['f1']:.4f} [{low:.4f}, {high:.4f}]"
                    for name, (low, high) in ((name, found["intervals"][f"{name}_f1"]) for name in ("micro", "macro"))
                ]
                lines.append(
                    f"{part.replace('_', ' ')}, {found['tasks']} tasks with {entities} entities, {side}: "
                    f"{', '.join(scores)}"
                )
        for name, item in record[part].get("difference", {}).items():
            lines.append(
                f"{part.replace('_', ' ')}, difference of {name.replace('_f1', ' F1')}: {item['difference']:+.4f} "
                f"[{item['low']:+.4f}, {item['high']:+.4f}], p = {item['p_value']:.4f}"
            )
    return lines


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains and returns the record of the new version."""
    config, approach, rest = check_training(argv)
    if config.nice and hasattr(os, "nice"):
        os.nice(config.nice)
    project, work = config.open(), config.folder
    with work.alone():
        annotated, _ = pull(project, work, config, everything=False)
        divided = divide(annotated, work, config.held_out, config.validation)
        test = other_tasks(config.test, annotated, project.labelling, config) if config.test else []
        dataset = make_dataset(divided, project.labelling, work, config.descriptions)
        run = train(approach, dataset, rest)
        fitted = assess(run, divided, test, project, work, config)
    for line in told(fitted.record):
        logger.info("%s", line)
    version, difference = fitted.record["version"], fitted.record["held_out"].get("difference")
    if difference is not None and difference[config.better_by]["low"] <= 0 <= difference[config.better_by]["high"]:
        logger.warning(
            "the difference on the held-out tasks may be chance: its interval contains 0; annotate more, or hold out "
            "more of what is annotated next (--held-out)"
        )
    if fitted.promoted:
        logger.info("%s is in service now; without annotation.serve, send its suggestions: annotation.push", version)
    else:
        logger.info("%s is kept and not put into service (%s)", version, fitted.record["rule"])
    return fitted.record


if __name__ == "__main__":
    run_script(main)
