"""The sealed blocks of one namespace again, in plain Python: the oracle for the native index.

Lookups are plans, holding a plan is a lease on its blocks, and a publication becomes visible in one
step after its arrays are evaluated (law 6). MLX computes outside the lock (law 9); what a
publication builds upon is held meanwhile, so that it cannot be evicted under it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from semantic.domain.errors import BlockOperationError
from semantic.domain.identity import Namespace
from semantic.domain.layer_group import BLOCK_TOKENS, Span
from semantic.domain.reports import CommitReport, HitPlan
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, LiveCaches
from semantic.testing.reference_index import MissingSpan, PrefixCollisionError, PrefixIndex
from semantic.testing.reference_keys import BlockHash, Tokens, block_key
from semantic.testing.reference_node import Checkpoint, PrefixNode, SealedBlock

__all__ = ["Hold", "Publication", "ReferenceSealedBlocks"]

_CAPTURE_BLOCKS = 16
"""Blocks captured in one evaluation: enough to keep MLX busy, few enough to fail early."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A plan whose blocks are held until they are released."""

    plan: HitPlan
    data: Mapping[int, BlockData]


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publication answered, and the end that its agent newly claims, if any."""

    report: CommitReport
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a publication will capture and what it builds upon, or why it cannot be."""

    tokens: Tokens
    missing: Sequence[MissingSpan]
    base: Sequence[int]
    refusal: CommitReport | None = None


class ReferenceSealedBlocks:
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
            for (kind, group), blocks in self._index.blocks_by_kind.items():
                totals[kind] += blocks * self._spec.bytes_per_block(group)
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
        known = {group.name: live.known_spans(group.name) for group in self._spec.groups}
        with self._lock:
            self._forget_lost_blocks()
            draft = self._draft(tokens, known)
        if draft.refusal is not None:
            return Publication(draft.refusal)
        try:
            sealed = self._capture(draft.missing, live, kind)
            return self._make_visible(draft.tokens, len(tokens), agent_id, kind, sealed)
        finally:
            with self._lock:
                self._unlease(draft.base)

    def _draft(self, tokens: Tokens, known: Mapping[str, Sequence[Span]]) -> _Draft:
        """The longest prefix that can be published now, with what it builds upon held."""
        draft = self._try_length(tokens, known)
        if draft.refusal is not None and draft.refusal.reason == "budget":
            end = self._affordable_end(tokens, known)
            if end:
                draft = self._try_length(tokens[:end], known)
        return draft

    def _try_length(self, tokens: Tokens, known: Mapping[str, Sequence[Span]]) -> _Draft:
        nodes = self._index.holders(tokens)
        while not self._lease(base := self._base_of(nodes, len(tokens))):
            nodes = self._index.holders(tokens)
        ids = [block.block_id for block in base]
        try:
            missing = self._index.missing(tokens, nodes)
            refusal = self._lost_rows(missing, known)
            if refusal is None:
                if self._make_room(self._bytes_of(missing)):
                    return _Draft(tokens, missing, ids)
                refusal = CommitReport(0, "budget", "no prefix fits into the budget")
        except BaseException:
            self._unlease(ids)
            raise
        self._unlease(ids)
        return _Draft(tokens, [], [], refusal)

    def _base_of(self, nodes: Sequence[PrefixNode], end: int) -> list[SealedBlock]:
        """What a publication that ends at `end` builds upon; other ends' windows may go for it."""
        unbounded = [block for node in nodes for block in node.unbounded.values()]
        return unbounded + self._index.reads_at(nodes, end)

    def _affordable_end(self, tokens: Tokens, known: Mapping[str, Sequence[Span]]) -> int:
        """The longest whole number of token blocks that fits, by bisection; 0 for none.

        Where a ring has moved on, and where there is a state, only the whole sequence can be
        restored.
        """
        if any(tuple(spans) != ((0, len(tokens)),) for spans in known.values()):
            return 0
        nodes = self._index.holders(tokens)
        base = self._base_of(nodes, len(tokens))
        if not self._lease(base):
            return 0
        try:
            low, high = min(len(nodes), len(tokens) // BLOCK_TOKENS), len(tokens) // BLOCK_TOKENS
            while low < high:
                middle = (low + high + 1) // 2
                missing = self._index.missing(tokens[: middle * BLOCK_TOKENS], nodes)
                if self._bytes_of(missing) <= self._pool.available_memory():
                    low = middle
                else:
                    high = middle - 1
        finally:
            self._unlease([block.block_id for block in base])
        return low * BLOCK_TOKENS

    def _bytes_of(self, missing: Sequence[MissingSpan]) -> int:
        return sum(self._spec.bytes_per_block(span.group) for span in missing)

    def _lost_rows(
        self, missing: Sequence[MissingSpan], known: Mapping[str, Sequence[Span]]
    ) -> CommitReport | None:
        """Why the live caches cannot give these rows: their rings have moved on."""
        for span in missing:
            if not any(lo <= span.lo and span.hi <= hi for lo, hi in known[span.group]):
                have = list(known[span.group])
                detail = f"{span.group} needs positions {span.lo} to {span.hi}, sure are {have}"
                return CommitReport(0, "incomplete_window", detail)
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
                claim, surplus = self._index.publish(tokens, agent_id, kind, sealed)
            except BaseException as error:
                self._pool.abandon(ids)
                if isinstance(error, PrefixCollisionError):
                    return Publication(CommitReport(0, "failed", str(error)))
                raise
            self._pool.publish(ids)
            self._give_back(surplus)
            if len(tokens) < asked:
                report = CommitReport(len(tokens), "budget", f"of {asked} tokens")
            else:
                report = CommitReport(asked, "published" if claim.is_new_end else "already_cached")
            return Publication(report, claim.checkpoint if claim.is_new_agent else None)

    def settle(self, checkpoint: Checkpoint, agent_id: str) -> None:
        """The turn that published this end is over; see `PrefixIndex.settle`."""
        with self._lock:
            self._index.settle(checkpoint, agent_id)

    # Eviction ----------------------------------------------------------------------------------

    def make_room(self, n_bytes: int) -> bool:
        """Evict until `n_bytes` are free; False when that cannot be.

        Nothing is evicted here in vain. Another pool that was asked for bytes may have given some.
        """
        with self._lock:
            return self._make_room(n_bytes)

    def evict_bytes(self, n_bytes: int) -> int:
        """Evict until `n_bytes` are gone or nothing may go; the bytes that went."""
        with self._lock:
            self._forget_lost_blocks()
            before = self._pool.snapshot().cached
            while before - self._pool.snapshot().cached < n_bytes:
                blocks = self._index.evict_one()
                if blocks is None:
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
            if blocks is None:
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
