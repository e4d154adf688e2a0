"""Measures how fast every command answers: ``python -m common.benchmark.commands``.

It times ``--help``, an unknown option, and a missing data set, checkpoint or file: answers that need neither torch nor
a model. Each is timed as a separate process, from start to exit; the fastest of several runs is shown.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from common.config import parse, require
from common.registry import specs
from common.script import run_script

VERBS = ("train", "test", "tune", "export")
NOWHERE = "no-such-thing"


@dataclass(frozen=True)
class Config:
    """Measure how fast every command answers."""

    runs: int = 3
    """Runs of each command; the fastest is shown."""
    slower_than: float = 0.0
    """Show only commands with an answer that takes longer, in seconds."""

    def __post_init__(self) -> None:
        require(self.runs >= 1, f"runs must be at least 1, got {self.runs}")


def commands() -> dict[str, list[str]]:
    """Every command's module or file, and arguments that name something that does not exist."""
    found = {}
    for spec in specs():
        for verb in VERBS:
            name = f"{spec.name}.{verb}"
            if importlib.util.find_spec(name) is not None:
                export = ["--checkpoint", NOWHERE, "--output", NOWHERE]
                found[name] = export if verb == "export" else ["--dataset", NOWHERE]
    found["dataset_generation.generate"] = ["--dataset", NOWHERE]
    found["common.study"] = ["--dataset", NOWHERE, "--config", NOWHERE]
    found["common.study.demo"] = ["--config", NOWHERE]
    found["common.predict"] = ["--checkpoint", NOWHERE, "--input", NOWHERE, "--output", f"{NOWHERE}.jsonl"]
    found["common.tables"] = ["--results", NOWHERE]
    found["common.compare"] = [NOWHERE, NOWHERE]
    found["common.transfer"] = ["--checkpoint", NOWHERE, "--dataset", NOWHERE]
    found["common.errors_page"] = [NOWHERE]
    found["common.benchmark"] = ["--readme", NOWHERE]
    found["optuna_plots"] = [NOWHERE]
    return found


def answer(module: str, arguments: Sequence[str], runs: int) -> tuple[float, int]:
    """The fewest seconds that a command takes to exit, and its exit status."""
    seconds, status = [], 0
    for _ in range(runs):
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, check=False).returncode
        seconds.append(time.perf_counter() - start)
    return min(seconds), status


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table of seconds.

    Returns:
        1 if an exit status was not 0 for help and 2 for bad input, else 0.
    """
    config = parse(Config, argv)
    print("| command | --help | wrong option | missing data |\n| --- | ---: | ---: | ---: |")
    wrong = 0
    for module, missing in commands().items():
        asked = ((["--help"], 0), (["--no-such-option", "1"], 2), (missing, 2))
        answers = [(answer(module, arguments, config.runs), status) for arguments, status in asked]
        wrong += sum(found != status for (_, found), status in answers)
        cells = [
            f"{seconds:.2f}" + ("" if found == status else f" (exit {found})") for (seconds, found), status in answers
        ]
        if max(seconds for (seconds, _), _ in answers) >= config.slower_than:
            print(f"| {module} | {' | '.join(cells)} |", flush=True)
    return int(wrong > 0)


def script() -> None:
    """The command: ends with the exit status of :func:`main`."""
    if status := main():
        raise SystemExit(status)


if __name__ == "__main__":
    run_script(script)
