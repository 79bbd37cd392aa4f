"""MLX arrays whose memory nobody has filled yet.

`mx.empty` fills its array with zeros, which takes as long as reading a block does. What `mx.load`
makes is allocated only, and then given to the file to be read into: this one reads nothing. On
another stream than the processor's, MLX may read into a buffer of its own and copy that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import Any

import mlx.core as mx

from semantic.domain.block_bytes import TensorBytes
from semantic.domain.tensor import DTYPE_BYTES

__all__ = ["unwritten"]


class _Unread:
    """A safetensors file with a header and, as far as anybody asks, a payload.

    Args:
        header: The header, its length included.
        payload_bytes: Bytes that seem to follow.
    """

    closed = False

    def __init__(self, header: bytes, payload_bytes: int) -> None:
        self._header = header
        self._n_bytes = len(header) + payload_bytes
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._n_bytes)[whence]
        return self._at

    def readinto(self, memory: memoryview) -> int:
        found = self._header[self._at : self._at + len(memory)]
        memory[: len(found)] = found
        self._at += len(memory)
        return len(memory)


def unwritten(tensors: Sequence[TensorBytes]) -> dict[str, mx.array]:
    """Arrays for these tensors, with anything in them; zeros where MLX has no such."""
    try:
        loaded: Any = mx.load(_file_of(tensors), format="safetensors", stream=mx.cpu)
        mx.eval(loaded)
    except (RuntimeError, TypeError, ValueError):
        loaded = {}
    arrays = {}
    for tensor in tensors:
        shape, dtype = tensor.memory_shape, getattr(mx, tensor.dtype)
        made = loaded.get(tensor.name)
        if made is None or (made.shape, made.dtype) != (shape, dtype):
            made = mx.zeros(shape, dtype=dtype, stream=mx.cpu)
        arrays[tensor.name] = made
    return arrays


def _file_of(tensors: Sequence[TensorBytes]) -> Any:
    entries = {}
    at = 0
    for tensor in tensors:
        end = at + prod(tensor.memory_shape) * DTYPE_BYTES[tensor.dtype]
        entries[tensor.name] = {
            "dtype": tensor.file_dtype,
            "shape": tensor.memory_shape,
            "data_offsets": (at, end),
        }
        at = end
    text = json.dumps(entries).encode()
    return _Unread(len(text).to_bytes(8, "little") + text, at)
