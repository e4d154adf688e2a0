"""Where the project reads and writes: fixed folders, safe file names, time stamps."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from common.errors import InputError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder of the packages: a checkout, or site-packages, where nothing is written."""

OUTPUT_VARIABLE = "GLINER_ADAPTATION_OUTPUT"
"""Environment variable that names another folder for all output than the working directory."""

CACHE_VARIABLE = "GLINER_ADAPTATION_CACHE"
"""Environment variable that names another folder for caches than the user's own."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def output_root() -> Path:
    """Where data sets, savings and results go: the working directory, or the folder in :data:`OUTPUT_VARIABLE`."""
    return Path(os.environ.get(OUTPUT_VARIABLE) or Path.cwd()).absolute()


def cache_dir() -> Path:
    """Where what is worked out once for a machine is kept: the user's cache, if :data:`CACHE_VARIABLE` is not set."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gliner-adaptation"
    return Path(os.environ.get(CACHE_VARIABLE) or default).absolute()


def datasets_dir() -> Path:
    """Where generated data sets are."""
    return output_root() / "datasets"


def check_name(name: str, what: str) -> str:
    """Returns ``name`` if it can be one path component.

    Raises:
        InputError: If it could leave its folder or is no portable file name.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise InputError(
            f"{what} must be letters, digits, '.', '_' or '-' and start with a letter or digit, got {name!r}"
        )
    return name


def is_file_name(name: str) -> bool:
    """Whether a text is one path component, so that a file of that name lies in the folder where it is put."""
    return name not in ("", ".", "..") and not any(character in "/\\" or ord(character) < 32 for character in name)


def timestamp() -> str:
    """The local time as ``YYYYmmdd_HHMMSS``, the stamp of every run and result."""
    return datetime.now().strftime("%Y%m%d_%H%M%S")


def now() -> str:
    """The time in UTC, as records keep it: sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_run_dir(parent: Path, prefix: str) -> Path:
    """Creates and returns ``parent/<prefix>_<timestamp>``; two runs in one second get different folders."""
    parent.mkdir(parents=True, exist_ok=True)
    stem = f"{prefix}_{timestamp()}"
    for attempt in range(1, 1000):
        path = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"no free run folder for {stem} in {parent}")
