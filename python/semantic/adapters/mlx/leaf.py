"""A leaf cache of a running sequence: what kind it is, and where its rows lie.

Every cache class that is served has a `Leaf` which reads it. Rows are handed out by number, in
runs: a run is a first row and an array `[1, heads, rows, dim]`. A row stands for one position, or
for `stride` of them in a compressed cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx

from semantic.domain.errors import IncompatibleCacheError
from semantic.domain.layer_group import Growth, LayerGroup, LayerType, Span, StateTensor
from semantic.domain.tensor import TokenTensor

__all__ = ["KEYS_VALUES", "Leaf", "LeafShape", "Run", "dtype_name", "refuse_batch", "token_tensor"]

KEYS_VALUES = ("keys", "values")

Run = tuple[int, mx.array]
"""The number of the first row, and rows in order: `[1, heads, rows, dim]`."""


@dataclass(frozen=True, slots=True)
class LeafShape:
    """What the leaf caches of one group have in common."""

    layer_type: LayerType
    tensors: tuple[TokenTensor, ...] | tuple[StateTensor, ...]
    window: int | None = None
    keep: int = 0
    chunk: int | None = None
    recipe: tuple[tuple[str, object], ...] = ()
    growth: Growth = "steps"

    @classmethod
    def of(cls, group: LayerGroup) -> LeafShape:
        """The shape of a group's leaf caches while they run."""
        return cls(
            group.layer_type,
            group.tensors,
            group.window,
            group.keep,
            group.chunk,
            group.recipe,
            group.growth,
        )

    def group(self, name: str, layers: Sequence[int]) -> LayerGroup:
        """The layer group of leaf caches with this shape."""
        return LayerGroup(
            name,
            self.layer_type,
            tuple(layers),
            self.tensors,
            window=self.window,
            keep=self.keep,
            chunk=self.chunk,
            recipe=self.recipe,
            growth=self.growth,
        )


class Leaf(ABC):
    """One leaf cache of a running sequence, or one part of a cache that has several.

    Args:
        cache: The cache object. It stays the caller's.
    """

    layer_type: ClassVar[LayerType]

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    @property
    @abstractmethod
    def offset(self) -> int | None:
        """Tokens that it has seen; None when it does not count them."""

    @abstractmethod
    def shape(self) -> LeafShape:
        """What it looks like now.

        Raises:
            IncompatibleCacheError: It holds a batch, or too little to know.
        """

    def fits(self, group: LayerGroup, n_tokens: int) -> bool:
        """Whether it is a leaf cache of `group` that holds `n_tokens`."""
        return self.shape() == LeafShape.of(group)

    @abstractmethod
    def arrays(self) -> dict[str, mx.array]:
        """Its arrays as they are, by tensor name."""

    @abstractmethod
    def replace(self, arrays: dict[str, mx.array]) -> None:
        """Put equal arrays in the place of those that `arrays` gave."""

    def runs(self, tensor: str) -> list[Run]:
        """The rows of a tensor, in order."""
        raise NotImplementedError  # pragma: no cover - a state has no rows

    @abstractmethod
    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """The positions whose rows are surely those of the tokens, `n_tokens` being in."""


def dtype_name(array: mx.array) -> str:
    """MLX's name of the element type, without the module."""
    return str(array.dtype).rsplit(".", maxsplit=1)[-1]


def token_tensor(name: str, rows: mx.array, *, stride: int = 1) -> TokenTensor:
    """The geometry of `rows`, `[1, heads, rows, dim]`.

    Raises:
        IncompatibleCacheError: They are a batch's.
    """
    batch, heads, _, dim = rows.shape
    refuse_batch(batch)
    return TokenTensor(name, heads, dim, dtype_name(rows), stride)


def refuse_batch(sequences: int) -> None:
    """Refuse arrays that hold several sequences.

    Raises:
        IncompatibleCacheError: There is not exactly one.
    """
    if sequences != 1:
        raise IncompatibleCacheError(
            f"the cache holds a batch of {sequences}; extract one sequence first"
        )
