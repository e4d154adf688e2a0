"""The benchmark: runs measures in child processes, one after another, and collects their rows."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common.benchmark.config import Config
from common.benchmark.measures import Measure, profile
from common.benchmark.report import render
from common.config import Precision, RuntimeConfig
from common.data.dataset import ENCODERS
from common.device import make_accelerator, precision_name, provenance
from common.errors import InputError
from common.files import read_json, write_json, write_text
from common.paths import now, output_root
from common.registry import spec, trained

logger = logging.getLogger(__name__)

SIZES = (1000, 4000, 16000)
LABELS = (2, 6, 30)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


class Bench:
    """Runs measures in child processes and collects the rows.

    Args:
        config: The benchmark's settings.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.output = config.output or output_root() / "results" / "benchmark.json"
        self.rows: list[dict[str, Any]] = []

    def _asked(self, kind: str, encoder: str, **settings: Any) -> Measure:
        base_model = self.config.base_model if encoder == "bi" else self.config.cross_base_model
        return Measure(kind, encoder, dataset=self.config.dataset, base_model=base_model, **settings)

    def measure(self, kind: str, encoder: str, **settings: Any) -> dict[str, Any]:
        """One figure.

        Raises:
            InputError: If the child failed; the message is its last line.
        """
        measure = self._asked(kind, encoder, **settings)
        logger.info("%s", ", ".join(f"{k} {v}" for k, v in asdict(measure).items() if v not in ("", None)))
        with tempfile.TemporaryDirectory() as folder:
            asked, answer = Path(folder) / "measure.json", Path(folder) / "answer.json"
            write_json(asked, asdict(measure))
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"from common.benchmark.measures import child; child({[str(asked), str(answer)]!r})",
                ],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                raise InputError(f"{measure} failed with exit code {done.returncode}: {lines[-1]}")
            figures = read_json(answer)
        logger.info("  %.1f sentences/s, peak %.0f MiB", figures["sentences_per_second"], figures["peak_memory_mb"])
        return figures

    def row(
        self, measure: str, approach: str, ours: dict[str, Any], gliner: dict[str, Any] | None, **more: Any
    ) -> None:
        """Adds a row that compares two figures, and writes the rows so far in case the run is stopped."""
        kept = (
            "sentences_per_second",
            "batch_size",
            "precision",
            "feature_seconds",
            "seconds_per_epoch",
            "peak_memory_mb",
        )
        sides = [None if side is None else {k: side[k] for k in kept if k in side} for side in (ours, gliner)]
        ratio = None if gliner is None else ours["sentences_per_second"] / gliner["sentences_per_second"]
        memory = None if gliner is None else ours["peak_memory_mb"] / gliner["peak_memory_mb"]
        self.rows.append(
            {"measure": measure, "approach": approach, "ours": sides[0], "gliner": sides[1], "ratio": ratio}
            | {"memory_ratio": memory, **more}
        )
        write_json(self.partial, self.record())

    def training(self) -> None:
        """Every approach against ``train_model`` on the same kind of base: same settings, and each at its best."""
        size, n = self.config.batch_size, self.config.sentences
        same = precision_name(make_accelerator(RuntimeConfig()))
        for encoder in ENCODERS:
            theirs = {
                (precision, batch): self.measure(
                    "gliner train", encoder, precision=precision, batch_size=batch, sentences=n
                )
                for precision, batch in sorted({("fp32", size), (same, size), (same, 2 * size)})
            }
            best = max(theirs.values(), key=lambda side: side["sentences_per_second"])
            for approach in trained():
                if encoder not in spec(approach).kinds:
                    continue
                title = f"{spec(approach).title}, {encoder}"
                settings: dict[str, Any] = {"approach": approach, "precision": same}
                settings["sentences"] = None if spec(approach).stores_features else n
                ours = self.measure("train", encoder, **settings, batch_size=size)
                self.row("training, same settings", title, ours, theirs[same, size])
                ours = self.measure("train", encoder, **settings, batch_size=None)
                self.row("training, each at its best", title, ours, best)

    def evaluation(self) -> None:
        """The base model on the whole test split against ``model.evaluate``."""
        for encoder in ENCODERS:
            for precision in PRECISIONS:
                settings: dict[str, Any] = {"precision": precision, "batch_size": 32, "sentences": None}
                ours = self.measure("evaluate", encoder, **settings)
                theirs = self.measure("gliner evaluate", encoder, **settings)
                differing = sum(a != b for a, b in zip(ours["predictions"], theirs["predictions"], strict=True))
                title = f"evaluation, same settings, {precision}"
                more = {"sentences_with_other_predictions": differing}
                self.row(title, f"span model, {encoder}", ours, theirs, **more)

    def scaling(self) -> None:
        """Seconds of an epoch by the number of sentences and of labels."""
        for approach in self.config.scaling:
            title, kind = spec(approach).title, spec(approach).kinds[0]
            settings: dict[str, Any] = {"approach": approach, "precision": "auto", "batch_size": None}
            for n in SIZES:
                self.row(f"{n} sentences", title, self.measure("train", kind, **settings, sentences=n), None)
            for n in LABELS:
                figures = self.measure("train", kind, **settings, sentences=SIZES[0], labels=n)
                self.row(f"{n} labels, {SIZES[0]} sentences", title, figures, None)

    @property
    def partial(self) -> Path:
        """The file of an unfinished run; an earlier run's output stays until this one has finished."""
        return self.output.with_suffix(".partial.json")

    def record(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {
            "created": now(),
            "dataset": Path(self.config.dataset).name,
            "base_models": {
                "bi": Path(self.config.base_model).name,
                "cross": Path(self.config.cross_base_model).name,
            },
            "threads": torch.get_num_threads(),
            "provenance": provenance(),
            "rows": self.rows,
        }

    def write(self) -> dict[str, Any]:
        """Writes the rows and their tables; returns the content of the JSON file."""
        record = self.record()
        write_json(self.output, record)
        write_text(self.output.with_suffix(".md"), render(record))
        self.partial.unlink(missing_ok=True)
        return record

    def run(self) -> dict[str, Any]:
        """Measures everything that was asked for; returns the content of the JSON file."""
        self.training()
        self.evaluation()
        self.scaling()
        return self.write()

    def profile(self, approach: str) -> str:
        """Where an approach spends its training time."""
        settings: dict[str, Any] = {"approach": approach, "precision": "auto", "batch_size": None}
        return profile(self._asked("train", spec(approach).kinds[0], **settings, sentences=self.config.sentences))
