"""The memory of MLX arrays: read and written in place, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx

from semantic.adapters.mlx.unwritten import unwritten
from semantic.domain.block_bytes import TensorBytes
from semantic.ports.outbound import BlockData

__all__ = ["MlxBlockMemory"]


class MlxBlockMemory:
    """The MLX side of `ports.BlockMemory`."""

    def memory_of(
        self, data: BlockData, tensors: Sequence[TensorBytes]
    ) -> list[tuple[TensorBytes, memoryview]]:
        """The memory of a sealed block's tensors, as it lies."""
        return [(tensor, memoryview(cast(Any, data[tensor.name]))) for tensor in tensors]

    def fresh(
        self, tensors: Sequence[TensorBytes]
    ) -> tuple[BlockData, list[tuple[TensorBytes, memoryview]]]:
        """A new block and its memory, which MLX lets be written; zeros where no valid row is."""
        data = _filled(tensors) if mx.default_device().type == mx.gpu else _allocated(tensors)
        mx.eval(data)
        return data, self.memory_of(data, tensors)


def _filled(tensors: Sequence[TensorBytes]) -> dict[str, object]:
    """Zeros, by the GPU: faster than what the first touch of new memory costs the processor."""
    return {
        tensor.name: mx.zeros(tensor.memory_shape, dtype=getattr(mx, tensor.dtype))
        for tensor in tensors
    }


def _allocated(tensors: Sequence[TensorBytes]) -> dict[str, object]:
    """Memory with anything in it where the file fills all of it, else zeros."""
    whole = unwritten([tensor for tensor in tensors if tensor.valid == tensor.room])
    padded = [tensor for tensor in tensors if tensor.name not in whole]
    return {**whole, **_filled(padded)}
