"""The argument checks that entities and values share."""

from __future__ import annotations

from semantic.domain.errors import SemanticError

__all__ = ["whole_number"]


def whole_number(
    value: object, name: str, error: type[SemanticError], *, at_least: int = 0, **facts: object
) -> int:
    """`value` as an int, or `error` naming what it should have been.

    A bool is an int to Python, and never a count to us.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{name} must be an integer, not {value!r}", **facts)
    if value < at_least:
        raise error(f"{name} must be at least {at_least}, not {value}", **facts)
    return value
