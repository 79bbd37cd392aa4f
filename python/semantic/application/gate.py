"""Who is inside a memory: admissions and running leases; closed while the model is swapped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from semantic.application.lease import Lease
from semantic.domain.errors import PoolConfigurationError, PoolExhaustedError
from semantic.ports.outbound import Clock

__all__ = ["Gate"]


class Gate:
    """The way into a memory.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._leases: set[Lease] = set()
        self._admissions = 0
        self._is_closed = False

    def __len__(self) -> int:
        """Leases that run."""
        return len(self._leases)

    @contextmanager
    def admission(self, deadline: float) -> Iterator[None]:
        """While somebody asks to be admitted.

        Raises:
            PoolExhaustedError: The model is being swapped, and is not back before the deadline.
        """
        with self._changed:
            while self._is_closed:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise PoolExhaustedError("the model is being swapped", bytes_short=0)
                self._changed.wait(left)
            self._admissions += 1
        try:
            yield
        finally:
            with self._changed:
                self._admissions -= 1
                self._changed.notify_all()

    def enter(self, lease: Lease) -> None:
        """A lease runs from now on."""
        with self._changed:
            self._leases.add(lease)

    def leave(self, lease: Lease) -> None:
        """A lease has ended: there may be room."""
        with self._changed:
            self._leases.discard(lease)
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until a lease ends, or so long."""
        with self._changed:
            self._changed.wait(seconds)

    def idle(self, seconds: float) -> list[Lease]:
        """Leases of which nothing was heard for so long."""
        oldest = self._clock.monotonic() - seconds
        with self._changed:
            return [lease for lease in self._leases if lease.last_used < oldest]

    @contextmanager
    def closed(self, wait: float, drain: Callable[[Lease], None] | None) -> Iterator[None]:
        """While nobody is inside and nobody comes in.

        Args:
            wait: Seconds to wait for those who are inside.
            drain: Called with each lease that runs, to commit and release it.

        Raises:
            PoolConfigurationError: Leases still run, or another swap does.
        """
        with self._changed:
            if self._is_closed:
                raise PoolConfigurationError("another swap is under way")
            self._is_closed = True
            running = list(self._leases)
        try:
            for lease in running if drain is not None else ():
                if drain is not None and not lease.has_ended:
                    drain(lease)
            self._wait_until_empty(self._clock.monotonic() + wait)
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()

    def _wait_until_empty(self, deadline: float) -> None:
        with self._changed:
            while self._leases or self._admissions:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise PoolConfigurationError(
                        f"{len(self._leases)} leases still run: release them, give them time with"
                        " wait=, or let drain= commit and release them"
                    )
                self._changed.wait(left)
