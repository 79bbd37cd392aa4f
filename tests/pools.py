"""What tests of the block pool share: readings, and refusals that leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from semantic.domain.layer_group import LayerGroup, TokenTensor
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec

GLOBAL_BYTES = 2048
WINDOW_BYTES = 4096


def reading(pool: BlockPool) -> dict[str, Any]:
    """Everything that can be read; a refused call must not change it."""
    pool.check()
    snapshot: dict[str, Any] = pool.snapshot().as_dict()
    classes = ("free", "held", "live", "staging", "cached")
    assert sum(snapshot[name] for name in classes) == snapshot["total"]
    assert pool.used_memory() + pool.available_memory() == pool.total_memory()
    return snapshot


def refused(
    pool: BlockPool, error: type[Exception], operation: Callable[..., object], *args: Any
) -> Any:
    """The error of an operation that must fail and leave no trace."""
    before = reading(pool)
    with pytest.raises(error) as caught:
        operation(*args)
    assert type(caught.value) is error
    assert reading(pool) == before
    return caught.value


def cached(pool: BlockPool, n: int, layer_type: str = "global") -> list[int]:
    """So many blocks, sealed and at rest."""
    ids = pool.stage(layer_type, n)
    pool.publish(ids)
    return ids


def empty_spec() -> ModelCacheSpec:
    """A block of no bytes."""
    nothing = (TokenTensor("keys", 1, 0, "bfloat16"),)
    return ModelCacheSpec((LayerGroup("global", "global", (0,), nothing),))
