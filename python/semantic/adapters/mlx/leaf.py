"""Which cache classes we serve, and how their rows lie: known by class name and attributes.

A class counts as known when its name is in the table *and* it has the attributes that its rules
need. So a fork with the same shape works, whatever package it comes from, and a stranger is refused
instead of being taken for a plain cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from semantic.domain.errors import IncompatibleCacheError, UnsupportedCacheError
from semantic.domain.layer_group import LayerGroup, LayerType, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["TENSOR_NAMES", "dtype_name", "kind_of", "linear_rows", "spec_of_caches"]

TENSOR_NAMES = ("keys", "values")

_KNOWN: dict[str, tuple[LayerType, frozenset[str]]] = {
    "KVCache": ("global", frozenset({"keys", "values", "offset"})),
    "RotatingKVCache": (
        "sliding_window",
        frozenset({"keys", "values", "offset", "max_size", "keep", "_idx"}),
    ),
}

_SMALLEST_WINDOW = 2
"""A window of one position keeps nothing that a later token reads."""

_TYPE_ORDER: dict[LayerType, int] = {"global": 0, "sliding_window": 1, "chunked": 2, "state": 3}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What leaf caches of one group have in common."""

    layer_type: LayerType
    tensors: tuple[TokenTensor, ...]
    window: int | None


def kind_of(cache: Any) -> LayerType:
    """The layer type of a leaf cache.

    Raises:
        UnsupportedCacheError: A class that is not in the table, or a rotating cache that keeps
            leading positions or only one.
    """
    name = type(cache).__name__
    layer_type, attributes = _KNOWN.get(name, (None, frozenset()))
    if layer_type is None or not all(hasattr(cache, attribute) for attribute in attributes):
        raise UnsupportedCacheError(
            f"cache class {type(cache).__module__}.{name} is not supported; "
            f"supported: {', '.join(_KNOWN)}"
        )
    if layer_type == "sliding_window" and cache.keep:
        raise UnsupportedCacheError(f"a {name} with keep={cache.keep} is not supported")
    if layer_type == "sliding_window" and cache.max_size < _SMALLEST_WINDOW:
        raise UnsupportedCacheError(f"a {name} of {cache.max_size} positions is not supported")
    return layer_type


def dtype_name(array: mx.array) -> str:
    """MLX's name of the element type, without the module."""
    return str(array.dtype).rsplit(".", maxsplit=1)[-1]


def linear_rows(cache: Any, rows: mx.array) -> mx.array:
    """The rows of a leaf cache in order of position, without unused slack.

    Args:
        cache: A leaf cache that `kind_of` knows.
        rows: Its keys or values, `[1, heads, rows, dim]`.

    Returns:
        `[1, heads, n, dim]` whose last row is position `cache.offset - 1`.
    """
    if kind_of(cache) == "global":
        return rows[:, :, : cache.offset]
    if cache._idx == rows.shape[2]:
        return rows
    if cache._idx < cache.offset:  # wrapped: the oldest row is at the index
        return mx.concatenate([rows[:, :, cache._idx :], rows[:, :, : cache._idx]], axis=2)
    return rows[:, :, : cache._idx]


def spec_of_caches(caches: Sequence[Any]) -> ModelCacheSpec:
    """The geometry of caches that already hold something (lazily is enough).

    Raises:
        UnsupportedCacheError: A cache class that is not served.
        IncompatibleCacheError: No cache, an empty one, or one that holds a batch.
    """
    if not caches:
        raise IncompatibleCacheError("the list of caches is empty")
    layers: dict[_Shape, list[int]] = {}
    for index, cache in enumerate(caches):
        layers.setdefault(_shape_of(cache, index), []).append(index)
    ordered = sorted(layers, key=lambda s: (_TYPE_ORDER[s.layer_type], s.window or 0, layers[s][0]))
    seen: dict[LayerType, int] = {}
    groups = []
    for shape in ordered:
        count = seen[shape.layer_type] = seen.get(shape.layer_type, 0) + 1
        name = shape.layer_type if count == 1 else f"{shape.layer_type}.{count - 1}"
        groups.append(
            LayerGroup(
                name, shape.layer_type, tuple(layers[shape]), shape.tensors, window=shape.window
            )
        )
    return ModelCacheSpec(tuple(groups))


def _shape_of(cache: Any, index: int) -> _Shape:
    layer_type = kind_of(cache)
    if cache.keys is None:
        raise IncompatibleCacheError(f"cache {index} is empty: its shapes are not known yet")
    tensors = []
    for name in TENSOR_NAMES:
        batch, heads, _, dim = getattr(cache, name).shape
        if batch != 1:
            raise IncompatibleCacheError(
                f"cache {index} holds a batch of {batch}; extract one sequence first"
            )
        tensors.append(TokenTensor(name, heads, dim, dtype_name(getattr(cache, name))))
    window = cache.max_size if layer_type == "sliding_window" else None
    return _Shape(layer_type, tuple(tensors), window)
