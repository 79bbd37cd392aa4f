"""What became findable and what is findable no more: the picture of an index from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["CacheEvent", "EventCallback"]


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """One block of one layer group that was stored or removed.

    Folded in order, the events of a memory are its findable blocks: `stored` puts `block_id` under
    `key`, `removed` takes it away. A block that comes to belong to a fuller token block is removed
    under its old key and stored under the new one.

    Args:
        change: "stored" or "removed".
        block_id: The block.
        group: Its layer group.
        key: The key of its token block: 32 bytes, the same in every process.
        parent: The key of the token block before it, or the namespace's root.
        lo: First valid position.
        hi: End of the valid positions.
    """

    change: Literal["stored", "removed"]
    block_id: int
    group: str
    key: bytes
    parent: bytes
    lo: int
    hi: int


EventCallback = Callable[[CacheEvent], None]
"""Called for each event, in order, on the thread whose call caused it."""
