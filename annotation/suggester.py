"""The model that makes suggestions, and the version that names it: the same content always has the same name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotation.labelling import Labelling
from annotation.work import Work
from common.config import Device, Precision, RuntimeConfig
from common.errors import InputError
from common.files import content_hash
from common.inference import Entity, Tagger
from common.inference.tagger import adaptation_file, weights_of
from common.training.records import RUN_FILE


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model that makes suggestions."""

    model: str | None = None
    """Run folder, folder of a plain GLiNER or its hub id; if not given, the work folder's current version."""
    labels: tuple[str, ...] = ()
    """Entity types to find; if not given, those trained on, or the project's labels in plain words."""
    threshold: float | None = None
    """Minimum probability of an entity; if not given, the model's own."""
    base_model: str | None = None
    """Where a run's base model is now, if it has moved since training."""
    device: Device = "auto"
    """Device; auto: the GPU if there is one."""
    precision: Precision = "auto"
    """Precision; auto: that of the training."""
    batch_size: int = 32
    """Sentences per forward pass."""

    def load(self, work: Work, labelling: Labelling | None = None) -> Suggester:
        """The model that the options name, or else the current version.

        Raises:
            InputError: If there is none, or it cannot be loaded.
        """
        record: dict[str, Any]
        if self.model is not None:
            record = {"model": self.model, "labels": list(self.labels), "threshold": self.threshold}
            record["base_model"] = self.base_model
        else:
            current = work.current()
            if current is None:
                raise InputError(f"which model? give --model; {work.current_file} does not name one yet")
            record = current
        return load_suggester(record, labelling, self.runtime)

    @property
    def runtime(self) -> RuntimeConfig:
        """Where and how to compute."""
        return RuntimeConfig(
            device=self.device, precision=self.precision, eval_batch_size=self.batch_size, progress=False
        )


class Suggester:
    """A loaded model with its name.

    Args:
        tagger: The model.
        fingerprint: Hash of its weights, labels and thresholds.
        record: How it is loaded again: ``model``, ``labels``, ``threshold``, ``base_model``.
    """

    def __init__(self, tagger: Tagger, fingerprint: str, record: dict[str, Any]) -> None:
        self.tagger, self.fingerprint, self.record = tagger, fingerprint, record
        # Of a run the approach: when it was trained is no part of what it is.
        name = tagger.name.partition("/")[0] if (Path(record["model"]) / RUN_FILE).is_file() else tagger.name
        self._name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")[:60]

    def version(self, labelling: Labelling) -> str:
        """The version of the suggestions in a project: another one if weights, threshold or labels are others."""
        content: list[Any] = [
            self.fingerprint,
            labelling.labels,
            labelling.from_name,
            labelling.to_name,
            labelling.field,
        ]
        # Types of the model that have no label's words may have an alias's.
        content += [dict(labelling.aliases)] if labelling.aliases else []
        return f"{self._name}-{content_hash(content)[:8]}"

    def unknown_to(self, labelling: Labelling) -> list[str]:
        """Types of the model that are no labels of a project: their entities are not suggested."""
        return [name for name in self.tagger.labels if labelling.label(name) is None]

    def suggest(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of each text."""
        return self.tagger.tag(texts)


def load_suggester(record: dict[str, Any], labelling: Labelling | None, runtime: RuntimeConfig) -> Suggester:
    """Loads a model from what names it.

    Args:
        record: ``model`` and perhaps ``labels``, ``threshold``, ``base_model``, as in ``current.json``.
        labelling: Labels of the project, which a plain GLiNER is asked for if ``labels`` are not given.
        runtime: Where and how to compute.

    Raises:
        InputError: If it cannot be loaded.
    """
    source, labels = record["model"], tuple(record.get("labels") or ())
    place = Path(source)
    knows_labels = (place / RUN_FILE).is_file() or adaptation_file(source) is not None
    if not labels and not knows_labels and labelling is not None:
        labels = labelling.types()
    threshold, base_model = record.get("threshold"), record.get("base_model")
    tagger = Tagger.load(source, labels=labels, threshold=threshold, base_model=base_model, runtime=runtime)
    stored = record | {
        "model": str(place.resolve()) if place.is_dir() else source,
        "labels": list(labels),
        "threshold": threshold,
        "base_model": base_model,
    }
    return Suggester(tagger, fingerprint(source, tagger), stored)


def fingerprint(source: str, tagger: Tagger) -> str:
    """Hash of all that a loaded model's suggestions depend on beside the text."""
    return content_hash([weights_of(source), tagger.labels, tagger.threshold, tagger.type_thresholds])
