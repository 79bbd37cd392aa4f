"""A list of caches as leaf caches, and as the groups of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semantic.adapters.mlx.cache_class import (
    CACHE_LIST,
    cache_class_of,
    class_name_of,
    default_class_name,
)
from semantic.adapters.mlx.leaf import Leaf, LeafShape
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.errors import IncompatibleCacheError
from semantic.domain.layer_group import LayerType
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["flatten", "grouped", "leaves_by_spec", "spec_of_caches"]

_TYPE_ORDER: dict[LayerType, int] = {"global": 0, "sliding_window": 1, "chunked": 2, "state": 3}


def spec_of_caches(caches: Sequence[Any]) -> ModelCacheSpec:
    """The geometry of caches that already hold something (lazily is enough).

    A cache that is empty while others are not counts as one that always stays so.

    Raises:
        UnsupportedCacheError: A cache class that is not served.
        IncompatibleCacheError: No cache, nothing in any of them, a batch, or too few tokens to
            know how a cache compresses them.
    """
    entries, leaves = flatten(caches)
    return grouped(entries, [leaf.shape() for leaf in leaves])


def flatten(caches: Sequence[Any]) -> tuple[tuple[CacheEntry, ...], list[Leaf]]:
    """The entries of a list of caches, and their leaf caches in order.

    Raises:
        UnsupportedCacheError: A cache class that is not served.
        IncompatibleCacheError: No cache, or nothing in any of them.
    """
    if not caches:
        raise IncompatibleCacheError("there are no caches")
    leaves: list[Leaf] = []
    entries = tuple(_entry(cache, leaves) for cache in caches)
    if not leaves:
        raise IncompatibleCacheError("the caches are empty: their shapes are not known yet")
    return entries, leaves


def _entry(cache: Any, leaves: list[Leaf]) -> CacheEntry:
    name = class_name_of(cache)
    if type(cache).__name__ == CACHE_LIST:
        return CacheEntry(name, children=tuple(_entry(child, leaves) for child in cache.caches))
    found = cache_class_of(cache)
    if cache.empty():
        return CacheEntry(name)
    first = len(leaves)
    leaves += found.leaves(cache)
    return CacheEntry(name, tuple(range(first, len(leaves))))


def grouped(entries: tuple[CacheEntry, ...], shapes: Sequence[LeafShape]) -> ModelCacheSpec:
    """The spec of leaf caches with these shapes: equal ones grow and shrink together."""
    layers: dict[LeafShape, list[int]] = {}
    for index, shape in enumerate(shapes):
        layers.setdefault(shape, []).append(index)
    ordered = sorted(
        layers,
        key=lambda s: (_TYPE_ORDER[s.layer_type], s.window or s.chunk or 0, layers[s][0]),
    )
    seen: dict[LayerType, int] = {}
    groups = []
    for shape in ordered:
        count = seen[shape.layer_type] = seen.get(shape.layer_type, 0) + 1
        name = shape.layer_type if count == 1 else f"{shape.layer_type}.{count - 1}"
        groups.append(shape.group(name, layers[shape]))
    spec = ModelCacheSpec(tuple(groups), entries)
    return ModelCacheSpec(spec.groups) if entries == plain_entries(spec) else spec


def plain_entries(spec: ModelCacheSpec) -> tuple[CacheEntry, ...]:
    """The entries of a spec that names none: one leaf cache each, of mlx-lm's class for it."""
    names = {layer: default_class_name(group) for group in spec.groups for layer in group.layers}
    return tuple(CacheEntry(names[layer], (layer,)) for layer in range(spec.n_layers))


def leaves_by_spec(spec: ModelCacheSpec, caches: Sequence[Any]) -> list[Leaf]:
    """The leaf caches of `caches`, which must have the structure of the spec.

    Raises:
        UnsupportedCacheError: A cache class that is not served.
        IncompatibleCacheError: Other entries than the spec's.
    """
    for cache in caches:
        _refuse_strangers(cache)
    leaves: list[Leaf] = []
    expected = spec.entries or plain_entries(spec)
    if len(caches) != len(expected):
        raise IncompatibleCacheError(f"{len(caches)} caches, not the spec's {len(expected)}")
    for entry, cache in zip(expected, caches, strict=True):
        _match(entry, cache, leaves)
    return leaves


def _refuse_strangers(cache: Any) -> None:
    if type(cache).__name__ == CACHE_LIST:
        for child in cache.caches:
            _refuse_strangers(child)
    else:
        cache_class_of(cache)


def _match(entry: CacheEntry, cache: Any, leaves: list[Leaf]) -> None:
    is_list = type(cache).__name__ == CACHE_LIST
    if is_list or entry.children:
        children = cache.caches if is_list else ()
        if len(children) != len(entry.children):
            raise IncompatibleCacheError(
                f"a {class_name_of(cache)} where the spec has a {entry.class_name}"
            )
        for child_entry, child in zip(entry.children, children, strict=True):
            _match(child_entry, child, leaves)
        return
    found = [] if cache.empty() else list(cache_class_of(cache).leaves(cache))
    if len(found) != len(entry.leaves):
        raise IncompatibleCacheError(
            f"a {class_name_of(cache)} with {len(found)} filled parts "
            f"where the spec has {len(entry.leaves)}"
        )
    leaves += found
