"""A key/value cache for sampling: it grows in steps instead of at every token, and lets go of rows that have stopped.

`DynamicCache` copies all its keys and values at every token; here a token is written into room that is already there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

GROWTH = 32  # columns of room added at once: one copy in 32 tokens, and little memory ahead of need


class DecodingCache(Cache):
    """Keys and values of every layer, filled by the model as any cache of transformers."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_DecodingLayer)

    def keep(self, rows: Tensor, first_column: int) -> None:
        """Go on with some rows and columns only.

        Args:
            rows: int64[k], the rows that stay, in their new order. Only those that change place are copied, so each
                row below k that stays must keep its place.
            first_column: columns before it are left out.
        """
        places = torch.arange(len(rows), device=rows.device)
        new = (rows != places).nonzero().squeeze(1)
        for layer in self.layers:
            layer.keep(len(rows), new, rows[new], first_column)


class _DecodingLayer(DynamicLayer):
    """One layer: `keys` and `values` are views [rows, heads, columns, channels] of larger buffers."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append float[B, H, L, C]; returns all keys and values so far, float[B, H, past + L, C]."""
        past = 0
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        else:
            past = self.keys.shape[2]
        if past == 0 or self._end + key_states.shape[2] > self._key_buffer.shape[2]:
            self._key_buffer = _larger(self.keys, key_states, past)
            self._value_buffer = _larger(self.values, value_states, past)
            self._first, self._end = 0, past
        new = slice(self._end, self._end + key_states.shape[2])
        rows = key_states.shape[0]
        self._key_buffer[:rows, :, new] = key_states
        self._value_buffer[:rows, :, new] = value_states
        self._end = new.stop
        self._show(rows)
        return self.keys, self.values

    def keep(self, rows: int, places: Tensor, sources: Tensor, first_column: int) -> None:
        """Copy rows `sources` int64[m] to `places` int64[m]; then the first `rows` stay, from `first_column` on."""
        if len(places):
            self.keys[places] = self.keys[sources]
            self.values[places] = self.values[sources]
        self._first += first_column
        self._show(rows)

    def _show(self, rows: int) -> None:
        self.keys = self._key_buffer[:rows, :, self._first : self._end]
        self.values = self._value_buffer[:rows, :, self._first : self._end]


def _larger(old: Tensor, new: Tensor, past: int) -> Tensor:
    """Room for `new` float[B, H, L, C] behind the `past` columns of `old`, which are copied, and for `GROWTH` more."""
    rows, heads, columns, channels = new.shape
    buffer = new.new_empty(rows, heads, past + columns + GROWTH, channels)
    if past:
        buffer[:, :, :past] = old
    return buffer
