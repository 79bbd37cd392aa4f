"""Times as people write them: `30d` is thirty days."""

from __future__ import annotations

import re

import typer

__all__ = ["ago", "duration"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"(?P<number>\d{1,9})(?P<unit>[smhdw])", re.ASCII)


def duration(text: str) -> int:
    """The seconds that a word such as `90m`, `12h` or `30d` names."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time; write 90m, 12h, 30d or 4w")
    return int(match["number"]) * _SECONDS[match["unit"]]


def ago(seconds: float) -> str:
    """How long ago that was, for a reader."""
    if seconds < 0:
        return "in the future"
    for unit in ("w", "d", "h", "m"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds // _SECONDS[unit]:.0f}{unit} ago"
    return f"{seconds:.0f}s ago"
