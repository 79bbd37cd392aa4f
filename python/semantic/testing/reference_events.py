"""Events in plain Python: the difference between the picture that was told and the one that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from semantic.application.events import CacheEvent, EventCallback
from semantic.domain.identity import KEY_BYTES
from semantic.testing.reference_keys import block_key, pack
from semantic.testing.reference_node import PrefixNode
from semantic.testing.reference_tree import PrefixTree

__all__ = ["ReferenceEvents"]


class ReferenceEvents:
    """What was told of a namespace.

    Args:
        root: The parent of the first block's key.
        key_bytes: Bytes of a key that are used.
        on_event: Who is told.
    """

    def __init__(self, root: bytes, key_bytes: int, on_event: EventCallback) -> None:
        self._root = root
        self._key_bytes = key_bytes
        self._on_event = on_event
        self._told: set[CacheEvent] = set()

    def tell(self, tree: PrefixTree) -> None:
        """Tell what is findable no more, then what has become findable."""
        found = set(self._stored(tree.root, self._root))
        for event in self._told - found:
            self._on_event(replace(event, change="removed"))
        for event in sorted(found - self._told, key=lambda event: (event.group, event.lo)):
            self._on_event(event)
        self._told = found

    def tell_cleared(self, groups: Iterable[str]) -> None:
        """Tell that nothing is left, nor will be."""
        for group in groups:
            self._on_event(CacheEvent("cleared", None, group, self._root, self._root, 0, 0))
        self._told = set()

    def _stored(self, top: PrefixNode, root: bytes) -> Iterator[CacheEvent]:
        stack = [(child, root) for child in top.children]
        while stack:
            node, parent = stack.pop()
            full = block_key(parent, pack(node.tokens).tobytes())
            key = full[: self._key_bytes].ljust(KEY_BYTES, bytes(1))
            for block in node.blocks():
                lo, hi = block.lo, block.hi
                yield CacheEvent("stored", block.block_id, block.group, key, parent, lo, hi)
            stack += [(child, key) for child in node.children]
