"""`ArraysCache`: recurrent and convolution states, whole or not at all."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from semantic.adapters.mlx.kv_leaf import Arrays
from semantic.adapters.mlx.leaf import Leaf, LeafShape, dtype_name, refuse_batch
from semantic.domain.layer_group import LayerGroup, Span, StateTensor

__all__ = ["StateLeaf", "new_arrays"]

_SLOT = "slot_"


class StateLeaf(Leaf):
    """The slots of an `ArraysCache`. It does not count its tokens."""

    layer_type = "state"

    @property
    def offset(self) -> None:
        """Unknown: whoever runs the sequence counts."""
        return

    def shape(self) -> LeafShape:
        """See `Leaf.shape`; an axis that still fills up is taken as it is."""
        tensors = []
        for name, array in self.arrays().items():
            refuse_batch(array.shape[0])
            tensors.append(StateTensor(name, array.shape[1:], dtype_name(array)))
        return LeafShape(self.layer_type, tuple(tensors), recipe=self._recipe())

    def _recipe(self) -> tuple[tuple[str, object], ...]:
        return (("slots", len(self._cache.cache)),)

    def fits(self, group: LayerGroup, n_tokens: int) -> bool:
        """See `Leaf.fits`; states that fill up are as large as the tokens made them."""
        expected = tuple(
            StateTensor(t.name, t.shape_at(n_tokens), t.dtype) for t in group.state_tensors
        )
        found = self.shape()
        return found.tensors == expected and found.recipe == group.recipe

    def arrays(self) -> dict[str, mx.array]:
        """The slots that hold something."""
        slots = enumerate(self._cache.cache)
        return {f"{_SLOT}{number}": array for number, array in slots if array is not None}

    def replace(self, arrays: dict[str, mx.array]) -> None:
        """See `Leaf.replace`."""
        for name, array in arrays.items():
            self._cache[int(name.removeprefix(_SLOT))] = array

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """The state after the last token."""
        return ((n_tokens - 1, n_tokens),)


def new_arrays(cache_class: type[Any], group: LayerGroup, arrays: Arrays, n_tokens: int) -> Any:
    """An `ArraysCache` with these states."""
    slots = dict(group.recipe)["slots"]
    cache = cache_class(slots)
    for name, array in arrays.items():
        cache[int(name.removeprefix(_SLOT))] = array
    return cache
