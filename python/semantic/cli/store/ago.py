"""How long something lasts, and how long ago it was, for a reader."""

from __future__ import annotations

__all__ = ["ago", "lasting"]

_UNITS = (("w", 7 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60))


def ago(seconds: float) -> str:
    """The largest unit of which there are at least two."""
    if seconds < 0:
        return "in the future"
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit} ago"
    return f"{seconds:.0f}s ago"


_WORDS = (("years", 365 * 86_400), ("days", 86_400), ("hours", 3600), ("minutes", 60))


def lasting(seconds: int) -> str:
    """The largest unit of which there are at least two, in words."""
    for word, length in _WORDS:
        if seconds >= 2 * length:
            return f"{seconds // length:,} {word}"
    return f"{seconds:,} seconds"
