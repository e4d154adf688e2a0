"""Where a training's settings come from: the code, its data set, a file, the command line."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, cast

from common.config import TrainConfig, from_dict, merge, parse, require, take_option, upgrade, values_of
from common.data.dataset import LABEL2ID_FILE, dataset_dir
from common.data.spans import OUTSIDE
from common.errors import InputError
from common.files import read_json, unique_keys
from common.schema import check, read_record
from common.spec import ApproachSpec

logger = logging.getLogger(__name__)

C = TypeVar("C")

ORIGIN, TYPES = "origin", "types"
"""Keys of a settings file that set nothing: the origin of its values, and the entity types they were found for."""


def parse_training(
    spec: ApproachSpec[C], argv: Sequence[str] | None = None, command: str | None = None
) -> tuple[C, str | None]:
    """The configuration of a training run, and the value of ``--resume``.

    Later sources win: the defaults of the code, ``<approach>/configs/<data set>.json``, ``--config FILE``, the command
    line. Messages name ``command``, by default that of this process.

    Returns:
        The configuration, and None, ``latest`` or the path of a run folder.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    file, arguments = take_option(arguments, "--config")
    resume, arguments = take_option(arguments, "--resume")
    # A shell's variable that is not set would have another training begin.
    require(resume != "", "--resume needs latest or a run folder")
    given = _settings(read_json(Path(file), unique_keys), file) if file is not None else {}
    data = given.get("data", {})
    require(isinstance(data, dict), f"{file}: data must be an object, got {data!r}")
    named = data.get("dataset", [])
    require(
        isinstance(named, list) and all(isinstance(name, str) for name in named),
        f"{file}: data.dataset must be a text or a list of texts, got {named!r}",
    )
    datasets = values_of(arguments, "--dataset") or tuple(named)
    # Settings were found for one corpus, not for a mixture.
    settings = merge(dataset_defaults(spec, datasets[0]), given) if len(datasets) == 1 else given
    default: C | None = None
    if settings:
        if not datasets:
            raise InputError("--dataset is missing")
        where = file or f"{spec.name}/configs/{Path(datasets[0]).name}.json"
        default = from_dict(spec.config, merge(settings, {"data": {"dataset": list(datasets)}}), where)
        # What depends on another setting is settled after the command line has had its say on that one.
        for item in dataclasses.fields(cast(Any, default)):
            if item.name not in settings and item.name != "data":
                object.__setattr__(default, item.name, item.default)
    description = (
        f"{(spec.config.__doc__ or '').splitlines()[0]}\n\n"
        "--config FILE: settings as JSON, as a sweep writes them; the command line wins.\n"
        "--resume latest|RUN: resume an unfinished run; repeat its other options."
    )
    config: Any = parse(spec.config, arguments, default=default, description=description, command=command)
    require(
        spec.mixtures or len(config.data.dataset) == 1,
        f"--dataset: {spec.title} is trained on one data set, got {' '.join(config.data.dataset)}",
    )
    if config.train.thresholds != TrainConfig.thresholds:
        require(hasattr(config, "threshold"), f"--thresholds: {spec.title} takes the best class and has no threshold")
        require(config.threshold is None, f"--thresholds: nothing is chosen, --threshold gives {config.threshold}")
    return config, resume


def dataset_defaults(spec: ApproachSpec[Any], dataset: str) -> dict[str, Any]:
    """The settings in ``<approach>/configs/<data set>.json``.

    They belong to the corpus, not to its name: a data set of that name with other entity types gets none of them.

    Args:
        spec: The approach.
        dataset: Name or path of the data set.

    Returns:
        Nested settings; empty if the approach has no such file.
    """
    file: Traversable = files(spec.name) / "configs" / f"{Path(dataset).name}.json"
    if not file.is_file():
        return {}
    where = f"{spec.name}/configs/{file.name}"
    values = read_json(Path(str(file)), unique_keys)
    found_for = values.get(TYPES) if isinstance(values, dict) else None
    labels = dataset_dir(dataset) / LABEL2ID_FILE
    if found_for is not None and labels.is_file():
        types = sorted(set(read_record(labels, dict[str, int])) - {OUTSIDE})
        if types != sorted(found_for):
            logger.warning("%s is not used: it is for the types %s, %s has %s", where, found_for, dataset, types)
            return {}
    logger.info("settings of %s", where)
    return _settings(values, where)


def _settings(values: Any, where: str | None) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected an object of settings, got {type(values).__name__}")
    check(values, dict[str, Any], str(where))
    return upgrade({name: value for name, value in values.items() if name not in (ORIGIN, TYPES)})
