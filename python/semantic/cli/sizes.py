"""Memory sizes as people write them: `8GB` is 8·10^9 bytes, `8GiB` is 8·2^30."""

from __future__ import annotations

import re
from decimal import Decimal

from semantic.domain.errors import PoolConfigurationError

__all__ = ["format_size", "parse_size", "short_size"]

_UNIT_BYTES = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}
_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)\s*", re.IGNORECASE | re.ASCII)
_ACCEPTED = "write a size like 8GB (8·10^9 bytes), 8GiB (8·2^30 bytes), 512MB, 1.5GiB or 1048576"
_MAX_BYTES = (1 << 63) - 1


def parse_size(text: str) -> int:
    """The number of bytes that `text` names.

    Args:
        text: A decimal number and a unit: none or B, kB MB GB TB (powers of 1000), KiB MiB GiB TiB
            (powers of 1024), in any case.

    Raises:
        PoolConfigurationError: When `text` is no size, is zero or negative, is no whole number of
            bytes, or is larger than any machine's memory.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise _refusal(text, _why_no_size(text))
    unit = match["unit"].lower()
    if unit not in _UNIT_BYTES:
        raise _refusal(text, f"{match['unit']!r} is no unit")
    size = Decimal(match["number"]) * _UNIT_BYTES[unit]
    if size > _MAX_BYTES:
        raise _refusal(text, "that is more than 2^63 - 1 bytes")
    if size == 0:
        raise _refusal(text, "a memory of 0 bytes holds nothing")
    if size != int(size):
        raise _refusal(text, "that is no whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """`size_bytes` for a reader: `8.00 GB`, `1.31 MB`, `17 B`; powers of 1000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def short_size(size_bytes: int) -> str:
    """`size_bytes` in three digits: `8.00 GB`, `13.8 GB`, `604 MB`, `17 B`; powers of 1000."""
    size, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    whole = units[0] == "B" or abs(size) >= 99.95
    digits = 0 if whole else 1 if abs(size) >= 9.995 else 2
    return f"{size:.{digits}f} {units[0]}"


def _why_no_size(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        return "it is empty"
    if stripped.startswith("-"):
        return "a size is positive"
    return "it is not a number and a unit"


def _refusal(text: str, why: str) -> PoolConfigurationError:
    return PoolConfigurationError(f"{text!r} is no memory size: {why}; {_ACCEPTED}", text=text)
