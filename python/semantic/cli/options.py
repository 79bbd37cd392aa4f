"""Option types that several commands share."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from semantic.cli.sizes import parse_size
from semantic.domain.errors import PoolConfigurationError

__all__ = [
    "context_length",
    "context_lengths",
    "duration",
    "file_to_write",
    "memory_size",
    "picture_file",
]

_MOST_TOKENS = 1 << 27
"""Prefills are walked step by step: some seconds at this length, and no model goes so far."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"(?P<number>\d{1,9})(?P<unit>[smhdw])", re.ASCII)


def duration(text: str) -> int:
    """The seconds that a word such as `90m`, `12h` or `30d` names."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or int(match["number"]) == 0:
        raise typer.BadParameter(f"{text!r} is no time; write 90m, 12h, 30d or 4w")
    return int(match["number"]) * _SECONDS[match["unit"]]


def memory_size(text: str) -> int:
    """`parse_size` for an option: what is wrong goes to the option's own error message."""
    try:
        return parse_size(text)
    except PoolConfigurationError as error:
        raise typer.BadParameter(error.message) from error


def context_lengths(text: str) -> list[int]:
    """The lengths in tokens that a list such as `4096,32K` names: in its order, each once."""
    return list(dict.fromkeys(map(context_length, text.split(","))))


def context_length(text: str) -> int:
    """The length in tokens that a word such as `4096` or `32K` (32 x 1024) names."""
    number = text.strip().upper()
    factor = 1024 if number.endswith("K") else 1
    digits = number.removesuffix("K")
    if len(digits) > len(str(_MOST_TOKENS)) and digits.isdecimal():
        raise typer.BadParameter(f"no context is longer than {_MOST_TOKENS:,} tokens here")
    if not digits.isdecimal() or int(digits) == 0:
        raise typer.BadParameter(f"{text!r} is no context length; write 4096 or 4K (4 x 1024)")
    if int(digits) * factor > _MOST_TOKENS:
        raise typer.BadParameter(f"no context is longer than {_MOST_TOKENS:,} tokens here")
    return int(digits) * factor


def file_to_write(path: Path) -> Path:
    """A file that can be written, refused before any work is done for it."""
    if path.is_dir() or not path.parent.is_dir():
        raise typer.BadParameter(f"{path}: a file in a folder that exists is needed")
    return path


def picture_file(path: Path) -> Path:
    """A file that matplotlib can draw into, refused before any work is done for it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = sorted(FigureCanvasAgg.filetypes)
    if path.suffix.removeprefix(".").lower() not in known:
        raise typer.BadParameter(f"{path}: no picture; it can end in {', '.join(known)}")
    return file_to_write(path)
