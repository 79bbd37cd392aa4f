"""Blocks for tests of stores: their content tells whose they are, so that a wrong one is seen."""

from __future__ import annotations

from collections.abc import Sequence

from semantic import LayerGroup, Namespace, TokenTensor
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, NewBlock
from semantic.ports.outbound import BlockStore

__all__ = [
    "BLOCK_BYTES",
    "GROUP",
    "ROOT",
    "blocks_of",
    "content",
    "found",
    "read",
    "sequence",
    "turn",
]

GROUP = LayerGroup("global", "global", (0, 1), (TokenTensor("keys", 2, 8, "float32"),))
ROOT = Namespace("model").root
BLOCK_BYTES = GROUP.bytes_per_block


def sequence(seed: int, n_blocks: int) -> list[int]:
    """Tokens of whole blocks that no other seed has."""
    return [seed * 10_000 + n for n in range(256 * n_blocks)]


def content(key: bytes) -> bytes:
    """What the block of that key holds: nobody else's could be taken for it."""
    return (key * (BLOCK_BYTES // len(key) + 1))[:BLOCK_BYTES]


def blocks_of(tokens: Sequence[int], root: bytes = ROOT) -> list[NewBlock]:
    """The whole blocks of a sequence."""
    ids = TokenIds(tokens)
    keys = ids.keys(root)
    blocks = []
    for number in range(len(ids) // 256):
        name = BlockName(keys[number], "global", 256 * number, 256 * (number + 1))
        (tensor,) = tensors_of_block(GROUP, name.lo, name.hi)
        memory = [(tensor, memoryview(content(name.key)))]
        parent = keys[number - 1] if number else root
        part = ids[256 * number : 256 * (number + 1)]
        blocks.append(NewBlock(name, parent, root, part, "global", False, memory))
    return blocks


def turn(store: BlockStore, tokens: Sequence[int], agent_id: str, root: bytes = ROOT) -> int:
    """What the writer does after a turn; how many blocks were new."""
    new = store.put(blocks_of(tokens, root), agent_id)
    store.used(root, TokenIds(tokens).keys(root), agent_id)
    return new


def read(store: BlockStore, block: NewBlock) -> bool:
    """Whether the block is there; that it is right is seen here."""
    (tensor,) = tensors_of_block(GROUP, block.name.lo, block.name.hi)
    memory = bytearray(BLOCK_BYTES)
    if not store.read(block.name, block.tokens, [(tensor, memoryview(memory))]):
        return False
    assert memory == content(block.name.key)
    return True


def found(store: BlockStore, tokens: Sequence[int], root: bytes = ROOT) -> int:
    """Token blocks of a sequence that the store knows, from the first on."""
    keys = TokenIds(tokens).keys(root)
    path = store.path_of(root, keys)
    known = [{node.key for node in nodes} for nodes in path]
    return next((n for n, key in enumerate(keys) if key not in known[n]), len(keys))
