"""One cell of a study: train.py, test.py, common.transfer, each in its own process, retried if it dies."""

from __future__ import annotations

import contextlib
import glob
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from common.data.dataset import dataset_dir
from common.engine import GRACE, REFUSED, RETRIES, ending, last_lines, place, run_module
from common.errors import InputError
from common.files import write_text
from common.paths import OUTPUT_VARIABLE, now
from common.registry import spec
from common.study.identity import Identity, matching_runs, stored_result
from common.study.plan import Cell
from common.training.records import WEIGHTS_FILE, lock_path


@dataclass(frozen=True)
class Work:
    """A cell and all that is needed to do it anywhere that has the same folders."""

    cell: Cell
    wanted: Identity
    """What its result depends on."""
    overrides: tuple[str, ...]
    """Options of test.py beside data set and checkpoint."""
    log: Path
    """File for all that its processes print; the first line says what runs where."""
    output: Path
    """Root of the project's output."""
    folder: Path
    """Working directory."""
    threads: int | None = None
    """CPU threads; those of the place if None."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    result: Path | None
    """What test.py or common.transfer wrote; None if it failed."""
    seconds: float
    error: str = ""


SAME_FOLDERS = "all workers need the study's folders, under the same paths"
NOT_OURS = "of these settings: data, base model or code are others than at the start"


class OtherFoldersError(InputError):
    """A worker has not the study's folders: it would do every cell for nothing."""


class _Failed(Exception):
    """The cell cannot be done; the message says why."""


def do_cell(work: Work) -> Outcome:
    """Trains and tests; a training that was cut off before is resumed.

    Raises:
        OtherFoldersError: If the study's folders are not here.
    """
    return _outcome(work, _Doing.result)


def do_transfer(work: Work, checkpoint: Path, corpora: Sequence[str], record: Path) -> Outcome:
    """Measures what a cell's checkpoint keeps of its base's zero-shot F1 on some corpora; adds to the record there.

    Raises:
        OtherFoldersError: If the study's folders are not here.
    """
    return _outcome(work, lambda doing: doing.transfer(checkpoint, corpora, record))


def _outcome(work: Work, do: Callable[[_Doing], Path]) -> Outcome:
    start = time.perf_counter()
    for folder in (work.folder, work.output, work.log.parent):
        # What is made here without them, the study would not find.
        if not folder.is_dir():
            raise OtherFoldersError(f"{place().name}: has no folder {folder}; {SAME_FOLDERS}")
    write_text(work.log, f"{place().name}: {work.cell.title}\n")
    try:
        result, error = do(_Doing(work)), ""
    except _Failed as failure:
        result, error = None, str(failure)
    return Outcome(result, time.perf_counter() - start, error)


class _Doing:
    def __init__(self, work: Work) -> None:
        self.work, self.cell = work, work.cell
        self.dataset = dataset_dir(work.cell.dataset).name
        self.place = work.output / work.cell.approach
        self.deaths = 0

    def result(self) -> Path:
        """The result file that test.py writes."""
        arguments = self.cell.arguments
        if spec(self.cell.approach).trains:
            checkpoint = ("--checkpoint", str(self.trained()))
            arguments = ["--dataset", self.cell.dataset, *checkpoint, *self.work.overrides, "--no-progress"]
        started = now()
        while (status := self.run(f"{self.cell.approach}.test", arguments)) != 0:
            self.count_death("test.py", status)
        for path in sorted((self.place / "test_results").glob(f"{glob.escape(self.dataset)}_*.json"), reverse=True):
            found = stored_result(path)
            if found and found[0]["created"] >= started and found[1] == self.work.wanted:
                return path
        raise _Failed(f"test.py has left no result {NOT_OURS}")

    def transfer(self, checkpoint: Path, corpora: Sequence[str], record: Path) -> Path:
        """The record, which :mod:`common.transfer` writes corpus by corpus."""
        if not (checkpoint / WEIGHTS_FILE).is_file():
            raise _Failed(f"{checkpoint}: is no longer there, and what it keeps cannot be measured without it")
        arguments = ["--checkpoint", str(checkpoint), "--base-model", self.cell.base_model, "--dataset", *corpora]
        arguments += ["--output", str(record), *self.work.overrides, "--no-progress"]
        while (status := self.run("common.transfer", arguments)) != 0:
            self.count_death("common.transfer", status)
        return record

    def trained(self) -> Path:
        """The folder of a finished run with the cell's settings; what was cut off is resumed."""
        passed_over: set[Path] = set()
        while True:
            found = [item for item in self.runs() if item[0] not in passed_over]
            run, status = found[0] if found else (None, None)
            if run is not None and status == "finished":
                return run
            # A run that failed in an earlier study would fail alike; one whose process died just now may not.
            resume = run is not None and (status != "failed" or self.deaths > 0)
            if run is not None and resume:
                # What is left of a worker that was killed may take a moment to end.
                with contextlib.suppress(Timeout), FileLock(lock_path(run), timeout=GRACE):
                    pass
            code = self.run(
                f"{self.cell.approach}.train", [*self.cell.arguments, *(["--resume", str(run)] if resume else [])]
            )
            if code == 0:
                if any(status == "finished" for _, status in self.runs()):
                    continue
                raise _Failed(f"train.py has left no run {NOT_OURS}")
            if code == REFUSED and run is not None and resume and dict(self.runs()).get(run) != "failed":
                # It was started on another kind of device, for example.
                passed_over.add(run)
            else:
                self.count_death("train.py", code)

    def runs(self) -> list[tuple[Path, str]]:
        return matching_runs(self.cell.approach, self.dataset, self.work.wanted, self.place / "savings")

    def run(self, module: str, arguments: Sequence[str]) -> int | None:
        self.note(f"{module} {' '.join(arguments)}")
        environment = {OUTPUT_VARIABLE: str(self.work.output)}
        environment |= {} if self.work.threads is None else {"OMP_NUM_THREADS": str(self.work.threads)}
        return run_module(module, arguments, self.work.log, environment, self.work.folder)

    def count_death(self, script: str, status: int | None) -> None:
        """Lets the cell be tried again, or ends it.

        Raises:
            _Failed: If that is of no use, or not wanted.
        """
        # A batch system that ends a job signals all its processes: what ended this one has stopped the study too.
        if status is None or place().stopped():
            raise _Failed("stopped")
        if status == REFUSED:
            raise _Failed("".join(last_lines(self.work.log, 1)).removeprefix("error: "))
        self.note(f"{script} {ending(status)}")
        self.deaths += 1
        if self.deaths > RETRIES:
            raise _Failed(f"{script} {ending(status)}, after {RETRIES} retries")

    def note(self, text: str) -> None:
        with self.work.log.open("a", encoding="utf-8") as stream:
            stream.write(f"-- {text}\n")
