"""How an entry script runs: logging, errors in one line, and clean ends."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from common.errors import InputError, Terminated, TrainingError

logger = logging.getLogger(__name__)

_ELSEWHERE = "another place for output is --output-root DIR"
_WAYS = {
    errno.ENOSPC: f"make room, then go on (a training with --resume latest); {_ELSEWHERE}",
    errno.EDQUOT: f"make room, then go on (a training with --resume latest); {_ELSEWHERE}",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then go on (a training with --resume latest)",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENOTDIR: f"a file is in the way: move it; {_ELSEWHERE}",
    errno.EEXIST: f"a file is in the way: move it; {_ELSEWHERE}",
    errno.EISDIR: f"a folder is in the way: move it; {_ELSEWHERE}",
    errno.ENAMETOOLONG: "use a shorter name",
}
"""What the user can do, by what the system says."""


def run_script(main: Callable[[], Any]) -> None:
    """Runs an entry script.

    Bad input, and what the system refuses, ends as one line on standard error and exit status 2; Ctrl-C as status 130
    and SIGTERM as 143, whatever a library makes of them on the way.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot show a corpus's letters shows their numbers.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Everything is tokenised once; the tokenizer's threads would only compete for the cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Figures go to files. Where a notebook's backend is set and not installed, matplotlib cannot even be imported.
    os.environ["MPLBACKEND"] = "agg"
    received: list[int] = []
    before = _on_signals(received)
    try:
        main()
        # What is left in the buffer would fail after the script's end, without a word of ours.
        sys.stdout.flush()
    except (InputError, TrainingError) as error:
        _fail(str(error), received)
    except BrokenPipeError:
        _drop_output()
        _fail("standard output was closed by what reads it; all files are written", received)
    except OSError as error:
        logger.debug("the system refused", exc_info=True)
        _drop_output()
        _fail(_refusal(error), received)
    except KeyboardInterrupt as error:
        received.append(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        # One of several processes that just exits can break the others' connections.
        torch = sys.modules.get("torch")
        if torch is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if received:
            print("terminated" if received[0] == signal.SIGTERM else "interrupted", file=sys.stderr)
            sys.exit(128 + received[0])


def quiet_libraries() -> None:
    """Keeps what libraries say for themselves off the screen, and their progress bars out of log files."""
    for noisy in ("httpx", "urllib3", "huggingface_hub", "filelock", "gliner", "bitsandbytes", "faiss"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        # transformers' bars too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _on_signals(received: list[int]) -> dict[int, Any]:
    """Makes Ctrl-C and SIGTERM exceptions and notes them: an import that one of them hits may end as any other error.

    Returns:
        The handlers of before. One that somebody else has set stays, and so does the parent's wish to ignore a signal.
    """

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before: dict[int, Any] = {}
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            before[number] = signal.signal(number, note)
    return before


def _fail(message: str, received: list[int]) -> None:
    if not received:
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _refusal(error: OSError) -> str:
    """What the system refused, for which file, and the way out."""
    place = error.filename2 or error.filename
    reason = error.strerror or str(error) or type(error).__name__
    way = _WAYS.get(error.errno or 0)
    return (f"{os.fsdecode(place)}: " if place else "") + reason + (f"; {way}" if way else "")


def _drop_output() -> None:
    """Sends what waits for a broken standard output to nowhere, or Python fails on it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
