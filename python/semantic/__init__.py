"""semantic: the KV-cache memory of LLM servers on Apple's MLX, as a library.

Every public name is importable from here; names are loaded when they are first used, so that
`import semantic` is fast and needs no MLX. The MLX parts live behind `semantic.mlx` and
`semantic.mlx_lm`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semantic.adapters.store.disk import DiskStore
    from semantic.adapters.store.memory import MemoryStore
    from semantic.application.events import CacheEvent
    from semantic.application.lease import Lease
    from semantic.application.pressure import PressureGuard
    from semantic.application.relief import Relief
    from semantic.composition import CacheManager
    from semantic.domain.checkpoints import CheckpointPolicy
    from semantic.domain.entities import AgentBlocks, KVBlock
    from semantic.domain.errors import (
        AgentNotFoundError,
        BlockArgumentTypeError,
        BlockOperationError,
        BlockValidationError,
        CacheCorruptionError,
        CachePersistenceError,
        IncompatibleCacheError,
        ModelSpecValidationError,
        PoolConfigurationError,
        PoolExhaustedError,
        SemanticError,
        UnsupportedCacheError,
    )
    from semantic.domain.identity import Namespace
    from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor
    from semantic.domain.native import PoolSnapshot
    from semantic.domain.policy import EvictionPolicy
    from semantic.domain.reports import CommitReport
    from semantic.domain.services import BlockPool, MemoryBudget
    from semantic.domain.value_objects import CacheKey, GenerationResult, ModelCacheSpec

    __version__: str

__all__ = [
    "AgentBlocks",
    "AgentNotFoundError",
    "BlockArgumentTypeError",
    "BlockOperationError",
    "BlockPool",
    "BlockValidationError",
    "CacheCorruptionError",
    "CacheEvent",
    "CacheKey",
    "CacheManager",
    "CachePersistenceError",
    "CheckpointPolicy",
    "CommitReport",
    "DiskStore",
    "EvictionPolicy",
    "GenerationResult",
    "IncompatibleCacheError",
    "KVBlock",
    "LayerGroup",
    "Lease",
    "MemoryBudget",
    "MemoryStore",
    "ModelCacheSpec",
    "ModelSpecValidationError",
    "Namespace",
    "PoolConfigurationError",
    "PoolExhaustedError",
    "PoolSnapshot",
    "PressureGuard",
    "Relief",
    "SemanticError",
    "StateTensor",
    "TokenTensor",
    "UnsupportedCacheError",
    "__version__",
]

_HOMES = {
    "AgentBlocks": "domain.entities",
    "BlockPool": "domain.services",
    "CacheEvent": "application.events",
    "CacheKey": "domain.value_objects",
    "CacheManager": "composition",
    "CheckpointPolicy": "domain.checkpoints",
    "CommitReport": "domain.reports",
    "DiskStore": "adapters.store.disk",
    "EvictionPolicy": "domain.policy",
    "GenerationResult": "domain.value_objects",
    "KVBlock": "domain.entities",
    "LayerGroup": "domain.layer_group",
    "Lease": "application.lease",
    "MemoryBudget": "domain.services",
    "MemoryStore": "adapters.store.memory",
    "ModelCacheSpec": "domain.value_objects",
    "Namespace": "domain.identity",
    "PoolSnapshot": "domain.native",
    "PressureGuard": "application.pressure",
    "Relief": "application.relief",
    "StateTensor": "domain.layer_group",
    "TokenTensor": "domain.layer_group",
}
"""Where each name lives; the errors live in `domain.errors`."""

_DOORS = ("mlx", "mlx_lm")


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("semantic-kv")
    elif name in __all__:
        home = _HOMES.get(name, "domain.errors")
        value = getattr(import_module(f"semantic.{home}"), name)
    elif name in _DOORS:
        value = import_module(f"semantic.{name}")
    else:
        raise AttributeError(f"module 'semantic' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_DOORS})
