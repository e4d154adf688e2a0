"""``make demo``: every approach on the embedded demo corpora, from nothing to a table."""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from common.paths import PROJECT_ROOT
from common.registry import TRAINED
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
    approach: str
    options: tuple[str, ...]
    """Of train.py, or of test.py where nothing is trained."""


# The demo bases are barely pretrained: they want larger steps than a published model.
_FULL = ("--epochs", "2", "--train-size", "400", "--encoder-lr", "1e-4", "--others-lr", "1e-3")
_BI, _CROSS = ("--base-model", "demo-bi"), ("--base-model", "demo-cross")

CELLS = (
    Cell("zero-shot, bi", "zeroshot_baseline", ("--encoder", "bi", *_BI)),
    Cell("zero-shot, cross", "zeroshot_baseline", ("--encoder", "cross", *_CROSS)),
    Cell("LDSA", "ldsa", (*_BI, "--epochs", "3", "--batch-size", "32")),
    Cell("SP-Base", "softprompt_base", (*_BI, "--epochs", "10")),
    Cell("SP-Cross", "injection_cross", (*_CROSS, "--epochs", "1", "--prompt-length", "4", "--train-size", "300")),
    Cell("SP-Bi", "injection_bi", (*_BI, "--epochs", "5", "--batch-size", "32", "--prompt-length", "8")),
    Cell("SP-GLiNER", "glinerev", (*_BI, "--epochs", "4")),
    Cell("Full-FT, bi", "full_finetune", ("--encoder", "bi", *_BI, *_FULL)),
    Cell("Full-FT, cross", "full_finetune", ("--encoder", "cross", *_CROSS, *_FULL)),
)


def run_cell(cell: Cell, corpus: str) -> Path:
    """Trains and tests one row on a corpus; returns the result file."""
    test = importlib.import_module(f"{cell.approach}.test").main
    if cell.approach not in TRAINED:
        return test(["--dataset", corpus, *cell.options, "--no-progress"])
    train = importlib.import_module(f"{cell.approach}.train").main
    run = train(["--dataset", corpus, *cell.options, "--no-progress"])
    return test(["--dataset", corpus, "--checkpoint", str(run), "--no-progress"])


def main() -> None:
    """Generates, trains, tests and writes the table."""
    start = time.perf_counter()
    results = []
    for corpus in CORPORA:
        generate.main(["--dataset", corpus])
        for cell in CELLS:
            logger.info("demo: %s on %s", cell.title, corpus)
            results.append(run_cell(cell, corpus))
    table = comparison(results)
    write_comparison(table, OUTPUT / "results.md")
    print(
        f"\n{table}\nWritten to {(OUTPUT / 'results.md').relative_to(PROJECT_ROOT)} after {time.perf_counter() - start:.0f} s."
    )


if __name__ == "__main__":
    run_script(main)
