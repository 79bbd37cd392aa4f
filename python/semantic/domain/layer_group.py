"""Layer groups: the leaf caches that grow and shrink together, and what one block of them costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from semantic.domain._check import whole_number
from semantic.domain.errors import ModelSpecValidationError

__all__ = ["BLOCK_TOKENS", "DTYPE_BYTES", "LayerGroup", "LayerType", "StateTensor", "TokenTensor"]

BLOCK_TOKENS = 256
"""Positions in a token block: the growth step of mlx-lm's KVCache (ADR-002)."""

LayerType = Literal["global", "sliding_window", "chunked", "state"]

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


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ModelSpecValidationError("a layer group needs a name", attribute="name")


@dataclass(frozen=True, slots=True)
class TokenTensor:
    """A tensor that has one row per position: `[heads, tokens, dim]` in each layer.

    A width of 0 is legal: some architectures cache no values.
    """

    name: str
    heads: int
    dim: int
    dtype: str

    def __post_init__(self) -> None:
        whole_number(self.heads, "heads", ModelSpecValidationError, at_least=1, attribute="heads")
        whole_number(self.dim, "dim", ModelSpecValidationError, attribute="dim")
        _check_dtype(self.dtype)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position in one layer: heads x dim x element size."""
        return self.heads * self.dim * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor of fixed shape in each layer: recurrent or convolution state."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        for size in self.shape:
            whole_number(size, "shape", ModelSpecValidationError, attribute="shape")
        _check_dtype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in one layer."""
        return prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Leaf caches with the same kind, tensor shapes, dtype and window.

    Args:
        name: Unique in its spec: the layer type, or the layer type and a number.
        layer_type: "global", "sliding_window", "chunked" or "state".
        layers: The indices of its leaf caches, in the order of the flattened cache list.
        tensors: The tensors of one layer: all `TokenTensor`, or all `StateTensor` for "state".
        window: Positions that a sliding-window layer sees, the current one included.
        keep: Leading positions that a rotating cache never drops.
        chunk: Chunk length of a chunked layer, in tokens.
        recipe: Constructor facts that rebuild the mlx-lm cache, as sorted pairs. Part of
            equality, never on disk, empty when the spec came from arguments alone.

    Raises:
        ModelSpecValidationError: Fields that contradict the layer type.
    """

    name: str
    layer_type: LayerType
    layers: tuple[int, ...]
    tensors: tuple[TokenTensor, ...] | tuple[StateTensor, ...]
    window: int | None = None
    keep: int = 0
    chunk: int | None = None
    recipe: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        if self.layer_type not in get_args(LayerType):
            raise ModelSpecValidationError(
                f"unknown layer type {self.layer_type!r}; one of {', '.join(get_args(LayerType))}",
                attribute="layer_type",
            )
        _check_name(self.name)
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "tensors", tuple(self.tensors))
        for layer in self.layers:
            whole_number(layer, "layers", ModelSpecValidationError, attribute="layers")
        if not self.layers or not self.tensors:
            raise ModelSpecValidationError(
                f"group {self.name!r} needs at least one layer and one tensor", attribute="layers"
            )
        expected = StateTensor if self.layer_type == "state" else TokenTensor
        if not all(isinstance(tensor, expected) for tensor in self.tensors):
            raise ModelSpecValidationError(
                f"group {self.name!r} of type {self.layer_type!r} takes {expected.__name__}s only",
                attribute="tensors",
            )
        self._check_span("window", self.window, needed=self.layer_type == "sliding_window")
        self._check_span("chunk", self.chunk, needed=self.layer_type == "chunked")
        whole_number(self.keep, "keep", ModelSpecValidationError, attribute="keep")

    def _check_span(self, field: str, value: int | None, *, needed: bool) -> None:
        if needed:
            whole_number(value, field, ModelSpecValidationError, at_least=1, attribute=field)
        elif value is not None:
            raise ModelSpecValidationError(
                f"a {self.layer_type} group has no {field}", attribute=field
            )

    @property
    def n_layers(self) -> int:
        """Leaf caches in the group."""
        return len(self.layers)

    @property
    def token_tensors(self) -> tuple[TokenTensor, ...]:
        """The tensors with a row per position; empty for a state group."""
        return tuple(t for t in self.tensors if isinstance(t, TokenTensor))

    @property
    def state_tensors(self) -> tuple[StateTensor, ...]:
        """The tensors of fixed shape; empty unless it is a state group."""
        return tuple(t for t in self.tensors if isinstance(t, StateTensor))

    @property
    def bytes_per_token_per_layer(self) -> int:
        """Bytes that one position costs in one layer; 0 for a state group."""
        return sum(tensor.bytes_per_token for tensor in self.token_tensors)

    @property
    def bytes_per_block_per_layer(self) -> int:
        """Bytes of one block in one layer; for a state group, of one checkpoint."""
        states = sum(tensor.nbytes for tensor in self.state_tensors)
        return states + self.bytes_per_token_per_layer * BLOCK_TOKENS

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block over all layers of the group."""
        return self.bytes_per_block_per_layer * self.n_layers

    @property
    def max_blocks(self) -> int | None:
        """Blocks that one agent may hold: ceil(span / 256); None when unbounded, 1 for a state."""
        if self.layer_type == "state":
            return 1
        span = self.window or self.chunk
        return None if span is None else -(-span // BLOCK_TOKENS)

    def blocks_at_rest(self, n_tokens: int) -> int:
        """Sealed blocks of a sequence at rest at `n_tokens`: those that a hit there reads.

        A window that ends inside a token block meets one block more than an agent may hold.
        """
        if self.window is None:
            return self.blocks_for(n_tokens)
        first = max(0, n_tokens - self.window + 1)
        return -(-n_tokens // BLOCK_TOKENS) - first // BLOCK_TOKENS

    def blocks_for(self, n_tokens: int) -> int:
        """Blocks that an agent of `n_tokens` holds in this group."""
        blocks = 1 if self.layer_type == "state" else -(-n_tokens // BLOCK_TOKENS)
        return blocks if self.max_blocks is None else min(blocks, self.max_blocks)
