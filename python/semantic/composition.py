"""The composition root: the application with its MLX side filled in, when there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semantic.application import cache_manager
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import UnsupportedCacheError
from semantic.domain.reports import HitPlan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, BlockMemory, Caches, LiveCaches, Materialiser

__all__ = ["CacheManager"]


class _LazyMlx:
    """The MLX side, imported when the first tensor is needed."""

    def __init__(self) -> None:
        self._mlx: Materialiser | None = None

    def open(self, spec: ModelCacheSpec, caches: Caches, n_tokens: int) -> LiveCaches:
        return self._load().open(spec, caches, n_tokens)

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        return self._load().restore(spec, plan, data)

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        return self._load().extract(batch_caches, row)

    def _load(self) -> Materialiser:
        if self._mlx is None:
            try:
                from semantic.adapters.mlx.materialise import MlxMaterialiser
            except ImportError as error:
                raise UnsupportedCacheError(
                    f"tensors need MLX: pip install 'semantic-kv[mlx]' ({error})"
                ) from error
            self._mlx = MlxMaterialiser()
        return self._mlx


class _LazyBlockMemory:
    """The memory of MLX arrays, imported when the first block is stored or loaded."""

    def memory_of(
        self, data: BlockData, tensors: Sequence[TensorBytes]
    ) -> Sequence[tuple[TensorBytes, memoryview]]:
        return self._load().memory_of(data, tensors)

    def fresh(
        self, tensors: Sequence[TensorBytes]
    ) -> tuple[BlockData, Sequence[tuple[TensorBytes, memoryview]]]:
        return self._load().fresh(tensors)

    def _load(self) -> BlockMemory:
        try:
            from semantic.adapters.mlx.block_memory import MlxBlockMemory
        except ImportError as error:
            raise UnsupportedCacheError(
                f"tensors need MLX: pip install 'semantic-kv[mlx]' ({error})"
            ) from error
        return MlxBlockMemory()


class _LazyProbe:
    """The probe, imported when the first model is swapped in."""

    def probe(self, model: object) -> ModelCacheSpec:
        try:
            from semantic.adapters.mlx.probe import probe
        except ImportError as error:
            raise UnsupportedCacheError(
                f"a model is probed with MLX: pip install 'semantic-kv[mlx]' ({error})"
            ) from error
        return probe(model)


class CacheManager(cache_manager.CacheManager):
    """`semantic.application.cache_manager.CacheManager`, with MLX where no other side is given."""

    _default_materialiser = _LazyMlx
    _default_block_memory = _LazyBlockMemory
    _default_spec_source = _LazyProbe
