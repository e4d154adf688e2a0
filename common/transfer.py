"""Measures what an adaptation destroys: zero-shot F1 on other corpora before and after it.

``python -m common.transfer --checkpoint glinerev/savings/bc5cdr_20260101_120000 --dataset ncbi-disease anatem``
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import BEHAVIOUR_VERSION, RuntimeConfig, differences, parse, require, require_share
from common.data.dataset import Dataset, existing_dataset_dir, load_dataset
from common.data.labels import LabelSet, normalise_type
from common.data.mixture import joint_names
from common.errors import InputError
from common.evaluation.transfer_record import TRANSFER_FOLDER, TransferRecord, UntouchedRecord
from common.files import content_hash, read_json, sha256_file, write_json
from common.paths import cache_dir, now
from common.registry import has_zero_shot, untrained
from common.schema import read_record
from common.script import run_script
from common.spec import ApproachSpec
from common.training.records import WEIGHTS_FILE, approach_of, find_checkpoint, labels_of, read_run

if TYPE_CHECKING:
    from common.checkpoint import Checkpoint
    from common.evaluation.zero_shot import Answer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure zero-shot F1 on other corpora before and after an adaptation."""

    checkpoint: Path
    """Run folder of an approach that can still find types it was not trained on."""
    dataset: tuple[str, ...]
    """Data sets (names or folder paths), each tested for its own types on its full test split."""
    interpolate: float = 1.0
    """Share of the adapted weights, mixed with the untouched base's (WiSE-FT, Wortsman et al. 2022); 1: as trained."""
    base_model: str | None = None
    """Where the base model is now, if it has moved since training."""
    output: Path | None = None
    """Record to write; if not given, in the approach's folder transfer/. Finished parts of it are kept."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        require(bool(self.dataset), "--dataset needs at least one value")
        require_share("--interpolate", self.interpolate)


def transfer(config: Config) -> Path | None:
    """Measures and writes the record; None for an approach without a zero-shot path, of which there is nothing to say.

    Raises:
        InputError: If the checkpoint or a data set cannot be read, or the record there is of something else.
    """
    folders = {folder.resolve(): folder.name for folder in map(existing_dataset_dir, config.dataset)}
    require(
        len(set(folders.values())) == len(folders),
        f"--dataset: two data sets have the same name, by which the record keeps them: {', '.join(config.dataset)}",
    )
    approach = approach_of(config.checkpoint)
    path = find_checkpoint(approach, str(config.checkpoint))
    record = read_run(path, approach)
    if not has_zero_shot(approach.name, record["base_model"]["kind"]):
        only = "it finds only the types that it was trained on"
        nothing = "its base model finds no entities before it is trained"
        logger.info("%s: none, %s", approach.title, nothing if approach.keeps_zero_shot else only)
        return None

    from common.device import as_trained, make_accelerator, precision_name, provenance

    runtime = as_trained(config.runtime, record.get("precision", "auto"))
    of = {
        "approach": approach.name,
        "variant": record["variant"],
        "base_model": {key: record["base_model"][key] for key in ("name", "revision", "kind")},
        "seed": record["seed"],
        "trained_on": record["dataset"],
        "checkpoint": path.name,
        "weights_sha256": sha256_file(path / WEIGHTS_FILE),
        "interpolate": config.interpolate,
        "precision": precision_name(make_accelerator(runtime)),
    }
    suffix = "" if config.interpolate == 1 else f"_interpolate{config.interpolate:g}"
    output = config.output or approach.savings.parent / TRANSFER_FOLDER / f"{path.name}{suffix}.json"
    done = _done(output, of)
    for name in config.dataset:
        data = load_dataset(name)
        if done.get(data.name, {}).get("dataset_sha256") == data.sha256:
            logger.info("%s: done before", data.name)
            continue
        done[data.name] = _measured(approach, path, data, config, runtime, of)
        write_json(output, {"created": now(), "model": of, "provenance": provenance(), "corpora": done})
        logger.info("%s", shown(data.name, done[data.name]))
    logger.info("record: %s", output)
    return output


def _done(output: Path, of: dict[str, Any]) -> dict[str, Any]:
    """The corpora in an earlier record of the same model."""
    if not output.exists():
        return {}
    there = read_record(output, TransferRecord)
    behaviour = there["provenance"].get("behaviour", 1)
    changed = differences(there["model"] | {"behaviour": behaviour}, of | {"behaviour": BEHAVIOUR_VERSION})
    require(not changed, f"{output}: is of another model: {'; '.join(changed)}")
    return dict(there["corpora"])


def _measured(
    approach: ApproachSpec[Any], path: Path, data: Dataset, config: Config, runtime: RuntimeConfig, of: dict[str, Any]
) -> dict[str, Any]:
    """One corpus: the untouched base and the adapted model, asked for its types and for those trained on."""
    from common.checkpoint import hub_commit, load_checkpoint
    from common.device import provenance
    from common.evaluation.metrics import paired_bootstrap
    from common.evaluation.zero_shot import answer, foreign_predictions

    def adapted(labels: LabelSet | None) -> Checkpoint[Any]:
        # Built anew for each label set: an approach may change the base that it is given.
        return load_checkpoint(approach, path, config.base_model, labels=labels, interpolate=config.interpolate)

    def untouched(checkpoint: Checkpoint[Any], labels: LabelSet) -> Any:
        plain, stored = untrained(), checkpoint.record["base_model"]
        settings = replace(plain.plain_config(stored["kind"]), labels=getattr(checkpoint.config, "labels", "names"))
        base = plain.load_base(settings, checkpoint.base.location, hub_commit(stored))
        return plain.build(settings, base, labels)

    checkpoint = adapted(data.labels)
    after = answer(checkpoint.model, data, runtime)
    known = labels_of(checkpoint.record, path)
    trained: Any = checkpoint.config
    foreign = not_annotated(known.names, data.labels.names, joint_names(trained.data.map))

    def untouched_alone() -> tuple[Answer, float | None]:
        before = answer(untouched(checkpoint, data.labels), data, runtime)
        base = untouched(checkpoint, known) if foreign else None
        return before, None if base is None else foreign_predictions(base, data.test, foreign, runtime)

    here = provenance()
    before, before_foreign = _once_for_each_base(
        {
            "base_model": of["base_model"],
            "label texts": getattr(checkpoint.config, "labels", "names"),
            "dataset_sha256": data.sha256,
            "trained types": [known.names, known.descriptions, foreign],
            "precision": of["precision"],
            "behaviour": here["behaviour"],
            "packages": here["packages"],
            "machine": {name: here["machine"][name] for name in ("processor", "gpu")} | {"device": runtime.device},
        },
        untouched_alone,
    )
    after_foreign = foreign_predictions(adapted(None).model, data.test, foreign, runtime) if foreign else None
    sides: dict[str, Answer] = {"before": before, "after": after}
    result: dict[str, Any] = {
        "dataset_sha256": data.sha256,
        "sentences": len(data.test),
        "types": list(data.labels.names),
        **{side: found.scores() for side, found in sides.items()},
        "foreign_types": foreign,
        "predictions_per_100_sentences": {"before": before_foreign, "after": after_foreign},
    }
    for place in ("at_half", "best"):
        counts = {side: getattr(found, place) for side, found in sides.items()}
        deltas = paired_bootstrap({None: counts["after"]}, {None: counts["before"]})
        result[f"difference_{place}"] = {name: [item.difference, item.low, item.high] for name, item in deltas.items()}
    return result


def not_annotated(known: Sequence[str], annotated: Sequence[str], joint: Mapping[str, str]) -> list[str]:
    """The types of a model that a corpus does not annotate, be it under a name that the model's mixture has mapped."""
    own = {name.casefold() for label in annotated for name in (label, joint.get(normalise_type(label), label))}
    return [name for name in known if name.casefold() not in own]


def _once_for_each_base(
    of: dict[str, Any], measure: Callable[[], tuple[Answer, float | None]]
) -> tuple[Answer, float | None]:
    """What the untouched base finds, from the cache if it was measured before: it is the same for all its adaptations.

    Args:
        of: All that it depends on.
        measure: Gives the answer, and the predictions of foreign types for each 100 sentences.
    """
    from common.evaluation.results import read_counts, write_counts
    from common.evaluation.zero_shot import Answer

    folder = cache_dir() / "zero-shot" / content_hash(of)
    at_half, best, record = (folder / f"{name}.json" for name in ("at_half", "best", "untouched"))
    try:
        stored = read_record(record, UntouchedRecord)
        answer = Answer(read_counts(at_half), read_counts(best), stored["threshold"])
        logger.info("the untouched base was measured before: %s", folder)
        return answer, stored["predictions_per_100_sentences"]
    except InputError:
        pass  # not there, or not whole
    answer, foreign = measure()
    try:
        write_counts(at_half, answer.at_half)
        write_counts(best, answer.best)
        write_json(record, {"of": of, "threshold": answer.threshold, "predictions_per_100_sentences": foreign})
    except OSError as error:
        # What was measured is worth more than the cache; for the next model it is measured again.
        logger.warning("%s: cannot be kept for other adaptations: %s", folder, error.strerror or error)
    return answer, foreign


def shown(name: str, corpus: dict[str, Any]) -> str:
    """A corpus of the record in one line."""
    before, after = (corpus[side]["best"]["micro_f1"] for side in ("before", "after"))
    _, low, high = corpus["difference_best"]["micro_f1"]
    return (
        f"{name}: zero-shot micro F1 {before:.4f} before, {after:.4f} after, difference {100 * (after - before):+.2f} "
        f"points [{100 * low:+.2f}, {100 * high:+.2f}], each at its best threshold on validation"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the command line names and prints a line for each corpus."""
    config = parse(Config, argv)
    output = transfer(config)
    if output is None:
        print("none")
        return
    corpora = read_json(output)["corpora"]
    for name, corpus in corpora.items():
        print(shown(name, corpus))


if __name__ == "__main__":
    run_script(main)
