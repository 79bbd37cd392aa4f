"""What the writer of a store is given: a turn that may have to be written, or a word to be said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from semantic.application.sealed_blocks import Hold, SealedBlocks
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.reports import RowSpan
from semantic.domain.stored import BlockName, NewBlock
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockStore

__all__ = ["SavedSpan", "SavedTurn", "Told"]

_BATCH_BYTES = 64 << 20
"""Blocks that are written and synced together: enough to share the wait for the disk."""


@dataclass(frozen=True, slots=True)
class SavedSpan:
    """A block that may have to be written, and its memory."""

    group: str
    rows: RowSpan
    memory: Sequence[tuple[TensorBytes, memoryview]]


class Told:
    """Something that is said to the store, and costs no memory.

    Args:
        run: Says it.
    """

    holds_blocks = False

    def __init__(self, run: Callable[[BlockStore], None]) -> None:
        self.run = run

    def release(self) -> None:
        """Nothing is held."""


class SavedTurn:
    """What of one sequence may have to be written; see `StoreJob`.

    Args:
        spec: The geometry.
        sealed: Whose blocks they are.
        tokens: The sequence.
        agent_id: Whose turn it was.
        hold: Keeps the blocks in memory meanwhile.
        spans: The blocks.
    """

    holds_blocks = True

    def __init__(
        self,
        spec: ModelCacheSpec,
        sealed: SealedBlocks,
        tokens: TokenIds,
        agent_id: str,
        hold: Hold,
        spans: Sequence[SavedSpan],
    ) -> None:
        self._spec = spec
        self._sealed = sealed
        self._tokens = tokens
        self._agent_id = agent_id
        self._hold = hold
        self._spans = sorted(spans, key=lambda span: span.rows.lo)

    def run(self, store: BlockStore) -> None:
        """Write what is not stored yet, heads before tails, and say that all of it was used."""
        root = self._sealed.root
        keys = self._tokens.keys(root)
        for blocks in self._batches(store, keys):
            store.put(blocks, self._agent_id)
        store.used(root, keys, self._agent_id)

    def _batches(self, store: BlockStore, keys: Sequence[bytes]) -> Iterator[list[NewBlock]]:
        path = store.path_of(self._sealed.root, keys)
        known = {node.key: node.blocks for nodes in path for node in nodes}
        batch: list[NewBlock] = []
        n_bytes = 0
        for span in self._spans:
            block = self._new_block(span, keys)
            if any(_covers(other, block.name) for other in known.get(block.name.key, ())):
                continue
            batch.append(block)
            n_bytes += sum(tensor.file_bytes for tensor, _ in span.memory)
            if n_bytes >= _BATCH_BYTES:
                yield batch
                batch, n_bytes = [], 0
        if batch:
            yield batch

    def _new_block(self, span: SavedSpan, keys: Sequence[bytes]) -> NewBlock:
        number = span.rows.lo // BLOCK_TOKENS
        start = number * BLOCK_TOKENS
        root, group = self._sealed.root, self._spec.group(span.group)
        return NewBlock(
            BlockName(keys[number], span.group, span.rows.lo, span.rows.hi),
            keys[number - 1] if number else root,
            root,
            self._tokens[start : start + BLOCK_TOKENS],
            group.layer_type,
            group.is_bounded,
            span.memory,
        )

    def release(self) -> None:
        """Let the blocks go."""
        self._sealed.release(self._hold)


def _covers(stored: BlockName, wanted: BlockName) -> bool:
    return stored.group == wanted.group and stored.lo <= wanted.lo and wanted.hi <= stored.hi
