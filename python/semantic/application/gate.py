"""Who is inside a memory: requests that are being admitted, and running leases.

A request that has to wait stands in its budget's line, outside: so a swap, for which the gate is
closed, never waits for somebody who waits for bytes. While it is closed nobody comes in, not even
who had begun to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from semantic.application.lease import Lease
from semantic.domain.admission_line import AdmissionLine, Ticket
from semantic.domain.errors import PoolConfigurationError, PoolExhaustedError
from semantic.ports.outbound import Clock

__all__ = ["Gate"]

_ATTEMPT_SECONDS = 10.0
"""The longest that a swap waits for admissions under way, which wait for nobody themselves."""


class Gate:
    """The way into a memory.

    Args:
        clock: Time.
        line: Who waits for bytes of the memory's budget.
    """

    def __init__(self, clock: Clock, line: AdmissionLine) -> None:
        self._clock = clock
        self._line = line
        self._changed = line.changed
        self._leases: set[Lease] = set()
        self._attempts = 0
        self._is_closed = False

    def __len__(self) -> int:
        """Leases that run."""
        return len(self._leases)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for bytes, or for a swap to be over."""
        with self._changed:
            return self._line.waiting_at(self)

    # Admission ---------------------------------------------------------------------------------

    @contextmanager
    def ticket(self) -> Iterator[Ticket]:
        """What a request has while it asks to be admitted; it joins the line when it must wait."""
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            with self._changed:
                self._line.leave(ticket)

    def attempt(self, ticket: Ticket, deadline: float) -> bool:
        """Wait until the gate is open and nobody comes before; one is inside then, to `step_out`.

        Returns:
            False when the deadline comes first.
        """
        with self._changed:
            while self._is_closed or self._line.ahead(ticket):
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._line.join(ticket)
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            self._attempts += 1
            return True

    def step_out(self) -> None:
        """An attempt is over."""
        with self._changed:
            self._attempts -= 1
            self._changed.notify_all()

    def wait(self, ticket: Ticket, needed_bytes: int, is_own_affair: bool, seconds: float) -> None:
        """Wait in the line until something ends, or so long."""
        with self._changed:
            ticket.needed_bytes, ticket.is_own_affair = needed_bytes, is_own_affair
            self._line.join(ticket)
            if is_own_affair:
                self._changed.notify_all()
            self._changed.wait(seconds)

    @property
    def is_swapping(self) -> bool:
        """Whether it is closed."""
        return self._is_closed

    def bytes_ahead(self, ticket: Ticket) -> int:
        """Bytes that those need who come before a ticket."""
        with self._changed:
            return self._line.bytes_ahead(ticket)

    # Leases ------------------------------------------------------------------------------------

    def enter(self, lease: Lease) -> None:
        """A lease runs from now on.

        Raises:
            PoolExhaustedError: The gate was closed in the meantime.
        """
        with self._changed:
            if self._is_closed:
                raise PoolExhaustedError("the model is being swapped")
            self._leases.add(lease)

    def leave(self, lease: Lease) -> None:
        """A lease has ended: there may be room."""
        with self._changed:
            self._leases.discard(lease)
            self._changed.notify_all()

    def expire(self, seconds: float) -> list[Lease]:
        """End the leases of which nothing was heard for so long; those that have ended by it."""
        oldest = self._clock.monotonic() - seconds
        with self._changed:
            leases = list(self._leases)
        return [lease for lease in leases if lease.expire(oldest)]

    # Swaps -------------------------------------------------------------------------------------

    @contextmanager
    def closed(self, wait: float, drain: Callable[[Lease], None] | None) -> Iterator[None]:
        """While nobody is inside and nobody comes in.

        Args:
            wait: Seconds to wait for running leases.
            drain: Called with each lease that runs, to commit and release it.

        Raises:
            PoolConfigurationError: Leases still run, or another swap does.
        """
        with self._changed:
            if self._is_closed:
                raise PoolConfigurationError("another swap is under way")
            self._is_closed = True
            self._changed.notify_all()
            running = list(self._leases)
        try:
            for lease in running if drain is not None else ():
                if drain is not None and not lease.has_ended:
                    drain(lease)
            self._wait_until_empty(wait)
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()

    def _wait_until_empty(self, wait: float) -> None:
        start = self._clock.monotonic()
        with self._changed:
            while self._leases or self._attempts:
                longest = wait if self._leases else max(wait, _ATTEMPT_SECONDS)
                left = start + longest - self._clock.monotonic()
                if left <= 0:
                    raise PoolConfigurationError(
                        f"{len(self._leases)} leases still run: release them, give them time with"
                        " wait=, or let drain= commit and release them"
                    )
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
