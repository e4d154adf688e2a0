"""Device, precision and processes, by accelerate; memory and version facts for the record."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from common.config import Precision, RuntimeConfig
from common.errors import InputError
from common.paths import PROJECT_ROOT

BF16_SPEEDUP = 1.2
"""bf16 is chosen on a CPU where the probe's product runs this many times faster than in fp32."""


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries read the global generator
    torch.manual_seed(seed)


@lru_cache
def cpu_bf16_speedup() -> float:
    """How many times faster this CPU multiplies matrices of an encoder's size in bf16 than in fp32."""
    fastest = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        times = []
        for _ in range(12):
            start = time.perf_counter()
            torch.mm(left, right)
            times.append(time.perf_counter() - start)
        fastest[dtype] = min(times)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def resolve_precision(precision: Precision, cpu: bool) -> str:
    """The precision to use: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        InputError: If the device cannot compute in the precision asked for.
    """
    if precision == "auto":
        if cpu:
            return "bf16" if cpu_bf16_speedup() >= BF16_SPEEDUP else "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and cpu:
        raise InputError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return precision


def as_trained(runtime: RuntimeConfig, precision: Precision) -> RuntimeConfig:
    """The runtime with ``auto`` replaced by the precision that a run resolved it to.

    On a CPU ``auto`` is a measurement, and a busy machine may measure otherwise; a precision that this machine lacks is left
    to ``auto``.
    """
    if runtime.precision != "auto" or (precision == "fp16" and not torch.cuda.is_available()):
        return runtime
    return replace(runtime, precision=precision)


def make_accelerator(runtime: RuntimeConfig) -> Accelerator:
    """The accelerator for a configuration.

    Raises:
        InputError: If the device or the precision is not to be had.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: no GPU is available")
    cpu = runtime.device == "cpu" or not torch.cuda.is_available()
    precision = resolve_precision(runtime.precision, cpu)
    # accelerate keeps the first precision of a process for good; a sweep or a study may use several.
    AcceleratorState._reset_state(reset_partial_state=False)
    # Some trained parts hold parameters that no forward pass reads, such as a BERT encoder's pooler.
    distributed = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        cpu=cpu, mixed_precision="no" if precision == "fp32" else precision, kwargs_handlers=[distributed]
    )
    if (accelerator.device.type == "cpu") != cpu:
        raise InputError(
            f"device {runtime.device}: this process computes on {accelerator.device} already; use a process of its own"
        )
    return accelerator


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
    """Highest memory use of this process since :func:`reset_peak_memory` in MiB: resident on the CPU, allocated on the GPU."""
    peak = {"cpu": round(_peak_resident_kb() / 2**10, 1)}
    if torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _peak_resident_kb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "darwin" else 1)


def provenance() -> dict[str, Any]:
    """Commit, versions and machine of a run."""
    packages = ("torch", "gliner", "transformers", "accelerate", "numpy")
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Commit and whether the work tree differs from it; None outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(PROJECT_ROOT), *arguments), capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
