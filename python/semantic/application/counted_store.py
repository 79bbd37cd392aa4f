"""A store, and what is asked of it in numbers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from semantic.domain.block_bytes import TensorBytes
from semantic.domain.native import TokenIds
from semantic.domain.policy import Hint, Priority
from semantic.domain.stored import BlockName, NewBlock, StoredNode
from semantic.ports.outbound import BlockStore

__all__ = ["CountedStore"]


class CountedStore:
    """Passes everything on, and counts blocks on their way; see `BlockStore`.

    Args:
        store: Where blocks are kept.
    """

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._hits = self._misses = self._refused = 0
        self._read_bytes = self._written_blocks = 0

    def path_of(self, namespace: bytes, keys: Sequence[bytes]) -> Sequence[Sequence[StoredNode]]:
        """What is stored along a prompt."""
        return self._store.path_of(namespace, keys)

    def put(self, blocks: Sequence[NewBlock], agent_id: str) -> int:
        """Store blocks; how many are new."""
        try:
            stored = self._store.put(blocks, agent_id)
        except Exception:
            self._count_refusal()
            raise
        with self._lock:
            self._written_blocks += stored
        return stored

    def read(
        self, name: BlockName, tokens: TokenIds, memory: Sequence[tuple[TensorBytes, memoryview]]
    ) -> bool:
        """Read a block; False when it is not there, or damaged."""
        try:
            is_read = self._store.read(name, tokens, memory)
        except Exception:
            self._count_refusal()
            raise
        with self._lock:
            if is_read:
                self._hits += 1
                self._read_bytes += sum(buffer.nbytes for _, buffer in memory)
            else:
                self._misses += 1
        return is_read

    def _count_refusal(self) -> None:
        with self._lock:
            self._refused += 1

    def used(self, namespace: bytes, keys: Sequence[bytes], agent_id: str) -> None:
        """An agent uses what is stored of these token blocks."""
        self._store.used(namespace, keys, agent_id)

    def regard(
        self,
        namespace: bytes,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """How an agent's blocks stand from now on."""
        self._store.regard(namespace, agent_id, hint=hint, priority=priority, is_pinned=is_pinned)

    def forget(self, namespace: bytes, agent_id: str) -> int:
        """Remove what only this agent has used."""
        return self._store.forget(namespace, agent_id)

    def stats(self) -> Mapping[str, int]:
        """What is stored, and since this memory has used the store: reads, writes, evictions.

        `written_bytes` and `evicted_blocks` are all that this process caused, where the store
        tells.
        """
        with self._lock:
            counts = {
                "read_hits": self._hits,
                "read_misses": self._misses,
                "refused": self._refused,
                "read_bytes": self._read_bytes,
                "written_blocks": self._written_blocks,
            }
        told = {
            name: int(getattr(self._store, name))
            for name in ("written_bytes", "evicted_blocks")
            if hasattr(self._store, name)
        }
        return {**self._store.stats(), **counts, **told}

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()
