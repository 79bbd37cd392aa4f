"""What a replay measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Advance", "Outcome", "Timing"]

Advance = Callable[[], object]
"""Called after each request, for a progress bar."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall time of a request in the index and the pool: admit, commit, release."""

    mean_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cache of one size over all requests.

    Args:
        cached_tokens: Prompt tokens that came from the cache.
        evicted_blocks: Blocks that had to go; the bound's are counted in blocks of 256 tokens, too.
        peak_bytes: The most bytes cached after a request.
        timing: How long requests took; None where that says nothing about the library.
        failures: Commits that kept less than the prompt, by the reason that the library counts.
    """

    cached_tokens: int
    evicted_blocks: int
    peak_bytes: int
    timing: Timing | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
