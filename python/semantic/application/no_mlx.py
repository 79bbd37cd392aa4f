"""Stand-ins where no MLX side was given: accounting works, tensors do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import UnsupportedCacheError
from semantic.domain.reports import HitPlan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, Caches, LiveCaches

__all__ = ["NoBlockMemory", "NoMaterialiser", "NoSpecSource"]

_NO_MLX = "there is no MLX side here: install 'semantic-kv[mlx]', or pass materialiser="


class NoMaterialiser:
    """Refuses; see `ports.Materialiser`."""

    def open(self, spec: ModelCacheSpec, caches: Caches, n_tokens: int) -> LiveCaches:
        """Refused."""
        raise UnsupportedCacheError(_NO_MLX)

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        """Refused."""
        raise UnsupportedCacheError(_NO_MLX)

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        """Refused."""
        raise UnsupportedCacheError(_NO_MLX)


class NoBlockMemory:
    """Refuses; see `ports.BlockMemory`."""

    def memory_of(
        self, data: BlockData, tensors: Sequence[TensorBytes]
    ) -> Sequence[tuple[TensorBytes, memoryview]]:
        """Refused."""
        raise UnsupportedCacheError(_NO_MLX)

    def fresh(
        self, tensors: Sequence[TensorBytes]
    ) -> tuple[BlockData, Sequence[tuple[TensorBytes, memoryview]]]:
        """Refused."""
        raise UnsupportedCacheError(_NO_MLX)


class NoSpecSource:
    """Refuses; see `ports.SpecSource`."""

    def probe(self, model: object) -> ModelCacheSpec:
        """Refused."""
        raise UnsupportedCacheError("a model is probed with MLX: install 'semantic-kv[mlx]'")
