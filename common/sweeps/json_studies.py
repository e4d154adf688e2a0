"""Optuna studies from JSON files: each file becomes an in-memory study once, and everything else reads studies.

An old file states neither search space nor direction: the ranges are then those of the values tried, and the direction
is the one in which the file's best trial is the best.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from common.config import require
from common.errors import InputError

Direction = Literal["minimize", "maximize"]

_LEARNING_RATE = re.compile(r"(^|_)lr($|_)|learning_rate", re.IGNORECASE)
_FEW_VALUES = 5


class _FileStorage(InMemoryStorage):
    """Gives the trials of a file their numbers and times there, which Optuna replaces when a trial is added."""

    def __init__(self, in_file: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._in_file = in_file

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return [self._restored(trial) for trial in super().get_all_trials(study_id, True, states)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._restored(copy.deepcopy(super().get_trial(trial_id)))

    def _restored(self, trial: FrozenTrial) -> FrozenTrial:
        source = self._in_file[trial.number]
        trial.number = source.number
        trial.datetime_start, trial.datetime_complete = source.datetime_start, source.datetime_complete
        return trial


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def study_from_json(values: Any, where: str, direction: Direction | None = None) -> Study:
    """An in-memory study from a result file of a sweep.

    The trials stand under ``all_trials`` or ``trials``, with ``params``, ``value``, ``state`` (a name, with or without
    ``TrialState.``, or Optuna's number) and, if they were kept, ``number``, ``intermediate_values``, ``datetime_start``
    and ``datetime_complete``. ``direction``, ``metric`` and ``distributions`` (by parameter, as Optuna writes them) are
    read if there.

    Args:
        values: The parsed file.
        where: The file, for messages.
        direction: Direction if the file does not say.

    Raises:
        InputError: If it is no such file, a trial is broken, or the direction cannot be told.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object with all_trials or trials, got {type(values).__name__}")
    key = next((key for key in ("all_trials", "trials") if key in values), None)
    if key is None:
        raise InputError(f"{where}: neither all_trials nor trials in it; it has {sorted(values)}")
    entries = values[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where}: {key} must be a list of objects")
    read = [_read_trial(entry, index, f"{where}: {key}[{index}]") for index, entry in enumerate(entries)]
    read.sort(key=lambda trial: trial.number)
    for number, count in Counter(trial.number for trial in read).items():
        require(count == 1, f"{where}: {key} has {count} trials with the number {number}")
    space = _infer_space([trial.params for trial in read]) | _read_distributions(values.get("distributions"), where)
    study = optuna.create_study(
        storage=_FileStorage(read),
        direction=_direction(values, read, where, direction),
        study_name=str(values.get("study_name") or Path(where).stem),
    )
    if isinstance(values.get("metric"), str):
        study.set_user_attr("metric", values["metric"])
    for trial in read:
        try:
            study.add_trial(
                optuna.trial.create_trial(
                    state=trial.state,
                    value=trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
                    params={name: _as_drawn(value, space[name]) for name, value in trial.params.items()},
                    distributions={name: space[name] for name in trial.params},
                    intermediate_values=trial.intermediate_values,
                )
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: trial {trial.number}: {error}") from error
    return study


def _is_number(value: Any) -> bool:
    # An integer may be too large for a float.
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300)


def _read_trial(entry: Mapping[str, Any], index: int, where: str) -> FrozenTrial:
    value, number = entry.get("value"), entry.get("number", index)
    require(value is None or _is_number(value), f"{where}: value must be a number or null, got {value!r}")
    require(isinstance(number, int) and not isinstance(number, bool) and number >= 0, f"{where}: number is {number!r}")
    default = TrialState.FAIL if value is None else TrialState.COMPLETE
    state = _state(entry["state"], where) if "state" in entry else default
    if state == TrialState.COMPLETE:
        require(value is not None and not math.isnan(value), f"{where}: a complete trial with the value {value!r}")
    params = entry.get("params", {})
    require(isinstance(params, dict), f"{where}: params must be an object, got {params!r}")
    for name, setting in params.items():
        bounded = not isinstance(setting, int | float) or abs(setting) < 1e300
        require(bounded, f"{where}: {name} is {str(setting)[:40]}")
    reported = entry.get("intermediate_values") or {}
    require(isinstance(reported, dict), f"{where}: intermediate_values must be an object, got {reported!r}")
    try:
        intermediate = {int(step): float(score) for step, score in reported.items() if score is not None}
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{where}: intermediate_values must map steps to numbers, got {reported!r}") from None
    try:
        start, complete = (_time(entry.get(name)) for name in ("datetime_start", "datetime_complete"))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: no ISO time: {error}") from None
    score = None if value is None else float(value)
    return FrozenTrial(number, state, score, start, complete, params, {}, {}, {}, intermediate, trial_id=number)


def _state(value: Any, where: str) -> TrialState:
    """A state from its name, from ``TrialState.`` and its name, or from its number, as old Optuna wrote it."""
    text = str(value).removeprefix("TrialState.").upper()
    names = {state.name: state for state in TrialState} | {str(state.value): state for state in TrialState}
    if text not in names or isinstance(value, bool):
        raise InputError(f"{where}: unknown state {value!r}; known are {[state.name for state in TrialState]}")
    return names[text]


def _direction(
    values: Mapping[str, Any], trials: Iterable[FrozenTrial], where: str, given: Direction | None
) -> Direction | None:
    """What the file says, else what was given, else the direction in which the file's best value is the best."""
    said = values.get("direction")
    if said is not None:
        text = str(said).removeprefix("StudyDirection.").lower()
        known: dict[str, Direction] = {"minimize": "minimize", "1": "minimize", "maximize": "maximize", "2": "maximize"}
        if text not in known:
            raise InputError(f"{where}: direction must be minimize or maximize, got {said!r}")
        return known[text]
    scores = [
        t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None and math.isfinite(t.value)
    ]
    if given is not None or not scores:
        return given
    trial = values.get("best_trial")
    best = trial.get("value") if isinstance(trial, dict) else values.get("best_value")
    if best is None or not _is_number(best):
        raise InputError(f"{where}: neither a direction nor a best value; give --direction minimize or maximize")
    lowest, highest = (math.isclose(best, edge, rel_tol=1e-6, abs_tol=1e-12) for edge in (min(scores), max(scores)))
    if lowest == highest:
        which = "the lowest and the highest" if lowest else "neither the lowest nor the highest"
        raise InputError(f"{where}: best value {best} is {which}; give --direction minimize or maximize")
    return "minimize" if lowest else "maximize"


def _read_distributions(values: Any, where: str) -> dict[str, BaseDistribution]:
    try:
        return {name: json_to_distribution(json.dumps(value)) for name, value in (values or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{where}: distributions: {error}") from error


def _infer_space(params: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    names = dict.fromkeys(name for entry in params for name in entry)
    return {name: infer_distribution(name, [entry[name] for entry in params if name in entry]) for name in names}


def infer_distribution(name: str, values: Sequence[Any]) -> BaseDistribution:
    """The search range of a parameter, as far as its values tell.

    Numbers that repeat and are few, such as batch sizes, are taken for choices: a draw from a range of numbers seldom
    repeats.

    Args:
        name: Name of the parameter; learning rates are logarithmic.
        values: Its value in each trial that has it.
    """
    if not all(map(_is_number, values)):
        choices = {json.dumps(value): _choice(value) for value in values}
        return CategoricalDistribution([choices[text] for text in sorted(choices)])
    low, high, distinct = min(values), max(values), sorted(set(values))
    if 2 <= len(distinct) <= _FEW_VALUES and 2 * len(distinct) <= len(values):
        return CategoricalDistribution(distinct)
    log = low > 0 and (high / low > 100 or _LEARNING_RATE.search(name) is not None)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _choice(value: Any) -> CategoricalChoiceType:
    # Optuna's choices are scalars.
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _as_drawn(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return _choice(value)
    return float(value) if isinstance(distribution, FloatDistribution) else value
