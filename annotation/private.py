"""What must never be seen: tokens come from the environment or a private file, and go out of every message."""

from __future__ import annotations

import os
import re
from pathlib import Path

from common.errors import InputError, hide_credentials

_FIELDS = r"access_token|access|refresh|token|password|passwd|pwd|basic_auth_pass|csrfmiddlewaretoken"
_SECRET = re.compile(
    rf"""(?P<field>["']?(?:{_FIELDS})["']?\s*[:=]\s*["']?)[^"'\s,}}&]+"""
    r"|(?P<scheme>\b(?:Token|Bearer|Basic)\s+)[\w.+/=-]{8,}"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]+"
    r"|\b[0-9a-f]{40}\b"
)


def redact(text: str) -> str:
    """A text without tokens and passwords."""
    return _SECRET.sub(lambda match: (match["field"] or match["scheme"] or "") + "***", hide_credentials(text))


def read_secret(variable: str, file: Path | None, what: str) -> str | None:
    """A secret: that of a file that nobody else can read, or of an environment variable; None if there is neither.

    Raises:
        InputError: If the file cannot be read, is empty, or others may read it.
    """
    if file is None:
        return os.environ.get(variable) or None
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{file}: others may read {what} in it (mode {mode & 0o777:o}): chmod 600 {file}")
    if not text:
        raise InputError(f"{file}: is empty; {what} belongs in it")
    return text
