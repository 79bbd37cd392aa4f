"""The sealed blocks of one namespace in plain Python: the oracle for `SealedBlocks`.

Same operations, same lengths, same reasons, same victims, same events. Slow on purpose, not safe to
use from several threads, and without pins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semantic.application.clock import SystemClock, milliseconds
from semantic.application.events import EventCallback
from semantic.domain.errors import PoolConfigurationError
from semantic.domain.identity import KEY_BYTES, Namespace
from semantic.domain.layer_group import BLOCK_TOKENS, Span
from semantic.domain.native import TokenIds
from semantic.domain.policy import EvictionPolicy, Hint, Priority
from semantic.domain.reports import CommitReason, CommitReport, HitPlan, PublishedEnd
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, Clock, LiveCaches
from semantic.testing.reference_events import ReferenceEvents
from semantic.testing.reference_index import ReferenceIndex
from semantic.testing.reference_keys import Tokens
from semantic.testing.reference_node import PrefixNode, SealedBlock, SequenceEnd
from semantic.testing.reference_pool import ReferencePool
from semantic.testing.reference_tree import MissingSpan

__all__ = ["ReferenceHold", "ReferencePublication", "ReferenceSealedBlocks"]


@dataclass(slots=True)
class ReferenceHold:
    """What `Hold` is: a hit whose blocks nobody can take away until it is released."""

    plan: HitPlan
    matched_tokens: int
    blocks: Sequence[SealedBlock]
    is_released: bool = False
    live_bytes: int = 0
    live_arrays: int = 0

    @property
    def n_tokens(self) -> int:
        """The length of the hit."""
        return self.plan.n_tokens

    @property
    def data(self) -> dict[int, BlockData]:
        """The tensors of every block of the hit."""
        return {block.block_id: block.data for block in self.blocks}


@dataclass(frozen=True, slots=True)
class ReferencePublication:
    """What `Publication` is."""

    report: CommitReport
    end: int | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a publication will capture and what it builds upon, which is leased."""

    tokens: Tokens
    nodes: Sequence[PrefixNode]
    missing: Sequence[MissingSpan]
    base: Sequence[SealedBlock]


class ReferenceSealedBlocks:
    """What `SealedBlocks` is.

    Args:
        spec: The geometry.
        pool: Where their bytes are counted.
        namespace: Whose blocks these are: the root of their keys.
        policy: What goes first.
        clock: Time.
        key_bytes: Bytes of a key that are used.
        on_event: Called for each block that becomes findable or is findable no more.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        pool: ReferencePool,
        namespace: Namespace | None = None,
        *,
        policy: EvictionPolicy | None = None,
        clock: Clock | None = None,
        key_bytes: int = KEY_BYTES,
        on_event: EventCallback | None = None,
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._policy = policy or EvictionPolicy()
        self._clock = clock or SystemClock()
        self._index = ReferenceIndex(spec, self._policy.order)
        self._known: dict[int, SealedBlock] = {}
        self.evicted_blocks = 0
        self._is_open = True
        root = (namespace or Namespace.private()).root
        self._events = None if on_event is None else ReferenceEvents(root, key_bytes, on_event)
        pool.victims.append(self._evict_for_others)
        pool.listeners.append(self._swapped)

    def __len__(self) -> int:
        """Published ends of sequences."""
        return len(self._index.ends)

    @property
    def n_blocks(self) -> int:
        """Sealed blocks that can be found."""
        return sum(1 for node in self._index.tree.nodes() for _ in node.blocks())

    def sequences(self) -> list[PublishedEnd]:
        """The published ends, the next to go first."""
        return [
            PublishedEnd(end.handle, end.at, end.kind, frozenset(end.agents))
            for end in self._index.ends
        ]

    def tokens_of(self, handle: int) -> list[int] | None:
        """The tokens of a published end; None when it has gone."""
        end = self._end(handle)
        if end is None:
            return None
        return [token for node in end.node.path for token in node.tokens][: end.at]

    def _end(self, handle: int) -> SequenceEnd | None:
        return next((end for end in self._index.ends if end.handle == handle), None)

    def bytes_by_kind(self) -> Counter[str]:
        """Bytes of the findable blocks, by the kind of segment that published them."""
        totals: Counter[str] = Counter()
        for node in self._index.tree.nodes():
            for block in node.blocks():
                totals[block.kind] += self._spec.bytes_per_block(block.group)
        return totals

    # Hits --------------------------------------------------------------------------------------

    def plan(self, tokens: TokenIds) -> HitPlan:
        """The longest hit that leaves at least one token to compute. Changes nothing."""
        if not self._is_open:
            raise PoolConfigurationError("the index was for the model before")
        return self._index.plan(_packed(tokens), len(tokens) - 1)

    def lengths(self, tokens: TokenIds) -> tuple[int, int]:
        """What a hit would restore, and what of `tokens` is cached in some way."""
        packed = _packed(tokens)
        plan = self._index.plan(packed, len(packed) - 1)
        return plan.n_tokens, self._index.matched(packed, len(packed) - 1)

    def hold(self, tokens: TokenIds) -> ReferenceHold:
        """Plan a hit and hold its blocks. The order of eviction does not change."""
        if self._policy.time_to_live is not None:
            oldest = milliseconds(self._clock) - int(self._policy.time_to_live * 1000)
            self._give_back(self._index.expire(oldest))
            self._tell()
        plan = self.plan(tokens)
        blocks = [self._known[block_id] for block_id in plan.block_ids]
        self._lease(blocks)
        return ReferenceHold(plan, self.lengths(tokens)[1], blocks)

    def enter(
        self, hold: ReferenceHold, agent_id: str, n_bytes: int = 0, n_arrays: int = 0
    ) -> None:
        """Charge live bytes to a hold, and have an agent use its blocks: those go last then."""
        self._index.now_ms = milliseconds(self._clock)
        self._pool.charge("live", n_bytes, n_arrays)
        hold.live_bytes += n_bytes
        hold.live_arrays += n_arrays
        self._index.used(hold.blocks, hold.n_tokens, agent_id)

    def release(self, hold: ReferenceHold, agent_id: str | None = None) -> None:
        """End a hold, and the turn of the agent whose it was. Idempotent."""
        if not hold.is_released:
            hold.is_released = True
            self._index.now_ms = milliseconds(self._clock)
            self._unlease(hold.blocks)
            self._pool.discharge("live", hold.live_bytes, hold.live_arrays)
            if agent_id is not None:
                self.depart(agent_id)
            self._tell()

    def depart(self, agent_id: str) -> None:
        """The turn of an agent that holds nothing is over."""
        self._index.now_ms = milliseconds(self._clock)
        agent = self._index.agents.known(agent_id)
        if agent is not None:
            agent.left_at_ms = self._index.now_ms

    def _lease(self, blocks: Sequence[SealedBlock]) -> None:
        self._pool.acquire([block.block_id for block in blocks])
        for block in blocks:
            block.leases += 1

    def _unlease(self, blocks: Sequence[SealedBlock]) -> None:
        self._pool.release([block.block_id for block in blocks])
        for block in blocks:
            block.leases -= 1
        lost = [block for block in blocks if block.node is None]
        self._give_back([*lost, *self._index.released(blocks[::-1])])

    # Publication -------------------------------------------------------------------------------

    def publish(
        self, tokens: TokenIds, live: LiveCaches, agent_id: str, kind: str
    ) -> ReferencePublication:
        """Seal what is new of `tokens` and make the longest prefix that fits findable.

        Args:
            tokens: What the caches hold, or the front of it.
            live: The caches, read by position.
            agent_id: Who publishes.
            kind: What kind of segment ends here.
        """
        known = {group.name: live.known_spans(group.name) for group in self._spec.groups}
        whole = _packed(tokens)
        self._index.now_ms = milliseconds(self._clock)
        draft, was_short = self._draft(whole, known, agent_id)
        if isinstance(draft, CommitReport):
            self._tell()
            return ReferencePublication(draft)
        try:
            captured = self._capture(draft, live, kind)
        except BaseException:
            self._unlease(draft.base)
            raise
        end, is_new, is_new_agent, surplus = self._index.publish(
            draft.tokens, draft.nodes, captured, agent_id, kind
        )
        self._give_back(surplus)
        self._unlease(draft.base)
        self._tell()
        if len(draft.tokens) < len(whole):
            reason: CommitReason = "budget" if was_short else "declined"
            report = CommitReport(len(draft.tokens), reason, f"of {len(whole)} tokens")
        else:
            report = CommitReport(len(whole), "published" if is_new else "already_cached")
        return ReferencePublication(report, end.handle if is_new_agent else None)

    def _draft(
        self, tokens: Tokens, known: Mapping[str, Sequence[Span]], agent_id: str
    ) -> tuple[_Draft | CommitReport, bool]:
        """The longest prefix that can be published now; whether bytes were short for the whole."""
        worth = self._index.worth_to(agent_id) if self._policy.order == "resident" else None
        draft = self._try_length(tokens, known, worth)
        if isinstance(draft, _Draft) or draft.reason == "incomplete_window":
            return draft, False
        was_short = draft.reason == "budget"
        # Where a ring has moved on, and where there is a state, only the whole can be restored.
        if any(tuple(spans) != ((0, len(tokens)),) for spans in known.values()):
            return draft, was_short
        for blocks in range((len(tokens) - 1) // BLOCK_TOKENS, 0, -1):
            shorter = self._try_length(tokens[: blocks * BLOCK_TOKENS], known, worth)
            if isinstance(shorter, _Draft):
                return shorter, was_short
            if shorter.reason == "declined":
                draft = shorter
        return draft, was_short

    def _try_length(
        self,
        tokens: Tokens,
        known: Mapping[str, Sequence[Span]],
        worth: tuple[int, int] | None,
    ) -> _Draft | CommitReport:
        tree = self._index.tree
        nodes = tree.holders(tokens)
        missing = tree.missing(len(tokens), nodes)
        for span in missing:
            if not any(lo <= span.lo and span.hi <= hi for lo, hi in known[span.group]):
                have = list(known[span.group])
                detail = f"{span.group} needs positions {span.lo} to {span.hi}, sure are {have}"
                return CommitReport(0, "incomplete_window", detail)
        # What a publication builds upon is held; windows of other ends may go for it.
        base = [block for node in nodes for block in node.unbounded.values()]
        base += tree.reads_at(nodes, len(tokens))
        self._lease(base)
        needed = sum(self._spec.bytes_per_block(span.group) for span in missing)
        if needed > self._pool.available_memory():
            self._unlease(base)
            return CommitReport(0, "budget", "no prefix fits into the budget")
        while self._pool.free_memory() < needed:
            least = self._index.least_worth()
            if worth is not None and (least is None or least < worth):
                self._unlease(base)
                return CommitReport(0, "declined", "worth less than all that would go for it")
            assert self._evict_one()
        return _Draft(tokens, nodes, missing, base)

    def _capture(self, draft: _Draft, live: LiveCaches, kind: str) -> list[SealedBlock]:
        """Capture and seal; nothing is left behind on failure."""
        sealed: list[SealedBlock] = []
        staged: list[int] = []
        try:
            for group in dict.fromkeys(span.group for span in draft.missing):
                spans = [span for span in draft.missing if span.group == group]
                ids = self._pool.stage(group, len(spans))
                staged += ids
                captured = live.capture(group, [(span.lo, span.hi) for span in spans])
                sealed += [
                    SealedBlock(block_id, group, span.lo, span.hi, data, kind)
                    for block_id, span, data in zip(ids, spans, captured, strict=True)
                ]
        except BaseException:
            self._pool.abandon(staged)
            raise
        self._pool.publish(staged)
        self._known |= {block.block_id: block for block in sealed}
        return sealed

    def settle(self, end: int, agent_id: str) -> None:
        """The turn that published this end is over: its agent's shorter ends are superfluous."""
        found = self._end(end)
        if found is not None:
            self._give_back(self._index.settle(found, agent_id))
            self._tell()

    def withdraw(self, end: int, agent_id: str) -> None:
        """One agent wants a published end no more; it goes when it was the last."""
        found = self._end(end)
        if found is not None:
            found.agents.discard(agent_id)
            if not found.agents:
                self._give_back(self._index.drop(found))
            self._tell()

    def forget(self, agent_id: str) -> int:
        """Withdraw all that an agent published; how many ends that were."""
        ends = [end for end in self._index.ends if agent_id in end.agents]
        for end in ends:
            self.withdraw(end.handle, agent_id)
        return len(ends)

    def hint(self, agent_id: str, word: Hint) -> None:
        """What is known of an agent's next request."""
        agent = self._index.agents.known(agent_id)
        if agent is not None:
            agent.hint = word

    def prioritise(self, agent_id: str, word: Priority) -> None:
        """How much an agent matters."""
        self._index.agents.named(agent_id).priority = word
        self._index.agents.known(agent_id)

    # Eviction ----------------------------------------------------------------------------------

    def evict_bytes(self, n_bytes: int) -> int:
        """Evict until `n_bytes` are gone or nothing may go; the bytes that went."""
        before = self._pool.snapshot().cached
        while before - self._pool.snapshot().cached < n_bytes and self._evict_one():
            pass
        self._tell()
        return before - self._pool.snapshot().cached

    def clear(self) -> None:
        """Forget everything that no running sequence holds."""
        for end in self._index.ends:
            self._give_back(self._index.drop(end))
        self._tell()

    def _tell(self) -> None:
        """After a step: tell what has become of the picture that was told before."""
        if self._events is not None and self._is_open:
            self._events.tell(self._index.tree)

    def _swapped(self) -> None:
        """The pool serves another model."""
        if self._is_open and self._events is not None:
            self._events.tell_cleared([group.name for group in self._spec.groups])
        self._is_open = False

    def _evict_for_others(self) -> bool:
        has_evicted = self._evict_one()
        self._tell()
        return has_evicted

    def _evict_one(self) -> bool:
        before = len(self._known)
        blocks = self._index.evict_one()
        if blocks is not None:
            self._give_back(blocks)
            self.evicted_blocks += before - len(self._known)
        return blocks is not None

    def _give_back(self, blocks: Sequence[SealedBlock]) -> None:
        """Give back blocks that the index let go; held ones follow when they are released."""
        gone = {block.block_id for block in blocks if not block.leases}
        self._pool.evict(list(gone))
        for block_id in gone:
            del self._known[block_id]


def _packed(tokens: TokenIds) -> Tokens:
    packed = Tokens("q")
    packed.frombytes(tokens.tobytes())
    return packed
