"""The exact geometry of a model: one lazy forward, no array is ever allocated."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

from semantic.adapters.mlx.leaf import spec_of_caches
from semantic.adapters.model_config import kv_dtype_of, load_config
from semantic.domain.errors import ModelSpecValidationError, UnsupportedCacheError
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["probe", "spec_from_config"]

_CANNOT_BUILD = (
    AssertionError,
    AttributeError,
    ImportError,
    KeyError,
    RuntimeError,  # a Metal kernel that is compiled at import
    SystemExit,  # how mlx-lm's olmo says that a package is missing
    TypeError,
    ValueError,
)

_KV_DTYPES = ("bfloat16", "float16", "float32")


def probe(model: Any) -> ModelCacheSpec:
    """The cache geometry that mlx-lm really allocates for `model`.

    Makes the model's own prompt cache and runs one token through it lazily: shapes and dtypes are
    known, nothing is computed. Call it on the thread that owns the model.

    Raises:
        UnsupportedCacheError: The model has a cache class that is not served, or this machine's
            backend lacks a kernel of its.
        IncompatibleCacheError: A cache entry that one token leaves empty.
    """
    caches = make_prompt_cache(model)
    try:
        model(mx.zeros((1, 1), dtype=mx.int32), cache=caches)
    except RuntimeError as error:  # a kernel that this machine's backend does not have
        raise UnsupportedCacheError(
            f"{type(model).__module__} cannot be run here, not even lazily: {error}"
        ) from error
    return spec_of_caches(caches)


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
    with _random_state_kept():
        model = _build(config)
        model.set_dtype(getattr(mx, dtype))
        return probe(model)


def _build(config: dict[str, Any]) -> Any:
    """The mlx-lm model of `config`; its random weights stay lazy."""
    if not isinstance(config.get("model_type"), str):
        raise ModelSpecValidationError("the config has no 'model_type'", attribute="model_type")
    try:
        model_class, args_class = utils._get_classes(config=config)
        return model_class(args_class.from_dict(config))
    except _CANNOT_BUILD as error:
        missing = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
        raise ModelSpecValidationError(
            f"mlx-lm cannot build model_type {config['model_type']!r} from this config: {error}",
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
