"""The whole study, cell by cell: ``python -m common.study --dataset jnlpba bc5cdr --approaches all --seeds 42 43 44``.

<study>/results/<cell>.json       what test.py wrote, with its page, its predictions and its counts
<study>/logs/<cell>.log           what its processes printed the last time
<study>/superseded/               results that had other settings, data or weights than the newest
<study>/tables/                   what common.tables makes of the results

A cell is done when its result is there and depends on the same things: the study goes by that and by the run folders.
The same command resumes after whatever ended it.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.data.dataset import LABEL2DESC_FILE, MANIFEST_FILE, dataset_dir, load_dataset
from common.engine import executor, last_lines
from common.errors import InputError
from common.evaluation.results import companions
from common.files import atomic_path
from common.paths import output_root
from common.registry import spec
from common.study.estimates import Pace, duration, paces, total_time
from common.study.identity import Identity, changes, digest, identity, matching_runs, stored_result
from common.study.plan import Cell, StudyConfig, configuration, logger, make_plan
from common.study.work import Outcome, Work, do_cell

T = TypeVar("T")

State = Literal["done", "kept", "failed"]

SHOWN_LINES = 4
"""Of the log of a cell that failed."""


@dataclass(frozen=True)
class _Content:
    """What the study needs to know of a data set."""

    sha256: str
    sizes: dict[str, int]


class Study:
    """A study's plan and folder.

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
        self.errors: dict[str, str] = {}
        """Why cells failed, by their ids."""
        self._contents: dict[str, _Content | InputError] = {}
        self._revisions: dict[str, str | InputError] = {}

    @property
    def results(self) -> Path:
        """The folder of the collected results."""
        return self.folder / "results"

    def result_path(self, cell: Cell) -> Path:
        """Where a cell's collected result is."""
        return self.results / f"{cell.id}.json"

    def log_path(self, cell: Cell) -> Path:
        """Where what its processes print goes."""
        return self.folder / "logs" / f"{cell.id}.log"

    # -- data, and what a result depends on ---------------------------------------------------------------------------

    def generate_missing(self) -> None:
        """Generates the data sets that are not there; one that cannot be generated fails its cells and no others."""
        for name in self.config.dataset:
            directory = dataset_dir(name)
            # The last two files tell: data sets of other tools have only the first of them.
            if any((directory / file).is_file() for file in (LABEL2DESC_FILE, MANIFEST_FILE)):
                continue
            from dataset_generation.generate import GenerateConfig, generate

            try:
                source = self._source(directory.name)
                generate(GenerateConfig(directory.name, source=source, output_dir=directory.parent))
                logger.info("generated %s", directory)
            except InputError as error:
                logger.error("data set %s: %s", directory.name, error)
                self._contents[name] = error

    def _source(self, name: str) -> str | None:
        """Where ``--source`` has a data set.

        Raises:
            InputError: If it has none, or several files, of the name.
        """
        from dataset_generation.generate import DEMOS

        folder = self.config.source
        if folder is None or name in DEMOS:
            return None
        found = [folder / name] if (folder / name).is_dir() else sorted(folder.glob(f"{name}.*"))
        if len(found) != 1:
            raise InputError(f"--source {folder}: needs one folder {name} or one file {name}.*, found {len(found)}")
        return str(found[0])

    def content(self, dataset: str) -> _Content:
        """Hash and sizes of a data set.

        Raises:
            InputError: If there is no such data set or it is not whole.
        """

        def read() -> _Content:
            data = load_dataset(dataset)
            sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
            return _Content(data.sha256, sizes)

        return _once(self._contents, dataset, read)

    def revision(self, cell: Cell) -> str:
        """The revision of the cell's base model as it would be loaded now.

        Raises:
            InputError: If it cannot be loaded.
        """
        return _once(self._revisions, cell.base_model, lambda: spec(cell.approach).bases.revision(cell.base_model))

    def wanted(self, cell: Cell, revision: str | None = None) -> Identity:
        """What the cell's result has to depend on; any revision of the base model will do if None.

        Raises:
            InputError: If there is no such data set.
        """
        base = {"name": cell.base_name, "revision": revision}
        return identity(cell.approach, self.configurations[cell.id], self.content(cell.dataset).sha256, base)

    # -- the plan as text ---------------------------------------------------------------------------------------------

    def estimates(self, cells: Iterable[Cell]) -> list[float | None]:
        """Seconds that cells take at most, by results of the same approach and base; None where nothing is known."""
        known = paces(output_root() / "results") | paces(self.results)
        return [self._estimate(cell, known.get((cell.approach, cell.kind, cell.base_name))) for cell in cells]

    def _estimate(self, cell: Cell, pace: Pace | None) -> float | None:
        if pace is None:
            return None
        try:
            sizes = self.content(cell.dataset).sizes
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
        """The state of a cell, its base model taken to be what it was."""
        try:
            wanted = self.wanted(cell)
        except InputError:
            return "to do"
        if found := stored_result(self.result_path(cell)):
            others = changes(found[1], wanted)
            return f"to do again: {'; '.join(others)}" if others else "done"
        savings = spec(cell.approach).savings
        return "to resume" if matching_runs(cell.approach, dataset_dir(cell.dataset).name, wanted, savings) else "to do"

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, State]:
        """Does every cell that is not done; returns how each ended, by its id."""
        self.generate_missing()
        ended: dict[str, State] = {}
        todo: dict[str, Identity] = {}
        for cell in self.cells:
            try:
                self.content(cell.dataset)  # a missing data set is said before a base model is looked for
                wanted = self.wanted(cell, self.revision(cell))
            except InputError as error:
                ended[cell.id] = self._failed(cell, str(error), cell.title)
                continue
            found = stored_result(self.result_path(cell))
            if found and not changes(found[1], wanted):
                ended[cell.id] = "kept"
                continue
            if found:
                logger.info("%s: to do again: %s", cell.title, "; ".join(changes(found[1], wanted)))
                self._supersede(cell, found[1])
            # What is left of an earlier run says nothing of this one.
            self.log_path(cell).unlink(missing_ok=True)
            todo[cell.id] = wanted
        logger.info("%d of %d cells are done", len(ended) - len(self.errors), len(self.cells))
        return ended | self._work(todo) if todo else ended

    def _work(self, todo: Mapping[str, Identity]) -> dict[str, State]:
        """Has cells done, wherever their processes run."""
        config, ended = self.config, dict[str, State]()
        cells = [cell for cell in self.cells if cell.id in todo]
        logger.info("%d to do: %s", len(cells), total_time(self.estimates(cells)))
        self.log_path(cells[0]).parent.mkdir(parents=True, exist_ok=True)
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(cells), desc="cells", disable=None if sys.stderr.isatty() else True) as bar,
            executor(config.workers, config.cluster) as pool,
        ):
            waiting = {pool.submit(do_cell, self._piece(cell, todo[cell.id])): cell for cell in cells}
            while waiting:
                for future in wait(waiting, timeout=1, return_when=FIRST_COMPLETED).done:
                    # Nothing may hold on to what is done: if the worker that has it dies, a cluster does it again.
                    cell = waiting.pop(future)
                    ended[cell.id] = self._collected(cell, future, f"[{len(ended) + 1}/{len(cells)}] {cell.title}")
                    bar.update()
                    if waiting:
                        left = self.estimates(waiting.values())
                        logger.info("cells left: %d, %s", len(left), total_time(left))
                    del future
                bar.set_postfix_str(self._running(waiting.values()))
        return ended

    def _piece(self, cell: Cell, wanted: Identity) -> Work:
        config = self.config
        return Work(cell, wanted, config.overrides, self.log_path(cell), output_root(), Path.cwd(), config.threads)

    def _running(self, cells: Iterable[Cell]) -> str:
        """What runs where: the first lines of the logs that there are."""
        logs = [path for path in map(self.log_path, cells) if path.is_file()]
        first = [path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] for path in logs]
        return "; ".join(first[:3]) + (f"; and {len(first) - 3} more" if len(first) > 3 else "")

    def _collected(self, cell: Cell, future: Future[Outcome], head: str) -> State:
        """Copies the result of a cell into the study's folder, the JSON file last: what has one is whole."""
        error = InputError("cancelled") if future.cancelled() else future.exception()
        if error is not None:
            return self._failed(cell, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", head)
        outcome = future.result()
        if outcome.result is None:
            return self._failed(cell, outcome.error, head)
        for source, target in zip(companions(outcome.result), companions(self.result_path(cell)), strict=True):
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
        found = stored_result(self.result_path(cell))
        assert found is not None
        logger.info("%s: micro F1 %.4f, %s", head, found[0]["scores"]["micro"]["f1"], duration(outcome.seconds))
        return "done"

    def _failed(self, cell: Cell, error: str, head: str) -> State:
        self.errors[cell.id] = error
        log = self.log_path(cell)
        lines = [line[:200] for line in last_lines(log, SHOWN_LINES)]
        lines = [] if lines and lines[-1].endswith(error) else lines
        logger.error("%s: failed: %s", head, "\n    ".join([error, *lines, *([f"all of it: {log}"] if lines else [])]))
        return "failed"

    def _supersede(self, cell: Cell, old: Identity) -> None:
        """Moves a result of other settings out of the folder that tables are made from."""
        target = self.folder / "superseded" / f"{cell.id}_{digest(old)}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        for file, place in zip(companions(self.result_path(cell)), companions(target), strict=True):
            file.replace(place)

    def summary(self, ended: Mapping[str, State]) -> str:
        """How the cells ended, and the names and errors of those that failed."""
        counts = Counter(ended.values())
        lines = [f"{len(ended)} cells: {counts['done']} done, {counts['kept']} done before, {counts['failed']} failed"]
        failed = [cell for cell in self.cells if cell.id in self.errors]
        lines += [f"failed: {cell.title}: {self.errors[cell.id]} ({cell.id})" for cell in failed]
        return "\n".join(lines)


def _once(known: dict[str, T | InputError], key: str, make: Callable[[], T]) -> T:
    """Makes a value once, or fails each time as it did the first time."""
    if key not in known:
        try:
            known[key] = make()
        except InputError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, InputError):
        raise found
    return found
