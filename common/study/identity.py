"""What a result depends on: how a study recognises its cells among all results and runs, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config import BEHAVIOUR_VERSION, differences, to_dict
from common.errors import InputError
from common.evaluation.results import companions, read_result
from common.registry import spec
from common.training.records import WEIGHTS_FILE, runs_of

Identity = dict[str, Any]
"""All that a result depends on: configuration without places, data, base model, behaviour version."""


def identity(
    approach: str, config: Any, dataset_sha256: str, base_model: Mapping[str, Any], behaviour: int = BEHAVIOUR_VERSION
) -> Identity:
    """What the result of a configuration depends on; of the base model ``name`` and ``revision`` count."""
    values = to_dict(config)
    # Content hash and revision stand for the places of data and base model; of the runtime only the precision counts.
    precision = values.pop("runtime")["precision"]
    for place in (("base_model",), ("dataset",), ("data", "dataset"), ("train", "track")):
        group = values if len(place) == 1 else values.get(place[0], {})
        group.pop(place[-1], None)
    base = {name: base_model[name] for name in ("name", "revision")}
    found = {"approach": approach, "configuration": values, "precision": precision, "dataset_sha256": dataset_sha256}
    return json.loads(json.dumps(found | {"base_model": base, "behaviour": behaviour}))


def identity_of(record: Mapping[str, Any], where: str) -> Identity:
    """What a stored result or run depends on, of this or an earlier version.

    Raises:
        InputError: If its configuration is none of its approach's.
    """
    approach, data = record["approach"], record["dataset"]
    config = spec(approach).stored_config(record["config"], where)
    sha256 = data["sha256"] if isinstance(data, Mapping) else record["dataset_sha256"]
    training = record.get("training") or {}
    provenance = training.get("provenance") or record["provenance"]
    found = identity(approach, config, sha256, record["base_model"], provenance.get("behaviour", 1))
    # A result on one data set says itself that its model was trained on several; a run has their common hash.
    return found | ({"mixture": training["dataset"]["sha256"]} if "mixture" in record else {})


def changes(found: Identity, wanted: Identity) -> list[str]:
    """``name: found != wanted`` for all that differs; a revision that nobody asked for (None) does not."""
    if wanted["base_model"]["revision"] is None:
        wanted = wanted | {"base_model": wanted["base_model"] | {"revision": found["base_model"]["revision"]}}
    return differences(found, wanted)


def stored_result(path: Path) -> tuple[dict[str, Any], Identity] | None:
    """A result and what it depends on; None if it is not there, not whole or not to be read."""
    if not all(companion.is_file() for companion in companions(path)):
        return None
    try:
        result = read_result(path)
        return result, identity_of(result, str(path))
    except (InputError, KeyError):
        return None


def matching_runs(approach: str, dataset: str, wanted: Identity, savings: Path) -> list[tuple[Path, str]]:
    """Run folders in ``savings`` with these settings, and their status; finished ones first, then the newest."""
    found = []
    for path, record in reversed(runs_of(spec(approach), dataset, savings)):
        try:
            same = not changes(identity_of(record, str(path)), wanted)
        except (InputError, KeyError):
            continue
        whole = record["status"] != "finished" or (path / WEIGHTS_FILE).is_file()
        if same and whole:
            found.append((path, record["status"]))
    return sorted(found, key=lambda item: item[1] != "finished")
