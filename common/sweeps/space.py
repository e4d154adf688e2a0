"""Search spaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from common.config import merge, require

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True)
class Float:
    """A real setting."""

    path: str
    """Where it is in the configuration, as ``train.weight_decay``."""
    low: float
    high: float
    log: bool = False
    when: str | None = None
    """Name of a switch that has to be on; off, the setting keeps its default."""


@dataclass(frozen=True)
class Choice:
    """A setting with a few values."""

    path: str
    options: tuple[Any, ...]


@dataclass(frozen=True)
class Switch:
    """No setting itself: says whether those with ``when`` take part, which they do not by default."""

    name: str


Parameter = Float | Choice | Switch

Space = Sequence[Parameter]

# What several approaches search, as they share the settings.
SPAN_LOSS: Space = (
    Switch("use_focal"),
    Float("focal_gamma", 2.0, 5.0, when="use_focal"),
    Float("focal_alpha", 0.25, 0.75, when="use_focal"),
)
TOKEN_LOSS: Space = (
    Float("token.temperature", 0.01, 0.5, log=True),
    Float("focal.gamma", 0.0, 6.0),
    Choice("focal.beta", (0.0, 0.999, 0.9999)),
)
PROMPTS: Space = (
    Choice("prompts.pooling", ("adaptive_avg", "attention", "conv1d")),
    Choice("prompts.prompt_length", (16, 32, 64)),
)


def name_of(parameter: Parameter) -> str:
    """The parameter's name in the study: the last part of its path."""
    return parameter.name if isinstance(parameter, Switch) else parameter.path.rpartition(".")[2]


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """A trial's settings, nested as in the configuration; what a switch turns off is not among them."""
    settings: dict[str, Any] = {}
    switches: dict[str, bool] = {}
    for parameter in space:
        name = name_of(parameter)
        if isinstance(parameter, Switch):
            switches[name] = bool(trial.suggest_categorical(name, [True, False]))
            continue
        if isinstance(parameter, Choice):
            value: Any = trial.suggest_categorical(name, list(parameter.options))
        elif parameter.when is None or switches[parameter.when]:
            value = trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
        else:
            continue
        settings = merge(settings, nested(parameter.path, value))
    return settings


def default_parameters(space: Space, config: Any) -> dict[str, Any]:
    """The parameters of the trial that has the configuration's own settings.

    Raises:
        InputError: If a setting is none of those that the space tries.
    """
    values: dict[str, Any] = {}
    for parameter in space:
        if isinstance(parameter, Switch):
            values[parameter.name] = False
        elif isinstance(parameter, Choice):
            value = values[name_of(parameter)] = attrgetter(parameter.path)(config)
            tried = list(parameter.options)
            require(value in tried, f"{parameter.path} is {value!r}, which is none of what the sweep tries: {tried}")
        elif parameter.when is None:
            values[name_of(parameter)] = attrgetter(parameter.path)(config)
    return values


def combinations(space: Space) -> int | None:
    """How many combinations there are if every parameter has a few values; else None."""
    choices = [parameter for parameter in space if isinstance(parameter, Choice)]
    return math.prod(len(parameter.options) for parameter in choices) if len(choices) == len(space) else None


def nested(path: str, value: Any) -> dict[str, Any]:
    """A setting as configurations have it."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value
