"""Which cache classes we serve: known by class name and attributes.

A class counts as known when its name is in the table *and* it has the attributes that its rules
need. So a fork with the same shape works, whatever package it comes from, and a stranger is refused
instead of being taken for a plain cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from semantic.adapters.mlx import layer_cache_leaf
from semantic.adapters.mlx.kv_leaf import (
    Arrays,
    ChunkedLeaf,
    ConcatenateLeaf,
    KVLeaf,
    QuantisedLeaf,
    RotatingLeaf,
    new_chunked,
    new_kv,
    new_quantised,
    new_rotating,
)
from semantic.adapters.mlx.leaf import Leaf
from semantic.adapters.mlx.state_leaf import StateLeaf, new_arrays
from semantic.domain.errors import UnsupportedCacheError
from semantic.domain.layer_group import LayerGroup

__all__ = [
    "CACHE_LIST",
    "CacheClass",
    "Parts",
    "cache_class_of",
    "class_name_of",
    "class_named",
    "default_class_name",
]

Parts = list[tuple[LayerGroup, Arrays]]
"""The leaf caches that one cache is made of: their groups and their arrays."""

CACHE_LIST = "CacheList"

_MLX_LM = "mlx_lm.models.cache"
_KV = frozenset({"keys", "values", "offset"})

_Builder = Callable[[type[Any], Parts, int], Any]


@dataclass(frozen=True, slots=True)
class CacheClass:
    """How caches of one class are read and built.

    Args:
        attributes: What a cache must have to be one of this class.
        leaves: The leaf caches of a cache.
        build: (class, parts, tokens) -> a cache that believes it holds so many tokens.
    """

    attributes: frozenset[str]
    leaves: Callable[[Any], Sequence[Leaf]]
    build: _Builder


def _single(
    leaf: type[Leaf], new: Callable[[type[Any], LayerGroup, Arrays, int], Any], *more: str
) -> CacheClass:
    """A class with one leaf cache."""

    def build(cache_class: type[Any], parts: Parts, n_tokens: int) -> Any:
        ((group, arrays),) = parts
        return new(cache_class, group, arrays, n_tokens)

    attributes = _KV if leaf is not StateLeaf else frozenset[str]()
    return CacheClass(attributes.union(more), lambda cache: [leaf(cache)], build)


_SERVED: dict[str, CacheClass] = {
    "KVCache": _single(KVLeaf, new_kv),
    "ConcatenateKVCache": _single(ConcatenateLeaf, new_kv),
    "RotatingKVCache": _single(RotatingLeaf, new_rotating, "max_size", "keep", "_idx"),
    "ChunkedKVCache": _single(ChunkedLeaf, new_chunked, "chunk_size", "start_position"),
    "QuantizedKVCache": _single(QuantisedLeaf, new_quantised, "bits", "group_size"),
    "ArraysCache": _single(StateLeaf, new_arrays, "cache"),
    "LayerCache": CacheClass(
        layer_cache_leaf.ATTRIBUTES, layer_cache_leaf.parts_of, layer_cache_leaf.new_layer_cache
    ),
}


def cache_class_of(cache: Any) -> CacheClass:
    """How to read a cache that is no `CacheList`.

    Raises:
        UnsupportedCacheError: Its class is not served.
    """
    known = _SERVED.get(type(cache).__name__)
    if known is None or not all(hasattr(cache, attribute) for attribute in known.attributes):
        raise UnsupportedCacheError(
            f"cache class {class_name_of(cache)} is not supported; "
            f"supported: {', '.join((*_SERVED, CACHE_LIST))}"
        )
    return known


def class_name_of(cache: Any) -> str:
    """The class of a cache, with its module."""
    return f"{type(cache).__module__}.{type(cache).__qualname__}"


def class_named(name: str) -> tuple[type[Any], CacheClass | None]:
    """A class by its full name, and how to build its caches; None for a `CacheList`.

    Raises:
        UnsupportedCacheError: This process has no such class, or it is not served.
    """
    module, _, word = name.rpartition(".")
    try:
        found = getattr(import_module(module), word)
    except (ImportError, AttributeError) as error:
        raise UnsupportedCacheError(f"there is no cache class {name} here: {error}") from error
    return found, _SERVED.get(word)


def default_class_name(group: LayerGroup) -> str:
    """The class of a group's caches where a spec does not say: mlx-lm's own for its kind."""
    if group.layer_type == "global":
        quantised = any(name == "bits" for name, _ in group.recipe)
        stepped = "QuantizedKVCache" if quantised else "KVCache"
        word = stepped if group.growth == "steps" else "ConcatenateKVCache"
    else:
        word = {
            "sliding_window": "RotatingKVCache",
            "chunked": "ChunkedKVCache",
            "state": "ArraysCache",
        }[group.layer_type]
    return f"{_MLX_LM}.{word}"
