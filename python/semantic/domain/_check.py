"""The argument checks that entities and values share."""

from __future__ import annotations

import math
import sys

from semantic.domain.errors import BlockValidationError, SemanticError

__all__ = ["agent_name", "seconds", "whole_number"]


def whole_number(
    value: object,
    name: str,
    error: type[SemanticError],
    *,
    at_least: int = 0,
    at_most: int | None = None,
    **facts: object,
) -> int:
    """`value` as an int, or `error` naming what it should have been.

    A bool is an int to Python, and never a count to us.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{name} must be an integer, not {value!r}", **facts)
    if value < at_least:
        raise error(f"{name} must be at least {at_least}, not {value}", **facts)
    if at_most is not None and value > at_most:
        raise error(f"{name} must be at most {at_most}, not {value}", **facts)
    return value


def agent_name(value: object) -> str:
    """`value` as the name of an agent.

    Raises:
        BlockValidationError: It is empty, or no string.
    """
    if not isinstance(value, str) or not value:
        raise BlockValidationError(f"agent_id must be a non-empty str, not {value!r}")
    return value


def seconds(
    value: object,
    name: str,
    error: type[SemanticError],
    *,
    is_positive: bool = False,
    may_be_endless: bool = False,
) -> float:
    """`value` as a time that can pass, or `error`: a number, not negative, not NaN, not endless."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise error(f"{name} must be a number of seconds, not {value!r}")
    if value != value or value < 0 or (is_positive and not value):
        at_least = "more than 0" if is_positive else "at least 0"
        raise error(f"{name} must be {at_least} seconds, not {value}")
    time = float(value) if value <= sys.float_info.max else math.inf
    if time == math.inf and not may_be_endless:
        raise error(f"{name} must be a time that can pass, not {value}")
    return time
