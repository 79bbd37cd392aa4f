"""The tensors of a leaf cache: one row per position, or a fixed shape."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from semantic.domain._check import whole_number
from semantic.domain.errors import ModelSpecValidationError

__all__ = ["BLOCK_TOKENS", "DTYPE_BYTES", "StateTensor", "TokenTensor"]

BLOCK_TOKENS = 256
"""Positions in a token block: the growth step of mlx-lm's KVCache (ADR-002)."""

DTYPE_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "complex64": 8,
}
"""Bytes of one element, by MLX's dtype names."""


def _check_dtype(dtype: object) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ModelSpecValidationError(
            f"unknown dtype {dtype!r}; one of {', '.join(DTYPE_BYTES)}", attribute="dtype"
        )


@dataclass(frozen=True, slots=True)
class TokenTensor:
    """A tensor that grows with the tokens: `[heads, rows, dim]` in each layer.

    Args:
        name: Its name in the leaf cache.
        heads: KV heads.
        dim: Width of a row. A width of 0 is legal: some architectures cache no values.
        dtype: Element type, by MLX's name.
        stride: Positions that one row stands for: 1, or the ratio of a compressed cache, whose row
            r appears when position `stride * (r + 1) - 1` is in.
    """

    name: str
    heads: int
    dim: int
    dtype: str
    stride: int = 1

    def __post_init__(self) -> None:
        error = ModelSpecValidationError
        whole_number(self.heads, "heads", error, at_least=1, attribute="heads")
        whole_number(self.dim, "dim", error, attribute="dim")
        whole_number(self.stride, "stride", error, at_least=1, attribute="stride")
        _check_dtype(self.dtype)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row in one layer: heads x dim x element size."""
        return self.heads * self.dim * DTYPE_BYTES[self.dtype]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position in one layer; rounded up where rows stand for several."""
        return -(-self.bytes_per_row // self.stride)

    @property
    def rows_per_block(self) -> int:
        """Rows of one block: 256, or the most that a compressed cache has of 256 positions."""
        return -(-BLOCK_TOKENS // self.stride)

    @property
    def is_floating(self) -> bool:
        """Whether its elements are floating point numbers."""
        return "float" in self.dtype


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor of fixed shape in each layer: recurrent or convolution state.

    Args:
        name: Its name in the leaf cache.
        shape: Its shape without the batch axis.
        dtype: Element type, by MLX's name.
        grows: The axis that fills up with the first tokens, one for each, until the shape is
            reached; None for a shape that is there from the first token on.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grows: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        for size in self.shape:
            whole_number(size, "shape", ModelSpecValidationError, attribute="shape")
        if self.grows is not None:
            whole_number(self.grows, "grows", ModelSpecValidationError, attribute="grows")
            if self.grows >= len(self.shape):
                raise ModelSpecValidationError(
                    f"axis {self.grows} is none of {self.shape}", attribute="grows"
                )
        _check_dtype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor in one layer."""
        return prod(self.shape) * DTYPE_BYTES[self.dtype]

    def shape_at(self, n_tokens: int) -> tuple[int, ...]:
        """The shape once `n_tokens` are in."""
        if self.grows is None:
            return self.shape
        filled = min(n_tokens, self.shape[self.grows])
        return (*self.shape[: self.grows], filled, *self.shape[self.grows + 1 :])

    def nbytes_at(self, n_tokens: int) -> int:
        """Bytes in one layer once `n_tokens` are in."""
        return prod(self.shape_at(n_tokens)) * DTYPE_BYTES[self.dtype]
