"""Escapes external text for Markdown pages."""

from __future__ import annotations

import re

# What could start or end a cell, code, emphasis, mathematics, a tag, a character's name or a link, and no more.
_SPECIAL = re.compile(r"[\\|`$~]|\*(?=\S)|(?<=\S)\*|(?<!\w)_|_(?!\w)|<(?=[\w/!?])|&(?=#?\w+;)|\](?=[(\[:])")


def escape_markdown(text: str) -> str:
    """Text in one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
