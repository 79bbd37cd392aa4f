"""The budget of plain pools: what they have together, added up at each reading."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from semantic.testing.reference_arguments import setting_of

if TYPE_CHECKING:
    from semantic.testing.reference_pool import ReferencePool

__all__ = ["ReferenceBudget"]


class ReferenceBudget:
    """What `MemoryBudget` is."""

    def __init__(self, total: int) -> None:
        self.total = setting_of(total, at_least=1)
        self.pools: WeakSet[ReferencePool] = WeakSet()

    @property
    def used(self) -> int:
        """Bytes that pools hold and cannot evict."""
        return sum(pool.used_memory() for pool in self.pools)

    @property
    def cached(self) -> int:
        """Bytes of the pools' cached blocks."""
        return sum(pool.bytes_in("cached") for pool in self.pools)

    @property
    def free(self) -> int:
        """Bytes that no pool has taken."""
        return self.total - self.used - self.cached
