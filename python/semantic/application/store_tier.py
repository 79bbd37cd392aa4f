"""Between one memory and a store: what is stored comes back when asked for, what is new goes out.

What comes back is published as if it had been captured; what goes out is written by the store's
writer, behind generation.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from semantic.application.counters import Counters
from semantic.application.sealed_blocks import Hold, SealedBlocks
from semantic.application.store_writer import StoreWriter
from semantic.application.stored_rows import StoredBlockGoneError, StoredRows
from semantic.domain.block_bytes import TensorBytes, tensors_of_block
from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.reports import RowSpan
from semantic.domain.stored import BlockName, NewBlock
from semantic.domain.stored_hit import stored_hit
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockMemory, BlockStore

__all__ = ["StoreTier"]

_log = logging.getLogger("semantic")

_FETCHES = 3
"""How often a hit is looked for when blocks vanish while they are read."""

_MOST_READERS = 4

_BATCH_BYTES = 64 << 20
"""Blocks that are written and synced together: enough to share the wait for the disk."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A block that may have to be written, and its memory."""

    group: str
    rows: RowSpan
    memory: Sequence[tuple[TensorBytes, memoryview]]


class _Job:
    """What of one sequence may have to be written; see `StoreJob`."""

    def __init__(
        self, tier: StoreTier, tokens: TokenIds, agent_id: str, hold: Hold, spans: Sequence[_Span]
    ) -> None:
        self._tier = tier
        self._tokens = tokens
        self.agent_id = agent_id
        self._hold = hold
        self._spans = sorted(spans, key=lambda span: span.rows.lo)
        self._keys: list[bytes] = []

    def keys(self) -> Sequence[bytes]:
        """The keys of its token blocks, computed when they are first needed: on the writer."""
        self._keys = self._keys or self._tokens.keys(self._tier.root)
        return self._keys

    def batches(self) -> Iterator[list[NewBlock]]:
        """What is not stored yet, heads before tails."""
        known = self._tier.stored_names(self.keys())
        batch: list[NewBlock] = []
        n_bytes = 0
        for span in self._spans:
            block = self._new_block(span)
            if any(_covers(other, block.name) for other in known.get(block.name.key, ())):
                continue
            batch.append(block)
            n_bytes += sum(tensor.file_bytes for tensor, _ in span.memory)
            if n_bytes >= _BATCH_BYTES:
                yield batch
                batch, n_bytes = [], 0
        if batch:
            yield batch

    def _new_block(self, span: _Span) -> NewBlock:
        number = span.rows.lo // BLOCK_TOKENS
        start = number * BLOCK_TOKENS
        keys, group = self.keys(), self._tier.spec.group(span.group)
        return NewBlock(
            BlockName(keys[number], span.group, span.rows.lo, span.rows.hi),
            keys[number - 1] if number else self._tier.root,
            self._tier.root,
            self._tokens[start : start + BLOCK_TOKENS],
            group.layer_type,
            group.is_bounded,
            span.memory,
        )

    def release(self) -> None:
        """Let the blocks go."""
        self._tier.sealed.release(self._hold)


class StoreTier:
    """One memory's way to and from a store.

    Args:
        spec: The geometry.
        sealed: The memory's blocks.
        store: Where they are kept.
        memory: Their bytes.
        counters: What fails is counted here.
        writer: The way into the store.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        sealed: SealedBlocks,
        store: BlockStore,
        memory: BlockMemory,
        counters: Counters,
        writer: StoreWriter,
    ) -> None:
        self.spec = spec
        self.sealed = sealed
        self.writer = writer
        self._store = store
        self._memory = memory
        self._counters = counters
        self._loaded_tokens = 0
        self._readers = ThreadPoolExecutor(
            min(_MOST_READERS, os.cpu_count() or 1), thread_name_prefix="semantic-read"
        )

    @property
    def root(self) -> bytes:
        """The root of the namespace."""
        return self.sealed.root

    # From the store ----------------------------------------------------------------------------

    def fetch(self, tokens: TokenIds, cached_tokens: int, agent_id: str) -> bool:
        """Bring what is stored of a prompt, beyond what memory has of it, into memory.

        Calls MLX: for the thread that generates. Whatever fails is counted and left out.

        Args:
            tokens: The prompt.
            cached_tokens: What memory can restore of it.
            agent_id: Who asks.

        Returns:
            Whether memory can restore more now.
        """
        try:
            return self._fetch(tokens, cached_tokens, agent_id)
        except Exception as error:
            if not isinstance(error, CachePersistenceError):
                _log.exception("a fetch from the store failed")
            self._counters.failure("store_read", str(error))
            return False

    def _fetch(self, tokens: TokenIds, cached_tokens: int, agent_id: str) -> bool:
        if cached_tokens >= len(tokens) - 1:
            return False
        keys = tokens.keys(self.root)
        for _ in range(_FETCHES):
            path = self._store.path_of(self.root, keys)
            hit = stored_hit(self.spec.groups, path, tokens, len(tokens) - 1)
            if hit.n_tokens <= cached_tokens:
                return False
            rows = StoredRows(self.spec, self._store, self._memory, hit, self._readers)
            prefix = tokens[: hit.n_tokens]
            try:
                publication = self.sealed.publish(prefix, rows, agent_id, "assistant")
            except StoredBlockGoneError as error:
                self._counters.failure("store_gone", str(error))
                continue
            if publication.end is not None:
                self.sealed.settle(publication.end, agent_id)
            used = {node.key for _, read in hit.blocks for _, node, _ in read}
            self._store.used(list(used), agent_id)
            self._loaded_tokens += max(0, publication.report.published_tokens - cached_tokens)
            return publication.report.published_tokens > cached_tokens
        return False

    # To the store ------------------------------------------------------------------------------

    def save(self, tokens: TokenIds, agent_id: str) -> None:
        """Have what memory has of a sequence written, behind what is done meanwhile.

        Calls MLX: for the thread that generates. Never waits for the disk.
        """
        hold = self.sealed.hold_all(tokens)
        try:
            job = _Job(self, tokens[: hold.n_tokens], agent_id, hold, self._spans(hold))
        except Exception as error:
            self.sealed.release(hold)
            _log.exception("a turn cannot be stored")
            self._counters.failure("store_write", repr(error))
            return
        self.writer.submit(job)

    def _spans(self, hold: Hold) -> list[_Span]:
        """The blocks of a hold, and their memory."""
        data = hold.data
        spans = []
        for name, rows in hold.plan.spans:
            group = self.spec.group(name)
            for row in rows:
                tensors = tensors_of_block(group, row.lo, row.hi)
                memory = self._memory.memory_of(data[row.block_id], tensors)
                spans.append(_Span(name, row, memory))
        return spans

    def stored_names(self, keys: Sequence[bytes]) -> dict[bytes, list[BlockName]]:
        """The names of what is stored along these keys, by key."""
        path = self._store.path_of(self.root, keys)
        return {node.key: list(node.blocks) for nodes in path for node in nodes}

    def forget(self, agent_id: str) -> int:
        """Remove what only this agent has stored; how many blocks that were."""
        self.writer.flush()
        return self._store.forget(self.root, agent_id)

    def stats(self) -> dict[str, int]:
        """What is stored, what waits to be, and tokens that came from the store."""
        own = {"waiting": self.writer.waiting, "loaded_tokens": self._loaded_tokens}
        return {**self._store.stats(), **own}


def _covers(stored: BlockName, wanted: BlockName) -> bool:
    return stored.group == wanted.group and stored.lo <= wanted.lo and wanted.hi <= stored.hi
