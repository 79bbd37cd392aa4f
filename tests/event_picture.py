"""The picture of an index that its events draw, for whoever wants to compare it with the index."""

from __future__ import annotations

from dataclasses import replace

from semantic import CacheEvent

__all__ = ["EventPicture"]


class EventPicture:
    """The fold of the events: findable blocks by id. Called with each event, in order.

    What contradicts the picture is kept in `wrong`: a memory drops what its callback raises.
    """

    def __init__(self) -> None:
        self.found: dict[int, CacheEvent] = {}
        self.wrong: list[str] = []

    def __call__(self, event: CacheEvent) -> None:
        if event.change == "cleared":
            if event.block_id is not None or event.key != event.parent:
                self.wrong.append(f"one block is cleared: {event}")
            kept = {n: stored for n, stored in self.found.items() if stored.group != event.group}
            self.found = kept
        elif event.block_id is None:
            self.wrong.append(f"which block? {event}")
        elif event.change == "removed":
            stored = self.found.pop(event.block_id, None)
            if stored is None or replace(stored, change="removed") != event:
                self.wrong.append(f"{event} of {stored}")
        elif self.found.setdefault(event.block_id, event) is not event:
            self.wrong.append(f"{event} twice")

    def count(self, group: str) -> int:
        """Findable blocks of a group."""
        return sum(1 for stored in self.found.values() if stored.group == group)
