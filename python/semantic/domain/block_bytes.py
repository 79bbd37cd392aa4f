"""A block as bytes: where the valid rows of its tensors lie in memory and in a file.

In memory a tensor has room for all rows of a token block, `[layers, heads, rows, dim]`; a file has
the valid ones only. A state is written whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup
from semantic.domain.tensor import DTYPE_BYTES, StateTensor, TokenTensor

__all__ = ["TensorBytes", "tensor_of_file", "tensors_of_block"]

_FILE_DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "int64": "I64",
    "uint64": "U64",
    "float64": "F64",
    "complex64": "C64",
}
"""MLX's names of element types in the words of safetensors."""


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """One tensor of a block, as bytes.

    Args:
        name: Its name in the block.
        dtype: Element type, by MLX's name.
        memory_shape: Its shape in memory.
        file_shape: Its shape in a file.
        outer: How often the rows come: layers x heads.
        room: Rows that there is room for, each time.
        first: The first valid row.
        valid: Valid rows.
        row_bytes: Bytes of one row.
    """

    name: str
    dtype: str
    memory_shape: tuple[int, ...]
    file_shape: tuple[int, ...]
    outer: int
    room: int
    first: int
    valid: int
    row_bytes: int

    @property
    def file_dtype(self) -> str:
        """Element type in the words of safetensors."""
        return _FILE_DTYPES[self.dtype]

    @property
    def file_bytes(self) -> int:
        """Bytes of the valid rows."""
        return self.outer * self.valid * self.row_bytes

    @property
    def rows(self) -> tuple[int, int, int, int, int]:
        """`(outer, room, first, valid, row_bytes)`, as the native store takes them."""
        return self.outer, self.room, self.first, self.valid, self.row_bytes


def tensors_of_block(group: LayerGroup, lo: int, hi: int) -> tuple[TensorBytes, ...]:
    """The tensors of a sealed block of `group` that is valid at positions `[lo, hi)`.

    Args:
        group: The layer group.
        lo: The first position; of a state its last one, `hi - 1`.
        hi: The end of the positions, within the same token block.
    """
    return tuple(
        _state(group, tensor) if isinstance(tensor, StateTensor) else _rows(group, tensor, lo, hi)
        for tensor in group.rest_tensors
    )


def tensor_of_file(name: str, file_dtype: str, shape: Sequence[int]) -> TensorBytes | None:
    """A tensor as a file has it, valid rows only; None for an element type that MLX lacks."""
    dtype = next((ours for ours, theirs in _FILE_DTYPES.items() if theirs == file_dtype), None)
    if dtype is None:
        return None
    n_bytes = prod(shape) * DTYPE_BYTES[dtype]
    return TensorBytes(name, dtype, tuple(shape), tuple(shape), 1, 1, 0, 1, n_bytes)


def _state(group: LayerGroup, tensor: StateTensor) -> TensorBytes:
    shape = (group.n_layers, *tensor.shape)
    n_bytes = prod(shape) * DTYPE_BYTES[tensor.dtype]
    return TensorBytes(tensor.name, tensor.dtype, shape, shape, 1, 1, 0, 1, n_bytes)


def _rows(group: LayerGroup, tensor: TokenTensor, lo: int, hi: int) -> TensorBytes:
    base = lo // BLOCK_TOKENS * BLOCK_TOKENS // tensor.stride
    first, last = lo // tensor.stride - base, hi // tensor.stride - base
    outer = (group.n_layers, tensor.heads)
    return TensorBytes(
        tensor.name,
        tensor.dtype,
        (*outer, tensor.rows_per_block, tensor.dim),
        (*outer, last - first, tensor.dim),
        prod(outer),
        tensor.rows_per_block,
        first,
        last - first,
        tensor.dim * DTYPE_BYTES[tensor.dtype],
    )
