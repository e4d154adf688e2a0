"""Where Optuna studies are kept: the storages that sweeps write, and anything only read, including JSON files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study

from common.errors import InputError, hide_credentials
from common.files import read_json
from common.sweeps.config import PASSWORD_OPTIONS, PASSWORD_VARIABLE
from common.sweeps.json_studies import Direction, study_from_json

HEARTBEAT, GRACE_PERIOD, MAX_RETRY = 15, 120, 2
"""Of trials in a database: seconds between two heartbeats, and without one until a trial counts as cut off; of all
storages: how often a trial that was cut off is tried again."""

STORAGE_ERRORS = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    OSError,
    # An old table layout, a missing driver.
    RuntimeError,
    ImportError,
    # A journal that is none, or cannot be reached.
    ValueError,
    LookupError,
    TypeError,
)
"""What a storage raises that cannot be opened or read."""


def read_study(source: str, study_name: str | None = None, direction: Direction | None = None) -> tuple[Study, str]:
    """A study and what to call it in messages.

    Args:
        source: SQLite file, JSON file, Optuna journal (.log, .journal) or storage URL.
        study_name: Which study of a storage that holds several.
        direction: Which values are better, for a JSON file that does not say.

    Raises:
        InputError: If there is no such study; the message names the file and the value.
    """
    if "://" in source:
        return _from_url(source, study_name)
    return _from_file(Path(source), study_name, direction)


def _from_file(path: Path, study_name: str | None, direction: Direction | None) -> tuple[Study, str]:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a file is needed")
    with path.open("rb") as stream:
        sqlite = stream.read(16) == b"SQLite format 3\0"
    if sqlite:
        return _from_sqlite(path, study_name)
    if path.suffix in (".log", ".journal"):
        return _from_journal(path, study_name)
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        raise InputError(f"{path}: no SQLite database")
    study = study_from_json(read_json(path), str(path), direction)
    if study_name not in (None, study.study_name):
        raise InputError(f"{path}: no study {study_name!r}; it holds {study.study_name!r}")
    return study, str(path)


def parse_url(url: str, what: str = "") -> sqlalchemy.URL:
    """A storage URL, with the password in :data:`PASSWORD_VARIABLE` if it has a user but no password.

    Args:
        url: The text.
        what: Start of the message if it is none.

    Raises:
        InputError: If it is none; the message has nothing of what may hold a password.
    """
    try:
        parsed = sqlalchemy.make_url(url)
        secret = os.environ.get(PASSWORD_VARIABLE)
        return parsed.set(password=secret) if secret and parsed.username and parsed.password is None else parsed
    except (sqlalchemy.exc.ArgumentError, ValueError):
        start, separator, _ = url.partition("://")
        shown = f"{start}://..." if separator else "..." if "@" in url else url
        raise InputError(f"{what}{shown}: no storage URL; one is sqlite:///study.db, for example") from None


def shown_url(url: sqlalchemy.URL) -> str:
    """A storage URL for messages, without its password and its options."""
    return url.set(query={}).render_as_string(hide_password=True)


def _without_password(text: str, url: sqlalchemy.URL) -> str:
    """What a driver says, which may repeat what it was given: the URL, or the password alone."""
    text = hide_credentials(text)
    given = (secret for name in PASSWORD_OPTIONS for secret in url.normalized_query.get(name, ()))
    for secret in filter(None, (url.password, *given)):
        text = text.replace(str(secret), "***")
    return text


def _from_url(url: str, study_name: str | None) -> tuple[Study, str]:
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.query:
        path = Path(parsed.database)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return _from_sqlite(path, study_name)
    return _from_database(parsed, shown_url(parsed), study_name)


def _from_sqlite(path: Path, study_name: str | None) -> tuple[Study, str]:
    # Read-only: a look must neither make the tables of a study in somebody's database nor lock a running sweep.
    # Quoted, as a folder may have a "?" or a "#" in its name.
    address = f"file:{quote(str(path.absolute()))}"
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    finally:
        connection.close()
    if not {"studies", "trials", "version_info"} <= tables:
        raise InputError(f"{path}: an SQLite database, but not of Optuna")
    url = sqlalchemy.URL.create("sqlite", database=address, query={"mode": "ro", "uri": "true"})
    return _from_database(url, str(path), study_name)


def _from_database(url: sqlalchemy.URL, where: str, study_name: str | None) -> tuple[Study, str]:
    try:
        return _pick(RDBStorage(url.render_as_string(hide_password=False)), where, study_name)
    except InputError:
        raise
    except STORAGE_ERRORS as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{where}: cannot be read: {_without_password(line, url)}") from error


def _from_journal(path: Path, study_name: str | None) -> tuple[Study, str]:
    try:
        return _pick(JournalStorage(JournalFileBackend(str(path))), str(path), study_name)
    except InputError:
        raise
    except STORAGE_ERRORS as error:
        raise InputError(f"{path}: no journal of Optuna: {type(error).__name__} {error}") from error


def _pick(storage: BaseStorage, where: str, study_name: str | None) -> tuple[Study, str]:
    names = sorted(optuna.get_all_study_names(storage))
    if not names:
        raise InputError(f"{where}: holds no study")
    if study_name is None and len(names) > 1:
        raise InputError(f"{where}: holds {len(names)} studies, --study-name must be one of {names}")
    if study_name not in (None, *names):
        raise InputError(f"{where}: no study {study_name!r}; it holds {names}")
    name = study_name or names[0]
    study = optuna.load_study(study_name=name, storage=storage)
    # A broken trial shows now; the storage keeps what it has read.
    study.get_trials(deepcopy=False)
    return study, f"{where}, study {name!r}"


class Opened(NamedTuple):
    """A storage that a sweep writes to."""

    storage: BaseStorage
    shown: str
    """What to call it in messages."""
    file: Path | None
    """Its file; None for a database server, which may serve several commands."""
    sqlite: bool

    @property
    def heartbeat(self) -> bool:
        """Whether it knows by itself which trials were cut off."""
        return self.file is None


def open_storage(place: str) -> Opened:
    """The storage behind ``--storage``, made if it is not there.

    Raises:
        InputError: If it cannot be opened; the message does not have its password.
    """
    if place.endswith(".journal"):
        file = Path(place).absolute()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Optuna's own lock is a symbolic link, which few users of Windows may make.
            backend = JournalFileBackend(str(file), JournalFileOpenLock(str(file)))
            return Opened(JournalStorage(backend), place, file, False)
        except STORAGE_ERRORS as error:
            raise InputError(f"--storage {place}: no journal of Optuna: {type(error).__name__} {error}") from error
    url = parse_url(place, "--storage ")
    sqlite, shown = url.get_backend_name() == "sqlite", shown_url(url)
    if sqlite and url.database in (None, "", ":memory:"):
        raise InputError(f"--storage {place}: a database in memory is of one process; name a file")
    options: dict[str, Any] = {"engine_kwargs": {"connect_args": {"timeout": 60}}}
    if not sqlite:
        retry = RetryHeartbeatStaleTrialCallback(MAX_RETRY)
        options = {
            "heartbeat_interval": HEARTBEAT,
            "grace_period": GRACE_PERIOD,
            "heartbeat_stale_trial_callback": retry,
        }
    try:
        storage = RDBStorage(url.render_as_string(hide_password=False), **options)
    except STORAGE_ERRORS as error:
        text = " ".join(_without_password(str(error), url).split())[:300]
        raise InputError(f"--storage {shown}: {text}") from error
    return Opened(storage, shown, Path(str(url.database)).absolute() if sqlite else None, sqlite)
