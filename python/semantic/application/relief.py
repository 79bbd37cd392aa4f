"""Giving up what MLX keeps for later, on the thread that may call MLX."""

from __future__ import annotations

import threading
from collections.abc import Callable

from semantic.application.clock import SystemClock
from semantic.domain._check import seconds, whole_number
from semantic.domain.errors import PoolConfigurationError
from semantic.ports.outbound import Clock

__all__ = ["Relief"]

_MOST_KEPT_BYTES = 1 << 30


class Relief:
    """What MLX keeps of freed buffers, given back to the system when it is due.

    Any thread may `ask`. Whoever generates calls `if_due` between two steps: MLX is called there.

    It is due when it was asked for, and after large evictions: what was evicted is MLX's to keep,
    and MLX says how much that is.

    Args:
        give_up: Gives it back: `mx.clear_cache`.
        kept_bytes: How much MLX keeps: `mx.get_cache_memory`.
        most_kept_bytes: What it may keep unasked.
        every_seconds: So long nothing is given up unasked after the last time: a step that needs
            more than that for itself would allocate it again each time.
        clock: Time, for tests.

    Raises:
        PoolConfigurationError: Numbers that cannot be.
    """

    def __init__(
        self,
        give_up: Callable[[], None],
        kept_bytes: Callable[[], int] = lambda: 0,
        *,
        most_kept_bytes: int = _MOST_KEPT_BYTES,
        every_seconds: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._give_up = give_up
        self._kept_bytes = kept_bytes
        self._most_kept_bytes = whole_number(
            most_kept_bytes, "most_kept_bytes", PoolConfigurationError
        )
        self._every_seconds = seconds(every_seconds, "every_seconds", PoolConfigurationError)
        self._clock = clock or SystemClock()
        self._asked = threading.Event()
        self._last = float("-inf")

    def ask(self) -> None:
        """Have it given up soon. From any thread; never waits, never calls MLX."""
        self._asked.set()

    def if_due(self) -> bool:
        """Give it up if it is due; whether it was. Calls MLX: for the thread that generates."""
        if not self._asked.is_set() and not self._keeps_too_much():
            return False
        # Cleared before: who asks meanwhile is heard again.
        self._asked.clear()
        self._last = self._clock.monotonic()
        self._give_up()
        return True

    def _keeps_too_much(self) -> bool:
        if self._kept_bytes() <= self._most_kept_bytes:
            return False
        return self._clock.monotonic() - self._last >= self._every_seconds
