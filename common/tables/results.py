"""Reads result files into checked, typed records: the only place that knows what each version's files may hold."""

from __future__ import annotations

import json
import logging
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from common.config import Metric, require, to_dict, upgrade
from common.errors import InputError
from common.evaluation.results import counts_path
from common.evaluation.transfer_record import TRANSFER_FOLDER
from common.files import read_json
from common.paths import is_file_name, output_root
from common.registry import APPROACHES, spec
from common.spec import Variant, variant_text

logger = logging.getLogger(__name__)

MISSING = "missing"
PACKAGES = ("torch", "transformers", "gliner")
"""What a result also depends on: runs with other versions of these may behave in another way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A result file: its fields and at which dotted place the file has each. What an earlier version lacks is None."""

    path: Path
    created: Annotated[str, "created"]
    approach: Annotated[str, "approach"]
    stored_variant: Annotated[str | dict[str, str], "variant"]
    dataset: Annotated[str, "dataset"]
    kind: Annotated[str, "base_model.kind", "base_model.encoder"]
    """Kind of base model."""
    config: Annotated[dict[str, Any], "config"]
    micro_f1: Annotated[float, "scores.micro.f1"]
    macro_f1: Annotated[float, "scores.macro.f1"]
    mixture: Annotated[str | None, "mixture"] = None
    """Name of the mixture of data sets that it was trained on; None if on this one."""
    dataset_sha256: Annotated[str | None, "dataset_sha256"] = None
    split: Annotated[str, "split"] = "test"
    given_threshold: Annotated[float | None, "given_threshold"] = None
    """Threshold of the test's command line; None if the checkpoint's own were used."""
    base: Annotated[str, "base_model.name"] = MISSING
    revision: Annotated[str | None, "base_model.revision"] = None
    seed: Annotated[int | None, "seed"] = None
    """None if nothing in it is random."""
    precision: Annotated[str | None, "training.precision", "precision"] = None
    """Of the training; of the test where nothing was trained."""
    packages: Annotated[dict[str, str], "training.provenance.packages", "provenance.packages"] = field(
        default_factory=dict
    )
    behaviour: Annotated[int, "training.provenance.behaviour", "provenance.behaviour"] = 1
    """Version of the code's behaviour, see :data:`common.config.BEHAVIOUR_VERSION`."""
    per_type: Annotated[dict[str, dict[str, float]], "scores.per_type"] = field(default_factory=dict)
    intervals: Annotated[dict[str, tuple[float, float]], "intervals"] = field(default_factory=dict)
    word_macro_f1: Annotated[float | None, "token_report.macro.f1"] = None
    gold: Annotated[int | None, "unreachable_gold.gold"] = None
    unreachable: Annotated[int | None, "unreachable_gold.lost"] = None
    unreachable_by_reason: Annotated[dict[str, int] | None, "unreachable_gold.by_reason"] = None
    ceiling: Annotated[dict[str, float], "unreachable_gold.ceiling"] = field(default_factory=dict)
    """The best F1 by metric that the unreachable gold spans leave possible."""
    n_test: Annotated[int | None, "speed.sentences"] = None
    """Scored sentences."""
    sentences_per_second: Annotated[float | None, "speed.sentences_per_second"] = None
    account: Annotated[list[str], "account.summary"] = field(default_factory=list)
    """What a model says about its predictions, in sentences."""
    trainable: Annotated[int | None, "parameters.trainable"] = None
    with_gradient: Annotated[int | None, "parameters.with_gradient"] = None
    parameters: Annotated[int | None, "parameters.total"] = None
    training: Annotated[dict[str, Any] | None, "training"] = None
    """None if nothing was trained; so are the next ones."""
    checkpoint: Annotated[str | None, "training.checkpoint"] = None
    """Name of the run folder; None in results of earlier versions too."""
    n_train: Annotated[int | None, "training.dataset.train"] = None
    """Training sentences."""
    n_validation: Annotated[int | None, "training.dataset.validation"] = None
    train_size: Annotated[int | None, "config.data.train_size"] = None
    """How many training sentences were asked for; None if all."""
    epochs: Annotated[int | None, "training.epochs"] = None
    seconds_per_epoch: Annotated[float | None, "training.seconds_per_epoch"] = None
    train_seconds: Annotated[float | None, "training.train_seconds"] = None
    feature_seconds: Annotated[float | None, "training.feature_seconds"] = None
    peak_mib: Annotated[dict[str, float], "training.peak_memory_mb"] = field(default_factory=dict)
    """Highest memory use by kind of memory."""
    checkpoint_bytes: Annotated[int | None, "training.checkpoint_bytes"] = None
    errors: dict[str, int] = field(default_factory=dict)
    """Numbers of spans by kind of error, see :class:`common.evaluation.error_kinds.ErrorReport`."""
    machines: tuple[str, ...] = ()
    """What it was trained on, in order: several where a resumed run changed machines."""

    def f1(self, metric: Metric) -> float:
        """A score, in [0, 1]."""
        return {"micro_f1": self.micro_f1, "macro_f1": self.macro_f1}[metric]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its configuration, complete; that of an earlier version with the defaults of what is new."""
        try:
            return to_dict(spec(self.approach).stored_config(self.config, str(self.path)))
        except InputError:
            # Of an approach that is not here, or of a version that had other settings.
            return upgrade(self.config)

    @cached_property
    def variant(self) -> Variant:
        """The variant by its aspects."""
        if not isinstance(self.stored_variant, str):
            return self.stored_variant
        # Results of format 1 have a text. Their configuration says what it stands for.
        try:
            known = spec(self.approach)
            return known.variant(known.stored_config(self.config, str(self.path)))
        except InputError:
            return {"variant": self.stored_variant}

    @property
    def machine(self) -> str:
        """What it was trained on; all of them where a resumed run changed machines."""
        return " and ".join(dict.fromkeys(self.machines)) or MISSING

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of :data:`PACKAGES`, without the build for a kind of device: that is told by the precision."""
        known = {name: self.packages.get(name, "unknown") for name in PACKAGES}
        return {name: version.partition("+")[0] for name, version in known.items()}

    @cached_property
    def identity(self) -> str:
        """All that a result is but for its seed: results of the same identity are repetitions.

        Where it ran is not in it. The base is named by its content, so that two bases of one name stay apart.
        """
        config = {name: value for name, value in self.settings.items() if name not in ("runtime", "data")}
        if isinstance(config.get("train"), dict):
            config["train"] = {name: v for name, v in config["train"].items() if name not in ("seed", "track")}
        if self.mixture is not None and isinstance(data := self.settings.get("data"), dict):
            config["data"] = {name: v for name, v in data.items() if name in ("dataset", "map")}
        what = [self.approach, variant_text(self.variant), self.dataset, self.split, self.precision]
        what.append(str(self.behaviour))
        if self.given_threshold is not None:
            what.append(str(self.given_threshold))
        sizes = [self.n_train, self.n_validation, self.n_test]
        return json.dumps([what, self.base, self.revision, sizes, config], sort_keys=True)


def _nested(value: Any, place: str) -> Any:
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _checked(value: Any, kind: Any, where: str) -> Any:
    """A JSON value as a kind of value; no number is negative, infinite or none."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None and types.NoneType in inner:
            return None
        options = [option for option in inner if option is not types.NoneType]
        kind = next((option for option in options if (option is str) == isinstance(value, str)), options[0])
        return _checked(value, kind, where)
    if origin is dict and isinstance(value, dict):
        return {name: _checked(item, inner[1], f"{where}.{name}") for name, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_checked(item, inner[0], where) for item in value]
    if origin is tuple and isinstance(value, list) and len(value) == len(inner):
        return tuple(_checked(item, of, where) for item, of in zip(value, inner, strict=True))
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2**64
    if kind is Any or (kind in (str, int) and isinstance(value, kind) and (kind is str or number)):
        return value
    if kind is float and number:
        return float(value)
    names = {
        str: "text", int: "a whole number from 0", float: "a number from 0", dict: "an object", tuple: "a pair",
        list: "a list",
    }  # fmt: skip
    raise InputError(f"{where} must be {names[origin or kind]}, got {str(value)[:60]!r}")


def read_one(path: Path) -> Result:
    """The result in a file.

    Raises:
        InputError: If it is no result file or a value in it is of another kind than it must be.
    """
    return _result(path, read_json(path))


def _result(path: Path, stored: Any) -> Result:
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(Result, include_extras=True)
    for name, hint in hints.items():
        for place in getattr(hint, "__metadata__", ()):
            if name not in values and (value := _nested(stored, place)) is not None:
                values[name] = _checked(value, typing.get_args(hint)[0], f"{path}: {place}")
    required = {item.name for item in fields(Result) if item.default is item.default_factory} - {"path", "kind"}
    if lacking := [hint.__metadata__[0] for name, hint in hints.items() if name in required - values.keys()]:
        raise InputError(f"{path}: is no result file, it lacks {', '.join(lacking)}")
    # A data set may lie in a folder of any name.
    name = values["dataset"]
    require(is_file_name(name), f"{path}: dataset must be a name without a path in it, got {name!r}")
    kind = values.setdefault("kind", "bi")
    if values["approach"] in APPROACHES and kind not in spec(values["approach"]).kinds:
        raise InputError(f"{path}: base_model.kind: {values['approach']} has no kind {kind!r}")
    require(max(values["micro_f1"], values["macro_f1"]) <= 1, f"{path}: scores: an F1 is at most 1")
    errors = _checked(_nested(stored, "errors") or {}, dict[str, Any], f"{path}: errors")
    training = values.get("training") or {}
    earlier = training.get("earlier_provenance")
    starts = [*(earlier if isinstance(earlier, list) else ()), training.get("provenance")]
    return Result(
        **values,
        path=path,
        errors=_checked({n: v for n, v in errors.items() if n != "confusion"}, dict[str, int], f"{path}: errors"),
        machines=tuple(_machine_name(machine, str(path)) for start in starts if (machine := _nested(start, "machine"))),
    )


def _machine_name(machine: Any, where: str) -> str:
    gpu = _checked(_nested(machine, "gpu"), str | None, f"{where}: machine.gpu")
    threads = _checked(_nested(machine, "threads"), int | None, f"{where}: machine.threads")
    on_cpu = "CPU" if threads is None else f"CPU, {threads} thread{'s' * (threads != 1)}"
    return gpu or on_cpu


def read_results(places: Sequence[Path], dataset: str | None = None) -> list[Result]:
    """The results in some places; of those with the same identity and seed the newest, the log names the others.

    Args:
        places: Result files and folders; JSON files in a folder that are no results at all are passed over, and so are
            bad results among good ones.
        dataset: Only results on this data set.

    Raises:
        InputError: If a place does not exist, no result is there or all of them are bad.
    """
    found, bad = [], []
    for place in places:
        require(place.exists(), f"{place}: no such file or folder")
        for path in sorted(place.rglob("*.json")) if place.is_dir() else [place]:
            try:
                stored = read_json(path)
                if path == place or (isinstance(stored, dict) and stored.keys() & {"approach", "scores"}):
                    found.append(_result(path, stored))
                elif path.parent.name != TRANSFER_FOLDER:
                    logger.info("%s: passed over, it is no result", path)
            except (InputError, OSError) as error:
                bad.append(str(error))
    if bad and not found:
        raise InputError(bad[0] + (f" (and {len(bad) - 1} more that cannot be used)" if len(bad) > 1 else ""))
    for text in bad:
        logger.warning("passed over: %s", text)
    newest: dict[tuple[str, int | None], Result] = {}
    # A copy with its counts beside it tells more than one without.
    for result in sorted(found, key=lambda item: (item.created, counts_path(item.path).is_file(), str(item.path))):
        if dataset not in (None, result.dataset):
            continue
        older = newest.get(key := (result.identity, result.seed))
        if older is not None and older.created != result.created:
            logger.info("%s: not used, %s is newer and has the same settings and seed", older.path, result.path)
        newest[key] = result
    where = (
        f" in {', '.join(map(str, places))}"
        if places
        else "; test an approach first, or name files or folders with --results"
    )
    require(bool(newest), f"no results found{f' on {dataset}' if dataset else ''}{where}")
    return list(newest.values())


def own_places() -> list[Path]:
    """Where a user's own results are: the test_results folders, and the results of a study."""
    root = output_root()
    return [path for path in (*sorted(root.glob("*/test_results")), root / "study" / "results") if path.is_dir()]
