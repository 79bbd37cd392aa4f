"""Option types that several commands share."""

from __future__ import annotations

import typer

from semantic.cli.sizes import parse_size
from semantic.domain.errors import PoolConfigurationError

__all__ = ["memory_size"]


def memory_size(text: str) -> int:
    """`parse_size` for an option: what is wrong goes to the option's own error message."""
    try:
        return parse_size(text)
    except PoolConfigurationError as error:
        raise typer.BadParameter(error.message) from error
