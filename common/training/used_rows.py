"""Trains only the rows of an embedding table that are read, with the same result as training all of them.

A label encoder reads a few dozen of its 30,000 word embeddings, yet a gradient, its norm and an AdamW step of the whole
table cost as much as a layer or two. A row that has never had a gradient has zero moments, so all that AdamW does to it
at step t is

    w <- (1 - lr_t decay) w

which for n steps is one product, made when the row is needed. The other rows are a parameter of their own, which takes
the table's place in the optimizer: same formula, same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LEAST_ELEMENTS = 2**20
"""Smaller tables are not worth it."""


class UsedRows:
    """While it is entered, AdamW trains the rows of large embedding tables that are read; outside, whole tables again.

    After each backward pass, before clipping, :meth:`gather` must be called; then the gradients are those of the
    optimizer's parameters, no longer the model's. Modules must read a table by calling it, not by its weight: tied
    tables are left alone.

    Args:
        model: The model.
        optimizer: Its optimizer, AdamW with the tables' weights among its parameters.
        enabled: Without it everything stays as it is. Gradients of several processes are not added up.
    """

    def __init__(self, model: nn.Module, optimizer: Any, *, enabled: bool = True) -> None:
        self.model, self.optimizer, self.enabled = model, optimizer, enabled
        self._tables: list[_Table] = []

    def __enter__(self) -> UsedRows:
        names = [id(parameter) for _, parameter in self.model.named_parameters(remove_duplicate=False)]
        places = {
            id(parameter): (group, index)
            for group in self.optimizer.param_groups
            for index, parameter in enumerate(group["params"])
        }
        for module in self.model.modules() if self.enabled else ():
            if (
                isinstance(module, nn.Embedding)
                and module.weight.numel() >= _LEAST_ELEMENTS
                and id(module.weight) in places
                and names.count(id(module.weight)) == 1
                and module.weight.requires_grad
            ):
                self._tables.append(_Table(module, self.optimizer, *places[id(module.weight)]))
        return self

    def __exit__(self, *_: object) -> None:
        while self._tables:
            self._tables.pop().put_back()

    def gather(self) -> None:
        """Takes in the rows that this step has read for the first time, with their gradients."""
        for table in self._tables:
            table.gather()

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains, and what has the gradients after :meth:`gather`."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


class _Table:
    """One embedding table, its used rows apart."""

    def __init__(self, embedding: nn.Embedding, optimizer: Any, group: dict[str, Any], index: int) -> None:
        self.embedding, self.weight = embedding, embedding.weight
        self.optimizer, self.group, self.index = optimizer, group, index
        self.decay = 1.0  # of the unused rows, not yet applied
        self.unknown: list[Tensor] = []
        state = optimizer.state.pop(self.weight, {})
        used = state["exp_avg_sq"].any(dim=1) if state else self.weight.new_zeros(len(self.weight), dtype=torch.bool)
        # Padding is read all the time and never has a gradient; and one row there must be.
        used[embedding.padding_idx or 0] = True
        self.ids = used.nonzero().flatten()
        self.position = torch.full_like(used, -1, dtype=torch.int64)
        self._train(
            self.weight.detach()[self.ids],
            {key: value if key == "step" else value[self.ids] for key, value in state.items()},
        )
        self.handles = [
            embedding.register_forward_hook(self._look_up),
            getattr(optimizer, "optimizer", optimizer).register_step_post_hook(self._after_step),
        ]

    def _train(self, values: Tensor, state: dict[str, Tensor]) -> None:
        """Makes values, of the rows ``ids``, the parameter that the optimizer trains."""
        self.rows = self.group["params"][self.index] = nn.Parameter(values)
        if state:
            self.optimizer.state[self.rows] = state
        self.position[self.ids] = torch.arange(len(self.ids), device=self.ids.device)
        padding = self.embedding.padding_idx
        self.padding = None if padding is None else int(self.position[padding])

    def _look_up(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """The embeddings from the rows, and what is not among them from the table."""
        positions = self.position[inputs[0]]
        found = nn.functional.embedding(positions.clamp(min=0), self.rows, self.padding)
        unknown = positions < 0
        if not unknown.any():
            return found
        if torch.is_grad_enabled():
            self.unknown.append(inputs[0][unknown])
        decayed = output + (self.decay - 1) * output.detach()
        return torch.where(unknown.unsqueeze(-1), decayed, found)

    @torch.no_grad()
    def gather(self) -> None:
        if not self.unknown:
            return
        new = torch.cat(self.unknown).unique()
        self.unknown.clear()
        old, state, gradient = self.rows, self.optimizer.state.pop(self.rows, {}), self.weight.grad
        self.ids = torch.cat([self.ids, new])
        zeros = self.weight.new_zeros(len(new), self.weight.shape[1])
        self._train(
            torch.cat([old, self.weight[new] * self.decay]),
            {key: value if key == "step" else torch.cat([value, zeros]) for key, value in state.items()},
        )
        if old.grad is not None:
            self.rows.grad = torch.cat([old.grad, zeros if gradient is None else gradient[new]])
        self.weight.grad = None

    def _after_step(self, *_: object) -> None:
        if self.rows.grad is not None:
            self.decay *= 1 - self.group["lr"] * self.group["weight_decay"]

    @torch.no_grad()
    def put_back(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.weight *= self.decay
        self.weight[self.ids] = self.rows
        self.group["params"][self.index] = self.weight
        state = self.optimizer.state.pop(self.rows, {})
        if state:
            self.optimizer.state[self.weight] = {
                key: value if key == "step" else torch.zeros_like(self.weight).index_copy_(0, self.ids, value)
                for key, value in state.items()
            }
