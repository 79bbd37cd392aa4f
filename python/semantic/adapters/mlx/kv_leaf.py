"""Caches of keys and values: plain, concatenated, quantised, rotating, chunked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx

from semantic.adapters.mlx.leaf import KEYS_VALUES, Leaf, LeafShape, Run, token_tensor
from semantic.domain.at_rest import BIASES, PACKED, SCALES
from semantic.domain.growth import kept_from
from semantic.domain.layer_group import Growth, LayerGroup, LayerType, Span

__all__ = [
    "ChunkedLeaf",
    "ConcatenateLeaf",
    "KVLeaf",
    "QuantisedLeaf",
    "RotatingLeaf",
    "new_chunked",
    "new_kv",
    "new_quantised",
    "new_rotating",
]

Arrays = Mapping[str, mx.array]

_PARTS = tuple(
    (tensor, part, tensor + suffix)
    for tensor in KEYS_VALUES
    for part, suffix in enumerate((PACKED, SCALES, BIASES))
)
"""(attribute, place in its triple, tensor name) of a quantised cache."""


class KVLeaf(Leaf):
    """`KVCache`: every row, with slack at the end."""

    layer_type: ClassVar[LayerType] = "global"
    growth: ClassVar[Growth] = "steps"

    @property
    def offset(self) -> int:
        """Tokens that it has seen."""
        return int(self._cache.offset)

    def shape(self) -> LeafShape:
        """See `Leaf.shape`."""
        tensors = tuple(token_tensor(name, rows) for name, rows in self.arrays().items())
        return LeafShape(self.layer_type, tensors, growth=self.growth)

    def arrays(self) -> dict[str, mx.array]:
        """The buffers, slack included."""
        return {name: getattr(self._cache, name) for name in KEYS_VALUES}

    def replace(self, arrays: dict[str, mx.array]) -> None:
        """See `Leaf.replace`."""
        for name, rows in arrays.items():
            setattr(self._cache, name, rows)

    def runs(self, tensor: str) -> list[Run]:
        """All rows in one run."""
        return [(0, self.arrays()[tensor][:, :, : self.offset])]

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """Every position."""
        return ((0, n_tokens),)


class ConcatenateLeaf(KVLeaf):
    """`ConcatenateKVCache`: every row, without slack."""

    growth: ClassVar[Growth] = "exact"


class QuantisedLeaf(KVLeaf):
    """`QuantizedKVCache`: packed words, scales and biases of every row."""

    def shape(self) -> LeafShape:
        """See `Leaf.shape`."""
        tensors = tuple(token_tensor(name, rows) for name, rows in self.arrays().items())
        cache = self._cache
        recipe = (("bits", int(cache.bits)), ("group_size", int(cache.group_size)))
        return LeafShape(self.layer_type, tensors, recipe=recipe)

    def fits(self, group: LayerGroup, n_tokens: int) -> bool:
        """A plain group's sequence may have been quantised while it ran, as its blocks are."""
        plain = (self.layer_type, self.growth, ()) == (group.layer_type, group.growth, group.recipe)
        as_blocks = plain and self.shape().tensors == group.rest_tensors
        return as_blocks or super().fits(group, n_tokens)

    def arrays(self) -> dict[str, mx.array]:
        """The buffers of all parts, slack included."""
        return {name: getattr(self._cache, attr)[part] for attr, part, name in _PARTS}

    def replace(self, arrays: dict[str, mx.array]) -> None:
        """See `Leaf.replace`."""
        _set_triples(self._cache, arrays)


class RotatingLeaf(KVLeaf):
    """`RotatingKVCache`: a ring of the last rows, and the first `keep` ones."""

    layer_type: ClassVar[LayerType] = "sliding_window"

    @property
    def _window(self) -> int:
        return int(self._cache.max_size)

    @property
    def _keep(self) -> int:
        return int(self._cache.keep)

    def shape(self) -> LeafShape:
        """See `Leaf.shape`."""
        tensors = super().shape().tensors
        return LeafShape(self.layer_type, tensors, window=self._window, keep=self._keep)

    def runs(self, tensor: str) -> list[Run]:
        """The kept rows, and the last ones; one run where nothing was dropped between them."""
        rows = self._in_order(self.arrays()[tensor])
        count, kept = rows.shape[2], self._keep
        if kept == 0 or count >= self.offset:
            return [(self.offset - count, rows)]
        return [(0, rows[:, :, :kept]), (self.offset - count + kept, rows[:, :, kept:])]

    def _in_order(self, rows: mx.array) -> mx.array:
        """The ring's rows in order of position, without unused slack."""
        index, kept = self._cache._idx, self._keep
        if index == rows.shape[2]:
            return rows
        if index < self.offset:  # wrapped: the oldest row is at the index
            parts = [rows[:, :, :kept], rows[:, :, index:], rows[:, :, kept:index]]
            return mx.concatenate(parts, axis=2)
        return rows[:, :, :index]

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """The kept rows, and the last `window - keep - 1`.

        The ring may hold more, but older ones may be a batch's padding, or the row that a restore
        did not know.
        """
        kept = min(self._keep, n_tokens)
        recent = n_tokens - max(0, self._window - 1 - self._keep)
        # After a call of several tokens an extracted row may have fewer than that.
        first = max(kept, recent, n_tokens - (self._rows_held() - kept))
        return tuple(span for span in ((0, kept), (first, n_tokens)) if span[0] < span[1])

    def _rows_held(self) -> int:
        rows = int(self._cache.keys.shape[2])
        index = int(self._cache._idx)
        return rows if index < self.offset else min(rows, index)


class ChunkedLeaf(KVLeaf):
    """`ChunkedKVCache`: the last rows, at least those of the open chunk."""

    layer_type: ClassVar[LayerType] = "chunked"

    @property
    def _chunk(self) -> int:
        return int(self._cache.chunk_size)

    def shape(self) -> LeafShape:
        """See `Leaf.shape`."""
        return LeafShape(self.layer_type, super().shape().tensors, chunk=self._chunk)

    def runs(self, tensor: str) -> list[Run]:
        """The rows from its start position on."""
        start = int(self._cache.start_position)
        return [(start, self.arrays()[tensor][:, :, : self.offset - start])]

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """The open chunk: a restore knows no row before it."""
        first = max(int(self._cache.start_position), n_tokens - n_tokens % self._chunk)
        return ((first, n_tokens),)


def new_kv(cache_class: type[Any], group: LayerGroup, arrays: Arrays, n_tokens: int) -> Any:
    """A `KVCache` or `ConcatenateKVCache` that holds `n_tokens`."""
    return _filled(cache_class(), arrays, n_tokens)


def new_rotating(cache_class: type[Any], group: LayerGroup, arrays: Arrays, n_tokens: int) -> Any:
    """A `RotatingKVCache` that holds `n_tokens`, its rows in order."""
    window = group.window or 0
    cache = _filled(cache_class(max_size=window, keep=group.keep), arrays, n_tokens)
    cache._idx = min(n_tokens, window)
    return cache


def new_chunked(cache_class: type[Any], group: LayerGroup, arrays: Arrays, n_tokens: int) -> Any:
    """A `ChunkedKVCache` that holds `n_tokens`."""
    cache = _filled(cache_class(group.chunk), arrays, n_tokens)
    cache.start_position = kept_from(group, n_tokens)
    return cache


def new_quantised(cache_class: type[Any], group: LayerGroup, arrays: Arrays, n_tokens: int) -> Any:
    """A `QuantizedKVCache` that holds `n_tokens`."""
    facts: dict[str, Any] = dict(group.recipe)
    if not facts:
        facts = {"bits": group.at_rest.bits, "group_size": group.at_rest.group_size}
    cache = cache_class(group_size=facts["group_size"], bits=facts["bits"])
    _set_triples(cache, arrays)
    cache.offset = n_tokens
    return cache


def _filled(cache: Any, arrays: Arrays, n_tokens: int) -> Any:
    for name in KEYS_VALUES:
        setattr(cache, name, arrays[name])
    cache.offset = n_tokens
    return cache


def _set_triples(cache: Any, arrays: Arrays) -> None:
    for attribute in KEYS_VALUES:
        triple = [arrays[name] for attr, _, name in _PARTS if attr == attribute]
        setattr(cache, attribute, tuple(triple))
