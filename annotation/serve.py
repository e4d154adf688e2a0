"""The live backend: ``python -m annotation.serve --project Medical --model RUN`` suggests while people annotate.

With ``--approach NAME`` the button Start Training works. What stands behind ``--`` goes to ``annotation.fit``:
``... --approach NAME -- --base-model GLINER --epochs 5``.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotation.backend import Backend
from annotation.client import ServerOptions
from annotation.jobs import Every, Trainer, in_background
from annotation.labelling import Labelling
from annotation.private import read_secret
from annotation.service import Service, check_closed
from annotation.suggester import ModelOptions, load_suggester
from annotation.work import Work, WorkOptions
from common.config import RuntimeConfig, parse, require
from common.engine import executor
from common.errors import InputError
from common.script import run_script

logger = logging.getLogger(__name__)

PASSWORD_VARIABLE = "ANNOTATION_PASSWORD"
_OF_A_MODEL = (ValueError, OSError, RuntimeError, LookupError, TypeError)
"""What a model that is not whole can make its loading raise."""
LOOK = 2.0
"""Seconds between two looks whether another version is current."""


@dataclass(frozen=True, kw_only=True)
class AddressOptions:
    """Where the service listens."""

    host: str = "127.0.0.1"
    """Address that the service listens on; one that other machines can reach requires --user."""
    port: int = 9090
    """Port that the service listens on; 0: any free one."""
    user: str | None = None
    """User for basic authentication; the environment variable ANNOTATION_PASSWORD or a file has the password."""
    password_file: Path | None = None
    """File with the password; no one else may be able to read it (mode 600)."""

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password; None if no user is given.

        Raises:
            InputError: If there is one without the other.
        """
        password = read_secret(PASSWORD_VARIABLE, self.password_file, "the password")
        if self.user is None:
            require(self.password_file is None, "--password-file needs --user")
            return None
        require(":" not in self.user, f"--user must hold no colon, got {self.user!r}")
        if password is None:
            raise InputError(f"--user needs a password: set {PASSWORD_VARIABLE}, or give --password-file")
        return self.user, password


@dataclass(frozen=True, kw_only=True)
class BackendOptions(AddressOptions):
    """A service that runs."""

    backend: str | None = None
    """URL of the service, at which Label Studio reaches it; http://HOST:PORT if not given."""

    @property
    def address(self) -> str:
        """The URL, without a slash at its end."""
        return (self.backend or f"http://{self.host}:{self.port}").rstrip("/")


@dataclass(frozen=True, kw_only=True)
class Config(ServerOptions, ModelOptions, WorkOptions, AddressOptions):
    """Suggest in Label Studio while people annotate, and train when they ask for it."""

    approach: str | None = None
    """Approach for the button Start Training to train, by annotation.fit; without it, the button does nothing."""
    train_every: int | None = None
    """Also train after this many new annotations since the last training; if not given, only by the button."""

    def __post_init__(self) -> None:
        if self.train_every is not None:
            require(self.approach is not None, "--train-every: without --approach nothing is trained")
            require(self.train_every > 0, f"train_every must be at least 1, got {self.train_every}")


def fit_arguments(config: Config, rest: Sequence[str]) -> list[str]:
    """The command line of a training that the service starts."""
    arguments = ["--approach", str(config.approach), "--work", str(config.folder.path), "--nice", "10"]
    for name, value in (("--url", config.url), ("--project", config.project), ("--token-file", config.token_file)):
        arguments += [] if value is None else [name, str(value)]
    arguments += ["--device", config.device]
    return [*arguments, *rest]


def stamp(work: Work) -> tuple[int, int] | None:
    """What tells a work folder's current version from the next one; None if there is none."""
    try:
        state = work.current_file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino


class Reloader:
    """Loads the work folder's current version whenever that is another one, and only then puts it into service.

    A version that cannot be loaded is reported once, and the one in service stays.

    Args:
        work: The work folder.
        backend: Takes the version.
        labelling: Labels of the project.
        runtime: Where and how to compute.
        seen: What :func:`stamp` gave before the model in service was loaded.
    """

    def __init__(
        self, work: Work, backend: Backend, labelling: Labelling | None, runtime: RuntimeConfig, seen: Any
    ) -> None:
        self.work, self.backend, self.labelling, self.runtime, self.seen = work, backend, labelling, runtime, seen
        self._lock = threading.Lock()

    def look(self) -> None:
        """Loads the current version if it is another one than before, and learns which documents are blind now."""
        with self._lock:
            try:
                # annotation.push may choose some while the version stays.
                self.backend.blind = self.work.blind()
            except InputError as error:
                logger.warning("the blind documents stay those of before: %s", error)
            found = stamp(self.work)
            if found in (None, self.seen):
                return
            self.seen = found
            try:
                record = self.work.current()
                assert record is not None
                suggester = load_suggester(record, self.labelling, self.runtime)
            except _OF_A_MODEL as error:
                logger.warning("the version before stays: %s", error)
                return
            self.backend.use(suggester)
            logger.info("in service: %s", record["version"])

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Looks again and again in a thread of its own."""
        stop = threading.Event()

        def look_on() -> None:
            while not stop.wait(LOOK):
                self.look()

        with in_background(look_on, stop.set):
            yield


@contextlib.contextmanager
def serving(argv: Sequence[str] | None = None) -> Iterator[Service]:
    """The service that the command line asks for, bound to its port; at the end a training that runs is stopped.

    Raises:
        InputError: If an option is wrong, the model cannot be loaded or the port is in use.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, rest = arguments[:place], arguments[place + 1 :]
    description = (
        f"{Config.__doc__}\n\n-- OPTIONS: for annotation.fit and the approach's train.py, which Start Training runs."
    )
    config = parse(Config, arguments, description=description)
    credentials = config.credentials
    check_closed(config.host, credentials)
    work, labelling = config.folder, None
    if config.approach is None:
        require(not rest, f"-- {' '.join(rest)}: without --approach nothing is trained")
    else:
        from annotation.fit import check_training

        check_training(fit_arguments(config, rest))
    if config.approach is not None or config.names_project:
        project = config.open()
        work.claim(project.id, project.made)
        labelling = project.labelling
    # Before the model is loaded: what a training puts into service meanwhile is taken, too.
    seen = stamp(work)
    suggester = config.load(work, labelling)
    if work.current() is None and labelling is not None:
        work.set_current({**suggester.record, "version": suggester.version(labelling)})
        seen = stamp(work)

    import torch

    # Requests that need no model are answered by the core that is left.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    backend = Backend(suggester, blind=work.blind())
    reloader = Reloader(work, backend, labelling, config.runtime, seen)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Service(backend, config.host, config.port, credentials))
        if config.approach is not None:
            pool = stack.enter_context(executor(1))
            trainer = Trainer(work.path / "jobs", fit_arguments(config, rest), pool, reloader.look)
            backend.jobs = trainer
            left = trainer.take_up()
            if left is not None:
                logger.info("job %s goes on: it was not over when the service ended", left)
            if config.train_every is not None:
                every = Every(config.train_every, project.annotations, work.trained, trainer)
                backend.annotated = every.event
                stack.enter_context(every.looking())
        stack.enter_context(reloader.looking())
        yield service


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until it is interrupted."""
    with serving(argv) as service:
        logger.info("serving at %s; stop with Ctrl-C", service.address)
        service.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    run_script(main)
