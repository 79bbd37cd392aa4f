"""What a store knows of its blocks: names, the tree that they form, and what is new."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from semantic.domain.block_bytes import TensorBytes
from semantic.domain.native import TokenIds

__all__ = ["BlockName", "NewBlock", "StoredNode"]

_NAME = re.compile(
    r"([0-9a-f]{64})-([A-Za-z0-9_.]+)-(0|[1-9][0-9]{0,18})-([1-9][0-9]{0,18})", re.ASCII
)
"""One way to spell a name, so that no two files have the same block."""


@dataclass(frozen=True, slots=True)
class BlockName:
    """A stored block.

    Args:
        key: The key of its token block, which stands for its namespace and every token before.
        group: Its layer group.
        lo: The first valid position.
        hi: The end of the valid positions.
    """

    key: bytes
    group: str
    lo: int
    hi: int

    def __str__(self) -> str:
        """The name of its file, without the ending."""
        return f"{self.key.hex()}-{self.group}-{self.lo}-{self.hi}"

    @classmethod
    def parse(cls, text: str) -> BlockName | None:
        """The name that a file has; None for another file."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        key, group, lo, hi = found.groups()
        return cls(bytes.fromhex(key), group, int(lo), int(hi))


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A token block of which something is stored.

    Args:
        key: Its key.
        parent: The key of the token block before it, or the root of the namespace.
        tokens: Its tokens, 256 of them or fewer.
        blocks: The stored blocks of its groups.
    """

    key: bytes
    parent: bytes
    tokens: TokenIds
    blocks: tuple[BlockName, ...]


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A sealed block that is to be stored.

    Args:
        name: Its name.
        parent: The key of the token block before its own, or the root of the namespace.
        namespace: The root of its namespace.
        tokens: The tokens of its token block.
        layer_type: The type of its layer group.
        is_bounded: Whether it completes hits at its end only; else whoever continues needs it.
        tensors: Its tensors, each with the memory that holds it.
    """

    name: BlockName
    parent: bytes
    namespace: bytes
    tokens: TokenIds
    layer_type: str
    is_bounded: bool
    tensors: Sequence[tuple[TensorBytes, memoryview]]
