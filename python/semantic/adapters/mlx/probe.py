"""The exact geometry of a model: one lazy forward, no array is ever allocated."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

from semantic.adapters.mlx.layer_cache_leaf import OpenPart
from semantic.adapters.mlx.layout import flatten, grouped
from semantic.adapters.mlx.lazy_forward import kernels_without_metal, shapes_only
from semantic.adapters.mlx.leaf import Leaf, LeafShape
from semantic.adapters.mlx.state_leaf import StateLeaf
from semantic.adapters.model_config import kv_dtype_of, load_config
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.errors import ModelSpecValidationError, UnsupportedCacheError
from semantic.domain.tensor import StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["probe", "spec_from_config"]

_CANNOT_BUILD = (
    AssertionError,
    AttributeError,
    ImportError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)

_MOST_PROBED_TOKENS = 1 << 16
"""Lazily run tokens cost no memory, but a graph of that many is where we stop."""

_KV_DTYPES = ("bfloat16", "float16", "float32")


class _NoMetalError(Exception):
    """A module builds a Metal kernel when it is imported, and there is no Metal."""


def probe(model: Any) -> ModelCacheSpec:
    """The cache geometry that mlx-lm really allocates for `model`.

    Makes the model's own prompt cache and runs a token through it lazily: shapes and dtypes are
    known, nothing is computed. Where one token does not show all (a state that fills up, a cache
    that compresses groups of tokens), more are run the same way. Call it on the thread that owns
    the model.

    Raises:
        UnsupportedCacheError: The model has a cache class that is not served, or this machine's
            backend lacks a kernel of its.
        IncompatibleCacheError: Caches that no token fills.
    """
    caches = _run(model, 1)
    entries, leaves = flatten(caches)
    if any(isinstance(leaf, OpenPart) for leaf in leaves):
        entries, leaves = _until_a_group_is_full(model)
    shapes = [leaf.shape() for leaf in leaves]
    if any(isinstance(leaf, StateLeaf) for leaf in leaves):
        shapes = _with_growing_states(model, shapes)
    return grouped(entries, shapes)


def _run(model: Any, n_tokens: int) -> list[Any]:
    """The model's own caches after `n_tokens` that were never evaluated."""
    caches = list(make_prompt_cache(model))
    try:
        with shapes_only(model):
            model(mx.zeros((1, n_tokens), dtype=mx.int32), cache=caches)
    except RuntimeError as error:  # a kernel that this machine's backend does not have
        raise UnsupportedCacheError(
            f"{type(model).__module__} cannot be run here, not even lazily: {error}"
        ) from error
    return caches


def _until_a_group_is_full(model: Any) -> tuple[tuple[CacheEntry, ...], list[Leaf]]:
    """The leaf caches once every compressed part has a row."""
    n_tokens = 1
    while n_tokens < _MOST_PROBED_TOKENS:
        n_tokens *= 2
        entries, leaves = flatten(_run(model, n_tokens))
        if all(leaf.arrays() for leaf in leaves):
            return entries, leaves
    raise UnsupportedCacheError(f"a cache compresses more than {n_tokens} tokens into one row")


def _with_growing_states(model: Any, first: Sequence[LeafShape]) -> list[LeafShape]:
    """The shapes, with the final size of each state axis that fills up with the first tokens."""
    shapes, n_tokens = list(first), 1
    while n_tokens < _MOST_PROBED_TOKENS:
        n_tokens *= 2
        later = [leaf.shape() for leaf in flatten(_run(model, n_tokens))[1]]
        grown = [_grown(before, now) for before, now in zip(shapes, later, strict=True)]
        if grown == shapes:
            return shapes
        shapes = grown
    raise UnsupportedCacheError(f"a state still grows after {n_tokens} tokens")


def _grown(before: LeafShape, now: LeafShape) -> LeafShape:
    """`before`, with larger states where `now` has larger ones."""
    if before.layer_type != "state":
        return before
    pairs = zip(before.tensors, now.tensors, strict=True)
    tensors = [_grown_state(a, b) for a, b in pairs if isinstance(a, StateTensor)]
    return replace(before, tensors=tuple(tensors))


def _grown_state(before: StateTensor, now: TokenTensor | StateTensor) -> StateTensor:
    if not isinstance(now, StateTensor) or before.shape == now.shape:
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
    dtype = kv_dtype or kv_dtype_of(config)
    if dtype not in _KV_DTYPES:
        raise ModelSpecValidationError(
            f"unknown KV dtype {dtype!r}; one of {', '.join(_KV_DTYPES)}", attribute="kv_dtype"
        )
    with ExitStack() as undo:
        undo.enter_context(_random_state_kept())
        try:
            model = _build(config)
        except _NoMetalError:
            undo.enter_context(kernels_without_metal())
            model = _build(config)
        model.set_dtype(getattr(mx, dtype))
        return probe(model)


def _build(config: dict[str, Any]) -> Any:
    """The mlx-lm model of `config`; its random weights stay lazy."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelSpecValidationError("the config has no 'model_type'", attribute="model_type")
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            model_class, args_class = utils._get_classes(config=config)
            return model_class(args_class.from_dict(config))
    except SystemExit as error:  # how mlx-lm's olmo says that a package is missing
        raise ModelSpecValidationError(
            f"mlx-lm cannot build model_type {model_type!r}: {said.getvalue().strip()}",
            attribute="model_type",
        ) from error
    except _CANNOT_BUILD as error:
        if isinstance(error, RuntimeError) and "Metal" in str(error):
            raise _NoMetalError from error
        missing = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
        raise ModelSpecValidationError(
            f"mlx-lm cannot build model_type {model_type!r} from this config: {error}",
            attribute=missing or "config",
        ) from error


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Building a model draws (lazily) from MLX's global generator; the caller's must not move."""
    state: Any = mx.random.state
    high, low = state[0].tolist()
    try:
        yield
    finally:
        # A key is its 64-bit seed, and seeding is the one way in that every MLX release has.
        mx.random.seed(high << 32 | low)
