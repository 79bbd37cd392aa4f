"""The sealed blocks of one namespace: index and pool kept in step under one lock.

Lookups are plans, holding a plan is a lease on its blocks, and a publication becomes visible in one
step after its arrays are evaluated (law 6). MLX computes outside the lock (law 9); what a
publication builds upon is held meanwhile, so that it cannot be evicted under it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from semantic.application.prefix_index import MissingSpan, PrefixCollisionError, PrefixIndex
from semantic.application.prefix_node import Checkpoint, SealedBlock
from semantic.domain.errors import BlockOperationError
from semantic.domain.identity import BlockHash, Namespace, Tokens, block_key
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.reports import CommitReport, HitPlan
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, LiveCaches

__all__ = ["Hold", "Publication", "SealedBlocks"]

_CAPTURE_BLOCKS = 16
"""Blocks captured in one evaluation: enough to keep MLX busy, few enough to fail early."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A plan whose blocks are held until they are released."""

    plan: HitPlan
    data: Mapping[int, BlockData]


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publication answered, and the checkpoint that it made, if it made one."""

    report: CommitReport
    checkpoint: Checkpoint | None = None


class SealedBlocks:
    """The sealed blocks that may be shared inside one namespace.

    Args:
        spec: The geometry.
        pool: Where their bytes are counted.
        namespace: Who may share.
        reclaim: Asked for bytes that eviction here cannot give; answers how many it freed.
        lock: Shared by memories that reclaim from each other; None: one of its own.
        hash_block: The key function; tests inject a weak one.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        pool: BlockPool,
        namespace: Namespace,
        *,
        reclaim: Callable[[int], int] | None = None,
        lock: threading.RLock | None = None,
        hash_block: BlockHash = block_key,
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._reclaim = reclaim
        self._index = PrefixIndex(spec, namespace.root, hash_block)
        self._lock = lock or threading.RLock()
        self._orphans: dict[int, SealedBlock] = {}
        self.evicted_blocks = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._index)

    @property
    def n_blocks(self) -> int:
        """Sealed blocks that can be found."""
        with self._lock:
            return self._index.n_blocks

    def sequences(self) -> list[Checkpoint]:
        """The published ends, least recently used first."""
        with self._lock:
            return list(self._index.checkpoints)

    def bytes_by_kind(self) -> Counter[str]:
        """Bytes of the findable blocks, by the kind of segment that published them."""
        totals: Counter[str] = Counter()
        with self._lock:
            for block in self._index.blocks:
                totals[block.kind] += self._spec.bytes_per_block(block.group)
        return totals

    # Hits --------------------------------------------------------------------------------------

    def plan(self, tokens: Tokens) -> HitPlan:
        """The longest hit that leaves at least one token to compute. Changes nothing."""
        with self._lock:
            self._forget_lost_blocks()
            return self._index.plan(tokens, len(tokens) - 1)

    def hold(self, tokens: Tokens) -> Hold:
        """Plan a hit and hold its blocks, in one step. The order of eviction does not change."""
        with self._lock:
            plan = self.plan(tokens)
            while not self._lease(blocks := self._known(plan.block_ids)):
                plan = self.plan(tokens)
            return Hold(plan, {block.block_id: block.data for block in blocks})

    def touch(self, hold: Hold) -> None:
        """The hit was used: its blocks become the most recently used."""
        with self._lock:
            if all(self._index.block(i) is not None for i in hold.plan.block_ids):
                self._index.touch(hold.plan)

    def release(self, hold: Hold) -> None:
        """End a hold."""
        with self._lock:
            self._unlease(hold.plan.block_ids)

    def _known(self, block_ids: Iterable[int]) -> list[SealedBlock]:
        found = (self._index.block(i) or self._orphans.get(i) for i in block_ids)
        return [block for block in found if block is not None]

    def _lease(self, blocks: Sequence[SealedBlock]) -> bool:
        """Hold these blocks; False when the pool has just evicted one of them."""
        try:
            self._pool.acquire([block.block_id for block in blocks])
        except BlockOperationError:
            if not self._forget_lost_blocks():
                raise
            return False
        for block in blocks:
            block.leases += 1
        return True

    def _unlease(self, block_ids: Sequence[int]) -> None:
        self._forget_lost_blocks()
        self._pool.release(list(block_ids))
        blocks = self._known(block_ids)
        for block in blocks:
            block.leases -= 1
        orphans = [block for block in blocks if block.block_id in self._orphans]
        self._give_back(self._index.released(blocks) + orphans)

    # Publication -------------------------------------------------------------------------------

    def publish(self, tokens: Tokens, live: LiveCaches, agent_id: str, kind: str) -> Publication:
        """Seal what is new of `tokens` and make the longest prefix that fits findable.

        Args:
            tokens: What the caches hold, or the front of it.
            live: The caches, read by position.
            agent_id: Who publishes.
            kind: What kind of segment ends here.
        """
        with self._lock:
            self._forget_lost_blocks()
            fitting, missing, base = self._fitting(tokens, live)
        try:
            if not fitting:
                return Publication(CommitReport(0, "budget", "no prefix fits into the budget"))
            lost = self._lost_rows(missing, live)
            if lost is not None:
                return Publication(CommitReport(0, "incomplete_window", lost))
            sealed = self._capture(missing, live, kind)
            return self._make_visible(fitting, len(tokens), agent_id, kind, sealed)
        finally:
            with self._lock:
                self._unlease(base)

    def _fitting(
        self, tokens: Tokens, live: LiveCaches
    ) -> tuple[Tokens, list[MissingSpan], list[int]]:
        """The longest prefix whose missing blocks fit, with what it builds upon held."""
        nodes = self._index.holders(tokens)
        while not self._lease(base := [block for node in nodes for block in node.blocks()]):
            nodes = self._index.holders(tokens)
        ids = [block.block_id for block in base]
        missing = self._index.missing(tokens, nodes)
        if self._make_room(self._bytes_of(missing)):
            return tokens, missing, ids
        for blocks in range((len(tokens) - 1) // BLOCK_TOKENS, len(nodes), -1):
            shorter = tokens[: blocks * BLOCK_TOKENS]
            missing = self._index.missing(shorter, nodes)
            if self._lost_rows(missing, live) is not None:
                break
            if self._make_room(self._bytes_of(missing)):
                return shorter, missing, ids
        return Tokens("q"), [], ids

    def _bytes_of(self, missing: Sequence[MissingSpan]) -> int:
        return sum(self._spec.bytes_per_block(span.group) for span in missing)

    def _lost_rows(self, missing: Sequence[MissingSpan], live: LiveCaches) -> str | None:
        """Why the live caches cannot give these rows: their rings have moved on."""
        for span in missing:
            first = live.first_position(span.group)
            if span.lo < first:
                return f"{span.group} needs position {span.lo}, its ring starts at {first}"
        return None

    def _capture(
        self, missing: Sequence[MissingSpan], live: LiveCaches, kind: str
    ) -> list[SealedBlock]:
        """Capture and seal, outside the lock; nothing is left behind on failure."""
        by_group: dict[str, list[MissingSpan]] = {}
        for span in missing:
            by_group.setdefault(span.group, []).append(span)
        sealed: list[SealedBlock] = []
        staged: list[int] = []
        try:
            for group, spans in by_group.items():
                for at in range(0, len(spans), _CAPTURE_BLOCKS):
                    batch = spans[at : at + _CAPTURE_BLOCKS]
                    ids = self._pool.stage(group, len(batch))
                    staged += ids
                    captured = live.capture(group, [(span.lo, span.hi) for span in batch])
                    sealed += [
                        SealedBlock(block_id, group, span.lo, span.hi, data, kind)
                        for block_id, span, data in zip(ids, batch, captured, strict=True)
                    ]
        except BaseException:
            self._pool.abandon(staged)
            raise
        return sealed

    def _make_visible(
        self,
        tokens: Tokens,
        asked: int,
        agent_id: str,
        kind: str,
        sealed: Sequence[SealedBlock],
    ) -> Publication:
        with self._lock:
            ids = [block.block_id for block in sealed]
            try:
                checkpoint, surplus = self._index.publish(tokens, agent_id, kind, sealed)
            except PrefixCollisionError as error:
                self._pool.abandon(ids)
                return Publication(CommitReport(0, "collision", str(error)))
            self._pool.publish(ids)
            self._give_back(surplus)
            if len(tokens) < asked:
                report = CommitReport(len(tokens), "budget", f"of {asked} tokens")
            else:
                report = CommitReport(asked, "published" if checkpoint else "already_cached")
            return Publication(report, checkpoint)

    # Eviction ----------------------------------------------------------------------------------

    def make_room(self, n_bytes: int) -> bool:
        """Evict until `n_bytes` are free; False, with nothing evicted, when that cannot be."""
        with self._lock:
            return self._make_room(n_bytes)

    def evict_bytes(self, n_bytes: int) -> int:
        """Evict until `n_bytes` are gone or nothing may go; the bytes that went."""
        with self._lock:
            self._forget_lost_blocks()
            before = self._pool.snapshot().cached
            while before - self._pool.snapshot().cached < n_bytes:
                blocks = self._index.evict_one()
                if not blocks:
                    break
                self._evict(blocks)
            return before - self._pool.snapshot().cached

    def evict(self, checkpoint: Checkpoint) -> None:
        """Let go of a published end and what nothing else needs."""
        with self._lock:
            self._forget_lost_blocks()
            self._evict(self._index.drop(checkpoint))

    def withdraw(self, checkpoint: Checkpoint, agent_id: str) -> None:
        """One agent wants a published end no more; it goes when it was the last."""
        with self._lock:
            checkpoint.agents.discard(agent_id)
            if not checkpoint.agents:
                self._forget_lost_blocks()
                self._give_back(self._index.drop(checkpoint))

    def clear(self) -> None:
        """Forget everything that no running sequence holds."""
        with self._lock:
            self._forget_lost_blocks()
            self._give_back(self._index.clear())

    def _make_room(self, n_bytes: int) -> bool:
        self._forget_lost_blocks()
        short = n_bytes - self._pool.available_memory()
        if short > 0 and (self._reclaim is None or self._reclaim(short) < short):
            return False
        while self._pool.snapshot().free < n_bytes:
            blocks = self._index.evict_one()
            if not blocks:
                return False
            self._evict(blocks)
        return True

    def _evict(self, blocks: Sequence[SealedBlock]) -> None:
        self.evicted_blocks += len(blocks)
        self._give_back(blocks)

    def _give_back(self, blocks: Sequence[SealedBlock]) -> None:
        """Give back blocks that the index let go; held ones follow when they are released."""
        gone = [block for block in blocks if not block.leases]
        for block in blocks:
            if block.leases:
                self._orphans[block.block_id] = block
            else:
                self._orphans.pop(block.block_id, None)
        ids = [block.block_id for block in gone]
        while True:
            try:
                self._pool.evict(ids)
                break
            except BlockOperationError:
                # The pool was faster: somebody allocated from it directly just now.
                lost = set(self._pool.drain_evicted())
                if not lost:
                    raise
                self._forget(lost - set(ids))
                ids = [block_id for block_id in ids if block_id not in lost]

    def _forget_lost_blocks(self) -> bool:
        """The pool evicts by itself when somebody allocates from it directly: follow it."""
        return self._forget(self._pool.drain_evicted())

    def _forget(self, lost: Collection[int]) -> bool:
        self.evicted_blocks += len(lost)
        if lost:
            self._give_back(self._index.discard(lost))
        return bool(lost)
