"""The exact geometry of a model: one lazy forward, no array is ever allocated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache

from semantic.adapters.mlx.build import built_lazily, refused
from semantic.adapters.mlx.layer_cache_leaf import OpenPart
from semantic.adapters.mlx.layout import flatten, grouped
from semantic.adapters.mlx.lazy_forward import shapes_only
from semantic.adapters.mlx.leaf import Leaf, LeafShape
from semantic.adapters.mlx.state_leaf import StateLeaf
from semantic.adapters.model_config import kv_dtype_of, load_config
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.errors import ModelSpecValidationError, UnsupportedCacheError
from semantic.domain.tensor import StateTensor
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["probe", "spec_from_config"]

_MOST_PROBED_TOKENS = 1 << 16
"""Lazily run tokens cost no memory, but a graph of that many is where we stop."""

_KV_DTYPES = ("bfloat16", "float16", "float32")


def probe(model: Any, *drafts: Any) -> ModelCacheSpec:
    """The cache geometry that mlx-lm really allocates for `model`.

    Makes the model's own prompt cache and runs a token through it lazily: shapes and dtypes are
    known, nothing is computed. Where one token does not show all (a state that fills up, a cache
    that compresses groups of tokens), more are run the same way. Call it on the thread that owns
    the model.

    Args:
        model: A model that mlx-lm built.
        *drafts: Models whose caches follow in the same list, as mlx-lm's speculative decoding has
            them.

    Raises:
        UnsupportedCacheError: The model has a cache class that is not served, or this machine's
            backend lacks a kernel of its.
        ModelSpecValidationError: The model's own code fails; the reason is mlx-lm's.
        IncompatibleCacheError: Caches that no token fills.
    """
    models = (model, *drafts)
    entries, leaves = flatten(_run(models, 1))
    if any(isinstance(leaf, OpenPart) for leaf in leaves):
        entries, leaves = _until_a_group_is_full(models)
    shapes = [leaf.shape() for leaf in leaves]
    if any(isinstance(leaf, StateLeaf) for leaf in leaves):
        shapes = _with_growing_states(models, shapes)
    return grouped(entries, shapes)


def _cast(model: Any, dtype: mx.Dtype) -> None:
    """Cast lazily as `mlx_lm.convert` does: what the model wants kept in float32 stays so."""
    wanted = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, parameter: mx.array) -> mx.array:
        floats = mx.issubdtype(parameter.dtype, mx.floating)
        return parameter.astype(dtype) if floats and wanted(path) else parameter

    model.update(tree_map_with_path(cast, model.parameters()))


def _run(models: Sequence[Any], n_tokens: int) -> list[Any]:
    """The models' own caches, one after the other, after `n_tokens` that were never evaluated."""
    return [cache for model in models for cache in _caches_of(model, n_tokens)]


def _caches_of(model: Any, n_tokens: int) -> list[Any]:
    caches = list(make_prompt_cache(model))
    try:
        with shapes_only(model):
            model(mx.zeros((1, n_tokens), dtype=mx.int32), cache=caches)
    except RuntimeError as error:  # a kernel that this machine's backend does not have
        raise UnsupportedCacheError(
            f"{type(model).__module__} cannot be run here, not even lazily: {error}"
        ) from error
    except Exception as error:
        raise refused(getattr(model, "model_type", type(model).__module__), "run", error) from error
    return caches


def _until_a_group_is_full(models: Sequence[Any]) -> tuple[tuple[CacheEntry, ...], list[Leaf]]:
    """The leaf caches once every compressed part has a row."""
    n_tokens = 1
    while n_tokens < _MOST_PROBED_TOKENS:
        n_tokens *= 2
        entries, leaves = flatten(_run(models, n_tokens))
        if all(leaf.arrays() for leaf in leaves):
            return entries, leaves
    raise UnsupportedCacheError(f"a cache compresses more than {n_tokens} tokens into one row")


def _with_growing_states(models: Sequence[Any], first: Sequence[LeafShape]) -> list[LeafShape]:
    """The shapes, with the final size of each state axis that fills up with the first tokens."""
    shapes, n_tokens = list(first), 1
    while n_tokens < _MOST_PROBED_TOKENS:
        n_tokens *= 2
        later = [leaf.shape() for leaf in flatten(_run(models, n_tokens))[1]]
        grown = [_grown(before, now) for before, now in zip(shapes, later, strict=True)]
        if grown == shapes:
            return shapes
        shapes = grown
    raise UnsupportedCacheError(f"a state still grows after {n_tokens} tokens")


def _grown(before: LeafShape, now: LeafShape) -> LeafShape:
    """`before`, with larger states where `now` has larger ones."""
    if before.layer_type != "state":
        return before
    return replace(before, tensors=tuple(map(_grown_state, _states(before), _states(now))))


def _states(shape: LeafShape) -> tuple[StateTensor, ...]:
    return tuple(tensor for tensor in shape.tensors if isinstance(tensor, StateTensor))


def _grown_state(before: StateTensor, now: StateTensor) -> StateTensor:
    if before.shape == now.shape:
        return before
    changed = [axis for axis, size in enumerate(before.shape) if size != now.shape[axis]]
    return replace(before, shape=now.shape, grows=changed[0])


def spec_from_config(
    path_or_dict: str | os.PathLike[str] | Mapping[str, Any], *, kv_dtype: str | None = None
) -> ModelCacheSpec:
    """The geometry from a `config.json` alone; no weight is ever allocated.

    Args:
        path_or_dict: The file, the model folder that holds it, or the parsed config.
        kv_dtype: Element type of the cache. Default: the config's `torch_dtype` or `dtype`, else
            bfloat16.

    Raises:
        ModelSpecValidationError: A config that lacks what mlx-lm needs to build the model, an
            architecture that mlx-lm does not have, or an unknown dtype.
        UnsupportedCacheError: See `probe`.
    """
    config = load_config(path_or_dict)
    dtype = kv_dtype_of(config) if kv_dtype is None else kv_dtype
    if dtype not in _KV_DTYPES:
        raise ModelSpecValidationError(
            f"unknown KV dtype {dtype!r}; one of {', '.join(_KV_DTYPES)}", attribute="kv_dtype"
        )
    with built_lazily(config) as model:
        _cast(model, getattr(mx, dtype))
        return probe(model)
