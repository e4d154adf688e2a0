"""Processes of their own: how they end, what they see, and that none outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from common.engine import ending, executor, last_lines, run_module, shares
from common.errors import InputError
from common.paths import PROJECT_ROOT

SLEEPER = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
try:
    time.sleep(100)
except KeyboardInterrupt:
    print("asked to stop")
    raise
"""
STUBBORN = SLEEPER.replace("    raise\n", "    time.sleep(100)\n")
ENDINGS = """
import os, sys
print("hello", os.environ.get("OMP_NUM_THREADS"), os.environ.get("OF_MINE"), os.getcwd())
how = sys.argv[1]
if how == "abort":
    os.abort()
if how == "error":
    raise ZeroDivisionError("nobody expects this")
if how == "memory":
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
    bytearray(2**30)
sys.exit(int(how))
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules for processes, on their path."""
    for name, text in {"sleeper": SLEEPER, "stubborn": STUBBORN, "endings": ENDINGS}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started(path):
    """The id of the process that wrote it."""
    wait_for(lambda: path.is_file() and path.read_text())
    return int(path.read_text())


@pytest.mark.parametrize(
    ("how", "status", "words", "line"),
    [
        ("0", 0, "exit status 0", None),
        ("2", 2, "exit status 2", None),
        ("error", 1, "exit status 1", "ZeroDivisionError: nobody expects this"),
        ("memory", 1, "exit status 1", "MemoryError"),
        ("abort", -signal.SIGABRT, "ended by SIGABRT", None),
    ],
)
def test_a_process_ends_as_it_likes_and_the_log_says_how(modules, how, status, words, line):
    log = modules / "x.log"
    log.write_text("before\n")
    with executor(1) as pool:
        assert pool.submit(run_module, "endings", [how], log, {"OF_MINE": "yes"}, modules).result() == status
    assert ending(status) == words
    lines = log.read_text().splitlines()
    assert lines[:2] == ["before", f"hello {os.environ.get('OMP_NUM_THREADS')} yes {modules}"]
    assert line is None or last_lines(log, 1) == [line]
    assert how != "abort" or "Fatal Python error: Aborted" in lines


def test_one_that_is_killed_may_have_lacked_memory():
    assert ending(-signal.SIGKILL) == "ended by SIGKILL, perhaps for want of memory"


def test_the_end_of_the_block_stops_what_runs_and_starts_nothing_more(modules):
    with executor(1) as pool:
        running, waiting = (
            pool.submit(run_module, "sleeper", [str(modules / name)], modules / "log") for name in ("a", "b")
        )
        pid = started(modules / "a")
    assert running.result() is None
    assert waiting.cancelled()
    assert not psutil.pid_exists(pid)
    assert "asked to stop" in (modules / "log").read_text()
    assert not (modules / "b").exists()


STARTER = """
import sys
from common.engine import executor, run_module
with executor(1) as pool:
    pool.submit(run_module, sys.argv[1], [sys.argv[2]]).result()
"""


@pytest.mark.parametrize("module", ["sleeper", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_no_process_outlives_its_starter(modules, monkeypatch, module):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, module, str(modules / "pid")], cwd=PROJECT_ROOT)
    process = psutil.Process(started(modules / "pid"))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    process.wait(30)


def test_workers_share_the_cores_and_have_a_gpu_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert shares(1) == [{}]
    assert shares(3) == [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("4", "7", "4")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shares(10) == [{"OMP_NUM_THREADS": "1"}] * 10


def test_each_worker_has_its_share(modules, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with executor(2) as pool:
        work = [pool.submit(run_module, "endings", ["0"], modules / str(number)) for number in range(4)]
        assert [piece.result() for piece in work] == [0] * 4
    assert all((modules / str(number)).read_text().startswith("hello 1 ") for number in range(4))


# -- on a cluster -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cluster_runs_the_same_and_stops_what_nobody_waits_for(modules):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=":0", host="127.0.0.1"
    ) as cluster:
        address = cluster.scheduler_address
        with executor(1, address) as pool:
            assert pool.submit(run_module, "endings", ["2"], modules / "log").result() == 2
            pool.submit(run_module, "sleeper", [str(modules / "pid")])
            process = psutil.Process(started(modules / "pid"))
        process.wait(30)


def test_a_cluster_that_is_not_there_is_one_clear_error():
    pytest.importorskip("distributed")
    with (
        pytest.raises(InputError, match=r"--cluster nonsense://x: no Dask scheduler answers"),
        executor(1, "nonsense://x"),
    ):
        pass
