"""What became findable and what is findable no more: the picture of an index from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["CacheEvent", "EventCallback"]


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """One block of one layer group that was stored or removed, or all of a group that were cleared.

    Folded in order, the events of a memory are its findable blocks: `stored` puts `block_id` under
    `key`, `removed` takes it away, `cleared` takes all of the group, for good: the pool serves
    another model. A block that comes to belong to a fuller token block is removed
    under its old key and stored under the new one.

    Args:
        change: "stored", "removed" or "cleared".
        block_id: The block; None for all blocks of the group.
        group: Its layer group.
        key: The key of its token block: 32 bytes, the same in every process. The namespace's root
            where all are meant.
        parent: The key of the token block before it, or the namespace's root.
        lo: First valid position.
        hi: End of the valid positions.
    """

    change: Literal["stored", "removed", "cleared"]
    block_id: int | None
    group: str
    key: bytes
    parent: bytes
    lo: int
    hi: int


EventCallback = Callable[[CacheEvent], None]
"""Called for each event, one after the other and in order.

It runs on the thread whose call caused the event, or on one that tells of others just then. It may
call the memory; what that causes is told afterwards. What it raises is logged, counted as a
failure, and dropped.
"""
