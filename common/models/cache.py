"""A language model's attention keys and values, written in place while an answer is generated."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _Roomy(DynamicLayer):
    """A layer's keys and values, with room for those of tokens to come.

    transformers' own layer makes a new tensor of all of them for each token, which on a CPU takes half of the time of
    a hundred rows.

    Args:
        room: Tokens, those that are there already among them.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Makes the room when batch, heads, widths, type and device are known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._all_keys, self._all_values = (
            states.new_empty(*states.shape[:2], self.room, states.shape[3]) for states in (key_states, value_states)
        )
        self.keys, self.values = self._all_keys[:, :, :0], self._all_values[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes the keys and values of new tokens, shape ``(B, K, Q, D)``, behind the others.

        Returns:
            Those of all tokens, shape ``(B, K, L, D)``: views, whose rows do not follow each other in memory.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first = self.get_seq_length()
        end = first + key_states.shape[2]
        self._all_keys[:, :, first:end], self._all_values[:, :, first:end] = key_states, value_states
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        return self.keys, self.values


def for_rows(read: Cache, rows: int, room: int) -> Cache:
    """The keys and values that some rows begin with.

    Args:
        read: Those of one row; it stays as it is.
        rows: Number of rows.
        room: Tokens that a row may have in the end. Layers that forget, such as sliding windows, need none.
    """
    cache = copy.copy(read)
    cache.layers = [_for_rows(layer, rows, room) for layer in read.layers]
    return cache


def _for_rows(layer: Any, rows: int, room: int) -> Any:
    if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
        layer = copy.deepcopy(layer)
        layer.batch_repeat_interleave(rows)
        return layer
    repeated = _Roomy(room)
    repeated.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
    return repeated
