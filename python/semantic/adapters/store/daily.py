"""What is written in a day, on a machine whose clock may jump.

A day that was counted does not begin again when the clock is set back and comes forth. After a
clock that was days ahead has been put right, the days begin as they come; the one on which that
happens goes on with what was counted.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DAY_SECONDS", "Daily"]

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Daily:
    """What a store remembers of the days on which it has written.

    Args:
        day: The day that is counted, UTC, in days since 1970.
        last: The last day of all that were ever counted, by whatever clock.
        written_bytes: Bytes that were written in it.
    """

    day: int
    last: int
    written_bytes: int

    def told(self, now: int) -> Daily:
        """What is to be remembered when the clock says `now`, seconds since 1970."""
        today = now // DAY_SECONDS
        last = max(self.last, self.day)
        if today in (self.day - 1, self.day):
            return Daily(self.day, last, self.written_bytes)
        is_new = today == self.day + 1 or today > last
        return Daily(today, max(last, today), 0 if is_new else self.written_bytes)
