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
        # What its file fills need not be filled before.
        whole = unwritten([tensor for tensor in tensors if tensor.valid == tensor.room])
        data: dict[str, object] = {}
        for tensor in tensors:
            dtype = getattr(mx, tensor.dtype)
            # On the CPU: it is the CPU that writes there next.
            data[tensor.name] = (
                whole[tensor.name]
                if tensor.name in whole
                else mx.zeros(tensor.memory_shape, dtype=dtype, stream=mx.cpu)
            )
        mx.eval(data)
        return data, self.memory_of(data, tensors)
