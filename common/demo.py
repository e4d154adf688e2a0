"""``make demo``: every approach on the embedded demo corpora, from nothing to a table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import full_finetune.test
import full_finetune.train
import glinerev.test
import glinerev.train
import zeroshot_baseline.test
from common.paths import PROJECT_ROOT
from common.script import run_script
from common.tables import comparison, write_comparison
from dataset_generation import generate

logger = logging.getLogger(__name__)

CORPORA = ("demo-jnlpba", "demo-bc5cdr")
OUTPUT = PROJECT_ROOT / "demo"


@dataclass(frozen=True)
class Cell:
    """One row of the demo: how an approach is trained, if at all, and tested."""

    title: str
    test: Callable[[Sequence[str]], Path]
    options: tuple[str, ...]
    train: Callable[[Sequence[str]], Path] | None = None
    train_options: tuple[str, ...] = ()


# The demo bases are barely pretrained: they want larger steps than a published model.
FULL = ("--epochs", "3", "--encoder-lr", "1e-4", "--others-lr", "1e-3")

CELLS = (
    Cell("zero-shot, bi", zeroshot_baseline.test.main, ("--encoder", "bi", "--base-model", "demo-bi")),
    Cell("zero-shot, cross", zeroshot_baseline.test.main, ("--encoder", "cross", "--base-model", "demo-cross")),
    Cell(
        "SP-GLiNER",
        glinerev.test.main,
        (),
        glinerev.train.main,
        ("--base-model", "demo-bi", "--epochs", "5"),
    ),
    Cell(
        "Full-FT, bi",
        full_finetune.test.main,
        (),
        full_finetune.train.main,
        ("--encoder", "bi", "--base-model", "demo-bi", *FULL),
    ),
    Cell(
        "Full-FT, cross",
        full_finetune.test.main,
        (),
        full_finetune.train.main,
        ("--encoder", "cross", "--base-model", "demo-cross", *FULL),
    ),
)


def main() -> None:
    """Generates, trains, tests and writes the table."""
    start = time.perf_counter()
    results = []
    for corpus in CORPORA:
        generate.main(["--dataset", corpus])
        for cell in CELLS:
            logger.info("demo: %s on %s", cell.title, corpus)
            options = ["--dataset", corpus, *cell.options]
            if cell.train is not None:
                run = cell.train(["--dataset", corpus, *cell.train_options, "--no-progress"])
                options += ["--checkpoint", str(run)]
            results.append(cell.test([*options, "--no-progress"]))
    table = comparison(results)
    write_comparison(table, OUTPUT / "results.md")
    print(
        f"\n{table}\nWritten to {(OUTPUT / 'results.md').relative_to(PROJECT_ROOT)} after {time.perf_counter() - start:.0f} s."
    )


if __name__ == "__main__":
    run_script(main)
