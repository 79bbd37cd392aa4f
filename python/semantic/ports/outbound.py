"""What the domain and the application ask of the world: protocols, no implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from semantic.domain.block_bytes import TensorBytes
from semantic.domain.layer_group import Span
from semantic.domain.native import TokenIds
from semantic.domain.policy import Hint, Priority
from semantic.domain.reports import HitPlan
from semantic.domain.stored import BlockName, NewBlock, StoredNode
from semantic.domain.value_objects import ModelCacheSpec

__all__ = [
    "BlockData",
    "BlockMemory",
    "BlockStore",
    "Caches",
    "Clock",
    "LiveCaches",
    "Materialiser",
    "SpecSource",
]

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


class BlockMemory(Protocol):
    """The memory of blocks, for what reads and writes bytes. Runs on the caller's thread."""

    def memory_of(
        self, data: BlockData, tensors: Sequence[TensorBytes]
    ) -> Sequence[tuple[TensorBytes, memoryview]]:
        """The memory of a sealed block's tensors, as it lies."""
        ...

    def fresh(
        self, tensors: Sequence[TensorBytes]
    ) -> tuple[BlockData, Sequence[tuple[TensorBytes, memoryview]]]:
        """A new block and its memory, to be written before anybody uses the block.

        It is zero where no valid row is; what lies in the place of these may be anything.
        """
        ...


class BlockStore(Protocol):
    """Keeps sealed blocks beyond the process. Every method may be called from any thread."""

    def path_of(self, namespace: bytes, keys: Sequence[bytes]) -> Sequence[Sequence[StoredNode]]:
        """What is stored along a prompt.

        Args:
            namespace: The root of the namespace.
            keys: The keys of the prompt's token blocks.

        Returns:
            For each token block from the first on, what is stored behind the one before it: the
            block itself, and others that begin alike; up to where nothing is.
        """
        ...

    def put(self, blocks: Sequence[NewBlock], agent_id: str) -> int:
        """Store blocks, each entirely or not at all; how many are new.

        Raises:
            CachePersistenceError: The system refuses, or there is no room.
        """
        ...

    def read(
        self, name: BlockName, tokens: TokenIds, memory: Sequence[tuple[TensorBytes, memoryview]]
    ) -> bool:
        """Read a block into fresh memory; False when it cannot be read.

        It is not there, is damaged and was set aside, or was written with other tensors.

        Args:
            name: The block.
            tokens: The tokens of its token block: what has others is another block.
            memory: Where each tensor goes.

        Raises:
            CachePersistenceError: The system refuses; this may pass.
        """
        ...

    def used(self, namespace: bytes, keys: Sequence[bytes], agent_id: str) -> None:
        """An agent uses what is stored of these token blocks: it goes last from now on."""
        ...

    def regard(
        self,
        namespace: bytes,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """How an agent's blocks stand from now on.

        Args:
            namespace: The root of the namespace.
            agent_id: The agent.
            hint: "ended": its blocks go first, until it is heard of again.
            priority: Everything of a lower one goes first.
            is_pinned: Nothing of it goes, while this process runs.
        """
        ...

    def forget(self, namespace: bytes, agent_id: str) -> int:
        """Remove what only this agent has used; how many blocks that were."""
        ...

    def stats(self) -> Mapping[str, int]:
        """Blocks and bytes that are stored, and the limit."""
        ...

    def close(self) -> None:
        """Let go of the store. Idempotent."""
        ...


class Clock(Protocol):
    """Time that tests can set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        ...
