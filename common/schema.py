"""Checks JSON records against a ``TypedDict``, which states their fields' types, ranges and choices once.

Fields that a schema does not name are allowed: another version may have written them.
"""

from __future__ import annotations

import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from common.errors import InputError
from common.files import is_encodable, read_json, unique_keys
from common.paths import is_file_name

_MOST_LEVELS = 50
"""Deeper than any record of ours; what is read is written again, level by level."""


@dataclass(frozen=True)
class Rule:
    """What a value must be beside its kind; goes into ``Annotated``."""

    text: str
    """Completes "must be"."""
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("at least 0", lambda value: value >= 0)]
Amount = Annotated[float, Rule("at least 0", lambda value: value >= 0)]
Seconds = Amount
Positive = Annotated[int, Rule("between 1 and 2^32", lambda value: 1 <= value <= 2**32)]
Share = Annotated[float, Rule("between 0 and 1", lambda value: 0 <= value <= 1)]
Seed = Annotated[int, Rule("between 0 and 2^32 - 1", lambda value: 0 <= value < 2**32)]
FileName = Annotated[str, Rule("a name without a path in it", is_file_name)]
Texts = dict[str, str]


def read_record(path: Path, kind: Any) -> dict[str, Any]:
    """Reads and checks one record.

    Args:
        path: A JSON file.
        kind: As for :func:`check`.

    Raises:
        InputError: If it cannot be read or is something else; the message names file, field and value.
    """
    value: dict[str, Any] = read_json(path, unique_keys)
    check(value, kind, str(path))
    return value


def check(value: Any, kind: Any, where: str) -> None:
    """Raises ``InputError`` unless a JSON value is of a kind.

    Args:
        value: The value.
        kind: A type hint: ``TypedDict``, ``list`` (or ``tuple[X, ...]``, which JSON has as a list), ``dict`` with text
            keys, ``Literal``, a union, ``Annotated`` with rules, plain.
        where: What to call it in messages.
    """
    for place, found in _leaves(value, where):
        if isinstance(found, str) and not is_encodable(found):
            raise InputError(f"{where}: {place} holds half of a surrogate pair: {reprlib.repr(found)}")
        if isinstance(found, float) and not math.isfinite(found):
            raise InputError(f"{where}: {place} must be a finite number, got {found}")
    check_value(value, kind, where, "")


def _leaves(value: Any, where: str) -> typing.Iterator[tuple[str, Any]]:
    """All keys and plain values inside a value, with their places."""
    waiting: list[tuple[str, Any, int]] = [("the record", value, 0)]
    while waiting:
        place, found, level = waiting.pop()
        if level > _MOST_LEVELS:
            raise InputError(f"{where}: {place[:80]} is nested too deep")
        if isinstance(found, dict):
            yield from ((place, key) for key in found)
            waiting += [(key if not level else f"{place}.{key}", item, level + 1) for key, item in found.items()]
        elif isinstance(found, list):
            waiting += [(f"{place}[{number}]", item, level + 1) for number, item in enumerate(found)]
        else:
            yield place, found


def check_value(value: Any, kind: Any, where: str, place: str) -> None:
    """As :func:`check`, of the value at a place of a record, whose texts and numbers have been looked at before."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        check_value(value, options[0], where, place)
        for rule in options[1:]:
            if not rule.holds(value):
                raise _wrong(value, rule.text, where, place)
    elif origin in (typing.Union, types.UnionType):
        # The innermost complaint of the one option of the value's own kind says most.
        alike = [option for option in options if _is_plain(value, option)]
        if not alike:
            raise _wrong(value, _name(kind), where, place)
        check_value(value, alike[0], where, place)
    elif typing.is_typeddict(kind):
        _check_fields(value, kind, where, place)
    elif not _is_plain(value, kind) or (origin is Literal and value not in options):
        raise _wrong(value, _name(kind), where, place)
    elif origin in (list, tuple):
        for number, item in enumerate(value):
            check_value(item, options[0], where, f"{place}[{number}]")
    elif origin is dict:
        for key, item in value.items():
            check_value(item, options[1], where, _below(place, key))
    elif kind is float and isinstance(value, int) and abs(value) > 2**1000:
        raise _wrong(value, _name(kind), where, place)


def _check_fields(value: Any, kind: Any, where: str, place: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(value, "an object", where, place)
    fields = typing.get_type_hints(kind, include_extras=True)
    # Where annotations are texts, the class itself takes what is NotRequired for required.
    optional = {name for name, field in fields.items() if typing.get_origin(field) is typing.NotRequired}
    missing = sorted(kind.__required_keys__ - optional - set(value))
    if missing:
        raise InputError(f"{where}: {f'{place} ' if place else ''}lacks {missing}")
    for name, field in fields.items():
        if name in value:
            plain = typing.get_args(field)[0] if name in optional else field
            check_value(value[name], plain, where, _below(place, name))


def _is_plain(value: Any, kind: Any) -> bool:
    # JSON's true and false are no numbers.
    return isinstance(value, _plain(kind)) and not (isinstance(value, bool) and _plain(kind) in (int, (int, float)))


def _plain(kind: Any) -> Any:
    """What ``isinstance`` takes for a kind."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _plain(options[0])
    if origin is Literal:
        return str
    if typing.is_typeddict(kind):
        return dict
    return {float: (int, float), tuple: (list, tuple), Any: object}.get(origin or kind, origin or kind)


def _name(kind: Any) -> str:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _name(options[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_name, options))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, options))
    names: Mapping[Any, str] = {
        str: "a text",
        Path: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
        list: "a list",
        tuple: "a list",
        types.NoneType: "null",
    }
    return names[dict if typing.is_typeddict(kind) else origin or kind]


def _wrong(value: Any, wanted: str, where: str, place: str) -> InputError:
    return InputError(f"{where}: {place or 'the record'} must be {wanted}, got {reprlib.repr(value)}")


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
