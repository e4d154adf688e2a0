"""The whole study, cell by cell: ``python -m common.study --dataset jnlpba bc5cdr --approaches all --seeds 42 43 44``.

<study>/results/<cell>.json           what test.py wrote, with its page, its predictions and its counts
<study>/results/transfer/<cell>.json  what common.transfer measured
<study>/logs/<cell>.log               the latest output of train.py and test.py
<study>/logs/<cell>_transfer.log      the output of common.transfer
<study>/superseded/                   results with other settings, data or weights than the newest
<study>/tables/                       what common.tables makes of the results

A cell is done when its result exists and depends on the same things; the study goes by that and by the run folders.
Its zero-shot measurement (--transfer) is done when the record is of the result's checkpoint and has all data sets.
Whatever ended a study, the same command resumes it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.config import BEHAVIOUR_VERSION, on_screen
from common.data.dataset import LABEL2DESC_FILE, MANIFEST_FILE, dataset_dir, load_dataset
from common.engine import executor, last_lines
from common.errors import InputError
from common.evaluation.results import companions, read_result
from common.evaluation.transfer_record import TRANSFER_FOLDER, TransferRecord
from common.files import atomic_path, sha256_file
from common.paths import output_root
from common.registry import spec
from common.schema import read_record
from common.study.estimates import Pace, duration, paces, total_time
from common.study.identity import Identity, changes, identity, matching_runs, stored_result
from common.study.plan import Cell, StudyConfig, configuration, logger, make_plan
from common.study.work import SAME_FOLDERS, OtherFoldersError, Outcome, Work, do_cell, do_transfer

T = TypeVar("T")

State = Literal["done", "done before", "failed"]

SHOWN_LINES = 4
"""Of the log of a cell that failed."""


@dataclass(frozen=True)
class _Step:
    """What is to do of a cell: train and test, or measure what is kept."""

    cell: Cell
    corpora: Sequence[str]
    """Data sets on which to measure what its model keeps."""
    result: bool = True
    """Whether to train and test before that."""


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
        alike: dict[str, Cell] = {}
        for cell in self.cells:
            first = alike.setdefault(f"{cell.approach} {self.configurations[cell.id]}", cell)
            if first != cell:
                logger.warning("%s: has the settings of %s, one run is enough", cell.title, first.title)
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

    def transfer_path(self, cell: Cell) -> Path:
        """Where the record of what the cell's model keeps is."""
        return self.results / TRANSFER_FOLDER / f"{cell.id}.json"

    def log_path(self, step: _Step) -> Path:
        """Where what the process of a cell's next step prints goes."""
        return self.folder / "logs" / f"{step.cell.id}{'' if step.result else '_transfer'}.log"

    # -- data, and what a result depends on ---------------------------------------------------------------------------

    def generate_missing(self) -> None:
        """Generates the data sets that are not there; one that cannot be generated fails its cells and no others."""
        for name in self._missing():
            from dataset_generation.generate import GenerateConfig, generate

            directory = dataset_dir(name)
            try:
                source = self._source(directory.name)
                generate(GenerateConfig(directory.name, source=source, output_dir=directory.parent))
                logger.info("generated %s", directory)
            except InputError as error:
                logger.error("data set %s: %s", directory.name, error)
                command = f"python -m dataset_generation.generate --dataset {directory.name}"
                self._contents[name] = InputError(f"{error}; or generate it before the study, with options: {command}")

    def _missing(self) -> list[str]:
        """The data sets that are not there."""
        # The last two files tell: data sets of other tools have only the first of them.
        last = LABEL2DESC_FILE, MANIFEST_FILE
        return [
            name for name in self.config.data_sets if not any((dataset_dir(name) / file).is_file() for file in last)
        ]

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

    def to_transfer(self, cell: Cell, result: Mapping[str, Any]) -> tuple[str, ...]:
        """The data sets, missing ones too, on which it is still to measure what the model of a result keeps."""
        record = self._transfer_record(cell, result) or {"corpora": {}}

        def is_measured(name: str) -> bool:
            with contextlib.suppress(InputError):
                sha256 = self.content(name).sha256
                return record["corpora"].get(dataset_dir(name).name, {}).get("dataset_sha256") == sha256
            return False

        return tuple(name for name in self.config.transfer_sets(cell) if not is_measured(name))

    def _transfer_record(self, cell: Cell, result: Mapping[str, Any]) -> dict[str, Any] | None:
        """What there is of the model of a result; None if nothing, or of another model or behaviour version."""
        try:
            record = read_record(self.transfer_path(cell), TransferRecord)
        except InputError:
            return None
        model = record["model"]
        found = model["checkpoint"], model["interpolate"], record["provenance"].get("behaviour", 1)
        return record if found == (_checkpoint_name(result), 1, BEHAVIOUR_VERSION) else None

    def _next_step(self, cell: Cell, wanted: Identity) -> tuple[_Step, list[str]]:
        """What is to do of a cell, and what its result depends on that is not wanted, if it has one."""
        found = stored_result(self.result_path(cell))
        if found is None or (others := changes(found[1], wanted)):
            return _Step(cell, self.config.transfer_sets(cell)), others if found else []
        return _Step(cell, self.to_transfer(cell, found[0]), result=False), []

    # -- the plan as text ---------------------------------------------------------------------------------------------

    def estimates(self, steps: Iterable[_Step]) -> list[float | None]:
        """Seconds that cells take at most, by results of the same approach and base; None where nothing is known."""
        known = paces(output_root() / "results") | paces(self.results)
        return [
            self._estimate(step, known.get((step.cell.approach, step.cell.kind, step.cell.base_name))) for step in steps
        ]

    def _time(self, estimates: Sequence[float | None]) -> str:
        return total_time(estimates, several=self.config.workers > 1 or self.config.cluster is not None)

    def _estimate(self, step: _Step, pace: Pace | None) -> float | None:
        if pace is None:
            return None
        try:
            seconds = self._seconds_to_result(step.cell, pace) if step.result else 0.0
            sizes = [self.content(name).sizes for name in step.corpora]
        except InputError:
            return None
        # Base and adapted model, for the types of the data set and for those trained on.
        transfer = sum(2 * pace.test * (size["validation"] + 2 * size["test"]) for size in sizes)
        return None if seconds is None else seconds + transfer

    def _seconds_to_result(self, cell: Cell, pace: Pace) -> float | None:
        sizes = self.content(cell.dataset).sizes
        config = self.configurations[cell.id]
        if not spec(cell.approach).trains:
            return pace.seconds(sizes, 0)
        limits = {"train": config.data.train_size, "validation": config.data.validation_size}
        limited = {name: min(size, limits.get(name) or size) for name, size in sizes.items()}
        return pace.seconds(limited, config.train.epochs)

    def outline(self) -> str:
        """The plan: each cell with its state and the time that it is going to take."""
        if not self.cells:
            return f"no cell is in part {self.config.part}; study folder {self.folder}"
        steps, states = zip(*(self._state(cell) for cell in self.cells), strict=True)
        estimates = self.estimates(steps)
        width = max(len(cell.title) for cell in self.cells)
        lines = []
        for number, (cell, state, seconds) in enumerate(zip(self.cells, states, estimates, strict=True), start=1):
            expected = "unknown" if seconds is None else duration(seconds)
            lines.append(f"{number:>4}  {cell.title:<{width}}  {'-' if state == 'done' else expected:>11}  {state}")
        left = [seconds for seconds, state in zip(estimates, states, strict=True) if state != "done"]
        if missing := [dataset_dir(name).name for name in self._missing()]:
            lines.append(f"not there yet, to be generated first: {', '.join(missing)}")
        return "\n".join(
            [*lines, f"{len(states)} cells, {len(left)} to do: {self._time(left)}; study folder {self.folder}"]
        )

    def _state(self, cell: Cell) -> tuple[_Step, str]:
        """What is to do of a cell, its base model taken to be what it was, and the same in words."""
        step, state = _Step(cell, self.config.transfer_sets(cell)), "to do"
        with contextlib.suppress(InputError):  # its data set is still to be generated
            wanted = self.wanted(cell)
            step, others = self._next_step(cell, wanted)
            if others:
                state = f"to do again: {'; '.join(others)}"
            else:
                runs = matching_runs(cell.approach, dataset_dir(cell.dataset).name, wanted, spec(cell.approach).savings)
                # Of one that failed the training begins anew.
                state = "to resume" if any(status != "failed" for _, status in runs) else state
        transfer = f"transfer to {', '.join(dataset_dir(name).name for name in step.corpora)}" if step.corpora else ""
        if step.result:
            return step, f"{state}, then {transfer}" if transfer else state
        return step, f"to do: {transfer}" if transfer else "done"

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, State]:
        """Does every cell that is not done; returns how each ended, by its id."""
        self.generate_missing()
        ended: dict[str, State] = {}
        todo = list[_Step]()
        for cell in self.cells:
            try:
                step = self._to_do(cell)
            except InputError as error:
                # Without its log, which is of an earlier run.
                ended[cell.id] = self._failed(cell, str(error), cell.title)
                continue
            if step.result or step.corpora:
                todo.append(step)
            else:
                ended[cell.id] = "done before"
        logger.info("%d of %d cells are done", len(ended) - len(self.errors), len(self.cells))
        return ended | self._work(todo) if todo else ended

    def _to_do(self, cell: Cell) -> _Step:
        """What is to do of a cell; a result of other settings is moved away.

        Raises:
            InputError: If the data set or the base model is missing.
        """
        self.content(cell.dataset)  # a missing data set is said before a base model is looked for
        step, others = self._next_step(cell, self.wanted(cell, self.revision(cell)))
        if others:
            logger.info("%s: to do again: %s", cell.title, "; ".join(others))
            self._supersede(self.result_path(cell))
            self._supersede(self.transfer_path(cell))
        return step

    def _work(self, todo: Sequence[_Step]) -> dict[str, State]:
        """Has cells done, wherever their processes run."""
        config, ended = self.config, dict[str, State]()
        logger.info("%d to do: %s", len(todo), self._time(self.estimates(todo)))
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(todo), desc="cells", disable=not on_screen()) as bar,
            executor(config.workers, config.cluster) as pool,
        ):
            waiting = {self._submit(pool, step): step for step in todo}
            while waiting:
                for future in wait(waiting, timeout=1, return_when=FIRST_COMPLETED).done:
                    # Nothing may hold on to what is done: if the worker that has it dies, a cluster does it again.
                    step = waiting.pop(future)
                    state, then = self._collected(step, future, f"[{len(ended) + 1}/{len(todo)}] {step.cell.title}")
                    del future
                    if then is not None:
                        waiting[self._submit(pool, then)] = then
                        continue
                    ended[step.cell.id] = state
                    bar.update()
                    if waiting:
                        left = self.estimates(waiting.values())
                        logger.info("cells left: %d, %s", len(left), self._time(left))
                bar.set_postfix_str(self._running(waiting.values()))
        return ended

    def _submit(self, pool: Executor, step: _Step) -> Future[Outcome]:
        """Has the next step of a cell done: training and test, or then the transfer."""
        cell, config = step.cell, self.config
        wanted = self.wanted(cell, self.revision(cell))
        log = self.log_path(step)
        for folder in (log.parent, output_root()):
            folder.mkdir(parents=True, exist_ok=True)  # a worker looks for them
        log.unlink(missing_ok=True)  # what is left of an earlier run says nothing of this one
        runtime = self.configurations[cell.id].runtime
        # What an options file says of it holds for test.py too.
        overrides = ["--device", runtime.device, "--precision", runtime.precision]
        overrides += ["--eval-batch-size", str(runtime.eval_batch_size)]
        work = Work(cell, wanted, tuple(overrides), log, output_root(), Path.cwd(), config.threads)
        if step.result:
            return pool.submit(do_cell, work)
        result, record = read_result(self.result_path(cell)), self.transfer_path(cell)
        if record.exists() and self._transfer_record(cell, result) is None:
            self._supersede(record)
        checkpoint = spec(cell.approach).savings / _checkpoint_name(result)
        return pool.submit(do_transfer, work, checkpoint, step.corpora, record)

    def _running(self, steps: Iterable[_Step]) -> str:
        """What runs where: the first lines of the logs that there are."""
        logs = [path for path in map(self.log_path, steps) if path.is_file()]
        first = [path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] for path in logs]
        return "; ".join(first[:3]) + (f"; and {len(first) - 3} more" if len(first) > 3 else "")

    def _collected(self, step: _Step, future: Future[Outcome], head: str) -> tuple[State, _Step | None]:
        """How a step of a cell ended, and what is to do then.

        Raises:
            InputError: If a worker has not the study's folders, or the cluster's scheduler is gone.
        """
        cell = step.cell
        if future.cancelled():
            where = f"--cluster {self.config.cluster}"
            raise InputError(f"{where}: the Dask scheduler has ended; with another one the same command goes on")
        error = future.exception()
        if isinstance(error, OtherFoldersError):
            raise error
        if error is not None:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return self._failed(cell, text, head, self.log_path(step)), None
        outcome = future.result()
        if outcome.result is None:
            return self._failed(cell, outcome.error, head, self.log_path(step)), None
        if not outcome.result.is_file():
            raise OtherFoldersError(f"{outcome.result}: was written by a worker and is not here; {SAME_FOLDERS}")
        if not step.result:
            logger.info("%s: transfer measured, %s", head, duration(outcome.seconds))
            return "done", None
        result = self._copied(cell, outcome.result)
        logger.info("%s: micro F1 %.4f, %s", head, result["scores"]["micro"]["f1"], duration(outcome.seconds))
        corpora = self.to_transfer(cell, result)
        return "done", _Step(cell, corpora, result=False) if corpora else None

    def _copied(self, cell: Cell, result: Path) -> dict[str, Any]:
        """Copies the result of a cell into the study's folder, the JSON file last: what has one is whole."""
        for source, target in zip(companions(result), companions(self.result_path(cell)), strict=True):
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
        found = stored_result(self.result_path(cell))
        assert found is not None
        return found[0]

    def _failed(self, cell: Cell, error: str, head: str, log: Path | None = None) -> State:
        self.errors[cell.id] = error
        lines = [line[:200] for line in last_lines(log, SHOWN_LINES)] if log else []
        lines = [] if lines and lines[-1].endswith(error) else lines
        logger.error("%s: failed: %s", head, "\n    ".join([error, *lines, *([f"all of it: {log}"] if lines else [])]))
        return "failed"

    def _supersede(self, path: Path) -> None:
        """Moves a result or a record out of the folder that tables are made from, if it is there."""
        if not path.exists():
            return
        place = self.folder / "superseded" / path.relative_to(self.results)
        target = place.with_stem(f"{path.stem}_{sha256_file(path)[:6]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        for old, new in zip(companions(path), companions(target), strict=True):
            if old.exists():  # a record has no companions
                old.replace(new)
        logger.info("%s: of other settings, of another model or version, now in %s", path, target.parent)

    def summary(self, ended: Mapping[str, State]) -> str:
        """How the cells ended, and the names and errors of those that failed."""
        counts = Counter(ended.values())
        lines = [
            f"{len(ended)} cells: {counts['done']} done, {counts['done before']} done before, {counts['failed']} failed"
        ]
        failed = [cell for cell in self.cells if cell.id in self.errors]
        lines += [f"failed: {cell.title}: {self.errors[cell.id]} ({cell.id})" for cell in failed]
        return "\n".join(lines)


def _checkpoint_name(result: Mapping[str, Any]) -> str:
    return Path((result.get("training") or {}).get("checkpoint", "")).name


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
