"""Between memory and a store: what is stored comes back when it is asked for, what is new goes out.

Blocks are written behind generation, by one thread, while a hold keeps them in memory. What cannot
be stored is counted and served from memory as before.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic.application.clock import SystemClock
from semantic.application.counters import Counters
from semantic.application.sealed_blocks import Hold, SealedBlocks
from semantic.application.stored_rows import StoredBlockGoneError, StoredRows
from semantic.domain.block_bytes import TensorBytes, tensors_of_block
from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.reports import RowSpan
from semantic.domain.stored import BlockName, NewBlock
from semantic.domain.stored_hit import stored_hit
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockMemory, BlockStore, Clock

__all__ = ["StoreTier"]

_log = logging.getLogger("semantic")

_FETCHES = 3
"""How often a hit is looked for when blocks vanish while they are read."""

_BATCH_BYTES = 64 << 20
"""Blocks that are written and synced together: enough to share the wait for the disk."""

_MOST_JOBS = 64
"""Turns that may wait to be written; each keeps its blocks in memory."""

_PAUSE_SECONDS = 10.0
"""After the system has refused, so long nothing is written."""


@dataclass(frozen=True, slots=True)
class _Job:
    """The blocks of one sequence that may have to be written."""

    tokens: TokenIds
    agent_id: str
    hold: Hold
    blocks: Sequence[tuple[str, RowSpan, Sequence[tuple[TensorBytes, memoryview]]]]


class StoreTier:
    """One memory's way to and from a store.

    Args:
        spec: The geometry.
        sealed: The memory's blocks.
        store: Where they are kept.
        memory: Their bytes.
        counters: What fails is counted here.
        clock: Time; None: the machine's.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        sealed: SealedBlocks,
        store: BlockStore,
        memory: BlockMemory,
        counters: Counters,
        clock: Clock | None = None,
    ) -> None:
        self._spec = spec
        self._sealed = sealed
        self._store = store
        self._memory = memory
        self._counters = counters
        self._clock = clock or SystemClock()
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._closing = False
        self._paused_until = 0.0
        self._stored: dict[int, tuple[int, int]] = {}
        self._loaded_tokens = 0
        self._writer: threading.Thread | None = None

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
        keys = tokens.keys(self._sealed.root)
        for _ in range(_FETCHES):
            path = self._store.path_of(self._sealed.root, keys)
            hit = stored_hit(self._spec.groups, path, tokens, len(tokens) - 1)
            if hit.n_tokens <= cached_tokens:
                return False
            rows = StoredRows(self._spec, self._store, self._memory, hit)
            prefix = tokens[: hit.n_tokens]
            try:
                publication = self._sealed.publish(prefix, rows, agent_id, "assistant")
            except StoredBlockGoneError as error:
                self._counters.failure("store_gone", str(error))
                continue
            if publication.end is not None:
                self._sealed.settle(publication.end, agent_id)
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
        try:
            hold = self._sealed.hold_all(tokens)
            try:
                job = self._job(tokens, agent_id, hold)
                self._enqueue(job)
            except BaseException:
                self._sealed.release(hold)
                raise
        except Exception as error:
            _log.exception("a turn cannot be stored")
            self._counters.failure("store_write", repr(error))

    def _job(self, tokens: TokenIds, agent_id: str, hold: Hold) -> _Job:
        data = hold.data
        blocks = []
        for name, spans in hold.plan.spans:
            group = self._spec.group(name)
            for span in spans:
                lo, hi = self._stored.get(span.block_id, (0, 0))
                if lo <= span.lo and span.hi <= hi:
                    continue
                tensors = tensors_of_block(group, span.lo, span.hi)
                blocks.append((name, span, self._memory.memory_of(data[span.block_id], tensors)))
        return _Job(tokens[: hold.n_tokens], agent_id, hold, blocks)

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            if not job.blocks or self._closing:
                self._sealed.release(job.hold)
                return
            if len(self._jobs) >= _MOST_JOBS:
                self._sealed.release(job.hold)
                self._counters.failure("store_behind", f"{_MOST_JOBS} turns wait to be written")
                return
            self._jobs.append(job)
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_jobs, name="semantic-store", daemon=True
                )
                self._writer.start()
            self._changed.notify_all()

    def yield_memory(self) -> bool:
        """Give up what waits to be written, so that its blocks may be evicted; whether any did."""
        with self._changed:
            jobs = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in jobs:
            self._sealed.release(job.hold)
            self._counters.failure("store_behind", "memory was short")
        return bool(jobs)

    def _write_jobs(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._writing = True
            try:
                self._write(job)
            except Exception as error:
                if not isinstance(error, CachePersistenceError):
                    _log.exception("a turn was not stored")
                elif error.errno is not None:
                    self._paused_until = self._clock.monotonic() + _PAUSE_SECONDS
                self._counters.failure("store_write", str(error))
            finally:
                self._sealed.release(job.hold)
                del job
                with self._changed:
                    self._writing = False
                    self._changed.notify_all()

    def _write(self, job: _Job) -> None:
        if self._clock.monotonic() < self._paused_until:
            raise CachePersistenceError("the store refused a moment ago")
        keys = job.tokens.keys(self._sealed.root)
        path = self._store.path_of(self._sealed.root, keys)
        known = [name for nodes in path for node in nodes for name in node.blocks]
        for batch in self._batches(job, keys, known):
            self._store.put([block for block, _ in batch], job.agent_id)
            for block, span in batch:
                self._stored[span.block_id] = (block.name.lo, block.name.hi)
        self._store.used(keys, job.agent_id)
        if len(self._stored) > 2 * max(1024, self._sealed.n_blocks):
            self._stored.clear()

    def _batches(
        self, job: _Job, keys: Sequence[bytes], known: Sequence[BlockName]
    ) -> Iterator[list[tuple[NewBlock, RowSpan]]]:
        """What of a job is not stored yet, in batches, heads before tails."""
        batch: list[tuple[NewBlock, RowSpan]] = []
        n_bytes = 0
        for group, span, memory in sorted(job.blocks, key=lambda block: block[1].lo):
            number = span.lo // BLOCK_TOKENS
            name = BlockName(keys[number], group, span.lo, span.hi)
            if any(_covers(other, name) for other in known):
                self._stored[span.block_id] = (span.lo, span.hi)
                continue
            layer_group = self._spec.group(group)
            start = number * BLOCK_TOKENS
            block = NewBlock(
                name,
                keys[number - 1] if number else self._sealed.root,
                self._sealed.root,
                job.tokens[start : start + BLOCK_TOKENS],
                layer_group.layer_type,
                layer_group.is_bounded,
                memory,
            )
            batch.append((block, span))
            n_bytes += sum(tensor.file_bytes for tensor, _ in memory)
            if n_bytes >= _BATCH_BYTES:
                yield batch
                batch, n_bytes = [], 0
        if batch:
            yield batch

    # Ending ------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was saved is written; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._writing, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Write what waits, and stop. Whether all of it was written. Idempotent."""
        done = self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.yield_memory()
        if self._writer is not None and done:
            self._writer.join()
        return done

    def forget(self, agent_id: str) -> int:
        """Remove what only this agent has stored; how many blocks that were."""
        self.flush()
        return self._store.forget(self._sealed.root, agent_id)

    def stats(self) -> dict[str, int]:
        """What is stored, what waits to be, and tokens that came from the store."""
        with self._changed:
            waiting = len(self._jobs) + self._writing
        return {**self._store.stats(), "waiting": waiting, "loaded_tokens": self._loaded_tokens}


def _covers(stored: BlockName, wanted: BlockName) -> bool:
    is_same = (stored.key, stored.group) == (wanted.key, wanted.group)
    return is_same and stored.lo <= wanted.lo and wanted.hi <= stored.hi
