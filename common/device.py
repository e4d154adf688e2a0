"""Device, precision and processes, through accelerate; memory and versions for the record."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import platform
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from filelock import FileLock

from common.approach import Batch
from common.config import BEHAVIOUR_VERSION, Precision, RuntimeConfig, Tracker
from common.errors import InputError
from common.files import read_json, write_json
from common.paths import PROJECT_ROOT, cache_dir

T = TypeVar("T")
B = TypeVar("B", bound=Batch)

BF16_SPEEDUP = 1.2
"""bf16 is chosen on a CPU where the probe's product runs this many times faster than in fp32."""


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    set_seed(seed)


def _speedup_at(rows: int, repetitions: int) -> float:
    """Seconds of an fp32 product over those of the same in bf16, each the fastest of some that take turns."""
    fastest = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    factors = {dtype: (torch.ones(rows, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)) for dtype in fastest}
    for _ in range(repetitions):
        for dtype, (left, right) in factors.items():
            start = time.perf_counter()
            torch.mm(left, right)
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - start)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def measured_bf16_speedup() -> float:
    """How many times faster this CPU multiplies matrices of an encoder's size in bf16 than in fp32.

    A CPU without units for bf16 takes a second for what it does in milliseconds in fp32. A product of few rows shows
    that in no time, and the whole one is then left out.
    """
    speedup = _speedup_at(16, 3)
    return speedup if speedup < 0.1 else _speedup_at(512, 12)


@functools.lru_cache
def cpu_bf16_speedup() -> float:
    """:func:`measured_bf16_speedup`, measured once on a machine: all runs of a study must decide alike."""
    path, machine = cache_dir() / "bf16.json", f"{platform.node()}, {_processor()}, torch {torch.__version__}"
    with contextlib.ExitStack() as alone:
        # Cells of a study begin at the same time. Where nothing can be kept it is measured each time.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            alone.enter_context(FileLock(f"{path}.lock", timeout=60))
        try:
            known = read_json(path)
        except InputError:
            known = None
        if not isinstance(known, dict):
            known = {}
        if not isinstance(known.get(machine), float):
            known[machine] = round(measured_bf16_speedup(), 3)
            with contextlib.suppress(OSError):
                write_json(path, known)
        return float(known[machine])


def resolve_device(device: str) -> str:
    """The kind of device to use: ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: If the device asked for is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in available.items() if found)
    if not available[device]:
        raise InputError(f"device {device}: no GPU of this kind is available")
    return device


def resolve_precision(precision: Precision, device: str) -> str:
    """The precision to use on a kind of device: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        InputError: If the device cannot compute in the precision asked for.
    """
    if precision == "auto":
        if device == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if device == "cpu" and cpu_bf16_speedup() >= BF16_SPEEDUP else "fp32"
    if precision == "fp16" and device == "cpu":
        raise InputError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return precision


def as_trained(runtime: RuntimeConfig, precision: Precision) -> RuntimeConfig:
    """The runtime with ``auto`` replaced by the precision that a run resolved it to.

    On a CPU ``auto`` is a measurement, and a busy machine may measure otherwise; a precision that the device lacks is
    left to ``auto``.

    Raises:
        InputError: If the device asked for is not available.
    """
    if runtime.precision != "auto" or (precision == "fp16" and resolve_device(runtime.device) == "cpu"):
        return runtime
    return replace(runtime, precision=precision)


def make_accelerator(runtime: RuntimeConfig, track: Sequence[Tracker] = (), folder: Path | None = None) -> Accelerator:
    """The accelerator for a configuration.

    Args:
        runtime: Device and precision.
        track: Trackers that the run reports to; see :func:`trackers`.
        folder: The run folder, for trackers that write files.

    Raises:
        InputError: If the device or the precision is not available, or a tracker's package is not installed.
    """
    device = resolve_device(runtime.device)
    precision = resolve_precision(runtime.precision, device)
    for tracker in track:
        if importlib.util.find_spec(tracker) is None:
            raise InputError(f"--track {tracker} needs the package {tracker}: pip install {tracker}")
    # accelerate keeps the first precision of a process for good; a sweep or a study may use several.
    AcceleratorState._reset_state(reset_partial_state=False)
    # Some trained parts hold parameters that no forward pass reads, such as a BERT encoder's pooler.
    distributed = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            kwargs_handlers=[distributed],
            log_with=list(track) or None,
            project_config=None if folder is None else ProjectConfiguration(str(folder), str(folder)),
        )
    except ValueError as error:
        # Such as bf16 on a Mac with a system before version 14.
        raise InputError(f"precision {precision} on {device}: {error}") from error
    if accelerator.device.type != device:
        raise InputError(
            f"device {runtime.device}: this process computes on {accelerator.device} already; use a process of its own"
        )
    return accelerator


@contextlib.contextmanager
def trackers(accelerator: Accelerator, names: Sequence[Tracker], record: dict[str, Any]) -> Iterator[None]:
    """Opens the trackers that an accelerator was made with, and closes them; ``accelerator.log`` reports to them.

    Args:
        accelerator: From :func:`make_accelerator`.
        names: The trackers.
        record: The run's record; its approach names the project, its configuration is reported.
    """
    if names:
        accelerator.init_trackers(str(record.get("approach", "training")), config=_flat(record.get("config", {})))
    try:
        yield
    finally:
        # Not end_training(), which also takes the other processes' connections away.
        for tracker in accelerator.trackers:
            tracker.finish()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def prefetch(make: Callable[[T], B], items: Iterable[T], device: torch.device) -> Generator[B]:
    """Batches on the device; for a GPU each is made, and pinned, while the one before it is computed.

    Args:
        make: Makes a batch on the CPU.
        items: What it makes them from.
        device: Where they go.
    """
    if device.type != "cuda":
        yield from (make(item).to(device) for item in items)
        return

    def load(item: T) -> B:
        return make(item).pin()

    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            ahead = thread.submit(load, item)
            if waiting is not None:
                yield waiting.result().to(device)
            waiting = ahead
        if waiting is not None:
            yield waiting.result().to(device)


def precision_name(accelerator: Accelerator) -> str:
    """``fp32``, ``bf16`` or ``fp16``."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)


def reset_peak_memory() -> None:
    """Starts the count of :func:`peak_memory_mb` anew, where the system lets a process do that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> dict[str, float]:
    """Peak memory since :func:`reset_peak_memory` in MiB: resident on the CPU, allocated on the GPU."""
    peak = {"cpu": round(_peak_resident_mb(), 1)}
    if torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _peak_resident_mb() -> float:
    with contextlib.suppress(OSError):
        # Linux alone lets a process start the count anew, so its own figure comes first.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 2**10
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset / 2**20
    try:
        import resource
    except ImportError:
        return memory.rss / 2**20
    # Bytes on macOS, kibibytes elsewhere.
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def provenance() -> dict[str, Any]:
    """Commit, versions and machine of a run."""
    return {
        "git": _git(),
        "behaviour": BEHAVIOUR_VERSION,
        "python": platform.python_version(),
        "packages": _versions(),
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("torch", "gliner", "transformers", "peft", "accelerate", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}


@functools.cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _git() -> dict[str, Any] | None:
    """Commit, and whether the work tree differs from it, when this process first asks, as its code is of that time.

    None where the packages are in no checkout of their own.
    """
    if not (PROJECT_ROOT / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(PROJECT_ROOT), *arguments),
            # A process of common.engine reads its input all the time, and on Windows who gets it too waits for it.
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
