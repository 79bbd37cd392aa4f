"""What the domain and the application ask of the world: protocols, no implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from semantic.domain.layer_group import Span
from semantic.domain.reports import HitPlan, RowSpan
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["BlockData", "BlockStore", "Caches", "Clock", "LiveCaches", "Materialiser", "SpecSource"]

Caches = list[Any]
"""The list of cache entries of one sequence, as `make_prompt_cache` returns it."""

BlockData = Mapping[str, object]
"""The tensors of one block by name, stacked over the layers of its group."""


class SpecSource(Protocol):
    """Finds out the cache geometry of a model."""

    def probe(self, model: object) -> ModelCacheSpec:
        """The exact geometry of `model`, without evaluating anything."""
        ...


class LiveCaches(Protocol):
    """The caches of one running sequence, read by position."""

    @property
    def n_tokens(self) -> int:
        """Positions that every layer holds."""
        ...

    @property
    def view_bytes(self) -> int:
        """Memory that views in the captured caches kept alive beyond their `nbytes`, freed now."""
        ...

    def known_spans(self, group: str) -> tuple[Span, ...]:
        """The positions whose rows the group surely has: all, or what its ring kept."""
        ...

    def capture(self, group: str, spans: Sequence[tuple[int, int]]) -> Sequence[BlockData]:
        """Copies of the rows of each span `[lo, hi)`, evaluated and detached.

        Args:
            group: Name of the layer group.
            spans: Positions inside one token block each; of a state the last position.

        Returns:
            One block per span: by tensor name, `[layers, heads, rows, dim]` with the rows of a
            whole block, zero outside the span; of a state `[layers, *shape]`.
        """
        ...


class Materialiser(Protocol):
    """Turns live caches into blocks and blocks into live caches. Runs on the caller's thread."""

    def open(self, spec: ModelCacheSpec, caches: Caches, n_tokens: int) -> LiveCaches:
        """The caches, checked against `spec`.

        Args:
            spec: The geometry.
            caches: The caches of one sequence.
            n_tokens: Tokens that the caller put in. Recurrent states do not count theirs; caches
                that do are believed instead.

        Raises:
            UnsupportedCacheError: A cache class that is not served.
            IncompatibleCacheError: Layers, shapes or dtypes other than the spec's.
        """
        ...

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        """Fresh caches positioned at `plan.n_tokens`, which later writes cannot tie to the blocks.

        Args:
            spec: The geometry.
            plan: Where each group's rows come from.
            data: The tensors of every block in the plan, by id.
        """
        ...

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        """One row of a batch's caches as the caches of a single sequence."""
        ...


class BlockStore(Protocol):
    """Keeps sealed blocks beyond the process."""

    def get(self, key: bytes) -> BlockData | None:
        """The block under `key`, or None: a corrupt or missing block is a miss."""
        ...

    def put(self, key: bytes, data: BlockData, spans: Sequence[RowSpan]) -> None:
        """Store a sealed block, entirely or not at all."""
        ...


class Clock(Protocol):
    """Time that tests can set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        ...
