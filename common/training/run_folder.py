"""A training run's folder while a process trains it: lock, record, best weights, state to resume from.

Nothing in it is a pickle. Each file appears whole or not at all. Its layout is in :mod:`common.training.records`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import InputError
from common.files import atomic_path, is_lfs_pointer, leftovers, read_json, remove_lock, sync, write_json
from common.schema import read_record
from common.training.records import RUN_FILE, WEIGHTS_FILE, StateRecord, lock_path

logger = logging.getLogger(__name__)

_UNFINISHED_STATE = ".state.tmp"
_RUN_NAME = re.compile(r".+_\d{8}_\d{6}(-\d+)?")
_SURELY_OLD = 3600.0
"""Seconds."""
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""It writes a file under such a name first, in the same folder."""


@dataclass
class Run:
    """One training run's folder and record."""

    path: Path
    record: dict[str, Any]
    resumed: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Prefixes of parameter names in its files, and what they are now; see :func:`load_tensors`."""
    main_process: bool = field(default=True, repr=False)
    """Only the main process of several writes."""
    lock: FileLock = field(init=False, repr=False)
    """Held while a process trains the run."""

    def __post_init__(self) -> None:
        self.lock = FileLock(lock_path(self.path))

    def claim(self, timeout: float = 1.0) -> None:
        """Takes the run for this process.

        Args:
            timeout: Seconds to wait for it: another process may look whether it is to be tidied.

        Raises:
            InputError: If another process is training it.
        """
        try:
            if self.main_process:
                self.lock.acquire(timeout=timeout)
        except Timeout:
            raise InputError(f"run {self.path} is being trained by another process") from None

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """All of a training, from its first preparations to the restored best weights.

        The run stays this process's until the end, and its status is true at every moment: ``running``, then what the
        block made of it, ``interrupted`` by the user or ``failed``. One that bad input ends before anything was scored
        is removed.
        """
        status: str | None = "failed"
        try:
            yield
            status = None
        except KeyboardInterrupt:
            status = "interrupted"
            best = self.record.get("best") or {}
            if best.get("score") is not None:
                logger.warning("interrupted; best checkpoint so far (epoch %d): %s", best["epoch"], self.path)
            else:
                logger.warning("interrupted before the first validation; no checkpoint")
            raise
        except InputError:
            # A setting that cannot be: nothing has begun, and "latest" must not mean it.
            if not self.resumed and "untrained" not in self.record:
                self.discard()
                status = None
            raise
        finally:
            try:
                if status is not None:
                    self.update(status=status)
            except OSError as error:
                # The first error is the one to see; a run that says "running" can be resumed as well.
                logger.warning("%s: status %s could not be recorded: %s", self.path, status, error.strerror)
            self.release()

    def release(self) -> None:
        """Lets other processes have the run; no file of its lock stays behind."""
        if self.lock.is_locked:
            remove_lock(Path(self.lock.lock_file))
        self.lock.release()

    def discard(self) -> None:
        """Removes a run that could not be started."""
        if self.main_process:
            (self.path / RUN_FILE).unlink(missing_ok=True)
            self.path.rmdir()
        self.release()

    def update(self, **values: Any) -> None:
        """Sets fields of the record and writes it."""
        self.record.update(values)
        if self.main_process:
            write_json(self.path / RUN_FILE, self.record)

    def save_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Stores the trained tensors of the best validation so far."""
        if self.main_process:
            save_tensors(self.path / WEIGHTS_FILE, tensors)

    def load_weights_into(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Copies the best weights into the parameters of the same names.

        Raises:
            InputError: As :func:`load_tensors` and :func:`load_weights`.
        """
        path = self.path / WEIGHTS_FILE
        load_weights(parameters, load_tensors(path, self.renamed), str(path))

    def save_state(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Stores what training needs to resume after ``step``, then drops the older state."""
        if not self.main_process:
            return
        target, temporary = self.path / f"state_{step:08d}", self.path / _UNFINISHED_STATE
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            save_tensors(temporary / "state.safetensors", tensors)
            write_json(temporary / "state.json", values)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        finally:
            # On a full disk it is in the way of everything else.
            shutil.rmtree(temporary, ignore_errors=True)
        sync(self.path)
        for old in self._states()[:-1]:
            shutil.rmtree(old)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest stored state, or None if there is none yet.

        Raises:
            InputError: If it cannot be read or is something else.
        """
        states = self._states()
        if not states:
            return None
        values = read_record(states[-1] / "state.json", StateRecord)
        return load_tensors(states[-1] / "state.safetensors", self.renamed), values

    def drop_state(self) -> None:
        """Removes the stored state: the run is finished."""
        if self.main_process:
            for state in self._states():
                shutil.rmtree(state)
            self.tidy()

    def tidy(self) -> None:
        """Removes what a killed process has left in the folder half written. The run must be this process's."""
        shutil.rmtree(self.path / _UNFINISHED_STATE, ignore_errors=True)
        own = [path for path in self.path.iterdir() if _OF_SAFETENSORS.fullmatch(path.name)]
        for path in [*leftovers(self.path, f"{re.escape(RUN_FILE)}|{re.escape(WEIGHTS_FILE)}"), *own]:
            path.unlink(missing_ok=True)

    def has_leftovers(self) -> bool:
        """Whether a killed process may have left something; nobody else's claim is looked at."""
        if Path(self.lock.lock_file).exists():
            return True
        inside = {path.name for path in self.path.iterdir()}
        if not inside:
            # Between the making of a folder and its claim there is a moment.
            return time.time() - self.path.stat().st_mtime > _SURELY_OLD
        half = any(_OF_SAFETENSORS.fullmatch(name) or (name[0] == "." and name.endswith(".tmp")) for name in inside)
        return half or (bool(self._states()) and self.is_finished())

    def is_finished(self) -> bool:
        """Whether its record says so."""
        try:
            record = read_json(self.path / RUN_FILE)
        except InputError:
            return False
        return isinstance(record, dict) and record.get("status") == "finished"

    def _states(self) -> list[Path]:
        """State folders, oldest first; those of format 1 are named by epochs, of which there are fewer than steps."""
        found = [path for path in self.path.glob("state_*") if re.fullmatch(r"state_\d+", path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("state_")))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically."""
    with atomic_path(path) as temporary, refusals_of(temporary):
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


@contextlib.contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """Makes what the system refuses safetensors, which tells of it in words alone, the error that it is."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def tidy_runs(savings: Path) -> None:
    """Removes what killed processes have left beside and in the runs of a folder; running ones stay as they are.

    That is: half-written files, folders without any file, states of finished runs and locks that nobody holds.
    """
    if not savings.is_dir():
        return
    names = {path.name for path in savings.iterdir() if path.is_dir()}
    names |= {path.name[1:].removesuffix(".lock") for path in savings.glob(".*.lock")}
    for name in filter(_RUN_NAME.fullmatch, sorted(names)):
        # Other processes may tidy at the same time, a run that is claimed is at work, another user's stays as it is.
        with contextlib.suppress(OSError, InputError):
            _tidy_run(Run(savings / name, {}))


def _tidy_run(run: Run) -> None:
    if not run.has_leftovers():
        return
    run.claim(timeout=0)
    try:
        if run.path.is_dir():
            run.tidy()
            if run.is_finished():
                run.drop_state()
            if not any(run.path.iterdir()):
                run.path.rmdir()
                logger.info("removed %s: nothing was in it", run.path)
    finally:
        run.release()


def load_tensors(path: Path, renamed: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Reads tensors to the CPU.

    Args:
        path: A safetensors file.
        renamed: Prefixes of parameter names, below ``model/`` or ``optimizer/<key>/`` in a state, and what to call
            them.

    Raises:
        InputError: If the file is missing or not whole.
    """
    try:
        with refusals_of(path), safe_open(path, framework="pt") as file:
            # Copies: a tensor as it is read is a map of the file, which Windows then neither replaces nor removes.
            return {_new_name(name, renamed or {}): file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        if is_lfs_pointer(path):
            raise InputError(f"{path}: is a Git LFS pointer, not the weights; run: git lfs pull") from error
        raise InputError(f"{path}: no whole safetensors file: {error}") from error


@torch.no_grad()
def load_weights(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies stored tensors into parameters of the same names.

    Raises:
        InputError: If a name is missing or unexpected, a shape differs, or values are no finite numbers of floating
        point.
    """
    missing, unexpected = sorted(set(parameters) - set(tensors)), sorted(set(tensors) - set(parameters))
    if missing or unexpected:
        raise InputError(f"{where}: does not fit the model: missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise InputError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model {tuple(parameter.shape)}"
            )
        if not tensors[name].is_floating_point():
            raise InputError(
                f"{where}: {name} is {str(tensors[name].dtype).removeprefix('torch.')}, weights are floats"
            )
        if not bool(tensors[name].isfinite().all()):
            raise InputError(f"{where}: {name} has values that are no finite numbers")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _new_name(name: str, renamed: Mapping[str, str]) -> str:
    place, separator, parameter = name.rpartition("/")
    for old, new in renamed.items():
        if parameter.startswith(old):
            return f"{place}{separator}{new}{parameter.removeprefix(old)}"
    return name
