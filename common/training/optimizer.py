"""Optimizers by name, their parameter groups, and the learning rate schedule."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.approach import TrainedPart, declared_parameters
from common.config import Optimizer, Schedule
from common.errors import InputError


def schedule_factor(step: int, *, total: int, warmup: int, schedule: Schedule = "linear") -> float:
    """Share of the peak learning rate: from 0 to 1 over ``warmup`` steps, then by the schedule to 0 at ``total``."""
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    left = max(0.0, (total - step) / max(1, total - warmup))
    return left if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - left)))


def optimizer_groups(model: nn.Module, parts: Sequence[TrainedPart], weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: for each part one with weight decay and one without, none empty.

    Without are biases, LayerNorms, and all of a part that says so.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups = []
    declared = declared_parameters(model, parts)
    for part in parts:
        parameters = declared[part.name]
        plain = {
            name
            for name, p in parameters.items()
            if not part.decays or id(p) in norms or "bias" in name.rpartition(".")[2]
        }
        for suffix, names, decay in (
            ("", [name for name in parameters if name not in plain], weight_decay),
            (", no decay", [name for name in parameters if name in plain], 0.0),
        ):
            if names:
                groups.append(
                    {
                        "name": f"{part.name}{suffix}",
                        "params": [parameters[name] for name in names],
                        "lr": part.learning_rate,
                        "initial_lr": part.learning_rate,
                        "weight_decay": decay,
                        "starts_after": part.starts_after,
                    }
                )
    return groups


_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw": "PagedAdamW",
    "paged_adamw_8bit": "PagedAdamW8bit",
}


def make_optimizer(name: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer over :func:`optimizer_groups`.

    Raises:
        InputError: If it needs a package that is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise InputError(f"--optimizer {name} needs the package bitsandbytes: pip install bitsandbytes") from error
    return getattr(library.optim, _BITSANDBYTES[name])(groups)


def stored_state(
    name: Optimizer, values: Mapping[str, Any], trained: Mapping[str, nn.Parameter], with_gradient: int, where: str
) -> dict[str, dict[str, Any]]:
    """The optimizer's state of each parameter, from values named ``<key>/<parameter>``.

    Args:
        name: The optimizer.
        values: Tensors and numbers.
        trained: The parameters that it trains.
        with_gradient: Weights that have had a gradient, each of which has a state.
        where: What to call the file in messages.

    Raises:
        InputError: If a parameter's state is missing, not whole or not of its shape.
    """
    state: dict[str, dict[str, Any]] = {}
    for place, value in values.items():
        key, _, parameter = place.partition("/")
        if parameter not in trained:
            raise InputError(f"{where}: holds a state of {parameter!r}, which is not trained")
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{where}: optimizer/{place} has values that are no finite numbers")
        state.setdefault(parameter, {})[key] = value
    found = sum(trained[parameter].numel() for parameter in state)
    if found < with_gradient:
        raise InputError(
            f"{where}: lacks the optimizer's state of {with_gradient - found:,} of {with_gradient:,} weights, without "
            "which training would not go on as it was"
        )
    if name == "adamw":
        for parameter, moments in state.items():
            shape = trained[parameter].shape
            wanted = {"step": torch.Size(()), "exp_avg": shape, "exp_avg_sq": shape}
            shapes = {
                key: value.shape if isinstance(value, Tensor) else torch.Size(()) for key, value in moments.items()
            }
            if shapes != wanted:
                raise InputError(
                    f"{where}: the optimizer's state of {parameter} must have the shapes "
                    f"{ {key: tuple(size) for key, size in wanted.items()} }, got "
                    f"{ {key: tuple(size) for key, size in shapes.items()} }"
                )
    return state
