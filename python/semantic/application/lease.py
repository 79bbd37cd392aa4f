"""What one agent's running sequence holds; spent by release."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

from semantic.application.publish import publish_caches
from semantic.application.resources import Resources
from semantic.application.restore import restored
from semantic.application.sealed_blocks import Hold
from semantic.domain._check import whole_number
from semantic.domain.errors import (
    BlockOperationError,
    BlockValidationError,
    PoolExhaustedError,
    UnsupportedCacheError,
)
from semantic.domain.native import TokenIds
from semantic.domain.reports import CommitReport, HitPlan
from semantic.ports.outbound import Caches, Clock

__all__ = ["Lease"]

_log = logging.getLogger("semantic")


class Lease:
    """A running sequence: the blocks of its hit, the live bytes it may use, what it published.

    Made by `CacheManager.admit`. As a context manager it releases at the end, and aborts when an
    exception passes through. `materialise`, `commit` and `checkpoint` call MLX: use them on the
    thread that generates.

    A lease that has *expired*, since its owner was silent for too long, answers an owner that comes
    back after all with misses, which are counted: nothing is raised into a thread that generates.
    Using one after `release` or `abort` is an error.
    """

    def __init__(
        self,
        memory: Resources,
        agent_id: str,
        prompt: TokenIds,
        hold: Hold,
        *,
        prefill_step: int,
        on_end: Callable[[Lease], None],
        clock: Clock,
    ) -> None:
        self._memory = memory
        self._agent_id = agent_id
        self._prompt_tokens = len(prompt)
        self._hold = hold
        self._matched = hold.matched_tokens
        self._prefill_step = prefill_step
        self._on_end = on_end
        self._clock = clock
        self.last_used = clock.monotonic()
        """When something was last heard of its owner, by the memory's clock."""
        self._published: list[int] = []
        self._to_store: list[TokenIds] = []
        self._lock = threading.Lock()
        self._calls = 0
        self._end_kind: Literal["released", "aborted", "expired"] | None = None
        self._has_come_back = False

    @property
    def agent_id(self) -> str:
        """Who runs."""
        return self._agent_id

    @property
    def cached_tokens(self) -> int:
        """Leading tokens of the prompt that need no prefill."""
        return self._hold.n_tokens

    @property
    def matched_tokens(self) -> int:
        """Leading tokens that are cached in some way, whether or not they can be restored."""
        return self._matched

    @property
    def plan(self) -> HitPlan:
        """Where the hit's rows come from."""
        return self._hold.plan

    @property
    def live_bytes(self) -> int:
        """Bytes charged for this sequence's own buffers."""
        return self._hold.live_bytes

    @property
    def live_arrays(self) -> int:
        """Arrays charged for this sequence's own buffers."""
        return self._hold.live_arrays

    @property
    def prefill_step(self) -> int:
        """Tokens per prefill step that were charged for: fewer than asked for when memory is short.

        Prefill in steps of no more than that.
        """
        return self._prefill_step

    @property
    def has_ended(self) -> bool:
        """Whether it was released, aborted, or has expired."""
        return self._end_kind is not None

    @property
    def has_expired(self) -> bool:
        """Whether it was ended because nothing was heard of its owner."""
        return self._end_kind == "expired"

    def materialise(self) -> Caches | None:
        """mlx-lm caches positioned at `cached_tokens`; None on a miss.

        A restore that fails becomes a miss: the reason is counted, `cached_tokens` is 0 from then
        on, and the request is served from scratch. So it is when the lease has expired.

        Raises:
            UnsupportedCacheError: There is no MLX side here.
            BlockOperationError: The lease was released or aborted.
        """
        with self._call() as runs:
            if not runs:
                self._hold.forgo()
            return self._restored() if self.cached_tokens else None

    def _restored(self) -> Caches | None:
        try:
            return restored(self._memory, self._hold)
        except UnsupportedCacheError:
            raise
        except Exception as error:
            _log.exception("a restore failed")
            self._memory.counters.failure("restore", repr(error))
            self._hold.forgo()
            self._charge_from_scratch()
            return None

    def _charge_from_scratch(self) -> None:
        """Without its hit the prefill may peak higher; too little memory is counted, not raised."""
        if not self._grow(self._prompt_tokens):
            self._memory.counters.failure("undercharged", "no room for a prefill without the hit")

    @property
    def stops(self) -> tuple[int, ...]:
        """Lengths of the prompt at which to stop the prefill for a `checkpoint`, in order.

        Where every position can be restored, as with attention layers alone, there are none. Else
        they are those of the memory's `CheckpointPolicy` that the hit does not cover.
        """
        return self._memory.checkpoints.stops(
            self._memory.spec, self._prompt_tokens, self._hold.n_tokens, self._matched
        )

    def grow(self, n_tokens: int) -> bool:
        """Charge for a sequence of `n_tokens` in all; False, with nothing changed, when too little.

        False, too, when the lease has expired.

        Raises:
            BlockValidationError: Not a number of tokens.
            BlockOperationError: The lease was released or aborted.
        """
        whole_number(n_tokens, "n_tokens", BlockValidationError)
        with self._call() as runs:
            return runs and self._grow(n_tokens)

    def _grow(self, n_tokens: int) -> bool:
        needed = self._memory.spec.live_peak_bytes(
            self._prompt_tokens,
            self._prefill_step,
            cached_tokens=self.cached_tokens,
            new_tokens=max(0, n_tokens - self._prompt_tokens),
        )
        try:
            return self._hold.grow(needed)
        except PoolExhaustedError:
            return False

    def checkpoint(self, tokens: Iterable[int], caches: Caches) -> CommitReport:
        """Publish a prefix in the middle of a turn; as `commit`."""
        return self._publish(tokens, caches, "system")

    def commit(self, tokens: Iterable[int], caches: Caches) -> CommitReport:
        """Seal and publish what the caches hold.

        Evicts what it must, and publishes the longest prefix that fits. A cache that cannot be
        captured is reported and counted; nothing is raised for it, nor for memory.

        Args:
            tokens: The prompt and what was generated: exactly the positions in the caches.
            caches: The sequence's caches.

        Raises:
            BlockValidationError: No tokens.
            BlockOperationError: The lease was released or aborted.
        """
        return self._publish(tokens, caches, "assistant")

    def _publish(self, tokens: Iterable[int], caches: Caches, kind: str) -> CommitReport:
        with self._call() as runs:
            packed = TokenIds(tokens)
            if not packed:
                raise BlockValidationError("tokens must not be empty")
            if not runs:
                return CommitReport(0, "expired", "nothing was heard of its owner for too long")
            publication = publish_caches(self._memory, packed, caches, self._agent_id, kind)
            with self._lock:
                ended = self._end_kind
                if ended is None and publication.end is not None:
                    self._published.append(publication.end)
                if ended is None and publication.report.published_tokens:
                    self._to_store.append(packed[: publication.report.published_tokens])
            if ended is not None and publication.end is not None:
                self._settle(publication.end, keep=ended == "released")
            return publication.report

    def release(self) -> None:
        """End the turn: blocks go back to be shared, live bytes to the pool. Idempotent."""
        self._end("released")

    def abort(self) -> None:
        """End the turn without a trace: what it published is forgotten too. Idempotent."""
        self._end("aborted")

    def expire(self, heard_before: float) -> bool:
        """Abort the turn of an owner of whom nothing was heard since a time; whether it was done.

        Who is in the middle of a call is alive.
        """
        with self._lock:
            if self._calls or self.last_used >= heard_before or self._end_kind is not None:
                return False
            self._end_kind = "expired"
        self._give_back(keep=False)
        return True

    def _end(self, kind: Literal["released", "aborted"]) -> None:
        with self._lock:
            if self._end_kind is not None:
                return
            self._end_kind = kind
        self._give_back(keep=kind == "released")

    def _give_back(self, *, keep: bool) -> None:
        try:
            for tokens in self._to_store if keep else ():
                self._store(tokens)
            for end in self._published:
                self._settle(end, keep=keep)
        finally:
            self._published = []
            try:
                self._memory.sealed.release(self._hold, self._agent_id)
            finally:
                self._on_end(self)

    def _settle(self, end: int, *, keep: bool) -> None:
        if keep:
            self._memory.sealed.settle(end, self._agent_id)
        else:
            self._memory.sealed.withdraw(end, self._agent_id)

    def _store(self, tokens: TokenIds) -> None:
        if self._memory.tier is not None:
            self._memory.tier.save(tokens, self._agent_id)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    @contextmanager
    def _call(self) -> Iterator[bool]:
        """While its owner calls, and so is alive; whether the lease still runs.

        An owner that comes back after its lease has expired is counted, once.
        """
        with self._lock:
            if self._end_kind in ("released", "aborted"):
                raise BlockOperationError(f"the lease of agent {self._agent_id!r} has ended")
            runs = self._end_kind is None
            comes_back = not runs and not self._has_come_back
            self._has_come_back = not runs
            self._calls += 1
        if comes_back:
            self._memory.counters.failure("expired", f"agent {self._agent_id!r} came back too late")
        try:
            yield runs
        finally:
            with self._lock:
                self._calls -= 1
                self.last_used = self._clock.monotonic()
