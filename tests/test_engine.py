"""Processes of their own: how they end, what they see, and that none outlives the one that started it."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

import common.engine
from common.engine import SWITCH, can_fork, ending, executor, last_lines, place, run_module, shares
from common.errors import InputError
from common.paths import PROJECT_ROOT

pytestmark = pytest.mark.slow

forks = pytest.mark.skipif(not can_fork({}), reason="processes are new interpreters here")

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
STUBBORN = "from common import engine; engine.GRACE = 2.0\n" + SLEEPER.replace("    raise\n", "    time.sleep(100)\n")
ENDINGS = """
import os, sys
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="backslashreplace")
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


# The engine as a module that a test's own can change, other than the main module that it is otherwise.
COMMAND = (sys.executable, "-c", "from common import engine; engine.main()")


def end_server():
    """Ends this process's fork server, if it has one; the next process starts another."""
    if sys.platform == "linux":
        importlib.import_module("multiprocessing.forkserver")._forkserver._stop()


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A folder of modules for processes, and a fork server that imports nothing."""
    folder = tmp_path_factory.mktemp("code")
    for name, text in {"sleeper": SLEEPER, "stubborn": STUBBORN, "endings": ENDINGS}.items():
        (folder / f"{name}.py").write_text(text)
    end_server()
    yield folder
    end_server()


@pytest.fixture
def forked(code, tmp_path, monkeypatch):
    """The modules on the path of forked processes; returns a folder for output."""
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.syspath_prepend(code)
    monkeypatch.setattr(common.engine, "_COMMAND", COMMAND)
    monkeypatch.setattr(common.engine, "PRELOADED", [])
    return tmp_path


@pytest.fixture(params=["off", pytest.param("on", marks=forks)])
def modules(request, forked, monkeypatch):
    """As forked, and of processes that are new interpreters."""
    monkeypatch.setenv(SWITCH, request.param)
    return forked


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


def test_a_log_is_utf_8_whatever_a_console_would_be(code, tmp_path, monkeypatch):
    """As on Windows, whose consoles are not."""
    (code / "greek.py").write_text("print('\u03b1-actin')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    monkeypatch.setenv(SWITCH, "off")
    with executor(1) as pool:
        assert pool.submit(run_module, "greek", [], tmp_path / "log").result() == 0
    assert last_lines(tmp_path / "log", 1) == ["\u03b1-actin"]


@forks
def test_nothing_is_forked_beside_a_gpu_of_any_kind(tmp_path, monkeypatch):
    for name in common.engine._GPUS:
        monkeypatch.setattr(common.engine.os.path, "exists", lambda path, name=name: path == name)
        assert not can_fork({})


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
import common.engine
from common.engine import executor, run_module
common.engine._COMMAND, common.engine.PRELOADED = sys.argv[3:], []
with executor(1) as pool:
    pool.submit(run_module, sys.argv[1], [sys.argv[2]]).result()
"""


def test_without_a_log_it_prints_where_its_starter_does(modules):
    command = [sys.executable, "-c", STARTER, "endings", "error", *common.engine._COMMAND]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("hello ")
    assert done.stderr.endswith("ZeroDivisionError: nobody expects this\n")


@pytest.mark.parametrize("module", ["sleeper", "stubborn"])
def test_no_process_outlives_its_starter(modules, monkeypatch, module):
    command = [sys.executable, "-c", STARTER, module, str(modules / "pid"), *common.engine._COMMAND]
    starter = subprocess.Popen(command, cwd=PROJECT_ROOT)
    process = psutil.Process(started(modules / "pid"))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    process.wait(30)


@forks
def test_a_signal_to_a_forked_process_is_of_no_concern_to_the_others(forked):
    with executor(2) as pool:
        names = ("a", "b")
        work = [pool.submit(run_module, "sleeper", [str(forked / name)], forked / f"{name}.log") for name in names]
        first, second = (psutil.Process(started(forked / name)) for name in names)
        assert first.parent() == second.parent() != psutil.Process()
        assert os.getsid(first.pid) == os.getpgid(first.pid) == first.pid
        first.send_signal(signal.SIGKILL)
        assert work[0].result() == -signal.SIGKILL
        assert second.is_running()
        second.send_signal(signal.SIGINT)
        assert work[1].result() == -signal.SIGINT
    assert last_lines(forked / "b.log", 1) == ["KeyboardInterrupt"]


@forks
def test_processes_of_a_server_that_is_killed_end_and_another_server_starts_the_next(forked):
    with executor(1) as pool:
        work = pool.submit(run_module, "sleeper", [str(forked / "pid")], forked / "log")
        process = psutil.Process(started(forked / "pid"))
        process.parent().send_signal(signal.SIGKILL)
        assert work.result() == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
        assert pool.submit(run_module, "endings", ["3"], forked / "log").result() == 3


@pytest.fixture
def preloaded(forked, monkeypatch):
    """Has another server import a module of some source code; returns the folder for output."""

    def preload(name, source=None):
        if source is not None:
            (forked / f"{name}.py").write_text(source)
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(forked), os.environ["PYTHONPATH"]]))
        monkeypatch.setattr(common.engine, "PRELOADED", [name])
        end_server()
        return forked

    yield preload
    end_server()


def test_libraries_are_quiet_before_the_server_imports_them():
    code = f"import {common.engine.PRELOADED[0]}, logging; logging.getLogger('bitsandbytes.x').warning('install more')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@forks
def test_a_server_that_cannot_start_is_done_without(preloaded):
    folder = preloaded("broken", "raise ValueError('of another version')")
    with executor(1) as pool:
        assert pool.submit(run_module, "endings", ["3"], folder / "log").result() == 3


@forks
def test_a_forked_process_computes_with_its_own_number_of_threads(preloaded, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = preloaded("torch")
    (folder / "counts.py").write_text("import sys; print(sys.modules['torch'].get_num_threads())")
    monkeypatch.syspath_prepend(folder)
    with executor(1) as pool:
        for threads in ("1", "2"):
            given = {"OMP_NUM_THREADS": threads}
            assert pool.submit(run_module, "counts", [], folder / "log", given).result() == 0
    assert last_lines(folder / "log", 2) == ["1", "2"]


def test_workers_share_the_cores_and_have_a_gpu_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert shares(1) == [{}]
    assert shares(3) == [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("4", "7", "4")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shares(10) == [{"OMP_NUM_THREADS": "1"}] * 10
    monkeypatch.setenv("OMP_NUM_THREADS", "9,2")
    assert shares(3) == [{"OMP_NUM_THREADS": "3"}] * 3


def test_each_worker_has_its_share(modules, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with executor(2) as pool:
        work = [pool.submit(run_module, "endings", ["0"], modules / str(number)) for number in range(4)]
        assert [piece.result() for piece in work] == [0] * 4
    assert all((modules / str(number)).read_text().startswith("hello 1 ") for number in range(4))


def test_nothing_is_started_for_work_that_is_no_longer_wanted(modules):
    begun = threading.Event()

    def work():
        begun.set()
        while not place().stopped():
            time.sleep(0.01)
        return run_module("sleeper", [str(modules / "pid")])

    with executor(1) as pool:
        piece = pool.submit(work)
        assert begun.wait(30)
    assert (piece.result(), (modules / "pid").exists()) == (None, False)


# -- on a cluster -----------------------------------------------------------------------------------------------------


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


def test_a_cluster_without_workers_is_said_and_waited_for(modules, monkeypatch, caplog):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(common.engine, "LOOK", 0.05)

    def wait_for_line(text):
        deadline = time.monotonic() + 30
        while text not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    with (
        caplog.at_level("INFO", "common.engine"),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0", host="127.0.0.1"
        ) as cluster,
        executor(1, cluster.scheduler_address) as pool,
    ):
        cluster.scale(0)
        wait_for_line("no worker is there")
        work = pool.submit(run_module, "endings", ["0"], modules / "log")
        cluster.scale(1)
        wait_for_line("a worker is there")
        assert work.result(60) == 0


def test_a_cluster_that_is_not_there_is_one_clear_error():
    pytest.importorskip("distributed")
    with (
        pytest.raises(InputError, match=r"--cluster nonsense://x: no Dask scheduler answers"),
        executor(1, "nonsense://x"),
    ):
        pass


def test_without_dask_the_message_says_which_extra_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[cluster\]'"), executor(1, "tcp://host:8786"):
        pass
