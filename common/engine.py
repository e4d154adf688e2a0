"""Runs work in separate processes, here or on a Dask cluster: ``python -m common.engine MODULE ARGUMENTS``.

Whatever ends a process (an error, a signal, the system's OOM killer) ends that process only. However its parent ends,
a process ends with it: its standard input is a pipe that the parent holds, and it stops when that closes.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import logging
import multiprocessing
import os
import queue
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.paths import PROJECT_ROOT

logger = logging.getLogger(__name__)

RETRIES = 2
"""How often work is done again whose process died; one that ends with :data:`REFUSED` is not."""
REFUSED = 2
"""Exit status for bad input and for a training that cannot go on: a second try would end alike."""
POLL, GRACE = 0.2, 20.0
"""Seconds between two looks at a process, and until one that was asked to stop is killed."""
LOOK = 5.0
"""Seconds between two looks at the workers of a cluster."""

SWITCH = "GLINER_ADAPTATION_FORK_SERVER"
"""Environment variable; ``off`` makes every process a new interpreter."""
PRELOADED = [
    "common.preload",
    "torch",
    "transformers",
    "accelerate",
    "pandas",
    "scipy.stats",
    "sklearn.metrics",
    "peft",
]
"""What the fork server imports; gliner would start threads, by onnxruntime."""

_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Where Linux has NVIDIA's driver, AMD's, and under WSL that of Windows."""

_COMMAND = (sys.executable, "-m", "common.engine")
# Two threads must not read one process's exit status, which multiprocessing does for all when it starts one.
_lock = threading.Lock()


# -- where work runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a piece of work runs."""

    name: str
    stopped: Callable[[], bool]
    """Whether the work is no longer wanted."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Its share of the machine."""


_here = threading.local()


def place() -> Place:
    """Where this thread's work runs; None but threads of an executor of :func:`executor` have one."""
    if not hasattr(_here, "place"):
        # Dask started this thread.
        import distributed

        state: Any = distributed.worker
        worker, key = distributed.get_worker(), state.thread_state.key

        def stopped() -> bool:
            # A task whose client is gone, or has cancelled it, stays on a worker while it runs.
            task = worker.state.tasks.get(key)
            return task is None or task.state != "executing"

        return Place(f"worker {worker.name}", stopped)
    return _here.place


@contextlib.contextmanager
def executor(workers: int, cluster: str | None = None) -> Iterator[Executor]:
    """Runs functions that start processes, on this machine or on a Dask cluster; at the end what still runs is stopped.

    Args:
        workers: How many run at a time on this machine, which share its cores and GPUs.
        cluster: Address of a Dask scheduler whose workers run them instead; those with a resource GPU one for each.

    Raises:
        InputError: If there is no such scheduler, or Dask is not installed.
    """
    if cluster is not None:
        with _client(cluster) as client:
            workers_there = client.scheduler_info(n_workers=-1)["workers"].values()
            gpus = any("GPU" in worker["resources"] for worker in workers_there)
            yield client.get_executor(pure=False, resources={"GPU": 1} if gpus else None)
        return
    stop = threading.Event()
    places: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for number, environment in enumerate(shares(workers), start=1):
        places.put(Place(f"worker {number}", stop.is_set, environment))

    def take_place() -> None:
        _here.place = places.get()

    pool = ThreadPoolExecutor(workers, initializer=take_place)
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError("--cluster needs Dask: pip install -e '.[cluster]'") from None
    # It would show the traceback of its attempt to reach a scheduler that has ended.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=60)
    except (OSError, ValueError) as error:
        raise InputError(f"--cluster {address}: no Dask scheduler answers: {' '.join(str(error).split())}") from error
    with client:
        ended = threading.Event()
        watch = threading.Thread(target=_report_workers, args=(client, address, ended), daemon=True)
        watch.start()
        try:
            client.wait_for_workers(1)
            yield client
        finally:
            ended.set()
            watch.join()


def _report_workers(client: Any, address: str, ended: threading.Event) -> None:
    """Logs when a scheduler has no worker, as work then waits for one that may never come, and when one is there."""
    there = True
    while not ended.is_set():
        before, there = there, bool(client.scheduler_info(n_workers=-1)["workers"])
        if before and not there:
            logger.warning("--cluster %s: no worker is there; what is left waits for one", address)
        elif there and not before:
            logger.info("--cluster %s: a worker is there", address)
        ended.wait(LOOK)


def shares(workers: int) -> list[dict[str, str]]:
    """What each of some workers on this machine sees of its cores and GPUs: environment variables."""
    if workers == 1:
        return [{}]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, (_outer_threads(os.environ.get("OMP_NUM_THREADS")) or cores) // workers)
    environment, gpus = {"OMP_NUM_THREADS": str(threads)}, _gpus()
    return [
        environment | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}) for number in range(workers)
    ]


def _outer_threads(text: str | None) -> int:
    """The threads that OMP_NUM_THREADS says, of nested ones (``4,2``) the outer; 0 if it says nothing."""
    outer = (text or "").partition(",")[0].strip()
    return int(outer) if outer.isdecimal() else 0


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


# -- the starter's side -----------------------------------------------------------------------------------------------


def run_module(
    module: str,
    arguments: Sequence[str],
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> int | None:
    """Runs ``python -m MODULE ARGUMENTS`` in a process of its own, in a thread of an :func:`executor`.

    Args:
        module: The module.
        arguments: Its command line.
        log: File to which all that it prints is appended; it prints where this process does if not given.
        environment: Further environment variables, which win over the place's.
        folder: Its working directory.

    Returns:
        Its exit status, negative for a signal; None if it was stopped.
    """
    where = place()
    if where.stopped():
        return None
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        # last_lines() reads logs as UTF-8; what is printed into a file is otherwise in the system's own encoding.
        encoding = {} if log is None else {"PYTHONIOENCODING": "utf-8"}
        variables = {**os.environ, "PYTHONPATH": path, **encoding, **where.environment, **(environment or {})}
        process: _Forked | subprocess.Popen[bytes] | None = None
        if can_fork(variables):
            # A server that cannot start is done without.
            with contextlib.suppress(OSError, EOFError):
                process = _Forked([module, *arguments], log, variables, folder)
        process = process or subprocess.Popen(
            [*_COMMAND, module, *arguments],
            stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=folder, env=variables,
            # Ctrl-C in a terminal goes to the starter alone, which stops what it has started.
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        stack.enter_context(process.stdin)
        asked = None
        while (status := process.poll()) is None:
            if where.stopped():
                process.stdin.close()
                asked = asked or time.monotonic()
                if time.monotonic() > asked + GRACE:
                    process.kill()
            time.sleep(POLL)
        return status if asked is None else None


def ending(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
    return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something."""
    if not log.is_file():
        return []
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 20_000))
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    # The end of a trace of a crash is a list of all libraries.
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("Extension modules: ")][-count:]


# -- forked processes -------------------------------------------------------------------------------------------------


class _Forked:
    """A process of multiprocessing's fork server: as much of :class:`subprocess.Popen` as :func:`run_module` needs."""

    def __init__(self, arguments: list[str], log: Path | None, variables: dict[str, str], folder: Path | None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        stdin, self.stdin = context.Pipe(duplex=False)
        self._process = context.Process(target=_become, args=(arguments, stdin, log, variables, folder))
        with stdin, _lock:
            self._process.start()

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        with _lock:
            status = self._process.exitcode
        # So multiprocessing says that the server was killed, and its processes with it.
        return -signal.SIGKILL if status == 255 else status

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()


def can_fork(variables: Mapping[str, str]) -> bool:
    """Whether processes with these environment variables are forked; otherwise they are new interpreters.

    Only on Linux is a fork safe, and only if no library has looked at a GPU before; a daemon, such as a Dask worker
    with a nanny, may have no server, and multiprocessing would run a script that is this process's main module again in
    each process.
    """
    main_module = sys.modules["__main__"]
    script = main_module.__spec__ is None and hasattr(main_module, "__file__")
    daemon = multiprocessing.current_process().daemon
    suits = sys.platform == "linux" and not any(map(os.path.exists, _GPUS))
    return suits and variables.get(SWITCH) != "off" and not script and not daemon


def _become(
    arguments: list[str], stdin: Connection, log: Path | None, variables: dict[str, str], folder: Path | None
) -> None:
    """Makes a forked process one as :class:`subprocess.Popen` starts it, and has it end as an interpreter does."""
    os.setsid()
    # PR_SET_PDEATHSIG: nobody would be told how a process ends that outlives its server.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.dup2(stdin.fileno(), 0)
    stdin.close()
    if log is not None:
        with log.open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder or ".")
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and variables.get("OMP_NUM_THREADS", threads) != threads:
        torch.set_num_threads(_outer_threads(variables["OMP_NUM_THREADS"]) or torch.get_num_threads())
    if numpy is not None:
        numpy.random.seed()
    tempfile.tempdir = None
    sys.argv[1:] = arguments
    interrupted = False
    try:
        main()
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        interrupted = True
    finally:
        # multiprocessing leaves them out.
        atexit._run_exitfuncs()
    if interrupted:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


# -- the started process ----------------------------------------------------------------------------------------------


def main() -> None:
    """Runs the module that the command line names; interrupted, then killed, when standard input ends."""
    # A shell that starts something in the background has it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A crash outside Python leaves a trace in the log, too.
    faulthandler.enable()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    module = sys.argv[1]
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_starter() -> None:
    # Not through sys.stdin, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 1024):
        pass
    if os.name == "nt":
        # There os.kill() would end the process at once.
        signal.raise_signal(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE / 2)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


if __name__ == "__main__":
    main()
