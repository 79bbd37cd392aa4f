"""The sealed blocks of one namespace: the native index, and the tensors that its blocks hold.

The index decides in one call per step, under the pool's lock: what hits, what is staged, what goes.
Here is what Rust never sees: the tensors, by block id; the pool drops them at the end of the step
by which their blocks have gone. A publication becomes visible in one step after its arrays are
evaluated (law 6), and MLX computes outside every lock (law 9).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from semantic.application.clock import SystemClock, milliseconds
from semantic.application.counters import Counters
from semantic.application.events import CacheEvent, EventCallback
from semantic.domain.identity import KEY_BYTES, Namespace
from semantic.domain.native import Draft, PrefixIndex, TokenIds
from semantic.domain.native import Hold as NativeHold
from semantic.domain.policy import EvictionPolicy
from semantic.domain.reports import CommitReason, CommitReport, HitPlan, PublishedEnd, RowSpan
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, Clock, LiveCaches

__all__ = ["Hold", "Publication", "SealedBlocks"]

_log = logging.getLogger("semantic")

_KINDS = ("system", "assistant", "user")
"""The kinds of segments by their native number. The first keeps its place in the order of eviction:
every conversation starts with it."""


Spans = Sequence[tuple[str, Sequence[tuple[int, int, int]]]]
Refusal = (
    tuple[Literal["budget"], int]
    | tuple[Literal["declined"]]
    | tuple[Literal["incomplete_window"], str, int, int]
)


class Hold:
    """A hit whose blocks nobody can take away until it is released, and what is charged to it.

    Args:
        native: What the index holds.
        contents: The tensors of the pool's blocks, by id.
    """

    __slots__ = ("_contents", "_native", "matched_tokens", "n_tokens")

    def __init__(self, native: NativeHold, contents: Mapping[int, BlockData]) -> None:
        self._native = native
        self._contents = contents
        self.n_tokens = native.n_tokens
        """The length of the hit; 0 is a miss."""
        self.matched_tokens = native.matched
        """Tokens of the prompt that are cached in some way, whether or not they can be restored."""

    @property
    def plan(self) -> HitPlan:
        """Where the hit's rows come from; still readable after the release."""
        return _plan(self.n_tokens, self._native.spans) if self.n_tokens else HitPlan(0)

    def n_bytes(self, spec: ModelCacheSpec) -> int:
        """Bytes of the hit's blocks; still known after the release."""
        return sum(spec.bytes_per_block(group) * len(rows) for group, rows in self.plan.spans)

    @property
    def data(self) -> dict[int, BlockData]:
        """The tensors of every block of the hit, while it is held."""
        ids = self._native.block_ids if self.n_tokens else ()
        return {block_id: self._contents[block_id] for block_id in ids}

    @property
    def live_bytes(self) -> int:
        """Bytes that are charged to it."""
        return self._native.live_bytes

    @property
    def live_arrays(self) -> int:
        """Arrays that are charged to it."""
        return self._native.live_arrays

    def enter(self, agent_id: str, now_ms: int, n_bytes: int, n_arrays: int) -> None:
        """Charge live bytes to it, and have an agent use its blocks: those go last from now on.

        Raises:
            PoolExhaustedError: Too little can be evicted; nothing has changed.
        """
        self._native.enter(agent_id, now_ms, n_bytes, n_arrays)

    def grow(self, n_bytes: int) -> bool:
        """Charge what is missing to `n_bytes` in all; False when it was released.

        Raises:
            PoolExhaustedError: Too little can be evicted; nothing has changed.
        """
        return self._native.grow(n_bytes)

    def forgo(self) -> None:
        """Be a miss from now on: the blocks go their way, what is charged stays. Idempotent."""
        self.n_tokens = self.matched_tokens = 0
        self._native.forgo()

    def release(self, agent_id: str | None, now_ms: int) -> None:
        """End it and what is charged to it; the agent whose turn it was is away. Idempotent."""
        self._native.release(agent_id, now_ms)


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publication answered, the end that its agent newly claims, and bytes of new blocks."""

    report: CommitReport
    end: int | None = None
    captured_bytes: int = 0


class SealedBlocks:
    """The sealed blocks that may be shared inside one namespace.

    Args:
        spec: The geometry.
        pool: Where their bytes are counted.
        namespace: Who may share.
        policy: What goes first, for the whole pool; None leaves it as it is.
        clock: Time; None: the machine's.
        key_bytes: Bytes of a key that are used; tests make keys collide with fewer.
        on_event: Called for each block that becomes findable or is findable no more.
        counters: Count what goes wrong in `on_event`.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        pool: BlockPool,
        namespace: Namespace,
        *,
        policy: EvictionPolicy | None = None,
        clock: Clock | None = None,
        key_bytes: int = KEY_BYTES,
        on_event: EventCallback | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.namespace = namespace
        self.root = namespace.root
        self._spec = spec
        self._pool = pool
        self.index = PrefixIndex(pool, namespace.root, key_bytes)
        self._kinds = list(_KINDS)
        self._clock = clock or SystemClock()
        self._on_event = on_event
        self._counters = counters or Counters()
        self._events: deque[CacheEvent] = deque()
        self._telling = threading.Lock()
        self._has_news = False
        pool.budget.listen(self)
        if on_event is not None:
            self.index.subscribe()
        self._time_to_live = policy.time_to_live if policy is not None else None
        if policy is not None:
            self.index.set_policy(policy.order)

    def __len__(self) -> int:
        """Published ends of sequences."""
        return len(self.index)

    @property
    def n_blocks(self) -> int:
        """Sealed blocks that can be found."""
        return sum(n for _, _, n in self.index.blocks())

    @property
    def evicted_blocks(self) -> int:
        """Blocks that went because memory was short."""
        return self.index.evicted_blocks

    def sequences(self) -> list[PublishedEnd]:
        """The published ends, least recently used first."""
        return [
            PublishedEnd(handle, n_tokens, self._kinds[kind], frozenset(agents))
            for handle, n_tokens, kind, agents in self.index.ends()
        ]

    def bytes_by_kind(self) -> Counter[str]:
        """Bytes of the findable blocks, by the kind of segment that published them."""
        totals: Counter[str] = Counter()
        for kind, group, blocks in self.index.blocks():
            totals[self._kinds[kind]] += blocks * self._spec.bytes_per_block(group)
        return totals

    # Hits --------------------------------------------------------------------------------------

    def plan(self, tokens: TokenIds) -> HitPlan:
        """The longest hit that leaves at least one token to compute. Changes nothing."""
        n_tokens, _, spans = self.index.plan(tokens, len(tokens) - 1)
        return _plan(n_tokens, spans)

    def lengths(self, tokens: TokenIds) -> tuple[int, int]:
        """What a hit would restore, and what of `tokens` is cached in some way. Changes nothing."""
        n_tokens, matched, _ = self.index.plan(tokens, len(tokens) - 1)
        return n_tokens, matched

    def hold(self, tokens: TokenIds) -> Hold:
        """Plan a hit and hold its blocks, in one step. The order of eviction does not change."""
        oldest_ms = 0
        if self._time_to_live is not None:
            oldest_ms = max(0, milliseconds(self._clock) - int(self._time_to_live * 1000))
        return Hold(self.index.hold(tokens, len(tokens) - 1, oldest_ms), self._pool.contents)

    def hold_all(self, tokens: TokenIds) -> Hold:
        """Hold what is cached of `tokens`, up to the last one: not to compute, but to keep them."""
        return Hold(self.index.hold(tokens, len(tokens)), self._pool.contents)

    def enter(self, hold: Hold, agent_id: str, n_bytes: int = 0, n_arrays: int = 0) -> None:
        """Admit an agent's request with this hit; see `Hold.enter`."""
        hold.enter(agent_id, milliseconds(self._clock), n_bytes, n_arrays)

    def release(self, hold: Hold, agent_id: str | None = None) -> None:
        """End a hold, and the turn of the agent whose it was; see `Hold.release`."""
        hold.release(agent_id, milliseconds(self._clock))

    def depart(self, agent_id: str) -> None:
        """The turn of an agent that holds nothing is over."""
        self.index.depart(agent_id, milliseconds(self._clock))

    # Publication -------------------------------------------------------------------------------

    def publish(self, tokens: TokenIds, live: LiveCaches, agent_id: str, kind: str) -> Publication:
        """Seal what is new of `tokens` and make the longest prefix that fits findable.

        Args:
            tokens: What the caches hold, or the front of it.
            live: The caches, read by position.
            agent_id: Who publishes.
            kind: What kind of segment ends here.
        """
        known = [live.known_spans(group.name) for group in self._spec.groups]
        draft = self._draft(tokens, known, agent_id)
        if isinstance(draft, CommitReport):
            return Publication(draft)
        spans = draft.spans
        n_bytes = sum(self._spec.bytes_per_block(group) * len(rows) for group, rows in spans)
        try:
            self._capture(spans, live)
            end, is_new_end, is_new_agent = draft.publish(agent_id, self._kind(kind))
        except BaseException:
            if draft.abandon():
                self._pool.drop([block_id for _, rows in spans for block_id, _, _ in rows])
            raise
        if draft.n_tokens < len(tokens):
            reason: CommitReason = "budget" if draft.bytes_short else "declined"
            report = CommitReport(draft.n_tokens, reason, f"of {len(tokens)} tokens")
        else:
            report = CommitReport(len(tokens), "published" if is_new_end else "already_cached")
        return Publication(report, end if is_new_agent else None, n_bytes)

    def _draft(
        self, tokens: TokenIds, known: Sequence[Sequence[tuple[int, int]]], agent_id: str
    ) -> Draft | CommitReport:
        drafted = self.index.draft(tokens, known, agent_id, milliseconds(self._clock))
        short = drafted.bytes_short if isinstance(drafted, Draft) else _bytes_short(drafted)
        if short and self._pool.budget.evict(short, self._pool) >= short:
            if isinstance(drafted, Draft):
                drafted.abandon()
            drafted = self.index.draft(tokens, known, agent_id, milliseconds(self._clock))
        if isinstance(drafted, Draft):
            return drafted
        if drafted[0] == "budget":
            return CommitReport(0, "budget", "no prefix fits into the budget")
        if drafted[0] == "declined":
            return CommitReport(0, "declined", "worth less than all that would go for it")
        _, group, lo, hi = drafted
        have = list(known[[group.name for group in self._spec.groups].index(group)])
        detail = f"{group} needs positions {lo} to {hi}, sure are {have}"
        return CommitReport(0, "incomplete_window", detail)

    def _capture(self, spans: Spans, live: LiveCaches) -> None:
        """Capture into the staged blocks, outside every lock."""
        for group, rows in spans:
            captured = live.capture(group, [(lo, hi) for _, lo, hi in rows])
            for (block_id, _, _), data in zip(rows, captured, strict=True):
                self._pool.contents[block_id] = data

    def _kind(self, kind: str) -> int:
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)

    def settle(self, end: int, agent_id: str) -> None:
        """The turn that published this end is over: its agent's shorter ends are superfluous."""
        self.index.settle(end, agent_id)

    def withdraw(self, end: int, agent_id: str) -> None:
        """One agent wants a published end no more; it goes when it was the last."""
        self.index.withdraw(end, agent_id)

    def forget(self, agent_id: str) -> int:
        """Withdraw all that an agent published; how many ends that were."""
        ends = self.index.ends_of(agent_id)
        for end in ends:
            self.withdraw(end, agent_id)
        return len(ends)

    # Eviction ----------------------------------------------------------------------------------

    def evict_bytes(self, n_bytes: int) -> int:
        """Evict until `n_bytes` are gone or nothing may go; the bytes that went."""
        return self.index.evict_bytes(max(0, n_bytes))

    def evict_oldest(self) -> bool:
        """Let go of the least recently used sequence that no pin keeps; False for none."""
        return self.index.drop_oldest()

    def clear(self) -> None:
        """Forget everything that no running sequence holds, what is pinned included."""
        self.index.clear()

    def tell(self) -> None:
        """Tell of every event in order.

        Whoever comes meanwhile, on another thread or in the callback itself, leaves its events to
        the one who is telling.
        """
        if self._on_event is None:
            return
        self._has_news = True
        while self._has_news and self._telling.acquire(blocking=False):
            try:
                self._has_news = False
                self._events.extend(CacheEvent(*event) for event in self.index.drain_events())
                while self._events:
                    self._tell_one(self._on_event, self._events.popleft())
            finally:
                self._telling.release()

    def _tell_one(self, on_event: EventCallback, event: CacheEvent) -> None:
        try:
            on_event(event)
        except Exception as error:
            _log.exception("the event callback failed")
            self._counters.failure("event_callback", repr(error))


def _bytes_short(refusal: Refusal) -> int:
    return refusal[1] if refusal[0] == "budget" else 0


def _plan(n_tokens: int, spans: Spans) -> HitPlan:
    return HitPlan(
        n_tokens, tuple((group, tuple(RowSpan(*row) for row in rows)) for group, rows in spans)
    )
