"""A language model's attention keys and values, written in place while an answer is generated."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class _PreallocatedLayer(DynamicLayer):
    """A layer's keys and values in memory that is allocated once.

    transformers' own layer copies all of them for each new token, which with many rows takes much of the time. Rows
    keep their places: there is no beam search.

    Args:
        capacity: Tokens per row, at most.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates the memory, once batch, heads, widths, type and device are known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._all_keys, self._all_values = (
            states.new_empty(*states.shape[:2], self.capacity, states.shape[3]) for states in (key_states, value_states)
        )
        self.keys, self.values = self._all_keys[:, :, :0], self._all_values[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes the keys and values of new tokens, shape ``(B, K, Q, D)``, after the others.

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


def bears_gap(config: Any, capacity: int) -> bool:
    """Whether rows may have masked places between a prefix and what follows, so that rows of any length share it.

    Not where a layer counts places instead of looking at the mask: a sliding window shorter than the rows sees less of
    the prefix, and a convolution or a recurrent state none of it as it was.

    Args:
        config: Of the network.
        capacity: Tokens per row, at most, masked places included.
    """
    return all(
        type(layer) is DynamicLayer or getattr(layer, "sliding_window", 0) >= capacity
        for layer in DynamicCache(config=config).layers
    )


def for_rows(prefix: Cache, rows: int, capacity: int) -> Cache:
    """A cache of several rows that share a prefix.

    Args:
        prefix: The cache of one row that holds the prefix; it is not changed.
        rows: Number of rows.
        capacity: Tokens per row, at most; without effect on layers that drop old tokens, such as sliding windows.
    """
    cache = copy.copy(prefix)
    cache.layers = [_repeated(layer, rows, capacity) for layer in prefix.layers]
    return cache


def _repeated(layer: Any, rows: int, capacity: int) -> Any:
    if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
        layer = copy.deepcopy(layer)
        layer.batch_repeat_interleave(rows)
        return layer
    repeated = _PreallocatedLayer(capacity)
    repeated.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
    return repeated
