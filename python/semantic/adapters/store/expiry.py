"""What the time is for a store that forgets what is too old, on a machine whose clock may jump.

A clock that jumps ahead by years would have everything forgotten at once, and come back. So a store
remembers when it was last in use. A time at most a day later is believed. One that is later
still is the truth after a long rest, or a jump: it is believed once the store is in use between
a day and a year after it and the clock has not come back. Until then the store is as old as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Seen"]

_DAY_SECONDS = 86_400
_YEAR_SECONDS = 366 * _DAY_SECONDS
_PRECISION_SECONDS = 60
"""Times closer than that are one, for what is written down."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a store remembers of the time.

    Args:
        at: When it was last in use, seconds since 1970, by a clock that was believed.
        doubted: The first time that was not believed since; 0: there was none.
    """

    at: int
    doubted: int

    def told(self, now: int) -> tuple[int, Seen]:
        """The time to go by when the clock says `now`, and what is remembered then."""
        since_doubted = now - self.doubted if self.doubted else -1
        is_confirmed = _DAY_SECONDS <= since_doubted <= _YEAR_SECONDS
        if is_confirmed or now <= self.at + _DAY_SECONDS:
            is_known = not self.doubted and 0 <= now - self.at < _PRECISION_SECONDS
            return now, self if is_known else Seen(now, 0)
        is_doubted = 0 <= since_doubted < _DAY_SECONDS
        return self.at, self if is_doubted else Seen(self.at, now)
