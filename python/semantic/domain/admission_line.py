"""Who waits for bytes of one budget, in the order of arrival.

The line is first come, first served over all memories of a budget: nobody who comes later takes
bytes before those who wait, so that every request that fits alone gets through. Two kinds of
tickets hold nobody of other memories up: those of a memory that is closed for a swap, and those
whose own pool has to give back first, whatever others give.

One lock guards all lines' state; nothing is computed and nobody is called under it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["AdmissionLine", "Ticket"]


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the line.

    Args:
        memory: Whose bytes are waited for; only compared.
        needed_bytes: What the request takes, as far as it is known.
        is_aside: Its memory is closed: it waits, and holds nobody up.
        is_own_affair: Its own pool is what is full: it holds up nobody of other memories.
    """

    memory: object
    needed_bytes: int = 0
    is_aside: bool = False
    is_own_affair: bool = False

    def blocks(self, later: Ticket) -> bool:
        """Whether a later ticket has to wait for this one."""
        if self.memory is later.memory:
            return True
        return not self.is_aside and not self.is_own_affair


class AdmissionLine:
    """The tickets of one budget. Use it while holding `changed`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Notified when somebody's turn may have come."""
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        """Tickets in the line."""
        return len(self._tickets)

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

    def set_aside(self, memory: object, is_aside: bool) -> None:
        """The tickets of a memory hold others up, or do not, from now on."""
        for ticket in self._tickets:
            if ticket.memory is memory:
                ticket.is_aside = is_aside
        self.changed.notify_all()
