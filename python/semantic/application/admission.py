"""How a request comes in: one line for all who wait, then a hit, a prefill step, and a charge."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semantic.application.gate import Gate
from semantic.application.lease import Lease
from semantic.application.resources import Resources
from semantic.application.sealed_blocks import Hold
from semantic.domain.admission_line import Ticket
from semantic.domain.errors import PoolConfigurationError, PoolExhaustedError
from semantic.domain.growth import prefill_steps
from semantic.domain.native import TokenIds
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import Clock

__all__ = ["Admission", "Request"]

_WAIT_POLL_SECONDS = 0.05
"""How often a waiting admission looks again: another pool may free bytes without telling us."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Args:
        agent_id: Who runs.
        prompt: The whole prompt.
        max_new_tokens: Tokens that may be decoded.
        prefill_step: Tokens per prefill step, at most.
    """

    agent_id: str
    prompt: TokenIds
    max_new_tokens: int
    prefill_step: int

    def peak_bytes(self, spec: ModelCacheSpec, cached_tokens: int, prefill_step: int) -> int:
        """The most bytes of its buffers on the way, behind a hit of so many tokens."""
        return spec.live_peak_bytes(
            len(self.prompt),
            prefill_step,
            cached_tokens=cached_tokens,
            new_tokens=self.max_new_tokens,
        )


class Admission:
    """The way of requests into one memory.

    Args:
        memory: What the memory works with; a swap replaces it.
        gate: Who is inside.
        clock: Time.
    """

    def __init__(self, memory: Resources, gate: Gate, clock: Clock) -> None:
        self.memory = memory
        self._gate = gate
        self._clock = clock

    def admit(self, request: Request, patience_seconds: float) -> Lease:
        """Wait for one's turn, and charge; see `CacheManager.admit`.

        Raises:
            PoolExhaustedError: It did not fit in time, or never could.
            PoolConfigurationError: The pool serves another model by now.
        """
        deadline = self._clock.monotonic() + patience_seconds
        with self._gate.ticket() as ticket:
            while True:
                if not self._gate.attempt(ticket, deadline):
                    raise self._outwaited(ticket, request)
                try:
                    lease = self._admit(request)
                except PoolExhaustedError as error:
                    shortage = error
                else:
                    return self._counted(request, lease)
                finally:
                    self._gate.step_out()
                self._wait(ticket, shortage, deadline)

    def _wait(self, ticket: Ticket, shortage: PoolExhaustedError, deadline: float) -> None:
        """Wait until it is worth another attempt, or raise what it failed for."""
        if not shortage.can_ever_fit:
            raise shortage
        if self.memory.pool.budget.expire_leases():
            return
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise shortage
        self._gate.wait(
            ticket,
            shortage.bytes_requested,
            self._is_own_affair(shortage),
            min(left, _WAIT_POLL_SECONDS),
        )

    def _counted(self, request: Request, lease: Lease) -> Lease:
        memory = self.memory
        try:
            memory.counters.request(len(request.prompt), lease.cached_tokens, lease.matched_tokens)
            if memory.tier is not None:
                memory.tier.admitted(request.agent_id)
        except BaseException:
            # Nobody else has the lease, so nobody would end it.
            lease.abort()
            raise
        return lease

    def _outwaited(self, ticket: Ticket, request: Request) -> PoolExhaustedError:
        """Why a request is refused before it is its turn."""
        if self._gate.is_swapping:
            return PoolExhaustedError("the model is being swapped")
        requested = request.peak_bytes(self.memory.spec, 0, request.prefill_step)
        available = self.memory.pool.available_memory()
        ahead = self._gate.bytes_ahead(ticket)
        return PoolExhaustedError(
            f"{requested} bytes are needed, and {ahead} by those who wait already",
            bytes_requested=requested,
            bytes_available=available,
            bytes_short=max(0, requested + ahead - available),
            bytes_ahead=ahead,
        )

    def _is_own_affair(self, shortage: PoolExhaustedError) -> bool:
        """Whether its own pool is what is full, whatever other pools give."""
        pool = self.memory.pool
        beyond = pool.used_memory() + shortage.bytes_requested > pool.most_memory()
        return beyond or not shortage.bytes_short

    def _admit(self, request: Request) -> Lease:
        memory = self.memory
        if memory.pool.spec != memory.spec:
            raise PoolConfigurationError(
                "the pool was reconfigured: make a CacheManager for its new spec"
            )
        hold = self._hold(request)
        try:
            lease = Lease(
                memory,
                request.agent_id,
                request.prompt,
                hold,
                prefill_step=self._enter(request, hold),
                on_end=self._gate.leave,
                clock=self._clock,
            )
            self._gate.enter(lease)
        except BaseException:
            memory.sealed.release(hold)
            raise
        return lease

    def _enter(self, request: Request, hold: Hold) -> int:
        """Charge the live peak to a hold, without its hit if need be; the prefill step."""
        memory = self.memory
        try:
            return self._charged_step(request, hold)
        except PoolExhaustedError as error:
            needed = error.bytes_requested + hold.n_bytes(memory.spec)
            waited = memory.tier is not None and memory.tier.writer.let_go()
            if not hold.n_tokens and not waited:
                self._refuse_for_ever(needed, error)
                raise
        # Holding the hit may be what leaves too little: served without it, it may be evicted.
        hold.forgo()
        try:
            return self._charged_step(request, hold)
        except PoolExhaustedError as error:
            self._refuse_for_ever(min(needed, error.bytes_requested), error)
            raise

    def _refuse_for_ever(self, needed: int, shortage: PoolExhaustedError) -> None:
        """Say so where a request is for more than the pool can ever have."""
        memory = self.memory
        most = memory.pool.most_memory()
        if needed > most:
            raise PoolExhaustedError(
                f"{needed} bytes are needed, and this pool can never have more than {most}:"
                f" {needed - most} short, and waiting does not help",
                bytes_requested=needed,
                bytes_available=most,
                bytes_short=needed - most,
                can_ever_fit=False,
            ) from shortage
        if memory.spec.live_arrays > memory.pool.snapshot().arrays_max:
            shortage.can_ever_fit = False

    def _hold(self, request: Request) -> Hold:
        """The longest hit in memory, after what is stored beyond it has come back."""
        memory, prompt = self.memory, request.prompt
        hold = memory.sealed.hold(prompt)
        if memory.tier is not None and memory.tier.fetch(prompt, hold.n_tokens, request.agent_id):
            memory.sealed.release(hold)
            hold = memory.sealed.hold(prompt)
        return hold

    def _charged_step(self, request: Request, hold: Hold) -> int:
        """Charge with the largest prefill step that memory allows, which is returned."""
        memory = self.memory
        least, shortage = math.inf, PoolExhaustedError()
        for step in prefill_steps(request.prefill_step):
            peak = request.peak_bytes(memory.spec, hold.n_tokens, step)
            if peak < least:
                try:
                    memory.sealed.enter(hold, request.agent_id, peak, memory.spec.live_arrays)
                except PoolExhaustedError as error:
                    least, shortage = peak, error
                else:
                    return step
        raise shortage
