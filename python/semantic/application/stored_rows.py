"""What a store has of a sequence, read as if it were a running one.

So what comes from a store is published as what comes from live caches: staged, captured, findable
in one step, and not at all when a file turns out to be missing or damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait

from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.layer_group import Span
from semantic.domain.stored import BlockName, StoredNode
from semantic.domain.stored_hit import StoredHit
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, BlockMemory, BlockStore

__all__ = ["StoredBlockGoneError", "StoredRows"]


class StoredBlockGoneError(Exception):
    """A block that was found is not there any more, or is damaged."""


class StoredRows:
    """The rows of a stored hit; see `LiveCaches`.

    Args:
        spec: The geometry.
        store: Where the blocks are.
        memory: Makes the blocks that they are read into.
        hit: What is read.
        readers: Several threads: one alone can neither keep a disk busy nor copy fast enough.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        store: BlockStore,
        memory: BlockMemory,
        hit: StoredHit,
        readers: Executor,
    ) -> None:
        self._spec = spec
        self._store = store
        self._memory = memory
        self._n_tokens = hit.n_tokens
        self._blocks = dict(hit.blocks)
        self._readers = readers

    @property
    def n_tokens(self) -> int:
        """Positions that can be restored."""
        return self._n_tokens

    @property
    def view_bytes(self) -> int:
        """No views: 0."""
        return 0

    def known_spans(self, group: str) -> tuple[Span, ...]:
        """The positions whose rows are stored."""
        spans: list[Span] = []
        for _, _, (lo, hi) in self._blocks.get(group, ()):
            if spans and spans[-1][1] == lo:
                spans[-1] = (spans[-1][0], hi)
            else:
                spans.append((lo, hi))
        return tuple(spans)

    def capture(self, group: str, spans: Sequence[Span]) -> list[BlockData]:
        """The blocks that hold these rows, read and verified.

        Raises:
            StoredBlockGoneError: One is not there any more, or is damaged.
            CachePersistenceError: The system refuses.
        """
        found = [self._find(group, lo, hi) for lo, hi in spans]
        blocks: list[BlockData] = []
        reads: list[Future[bool]] = []
        try:
            for name, node in found:
                tensors = tensors_of_block(self._spec.group(group), name.lo, name.hi)
                # Here, for MLX is called from this thread alone; earlier blocks are read meanwhile.
                data, memory = self._memory.fresh(tensors)
                reads.append(self._readers.submit(self._store.read, name, node.tokens, memory))
                blocks.append(data)
            for (name, _), read in zip(found, reads, strict=True):
                if not read.result():
                    raise StoredBlockGoneError(str(name))
        finally:
            # When one is missing: nobody may write into a block that is given up.
            wait([read for read in reads if not read.cancel()])
        return blocks

    def _find(self, group: str, lo: int, hi: int) -> tuple[BlockName, StoredNode]:
        for name, node, (first, last) in self._blocks.get(group, ()):
            if first <= lo and hi <= last:
                return name, node
        raise StoredBlockGoneError(f"{group} at positions {lo} to {hi}")
