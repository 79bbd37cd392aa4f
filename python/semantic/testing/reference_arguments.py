"""The arguments of the plain pool: what is no number or name is refused as the native one does."""

from __future__ import annotations

from collections.abc import Callable

from semantic.domain.errors import (
    BlockArgumentTypeError,
    BlockOperationError,
    PoolConfigurationError,
    PoolExhaustedError,
)

__all__ = [
    "HUGE",
    "check_named",
    "check_tokens",
    "count_of",
    "exhausted",
    "setting_of",
    "text_of",
]

HUGE = 2**64 - 1
"""More than any memory has."""


def _whole_number(value: object, refuse: Callable[[str], Exception]) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse(f"must be an integer, not {value!r}")
    return value


def setting_of(value: object, at_least: int = 0) -> int:
    """A number that a pool is made with."""
    setting = _whole_number(value, PoolConfigurationError)
    if not at_least <= setting < HUGE:
        raise PoolConfigurationError(f"must be at least {at_least}, not {setting}")
    return setting


def count_of(value: object) -> int:
    """A number of blocks, tokens or bytes."""
    count = _whole_number(value, BlockArgumentTypeError)
    if count < 0:
        raise BlockOperationError(f"must be at least 0, not {count}")
    return min(count, HUGE)


def text_of(value: object) -> str:
    """A name."""
    if not isinstance(value, str):
        raise BlockArgumentTypeError(f"must be a str, not {value!r}")
    return value


def check_named(agent_id: str) -> None:
    """Refuse an agent without a name."""
    if not agent_id:
        raise BlockOperationError("agent_id must not be empty")


def check_tokens(n_tokens: int) -> int:
    """Refuse no token at all."""
    if n_tokens == 0:
        raise BlockOperationError("n_tokens must be at least 1")
    return n_tokens


def exhausted(requested: int, available: int) -> PoolExhaustedError:
    """Bytes that a request needs and cannot have."""
    requested = min(requested, HUGE)
    return PoolExhaustedError(
        f"{requested} bytes are needed and {available} available",
        bytes_requested=requested,
        bytes_available=available,
        bytes_short=max(0, requested - available),
    )
