"""The folder of a training run: ``trainable.safetensors`` (best trained tensors), ``run.json`` (all else) and the state to resume from.

    <approach>/savings/<dataset>_<YYYYmmdd_HHMMSS>/
        run.json                  what was trained on what, how, and how it went
        trainable.safetensors     trained tensors of the best epoch
        state_<epoch>/            while training: everything to go on after that epoch

Nothing in it is a pickle. Each file appears whole or not at all.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import InputError
from common.files import atomic_path, read_json, write_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

RUN_FILE = "run.json"

WEIGHTS_FILE = "trainable.safetensors"

_UNFINISHED_STATE = ".state.tmp"


@dataclass
class Run:
    """One training run's folder and record."""

    path: Path
    record: dict[str, Any]
    resumed: bool = False
    main_process: bool = field(default=True, repr=False)
    """Only the main process of several writes."""
    lock: FileLock = field(init=False, repr=False)
    """Held while a process trains the run."""

    def __post_init__(self) -> None:
        self.lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))

    def claim(self) -> None:
        """Takes the run for this process.

        Raises:
            InputError: If another process is training it.
        """
        try:
            if self.main_process:
                self.lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"run {self.path} is being trained by another process") from None

    def update(self, **values: Any) -> None:
        """Sets fields of the record and writes it."""
        self.record.update(values)
        if self.main_process:
            write_json(self.path / RUN_FILE, self.record)

    def save_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Stores the trained tensors of the best epoch so far."""
        if self.main_process:
            save_tensors(self.path / WEIGHTS_FILE, tensors)

    def save_state(self, epoch: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Stores what training needs to go on after ``epoch``, then drops the older state."""
        if not self.main_process:
            return
        target, temporary = self.path / f"state_{epoch:04d}", self.path / _UNFINISHED_STATE
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_tensors(temporary / "state.safetensors", tensors)
        write_json(temporary / "state.json", values)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self._states()[:-1]:
            shutil.rmtree(old)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest stored state, or None if no epoch was finished."""
        states = self._states()
        if not states:
            return None
        return load_tensors(states[-1] / "state.safetensors"), read_json(states[-1] / "state.json")

    def drop_state(self) -> None:
        """Removes the stored state: the run is finished."""
        if self.main_process:
            for state in self._states():
                shutil.rmtree(state)
            shutil.rmtree(self.path / _UNFINISHED_STATE, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted(self.path.glob("state_[0-9][0-9][0-9][0-9]"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors to the CPU.

    Raises:
        InputError: If the file is missing or not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: no whole safetensors file: {error}") from error


@torch.no_grad()
def load_weights(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies stored tensors into parameters of the same names.

    Raises:
        InputError: If a name is missing or unexpected, or a shape differs.
    """
    missing, unexpected = sorted(set(parameters) - set(tensors)), sorted(set(tensors) - set(parameters))
    if missing or unexpected:
        raise InputError(f"{where}: does not fit the model: missing {missing[:5]}, unexpected {unexpected[:5]}")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise InputError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model {tuple(parameter.shape)}"
            )
        parameter.copy_(tensors[name])
