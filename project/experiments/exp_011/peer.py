"""A pure-Python manager in the style of the field's block pools: what the same request costs there.

One object per block in a doubly linked free queue, a dict from chained SHA-256 block hashes to
blocks, a list of blocks per request. No bytes, no windows, no partial blocks, no tokens compared.
It is a stand-in, written for this experiment.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from hashlib import sha256

BLOCK_TOKENS = 256


class Block:
    __slots__ = ("after", "before", "hash", "number", "references")

    def __init__(self, number: int) -> None:
        self.number = number
        self.references = 0
        self.hash: bytes | None = None
        self.before: Block | None = None
        self.after: Block | None = None


class FreeQueue:
    """Least recently freed first; a block in the middle can be taken out."""

    def __init__(self) -> None:
        self.head, self.tail = Block(-1), Block(-2)
        self.head.after, self.tail.before = self.tail, self.head

    def append(self, block: Block) -> None:
        last = self.tail.before
        block.before, block.after = last, self.tail
        last.after = self.tail.before = block

    def remove(self, block: Block) -> None:
        block.before.after, block.after.before = block.after, block.before
        block.before = block.after = None

    def pop(self) -> Block:
        block = self.head.after
        self.remove(block)
        return block


class PeerManager:
    def __init__(self, n_blocks: int) -> None:
        self.free = FreeQueue()
        for number in range(n_blocks):
            self.free.append(Block(number))
        self.by_hash: dict[bytes, Block] = {}
        self.requests: dict[str, list[Block]] = {}

    def hashes(self, tokens: Sequence[int]) -> list[bytes]:
        parent, hashes = b"", []
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = (parent, tuple(tokens[start : start + BLOCK_TOKENS]), None)
            parent = sha256(pickle.dumps(block, protocol=pickle.HIGHEST_PROTOCOL)).digest()
            hashes.append(parent)
        return hashes

    def admit(self, request: str, tokens: Sequence[int]) -> int:
        """Find the cached blocks, hold them, and take new ones for the rest; cached tokens."""
        hashes = self.hashes(tokens)
        cached = []
        for key in hashes:
            block = self.by_hash.get(key)
            if block is None:
                break
            cached.append(block)
        for block in cached:
            if block.references == 0:
                self.free.remove(block)
            block.references += 1
        new = []
        for number in range(len(cached), -(-len(tokens) // BLOCK_TOKENS)):
            block = self.free.pop()
            if block.hash is not None:
                del self.by_hash[block.hash]
                block.hash = None
            block.references = 1
            if number < len(hashes):
                block.hash = hashes[number]
                self.by_hash[block.hash] = block
            new.append(block)
        self.requests[request] = cached + new
        return len(cached) * BLOCK_TOKENS

    def release(self, request: str) -> None:
        for block in reversed(self.requests.pop(request)):
            block.references -= 1
            if block.references == 0:
                self.free.append(block)
