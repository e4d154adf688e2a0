"""The whole study, cell by cell: ``python -m common.study --dataset jnlpba bc5cdr --approaches all --seeds 42 43 44``.

    <study>/results/<cell>.json       what test.py wrote, with its page, its predictions and its counts
    <study>/cells/<cell>.json         state of a cell: whose it is, its settings, its run folder, its time or its error
    <study>/superseded/               results that had other settings, data or weights than the newest
    <study>/tables/                   what common.tables makes of the results

The same command goes on after a kill, and several processes or machines may run it on one folder at a time.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from common.config import differences, merge, to_dict
from common.data.dataset import LABEL2DESC_FILE, MANIFEST_FILE, dataset_dir, load_dataset
from common.entry import Training
from common.errors import InputError, TrainingError
from common.evaluation.results import companions, read_result
from common.files import atomic_path, read_json, write_json
from common.liveness import is_dead, signs_of_life, this_process
from common.paths import now, output_root
from common.registry import spec
from common.study.estimates import Pace, duration, paces, total_time
from common.study.plan import Cell, StudyConfig, configuration, make_plan
from common.training.loop import fit
from common.training.records import RUN_FILE, WEIGHTS_FILE
from dataset_generation.generate import DEMOS, GenerateConfig, generate

# Not __name__, so that a study has one logger in all its modules.
logger = logging.getLogger("common.study")

State = Literal["done", "kept", "failed", "elsewhere"]


# -- the plan ---------------------------------------------------------------------------------------------------------


# -- a cell's file ----------------------------------------------------------------------------------------------------


class CellFile:
    """What the study's folder says of a cell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = read_json(path) if path.is_file() else {}
        # The thread that gives signs of life writes too.
        self._writing = threading.Lock()

    def update(self, **values: Any) -> None:
        """Sets values and writes the file."""
        with self._writing:
            self.values = self.values | values
            write_json(self.path, self.values)

    def replace(self, **values: Any) -> None:
        """Starts the file anew."""
        with self._writing:
            self.values = values
            write_json(self.path, values)

    def get(self, name: str) -> Any:
        """A value, None if the file has none of the name."""
        return self.values.get(name)

    @property
    def running(self) -> bool:
        """Whether a process that seems alive is at work on it."""
        return self.get("state") == "running" and not is_dead(self.get("process"), self.get("alive"))

    @property
    def running_elsewhere(self) -> bool:
        """Whether another machine is at work on it.

        On this machine the lock alone says it; on some network folders a lock says nothing of other machines.
        """
        return self.running and self.get("process")["host"] != this_process()["host"]


def digest_of(settings: Mapping[str, Any]) -> str:
    """The configuration hash."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


# -- estimates --------------------------------------------------------------------------------------------------------


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """What the study needs to know of a data set."""

    sha256: str
    sizes: dict[str, int]


class Study:
    """A study's plan and folder, and this process's part in it.

    Args:
        config: The command line.

    Raises:
        InputError: If a script does not understand its options; nothing has been run then.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.folder = (config.output or output_root() / "study").absolute()
        self.cells = make_plan(config)
        self.configurations = {cell.id: configuration(cell) for cell in self.cells}
        self.started = now()
        self._contents: dict[str, _Content] = {}
        self._revisions: dict[str, str] = {}
        self._without_data: dict[str, str] = {}

    @property
    def results(self) -> Path:
        """The folder of the collected results."""
        return self.folder / "results"

    def result_path(self, cell: Cell) -> Path:
        """Where a cell's collected result is."""
        return self.results / f"{cell.id}.json"

    def file(self, cell: Cell) -> CellFile:
        """What the folder says of a cell now."""
        return CellFile(self.folder / "cells" / f"{cell.id}.json")

    # -- data, and what a result depends on ---------------------------------------------------------------------------

    def generate_missing(self) -> None:
        """Generates the data sets that are not there; one that cannot be had fails its cells and no others."""
        for name in self.config.dataset:
            directory = dataset_dir(name)
            if not _is_missing(directory):
                continue
            try:
                source = self._source(directory.name)
                config = GenerateConfig(directory.name, source=source, output_dir=directory.parent)
                directory.parent.mkdir(parents=True, exist_ok=True)
                # Processes of one machine share its data sets.
                with FileLock(directory.with_name(f".{directory.name}.lock")):
                    if _is_missing(directory):
                        generate(config)
                        logger.info("generated %s", directory)
            except InputError as error:
                logger.error("data set %s: %s", directory.name, error)
                self._without_data[name] = str(error)

    def _source(self, name: str) -> str | None:
        """Where ``--source`` has a data set.

        Raises:
            InputError: If it has none, or several files, of the name.
        """
        folder = self.config.source
        if folder is None or name in DEMOS:
            return None
        found = [folder / name] if (folder / name).is_dir() else sorted(folder.glob(f"{name}.*"))
        if len(found) != 1:
            raise InputError(f"--source {folder}: needs one folder {name} or one file {name}.*, found {len(found)}")
        return str(found[0])

    def content(self, cell: Cell) -> _Content:
        """Hash and sizes of the cell's data set.

        Raises:
            InputError: If there is no such data set or it is not whole.
        """
        if cell.dataset in self._without_data:
            raise InputError(self._without_data[cell.dataset])
        key = cell.dataset
        if key not in self._contents:
            data = load_dataset(cell.dataset)
            sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
            self._contents[key] = _Content(data.sha256, sizes)
        return self._contents[key]

    def revision(self, cell: Cell) -> str:
        """The revision of the cell's base model as it would be loaded now.

        Raises:
            InputError: If it cannot be loaded.
        """
        key = cell.base_model
        if key not in self._revisions:
            self._revisions[key] = spec(cell.approach).bases.revision(key)
        return self._revisions[key]

    def settings(self, cell: Cell, revision: str) -> dict[str, Any]:
        """All that a cell's result depends on: its configuration without paths and runtime, data, and base model.

        Raises:
            InputError: If there is no such data set.
        """
        values = _lasting(to_dict(self.configurations[cell.id]))
        return {
            "approach": cell.approach,
            "configuration": values,
            "dataset_sha256": self.content(cell).sha256,
            "base_model": {"name": cell.base_name, "revision": revision},
        }

    def is_done(self, cell: Cell, file: CellFile, settings: Mapping[str, Any]) -> bool:
        """Whether the folder has the whole result of a cell with the same settings."""
        whole = all(path.is_file() for path in companions(self.result_path(cell)))
        return whole and file.get("state") == "done" and self.same_settings(cell, file, settings)

    def same_settings(self, cell: Cell, file: CellFile, settings: Mapping[str, Any]) -> bool:
        """Whether what the folder has of a cell was made with these settings, by this or an earlier version."""
        if file.get("hash") == digest_of(settings):
            return True
        stored = file.get("settings")
        if not stored:
            return False
        known = spec(cell.approach)
        given = {"data": {"dataset": cell.dataset}} if known.trains else {"dataset": cell.dataset}
        try:
            values = known.stored_config(merge(given, stored["configuration"]), str(file.path))
        except InputError:
            return False
        return {**stored, "configuration": _lasting(to_dict(values))} == settings

    # -- the plan as text ---------------------------------------------------------------------------------------------

    def seems_done(self, cell: Cell) -> bool:
        """Whether a cell is done, its base model taken to be what it was."""
        file = self.file(cell)
        if file.get("state") != "done":
            return False
        try:
            return self.is_done(cell, file, self.settings(cell, file.get("settings")["base_model"]["revision"]))
        except InputError:
            return False

    def estimates(self, cells: Iterable[Cell]) -> list[float | None]:
        """Seconds that cells take at most, by results of the same approach and base; None if there is none or no data yet."""
        known = paces(output_root() / "results") | paces(self.results)
        return [self._estimate(cell, known.get((cell.approach, cell.kind, cell.base_name))) for cell in cells]

    def _estimate(self, cell: Cell, pace: Pace | None) -> float | None:
        if pace is None:
            return None
        try:
            sizes = self.content(cell).sizes
        except InputError:
            return None
        config = self.configurations[cell.id]
        if not spec(cell.approach).trains:
            return pace.seconds(sizes, 0)
        limits = {"train": config.data.train_size, "validation": config.data.validation_size}
        limited = {name: min(size, limits.get(name) or size) for name, size in sizes.items()}
        return pace.seconds(limited, config.train.epochs)

    def outline(self) -> str:
        """The plan: each cell with its state and the time that it is going to take."""
        states = [self._state(cell) for cell in self.cells]
        estimates = self.estimates(self.cells)
        width = max(len(cell.title) for cell in self.cells)
        lines = []
        for number, (cell, state, seconds) in enumerate(zip(self.cells, states, estimates, strict=True), start=1):
            expected = "unknown" if seconds is None else duration(seconds)
            lines.append(f"{number:>4}  {cell.title:<{width}}  {'-' if state == 'done' else expected:>11}  {state}")
        left = [seconds for seconds, state in zip(estimates, states, strict=True) if state != "done"]
        return "\n".join(
            [*lines, f"{len(states)} cells, {len(left)} to do: {total_time(left)}; study folder {self.folder}"]
        )

    def _state(self, cell: Cell) -> str:
        file = self.file(cell)
        if self.seems_done(cell):
            return "done"
        if file.running:
            return "running on {host}, process {pid}".format(**file.get("process"))
        return {
            None: "to do", "done": "to do again: settings, data or files are others, or not here", "failed": "to do again: it failed",
        }.get(file.get("state"), "to go on with")  # fmt: skip

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, State]:
        """Does every cell that is not done; returns how each ended, by its id."""
        self.generate_missing()
        ended: dict[str, State] = {}
        waiting = list(enumerate(self.cells, start=1))
        while waiting:
            for number, cell in waiting:
                ended[cell.id] = self._take(number, cell, [c for c in self.cells[number:] if c.id not in ended])
            # What others were at may have been left by them meanwhile.
            left = [(number, cell) for number, cell in waiting if ended[cell.id] == "elsewhere"]
            waiting = left if len(left) < len(waiting) else []
        return ended

    def _take(self, number: int, cell: Cell, rest: Sequence[Cell]) -> State:
        """Does one cell unless it is done or another process is at it."""
        head = f"[{number}/{len(self.cells)}] {cell.title}"
        lock = FileLock(self.folder / "locks" / f"{cell.id}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("%s: another process is at it", head)
            return "elsewhere"
        try:
            file = self.file(cell)
            if file.running_elsewhere:
                logger.info("%s: %s is at it", head, file.get("process")["host"])
                return "elsewhere"
            if file.get("state") == "failed" and file.get("ended") >= self.started:
                logger.error("%s: failed in another process: %s", head, file.get("error"))
                return "failed"
            state = self._do(head, cell, file)
        finally:
            lock.release()
        if state != "kept":
            self._clean_up(rest)
        return state

    def _clean_up(self, rest: Sequence[Cell]) -> None:
        """Frees the last model before the next is loaded, and says how long the rest takes."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        left = [cell for cell in rest if not self.seems_done(cell)]
        if left:
            logger.info("%d cells left: %s", len(left), total_time(self.estimates(left)))

    def _do(self, head: str, cell: Cell, file: CellFile) -> State:
        """Does one cell, whose lock this process has."""
        start = time.perf_counter()
        begun = False
        try:
            settings = self.settings(cell, self.revision(cell))
            if self.is_done(cell, file, settings):
                logger.info("%s: done before", head)
                return "kept"
            self._begin(head, cell, file, settings)
            begun = True
            with signs_of_life(lambda alive: file.update(alive=alive)):
                self._collect(cell, self._tested(cell, file))
        except (InputError, TrainingError, torch.OutOfMemoryError) as error:
            logger.error("%s: failed: %s", head, error)
            # Without the data or the base model here, a result that another machine has made is as good as it was.
            if begun or file.get("state") != "done":
                ending = {"ended": now(), "seconds": time.perf_counter() - start, "process": this_process()}
                file.update(id=cell.id, title=cell.title, state="failed", error=str(error), **ending)
            return "failed"
        except KeyboardInterrupt:
            if begun:
                file.update(state="interrupted", ended=now())
            raise
        seconds = time.perf_counter() - start
        file.update(state="done", ended=now(), seconds=seconds)
        micro = read_result(self.result_path(cell))["scores"]["micro"]["f1"]
        logger.info("%s: micro F1 %.4f, %s", head, micro, duration(seconds))
        return "done"

    def _begin(self, head: str, cell: Cell, file: CellFile, settings: dict[str, Any]) -> None:
        """Makes the cell this process's; what it had with other settings is put aside."""
        digest = digest_of(settings)
        kept: dict[str, Any] = {}
        if self.same_settings(cell, file, settings):
            kept = {name: file.get(name) for name in ("run", "result") if file.get(name) is not None}
        else:
            if file.get("settings"):
                changes = "; ".join(differences(file.get("settings"), settings))
                logger.info("%s: other settings than before: %s", head, changes)
            self._put_aside(cell, file.get("hash") or "unknown")
        (estimate,) = self.estimates([cell])
        expected = "" if estimate is None else f", about {duration(estimate)}"
        logger.info("%s: %s%s", head, "going on" if kept else "starting", expected)
        file.replace(
            id=cell.id, title=cell.title, state="running", started=now(), process=this_process(), alive=time.time(),
            hash=digest, settings=settings, **kept,
        )  # fmt: skip

    def _put_aside(self, cell: Cell, digest: str) -> None:
        """Moves a result of other settings out of the folder that tables are made from."""
        target = self.folder / "superseded" / f"{cell.id}_{digest[:6]}.json"
        for old, new in zip(companions(self.result_path(cell)), companions(target), strict=True):
            if old.is_file():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.replace(new)

    def _tested(self, cell: Cell, file: CellFile) -> Path:
        """The result that test.py wrote, from before if there is one."""
        before = file.get("result")
        if before is not None and all(path.is_file() for path in companions(Path(before))):
            return Path(before)
        arguments = cell.arguments
        if cell.seed is not None:
            run = self._trained(cell, file)
            arguments = ["--dataset", cell.dataset, "--checkpoint", str(run), *self.config.overrides, "--no-progress"]
        # Two tests that end in one second would give their results one name.
        lock = output_root() / cell.approach / f".{dataset_dir(cell.dataset).name}_test.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            result = run_test_script(cell.approach, arguments)
        file.update(result=str(result))
        return result

    def _trained(self, cell: Cell, file: CellFile) -> Path:
        """The folder of a finished run; one that was cut off goes on."""
        known = file.get("run")
        status = run_status(Path(known)) if known else None
        if status == "finished":
            return Path(known)
        # One that failed does so again from its last validation; it gets another chance from the start.
        if status in ("running", "interrupted"):
            try:
                return self._train(cell, file, [*cell.arguments, "--resume", known])
            except InputError as error:
                logger.warning("%s: starts again: %s", cell.title, error)
        return self._train(cell, file, cell.arguments)

    def _train(self, cell: Cell, file: CellFile, arguments: Sequence[str]) -> Path:
        training = Training(spec(cell.approach), arguments)
        data = training.data()
        model = training.model(data)
        run = training.run(data)
        file.update(run=str(run.path))
        return fit(model, data, training.config.train, training.config.runtime, run).path

    def _collect(self, cell: Cell, result: Path) -> None:
        """Copies a result into the study's folder, the JSON file last: what has one is whole."""
        pairs = zip(companions(result), companions(self.result_path(cell)), strict=True)
        for source, target in pairs:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)

    def summary(self, ended: Mapping[str, State]) -> str:
        """How the cells ended, and the names and errors of those that failed."""
        counts = {state: list(ended.values()).count(state) for state in ("done", "kept", "failed", "elsewhere")}
        lines = [
            "{total} cells: {done} done, {kept} done before, {failed} failed, {elsewhere} at work in other processes".format(
                total=len(ended), **counts
            )
        ]
        for cell in self.cells:
            if ended[cell.id] == "failed":
                file = self.file(cell)
                # A cell that another machine has done is not marked by a failure here.
                error = file.get("error") if file.get("state") == "failed" else "see the log"
                lines.append(f"failed: {cell.title}: {error} ({cell.id})")
        return "\n".join(lines)


def _lasting(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration without places and runtime: content hash and revision stand for the places of data and base model."""
    rest = {name: value for name, value in values.items() if name not in ("runtime", "base_model", "dataset")}
    if "data" in rest:
        rest["data"] = {name: value for name, value in rest["data"].items() if name != "dataset"}
    return rest


def _is_missing(directory: Path) -> bool:
    """Whether a data set has to be generated; its last two files tell, of which data sets of other tools have only the first."""
    return not any((directory / name).is_file() for name in (LABEL2DESC_FILE, MANIFEST_FILE))


def run_status(run: Path) -> str | None:
    """The status of a run folder; None if it is not on this machine, or finished but without its weights."""
    if not (run / RUN_FILE).is_file():
        return None
    status = str(read_json(run / RUN_FILE)["status"])
    return None if status == "finished" and not (run / WEIGHTS_FILE).is_file() else status


def run_test_script(approach: str, arguments: Sequence[str]) -> Path:
    """Runs an approach's test.py without the page that it prints; returns the path of the result."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(f"{approach}.test").main(arguments)
