"""What a turn's operations answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CommitReason", "CommitReport", "HitPlan", "PublishedEnd", "RowSpan"]

CommitReason = Literal[
    "published",
    "already_cached",
    "budget",
    "declined",
    "incomplete_window",
    "incompatible",
    "unsupported",
    "expired",
    "failed",
]


@dataclass(frozen=True, slots=True)
class CommitReport:
    """What became of a commit or checkpoint.

    Args:
        published_tokens: Length of the prefix that can now be hit; 0 when nothing could be kept.
        reason: Why it is that length.
        detail: The cause in words, for logs.
    """

    published_tokens: int
    reason: CommitReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PublishedEnd:
    """A published end of a sequence: from here on, every group can be restored.

    Args:
        handle: Its name; one that went away never equals a later one.
        n_tokens: Its length.
        kind: What kind of segment ends here.
        agents: Who published it; it stays while one of them still wants it.
    """

    handle: int
    n_tokens: int
    kind: str
    agents: frozenset[str]


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Positions `[lo, hi)` that one block contributes to a restore."""

    block_id: int
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class HitPlan:
    """One length that is valid for every group, and where its rows come from.

    Args:
        n_tokens: The length of the hit; 0 is a miss.
        spans: For each group, the spans of its blocks in position order.
    """

    n_tokens: int
    spans: tuple[tuple[str, tuple[RowSpan, ...]], ...] = ()

    @property
    def block_ids(self) -> tuple[int, ...]:
        """Every block that the hit reads, once, in position order group by group."""
        return tuple(dict.fromkeys(span.block_id for _, spans in self.spans for span in spans))
