"""Estimates how long cells take, from results of the same kind."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.evaluation.results import read_result


@dataclass(frozen=True)
class Pace:
    """Seconds for one sentence."""

    test: float
    train: float | None
    """In one epoch; None where nothing was trained."""

    def seconds(self, sizes: Mapping[str, int], epochs: int) -> float | None:
        """The time of a cell: training and validation in each epoch, and the test."""
        tested = self.test * sizes["test"]
        if not epochs:
            return tested
        if self.train is None:
            return None
        return epochs * (self.train * sizes["train"] + self.test * sizes["validation"]) + tested


_Kind = tuple[str, str, str]
"""Approach, encoder and base model: what a pace holds for."""


def paces(folder: Path) -> dict[_Kind, Pace]:
    """The median pace of a folder's results from machines with this one's kind of GPU, or with none."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found: dict[_Kind, list[Pace]] = defaultdict(list)
    for path in sorted(folder.rglob("*.json")):
        # An estimate is not worth an end: results of other versions may lack a field.
        with contextlib.suppress(InputError, KeyError, TypeError, ZeroDivisionError):
            result = read_result(path)
            if result["provenance"]["machine"]["gpu"] == gpu:
                base, pace = result["base_model"], _pace(result)
                found[(result["approach"], base.get("kind") or base["encoder"], base["name"])].append(pace)
    return {
        kind: Pace(
            statistics.median(pace.test for pace in rows),
            None if rows[0].train is None else statistics.median(pace.train or 0.0 for pace in rows),
        )
        for kind, rows in found.items()
    }


def _pace(result: Mapping[str, Any]) -> Pace:
    training = result.get("training")
    test = 1 / result["speed"]["sentences_per_second"]
    if not training:
        return Pace(test, None)
    return Pace(test, training["seconds_per_epoch"] / training["dataset"]["train"])


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def total_time(estimates: Iterable[float | None], *, several: bool = False) -> str:
    """The sum of what is known, and for how many cells nothing is.

    Args:
        estimates: Seconds of each cell.
        several: Whether several workers share the cells, and so need less; how much depends on what else they share.
    """
    rows = list(estimates)
    known = [seconds for seconds in rows if seconds is not None]
    how = " one after the other" if several and len(known) > 1 else ""
    parts = [f"about {duration(sum(known))}{how}"] if known else []
    parts += [f"unknown time for {len(rows) - len(known)} of them"] if len(known) < len(rows) else []
    return " and ".join(parts) or "nothing left"
