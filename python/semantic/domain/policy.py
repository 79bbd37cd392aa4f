"""In which order cached sequences go when memory is short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from semantic.domain.errors import PoolConfigurationError

__all__ = ["EvictionOrder", "EvictionPolicy", "Hint", "Priority"]

EvictionOrder = Literal["lru", "resident", "scan_resistant"]

Hint = Literal["active", "waiting", "ended"]
"""What is known of an agent's next request: soon, when its human has answered (or after more than a
minute for another reason), or never."""

Priority = Literal["low", "normal", "high"]
"""How much an agent matters: everything of a lower priority goes first."""

_ENDLESS_SECONDS = 1e18
"""Thirty billion years: such a time is no limit, and clocks of 64 bits do not count it."""


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """The eviction policy of a pool.

    Args:
        order: "lru", tail-first least recently used; "resident", which keeps some agents whole when
            not all fit, and may decline to keep a sequence whose agent is expected later than all
            others; "scan_resistant", where what was asked for only once goes first.
        time_to_live: Seconds after its last use at which a sequence goes even if there is room.

    Raises:
        PoolConfigurationError: An unknown order, or a time that is no positive number of seconds.
    """

    order: EvictionOrder = "lru"
    time_to_live: float | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(EvictionOrder):
            known = ", ".join(get_args(EvictionOrder))
            raise PoolConfigurationError(f"unknown eviction order {self.order!r}: {known}")
        if self.time_to_live is not None:
            _check_seconds(self.time_to_live)


def _check_seconds(given: object) -> None:
    seconds = given if isinstance(given, int | float) and not isinstance(given, bool) else 0
    if not 0 < seconds < _ENDLESS_SECONDS:
        raise PoolConfigurationError(
            f"time_to_live is a positive number of seconds, below {_ENDLESS_SECONDS:g}, not"
            f" {given!r}; None for no limit"
        )
