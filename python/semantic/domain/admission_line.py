"""Who waits for bytes of one budget, in the order of arrival.

The line is first come, first served over all memories of a budget: nobody who comes later takes
bytes before those who wait, so that every request that fits alone gets through. Two kinds of
tickets hold nobody of other memories up: those of a memory that is closed for a swap, and those
whose own pool has to give back first, whatever others give.

One lock guards a line and the doors that it leads to; nothing is computed while it is held.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

__all__ = ["AdmissionLine", "Door", "Ticket"]


class Door(Protocol):
    """The way into a memory."""

    @property
    def is_swapping(self) -> bool:
        """Whether it is closed for a swap: nobody comes in."""
        ...


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the line.

    Args:
        door: Of the memory whose bytes are waited for.
        needed_bytes: What the request takes, as far as it is known.
        is_own_affair: Its own pool is what is full: it holds up nobody of other memories.
    """

    door: Door
    needed_bytes: int = 0
    is_own_affair: bool = False

    def blocks(self, later: Ticket) -> bool:
        """Whether a later ticket has to wait for this one."""
        if self.door is later.door:
            return True
        return not self.door.is_swapping and not self.is_own_affair


class AdmissionLine:
    """The tickets of one budget. Use it while holding `changed`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Notified when somebody's turn may have come."""
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        """Tickets in the line."""
        return len(self._tickets)

    def waiting_at(self, door: Door) -> int:
        """Tickets of one memory."""
        return sum(ticket.door is door for ticket in self._tickets)

    def join(self, ticket: Ticket) -> None:
        """Stand at the end; who is in the line stays where it is."""
        if ticket not in self._tickets:
            self._tickets.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Step out, and let others look whether it is their turn."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            self.changed.notify_all()

    def ahead(self, ticket: Ticket) -> list[Ticket]:
        """Whom a ticket, or one that is about to join, has to wait for."""
        at = self._tickets.index(ticket) if ticket in self._tickets else len(self._tickets)
        return [earlier for earlier in self._tickets[:at] if earlier.blocks(ticket)]

    def bytes_ahead(self, ticket: Ticket) -> int:
        """Bytes that those need whom a ticket has to wait for."""
        return sum(earlier.needed_bytes for earlier in self.ahead(ticket))
