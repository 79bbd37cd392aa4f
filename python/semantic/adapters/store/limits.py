"""What a store may take and write, and what goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from semantic.adapters.store.locks import ThreadLock
from semantic.domain._check import whole_number
from semantic.domain.errors import CachePersistenceError, PoolConfigurationError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.policy import EvictionPolicy
from semantic.domain.stored import NewBlock

__all__ = ["MOST_BYTES", "Limits", "NoRoomError", "Reuse"]

MOST_BYTES = (1 << 63) - 1
"""The catalogue keeps the limit, and no larger number."""

_REMEMBERED = 100_000
"""Token blocks of which is known how often they were used; some MB."""


class NoRoomError(CachePersistenceError):
    """There is too little room: what may go has gone, or what is to be left free would not be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a store.

    Args:
        max_bytes: The most that all blocks may take, those on their way included.
        daily_write_bytes: The most that is written in a day, UTC; None: any number.
        min_reuse: Of how many turns a token block has to be a part before it is written.
        policy: What goes first, and when it goes even if there is room.

    Raises:
        PoolConfigurationError: Limits that cannot be.
    """

    max_bytes: int
    daily_write_bytes: int | None = None
    min_reuse: int = 1
    policy: EvictionPolicy = field(default_factory=EvictionPolicy)

    def __post_init__(self) -> None:
        whole_number(
            self.max_bytes, "max_bytes", PoolConfigurationError, at_least=1, at_most=MOST_BYTES
        )
        whole_number(self.min_reuse, "min_reuse", PoolConfigurationError, at_least=1)
        if self.daily_write_bytes is not None:
            name = "daily_write_bytes"
            whole_number(self.daily_write_bytes, name, PoolConfigurationError, at_least=1)
        if self.policy.order == "resident":
            raise PoolConfigurationError(
                'a store has the orders "lru" and "scan_resistant": "resident" weighs agents that'
                " compete for memory while they run"
            )


class Reuse:
    """Of how many turns token blocks were a part, since the process began.

    What ends in the middle of a token block is as often reused as the full one before it: its own
    end is another one in each turn.

    Args:
        minimum: Turns from which on a block is written.
    """

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum
        self._turns: OrderedDict[bytes, int] = OrderedDict()
        self._lock = ThreadLock("a store")

    def used(self, keys: Sequence[bytes]) -> None:
        """A turn with these token blocks is over."""
        if self._minimum == 1:
            return
        with self._lock:
            for key in keys:
                self._turns[key] = self._turns.pop(key, 0) + 1
            while len(self._turns) > _REMEMBERED:
                self._turns.popitem(last=False)

    def wanted(self, blocks: Sequence[NewBlock]) -> list[NewBlock]:
        """Those of a turn's blocks that were part of enough turns, this one included."""
        if self._minimum == 1:
            return list(blocks)
        with self._lock:
            turns = [self._turns.get(_counted(block), 0) + 1 for block in blocks]
        return [block for block, n in zip(blocks, turns, strict=True) if n >= self._minimum]


def _counted(block: NewBlock) -> bytes:
    is_full = len(block.tokens) == BLOCK_TOKENS
    return block.name.key if is_full or block.parent == block.namespace else block.parent
