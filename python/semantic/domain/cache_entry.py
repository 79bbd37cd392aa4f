"""How leaf caches lie in a model's list of cache entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["CacheEntry"]


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One object of the list that `make_prompt_cache` returns, or one inside of it.

    Args:
        class_name: Its class, with the module that defines it. Never on disk.
        leaves: The leaf caches that it is made of, by index: one for most, several for a class that
            keeps parts which grow differently, none for an entry that always stays empty.
        children: The entries inside a `CacheList`.
    """

    class_name: str
    leaves: tuple[int, ...] = ()
    children: tuple[CacheEntry, ...] = ()

    @property
    def all_leaves(self) -> Iterator[int]:
        """Its leaf caches and those of its children."""
        yield from self.leaves
        for child in self.children:
            yield from child.all_leaves
