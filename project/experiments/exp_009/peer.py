"""A block pool in plain Python in the style of vLLM's: block objects in a linked free queue.

Of that pool's work it does what a pair of allocate and free needs: blocks leave the front of the
queue, lose the hash under which they were cached, get a reference, and come back to its end when
the last reference goes. No bytes, no owners, no check of what is given back. It is a stand-in,
written for this experiment.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Block", "PeerPool"]


class Block:
    """A block, linked into the free queue while nobody refers to it."""

    __slots__ = ("after", "before", "hash", "number", "references")

    def __init__(self, number: int) -> None:
        self.number = number
        self.references = 0
        self.hash: bytes | None = None
        self.before: Block | None = None
        self.after: Block | None = None


class PeerPool:
    """Blocks that are free, the next to go out first."""

    def __init__(self, n_blocks: int) -> None:
        self.n_free = 0
        self.by_hash: dict[bytes, Block] = {}
        self._head, self._tail = Block(-1), Block(-2)
        self._head.after, self._tail.before = self._tail, self._head
        self._append([Block(number) for number in range(n_blocks)])

    def _append(self, blocks: Iterable[Block]) -> None:
        last = self._tail.before
        assert last is not None
        for block in blocks:
            block.before, last.after = last, block
            last = block
            self.n_free += 1
        last.after, self._tail.before = self._tail, last

    def allocate(self, n: int) -> list[Block]:
        """Take `n` blocks from the front of the queue."""
        if n > self.n_free:
            message = f"{n} blocks wanted, {self.n_free} free"
            raise ValueError(message)
        blocks = []
        block = self._head.after
        for _ in range(n):
            assert block is not None
            blocks.append(block)
            block = block.after
        assert block is not None
        self._head.after, block.before = block, self._head
        self.n_free -= n
        for taken in blocks:
            taken.before = taken.after = None
            if taken.hash is not None:
                self.by_hash.pop(taken.hash, None)
                taken.hash = None
            assert taken.references == 0
            taken.references += 1
        return blocks

    def free(self, blocks: list[Block]) -> None:
        """Give up one reference to each; who has none any more goes to the end of the queue."""
        for block in blocks:
            block.references -= 1
        self._append(block for block in blocks if block.references == 0)
