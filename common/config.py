"""Configuration: frozen dataclasses, the command line built from them, and conversion to and from JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from common.errors import InputError
from common.paths import OUTPUT_VARIABLE
from common.schema import check_value

BEHAVIOUR_VERSION = 2
"""Raised whenever the same settings, data and base model mean another computation than before: what a study has of the
version before is then done again. Other random draws of the same distribution are another seed, no other computation.
Records of runs and results without one are of version 1.

2: the untrained model is scored, equal scores go to the longer trained weights, patience counts steps too, epoch and
thresholds are chosen together, a type with neither gold nor predicted spans is in no mean."""

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Schedule = Literal["linear", "cosine", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
Sampling = Literal["size", "equal"]
Metric = Literal["macro_f1", "micro_f1"]
"""Scores over spans by which something is chosen; :data:`common.evaluation.metrics.METRICS` computes them."""
SelectBy = Literal[Metric, "loss"]
Thresholds = Literal["global", "per-type"]


def require(condition: bool, message: str) -> None:
    """Raises ``InputError`` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def require_share(name: str, value: float) -> None:
    """Raises ``InputError`` unless ``0 <= value <= 1``."""
    require(0 <= value <= 1, f"{name} must be between 0 and 1, got {value}")


def require_rate(name: str, value: float) -> None:
    """Raises ``InputError`` unless a learning rate is positive and finite."""
    require(0 < value < float("inf"), f"{name} must be positive, got {value}")


def type_and_name(text: str, option: str = "--map") -> tuple[str, str]:
    """An entity type and the name that ``TYPE=NAME`` gives it.

    Args:
        text: What the option has.
        option: Its name, for the message.

    Raises:
        InputError: If the text has another form.
    """
    source, _, name = (part.strip() for part in text.partition("="))
    require(bool(source and name), f"{option}: expected TYPE=NAME, got {text!r}")
    return source, name


@dataclass(frozen=True)
class DataConfig:
    """The training data."""

    dataset: tuple[str, ...]
    """Names of generated data sets (folders of datasets/) or paths of such folders.
    Several form a mixture: in each sentence, the model looks only for the types of that sentence's data set."""
    train_size: int | None = None
    """Training sentences per data set (a seeded sample); all if not given."""
    validation_size: int | None = None
    """Validation sentences per data set (a seeded sample); all if not given."""
    map: tuple[str, ...] = ()
    """TYPE=NAME: rename types in a mixture; types with the same name become one type."""
    sampling: Sampling = "size"
    """What an epoch of a mixture contains. size: every sentence once;
    equal: the same total, with equally many sentences from each data set."""

    def __post_init__(self) -> None:
        if isinstance(self.dataset, str):
            object.__setattr__(self, "dataset", (self.dataset,))
        require(bool(self.dataset), "--dataset needs a data set")
        require(
            len(self.dataset) > 1 or (not self.map and self.sampling == "size"),
            "--map and --sampling are for several data sets, see --dataset",
        )
        for text in self.map:
            type_and_name(text)
        for name in ("train_size", "validation_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how to compute."""

    precision: Precision = "auto"
    """Precision of the forward pass. auto: that of the checkpoint or the resumed run;
    without one, bf16 if the GPU has it or, on a CPU, if a short probe finds it faster."""
    device: Device = "auto"
    """Device; auto: the GPU if there is one (cuda, else Apple's mps)."""
    eval_batch_size: int = 32
    """Sentences per evaluation batch, on each device."""
    feature_cache: Literal["memory", "disk", "off"] = "memory"
    """Where to keep the output of a frozen text encoder, which is computed once (in half precision unless fp32).
    disk: in features/, for later runs too."""
    feature_memory_mb: int = 4096
    """Features of a split larger than this (in MiB) go to disk anyway and are memory-mapped."""
    progress: bool = True
    """Show progress bars in a terminal or a notebook."""

    @property
    def bars(self) -> bool:
        """Whether to show progress bars."""
        return self.progress and on_screen()

    def __post_init__(self) -> None:
        require(self.eval_batch_size >= 1, f"eval_batch_size must be at least 1, got {self.eval_batch_size}")
        require(self.feature_memory_mb >= 0, f"feature_memory_mb must be at least 0, got {self.feature_memory_mb}")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop, shared by all approaches."""

    epochs: int = 10
    """Maximum number of passes over the training sentences."""
    batch_size: int = 16
    """Sentences per forward pass, on each device."""
    grad_accumulation: int = 1
    """Batches per optimizer step."""
    max_steps: int | None = None
    """Maximum number of optimizer steps; if not given, --epochs decides."""
    eval_every: int | None = None
    """Optimizer steps between validations; one epoch if not given. A killed run resumes from its last validation."""
    optimizer: Optimizer = "adamw"
    """AdamW, or that of bitsandbytes: with 8-bit states, with states paged out when the GPU is full, or with both."""
    gradient_checkpointing: bool = False
    """Recompute activations of the encoder or language model in the backward pass: less memory, more time."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay; not applied to biases and LayerNorms."""
    warmup_ratio: float = 0.1
    """Share of the optimizer steps over which the learning rate rises linearly."""
    schedule: Schedule = "linear"
    """Learning rate after warm-up: linear decay to 0, half a cosine down to 0, or constant."""
    max_grad_norm: float = 1.0
    """Norm to which the gradients of all trained parameters together are clipped."""
    patience: int = 3
    """Stop after this many validations without a better score; 0: never stop early."""
    patience_steps: int = 50
    """Optimizer steps without a better score that must also have passed; with few sentences, epochs are short."""
    select_by: SelectBy = "macro_f1"
    """Validation score that selects the best weights."""
    thresholds: Thresholds = "global"
    """Thresholds to choose along with the best weights, unless --threshold is given:
    one for all entity types, or one for each type with enough validation entities."""
    seed: int = 42
    """Seed for new weights, batch order and dropout."""
    track: tuple[Tracker, ...] = ()
    """Also report losses and scores to these trackers; TensorBoard event files go into the run folder."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "grad_accumulation", "max_steps", "eval_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("weight_decay", "patience", "patience_steps", "seed"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        require(self.seed < 2**32, f"seed must be less than 2^32, got {self.seed}")
        require(0 < self.max_grad_norm < float("inf"), f"max_grad_norm must be positive, got {self.max_grad_norm}")
        require(self.weight_decay < float("inf"), f"weight_decay must be finite, got {self.weight_decay}")
        require_share("warmup_ratio", self.warmup_ratio)


@dataclass(frozen=True)
class TestConfig:
    """Test a trained checkpoint."""

    dataset: tuple[str, ...]
    """Names of generated data sets (folders of datasets/) or paths of such folders; each gets its own result."""
    checkpoint: str = "latest"
    """A run folder, or latest: the newest finished or interrupted run on this data set or mixture."""
    base_model: str | None = None
    """Where the base model is now, if it has moved since training; its weights must be the same."""
    split: Literal["test", "validation"] = "test"
    """Split to score."""
    threshold: float | None = None
    """Minimum probability of a predicted span of any type; if not given, the checkpoint's own thresholds."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        require(bool(self.dataset), "--dataset needs a data set")
        if self.threshold is not None:
            require_share("threshold", self.threshold)


C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values, as JSON returns them: tuples are lists."""

    def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs}

    return dataclasses.asdict(config, dict_factory=plain)


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings stored by an earlier version, under their current names; new settings keep their defaults."""
    upgraded = dict(values)
    train, data = upgraded.get("train"), upgraded.get("data")
    if isinstance(data, dict) and isinstance(data.get("dataset"), str):
        # Earlier versions knew one data set; a settings file may name one so.
        upgraded["data"] = data | {"dataset": [data["dataset"]]}
    if isinstance(train, dict) and "tensorboard" in train:
        rest = {name: value for name, value in train.items() if name != "tensorboard"}
        upgraded["train"] = rest | {"track": ["tensorboard"] if train["tensorboard"] else []}
    return upgraded


def from_dict(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """A configuration from nested plain values; fields that are not given keep their defaults.

    Args:
        cls: Dataclass to build.
        values: Nested mapping.
        where: Name of the source in messages.

    Raises:
        InputError: If a field is unknown, missing or of a wrong kind.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"{where}: unknown settings {unknown}; known are {sorted(hints)}")
    arguments: dict[str, Any] = {}
    defaults = {field.name: field.default for field in dataclasses.fields(typing.cast(Any, cls))}
    for name, value in values.items():
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {name} must be an object, got {value!r}")
            # A group given in part keeps this class's defaults, which may differ from those of the group's own class.
            default = defaults.get(name)
            full = merge(to_dict(default), value) if dataclasses.is_dataclass(default) else value
            arguments[name] = from_dict(typing.cast(type, kind), full, f"{where}: {name}")
            continue
        check_value(value, kind, where, name)
        # JSON has no tuples.
        arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**arguments)
    except (InputError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error


def on_screen() -> bool:
    """Whether progress bars can be seen as such: in a terminal or a notebook, not in a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """``base``, overridden by the nested values of ``update``."""
    merged = dict(base)
    for name, value in update.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse(
    cls: type[C],
    argv: Sequence[str] | None = None,
    *,
    default: C | None = None,
    description: str | None = None,
    command: str | None = None,
) -> C:
    """A configuration from the command line; field names are the options, without prefixes of their groups.

    Every command also takes ``--output-root``, which holds for this process and the processes that it starts.
    Messages name ``command``, by default that of this process.
    """
    return parse_known(cls, argv, default=default, description=description, command=command, strict=True)[0]


def parse_known(
    cls: type[C],
    argv: Sequence[str] | None = None,
    *,
    default: C | None = None,
    description: str | None = None,
    command: str | None = None,
    strict: bool = False,
) -> tuple[C, list[str]]:
    """As :func:`parse`, and the arguments that ``cls`` does not know; none if ``strict``."""
    arguments = take_output_root(sys.argv[1:] if argv is None else argv)
    options: dict[str, Any] = {} if default is None else {"default": default}
    text = (
        f"{description or (cls.__doc__ or '').splitlines()[0]}\n\n--output-root DIR: folder of data sets, checkpoints "
        f"and results; if not given, the environment variable {OUTPUT_VARIABLE}, else the working directory."
    )
    options |= {"args": arguments, "description": text, "config": (tyro.conf.OmitArgPrefixes,)}
    options["prog"] = command or _command()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return (tyro.cli(cls, **options), []) if strict else tyro.cli(cls, return_unknown_args=True, **options)
    except SystemExit as end:
        # tyro draws a box around what a configuration refuses; everywhere else that is one line.
        cause = end.__context__
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        sys.stderr.write(said.getvalue())
        raise


def _command() -> str:
    """How this process was called, without a path of the machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def take_output_root(argv: Sequence[str]) -> list[str]:
    """Sets what ``--output-root`` says and returns the other arguments."""
    for argument in argv:
        # A file name of another encoding cannot go into a record.
        require(not any("\ud800" <= letter <= "\udfff" for letter in argument), f"{argument!a}: is not UTF-8")
    root, arguments = take_option(argv, "--output-root")
    if root is not None:
        require(root != "", "--output-root needs a folder")
        os.environ[OUTPUT_VARIABLE] = os.path.abspath(root)
    return arguments


def values_of(argv: Sequence[str], option: str) -> tuple[str, ...]:
    """The values of the last use of an option that takes several, up to the next option; the arguments stay."""
    values: tuple[str, ...] = ()
    places = [*(place for place, argument in enumerate(argv) if argument.startswith("-")), len(argv)]
    for place, end in itertools.pairwise(places):
        name, separator, first = argv[place].partition("=")
        if name == option:
            values = (*((first,) if separator else ()), *argv[place + 1 : end])
    return values


def take_option(argv: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The last value of an option, written ``--option value`` or ``--option=value``, and the other arguments.

    Raises:
        InputError: If its value is missing.
    """
    value: str | None = None
    rest: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == option:
            value = next(arguments, None)
            require(value is not None, f"{option} needs a value")
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return value, rest


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``name: first != second`` for each setting in which two nested configurations differ."""
    found = []
    for name in sorted(set(first) | set(second)):
        left, right = first.get(name), second.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            found.append(f"{prefix}{name}: {json.dumps(left)} != {json.dumps(right)}")
    return found
