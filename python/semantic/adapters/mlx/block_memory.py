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
        whole = unwritten([tensor for tensor in tensors if tensor.valid == tensor.room])
        data: dict[str, object] = {
            tensor.name: whole[tensor.name] if tensor.name in whole else _zeros(tensor)
            for tensor in tensors
        }
        mx.eval(data)
        return data, self.memory_of(data, tensors)


def _zeros(tensor: TensorBytes) -> mx.array:
    # On the processor, which is to write it: what a GPU fills may have to be moved first.
    return mx.zeros(tensor.memory_shape, dtype=getattr(mx, tensor.dtype), stream=mx.cpu)
