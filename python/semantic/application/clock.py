"""The machine's time."""

from __future__ import annotations

import time

from semantic.ports.outbound import Clock

__all__ = ["SystemClock", "milliseconds"]


class SystemClock:
    """The machine's monotonic clock."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


def milliseconds(clock: Clock) -> int:
    """Whole milliseconds since the clock's start."""
    return max(0, int(clock.monotonic() * 1000))
