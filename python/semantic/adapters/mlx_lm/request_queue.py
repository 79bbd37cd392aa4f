"""Who may run: requests wait here, in the order they came, until their bytes are there.

mlx_lm.server takes a request from its queue and computes it, whatever memory it needs. Between the
two stands this:

- A request is charged for all that it may come to (prompt, `max_tokens`, the padding of the batch)
  before a byte of it is allocated, and until it has left. What is cached gives way; what runs does
  not.
- The first in the queue goes first. Who comes later waits behind it, so nobody is starved; whoever
  runs comes to an end, so everybody's turn comes.
- What can never fit is refused at once, and what waited too long is refused with the time after
  which to ask again. A refusal is an answer, not a lost request.
- Everything here happens on the generation thread, between two steps of the server's own loop.
  Other threads read counts.

A request for another model waits until the batch has run dry, as the server has it; only then is
the other model loaded, and its geometry known.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from semantic.application.batch_charge import BatchCharge, Row
from semantic.application.clock import SystemClock
from semantic.application.resources import Resources
from semantic.domain.errors import PoolExhaustedError, SemanticError
from semantic.domain.native import TokenIds
from semantic.ports.outbound import Clock

__all__ = ["NOT_COPIED", "RequestQueue", "RequestRefused"]

_log = logging.getLogger("semantic.serve")

_REMEMBERED_RUNS = 32
"""Runs whose length tells a refused client when to ask again."""


class RequestRefused(SemanticError):  # noqa: N818 - an answer to a client, no failure of ours
    """A request that is not served.

    Attributes:
        status: The HTTP status to answer with.
        retry_after_seconds: When to ask again; None where that is of no use.
    """

    status: int = 503
    retry_after_seconds: int | None = None


NOT_COPIED: list[Any] = []
"""Given to the server in the place of caches that there was no room for a copy of."""


@dataclass(eq=False)
class _Asked:
    """A request on its way: what the server took from its queue, and what is known of it."""

    taken: tuple[Any, Any, Any]
    since: float
    answer: Any = None
    charge: BatchCharge | None = None
    row: Row | None = None
    admitted_at: float = 0.0

    @property
    def request(self) -> Any:
        return self.taken[1]

    @property
    def args(self) -> Any:
        return self.taken[2]

    def refuse(self, refusal: RequestRefused) -> None:
        self.taken[0].put(refusal)


class RequestQueue:
    """The queue in front of the server's batch, and the charge of what runs.

    Args:
        memory_of: The memory of a model key that is loaded; None where its geometry is not known.
        model_key: The key of the model that is loaded now.
        limit_bytes: What the budget may ever be: who needs more is refused.
        prefill_step: Tokens of one prefill step, as the server was told.
        wait_seconds: The longest that a request waits.
        clock: Time, for tests.
    """

    def __init__(
        self,
        memory_of: Callable[[Any], Resources | None],
        model_key: Callable[[], Any],
        *,
        limit_bytes: int,
        prefill_step: int,
        wait_seconds: float,
        clock: Clock | None = None,
    ) -> None:
        self._memory_of = memory_of
        self._model_key = model_key
        self._limit_bytes = limit_bytes
        self._asked_step = prefill_step
        self._wait_seconds = wait_seconds
        self._clock = clock or SystemClock()
        self._waiting: deque[_Asked] = deque()
        self._current: _Asked | None = None
        self._running: dict[int, _Asked] = {}
        self._finished: list[Any] = []
        self._charge: BatchCharge | None = None
        self._longest = 0
        self._loaded: Any = None
        self._lock = threading.Lock()
        self._admitted = self._refused = 0
        self._waited_seconds = 0.0
        self._runs: deque[float] = deque(maxlen=_REMEMBERED_RUNS)

    # The server's queue ------------------------------------------------------------------------

    def ask(self, taken: tuple[Any, Any, Any]) -> None:
        """A request has come: it waits behind those that wait already."""
        self._waiting.append(_Asked(taken, self._clock.monotonic()))

    def first(self, compute: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any] | None:
        """The request that may run now, as the server put it into its queue; None when none may.

        Args:
            compute: Tokenises (request, args) with the model that is loaded.
        """
        self._drop_current()
        while self._waiting:
            asked = self._waiting[0]
            try:
                if self._may_leave(asked, compute):
                    return self._leave_queue(asked)
            except RequestRefused as refusal:
                self._refuse_first(refusal)
                continue
            if self._clock.monotonic() - asked.since <= self._wait_seconds:
                return None
            self._refuse_first(self._busy(0))
        return None

    def _may_leave(self, asked: _Asked, compute: Callable[[Any, Any], Any]) -> bool:
        """Whether a request may run now, charged if its model is the one that is loaded.

        Raises:
            RequestRefused: There is nothing to wait for.
        """
        if asked.args.model != self._loaded:
            return not self._running
        try:
            if asked.answer is None:
                asked.answer = compute(asked.request, asked.args)
            self._admit(asked)
        except PoolExhaustedError as error:
            if self._runs_nobody():
                raise self._busy(error.bytes_short) from error
            return False
        except RequestRefused:
            raise
        except Exception:
            # The server meets the same once more, and has its own way to answer.
            asked.answer = None
        return True

    def tokenised(self, request: Any, args: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` answers to a request that is about to run, and its bytes charged.

        Raises:
            RequestRefused: Nothing else runs, and still it does not fit.
        """
        asked = self._current
        if asked is None or asked.request is not request:
            self._drop_current()
            asked = self._current = _Asked((None, request, args), self._clock.monotonic())
        self._loaded = args.model
        if asked.answer is None:
            asked.answer = compute()
        if asked.row is None:
            try:
                self._admit(asked)
            except PoolExhaustedError as error:
                refusal = self._busy(error.bytes_short)
                self._count_refusal(refusal)
                raise refusal from error
            except RequestRefused as refusal:
                self._count_refusal(refusal)
                raise
        answer, asked.answer = asked.answer, None
        return answer

    def _leave_queue(self, asked: _Asked) -> tuple[Any, Any, Any]:
        self._waiting.popleft()
        self._current = asked
        with self._lock:
            self._waited_seconds += self._clock.monotonic() - asked.since
        return asked.taken

    def _admit(self, asked: _Asked) -> None:
        if asked.answer is None or asked.row is not None:
            return
        charge = self._charge_of_the_loaded()
        prompt = TokenIds(_prompt_of(asked.answer))
        new_tokens = self._new_tokens(len(prompt), asked.args.max_tokens)
        budget_bytes = charge.memory.pool.budget.total
        if self._runs_nobody() and budget_bytes < self._limit_bytes:
            # Memory is short, and nobody's end would bring more of it.
            room = charge.longest_end(budget_bytes) - len(prompt) - 1
            new_tokens = max(1, min(new_tokens, room))
        asked.charge, asked.row = charge, charge.add(prompt, new_tokens)
        asked.args.max_tokens = new_tokens
        asked.admitted_at = self._clock.monotonic()
        with self._lock:
            self._admitted += 1

    def _new_tokens(self, prompt_tokens: int, asked_tokens: int) -> int:
        """As many tokens of the asked ones as there is memory for, were the request alone."""
        room = self._longest - prompt_tokens - 1
        if room < 1:
            raise RequestRefused(
                f"the prompt has {prompt_tokens} tokens; with --kv-memory {self._limit_bytes} a "
                f"request to this model may come to {self._longest} tokens in all",
                status=413,
            )
        return min(asked_tokens, room)

    def _charge_of_the_loaded(self) -> BatchCharge:
        memory = self._memory_of(self._model_key())
        if memory is None:
            raise RequestRefused(
                "the KV cache of this model cannot be counted, so --kv-memory cannot be kept; the "
                "reason is in the server's log",
                status=501,
            )
        if self._charge is None or self._charge.memory is not memory:
            self._charge = BatchCharge(memory, self._asked_step)
            self._longest = self._charge.longest_end(self._limit_bytes)
        return self._charge

    def _runs_nobody(self) -> bool:
        """Whether there is nobody whose end could be waited for."""
        return self._charge is None or not len(self._charge)

    def _refuse_first(self, refusal: RequestRefused) -> None:
        self._count_refusal(refusal)
        self._waiting.popleft().refuse(refusal)

    def _busy(self, bytes_short: int) -> RequestRefused:
        runs = sorted(self._runs)
        median = runs[len(runs) // 2] if runs else 1.0
        return RequestRefused(
            "the KV memory is taken by requests that run; ask again later",
            status=503,
            retry_after_seconds=max(1, math.ceil(median)),
            bytes_short=bytes_short,
        )

    def _count_refusal(self, refusal: RequestRefused) -> None:
        _log.warning("a request was refused with %d: %s", refusal.status, refusal)
        with self._lock:
            self._refused += 1

    # The server's batch ------------------------------------------------------------------------

    @property
    def prefill_step(self) -> int:
        """Tokens of one prefill step that those who run are charged for."""
        return self._asked_step if self._charge is None else self._charge.prefill_step

    def may_restore(self, n_tokens: int) -> bool:
        """Whether there is room for the copy that a hit of the request about to run restores."""
        asked = self._current
        if asked is None or asked.row is None or asked.charge is None:
            return True
        return asked.charge.may_restore(asked.row, n_tokens)

    def inserted(self, uids: Sequence[int]) -> None:
        """The request that was tokenised last is in the batch, its hit restored."""
        asked, self._current = self._current, None
        if asked is None or asked.row is None or asked.charge is None:
            return
        asked.charge.restored(asked.row)
        for uid in uids:
            self._running[uid] = asked

    def settle(self) -> None:
        """The server is done with the last step's answers: who finished leaves."""
        for response in self._finished:
            # The server's loop keeps its last answers, and with them whole caches.
            response.prompt_cache = None
            self._left(response.uid)
        self._finished = []
        if self._charge is not None:
            self._charge.drop_copies()

    def stepped(self, prompts: Iterable[Any], generated: Iterable[Any], taken_bytes: int) -> None:
        """The batch has computed a step.

        Args:
            prompts: The answers of sequences that are prefilled.
            generated: The answers of sequences that decode.
            taken_bytes: What its caches take now.
        """
        if self._charge is None:
            return
        for response in (*prompts, *generated):
            asked = self._running.get(response.uid)
            if asked is not None and asked.row is not None and asked.charge is not None:
                asked.charge.settled(asked.row)
        self._finished = [r for r in generated if r.finish_reason is not None]
        if taken_bytes > self._charge.live_bytes:
            detail = f"{taken_bytes} bytes run, {self._charge.live_bytes} are charged"
            self._charge.memory.counters.failure("undercharged", detail)

    def copied(self, copies: dict[int, Any]) -> dict[int, Any]:
        """The copied rows, without the caches that there is no room for."""
        if self._charge is None:
            return copies
        kept = {}
        for uid, (caches, tokens) in copies.items():
            if self._charge.copy(sum(cache.nbytes for cache in caches)):
                kept[uid] = caches, tokens
            else:
                # The server counts segments by what it is given: nothing is given, not left out.
                kept[uid] = NOT_COPIED, tokens
                self._charge.memory.counters.failure("budget", "no room to capture a prefix")
        return kept

    def removed(self, uids: Iterable[int]) -> None:
        """Sequences were taken out of the batch."""
        for uid in uids:
            self._left(uid)

    def _left(self, uid: int) -> None:
        asked = self._running.pop(uid, None)
        if asked is not None:
            self._end(asked)

    def emptied(self) -> None:
        """The batch is no more."""
        self.settle()
        self.removed(list(self._running))

    # A request that runs alone -----------------------------------------------------------------

    def served(self) -> None:
        """The request that was tokenised last is served; it was never in the batch."""
        self._drop_current()

    def _drop_current(self) -> None:
        """What was let in and is not in the batch: it ran alone, or could not be run at all."""
        asked, self._current = self._current, None
        if asked is not None:
            self._end(asked)

    def _end(self, asked: _Asked) -> None:
        if asked.row is not None and asked.charge is not None:
            asked.charge.end(asked.row)
            self._runs.append(self._clock.monotonic() - asked.admitted_at)
        asked.row = None

    # The end, and counts -----------------------------------------------------------------------

    def close(self) -> None:
        """The generation thread ends: who waits is told so."""
        self.emptied()
        self._drop_current()
        while self._waiting:
            self._waiting.popleft().refuse(
                RequestRefused("the server is shutting down", status=503, retry_after_seconds=5)
            )
        self._charge = None

    def stats(self) -> dict[str, float]:
        """Requests that wait, run, were admitted or refused, and seconds waited, all together."""
        with self._lock:
            return {
                "waiting": len(self._waiting),
                "running": 0 if self._charge is None else len(self._charge),
                "admitted": self._admitted,
                "refused": self._refused,
                "waited_seconds": self._waited_seconds,
            }


def _prompt_of(answer: Any) -> Sequence[int]:
    """The prompt among what the server's tokeniser answers, which other releases answer alone."""
    prompt: Sequence[int] = answer[0] if isinstance(answer, tuple) else answer
    return prompt
