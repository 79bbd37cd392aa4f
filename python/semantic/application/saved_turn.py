"""What the writer of a store is given: a turn that may have to be written, or a word to be said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic.application.sealed_blocks import Hold, SealedBlocks
from semantic.application.store_writer import StoreJob
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.policy import Hint, Priority
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
    """Something that is said to the store of one agent, and costs no memory; see `StoreJob`.

    Args:
        root: The root of the namespace.
        agent_id: The agent.
        used: Token blocks that it uses.
        hint: What is known of its next request; None: nothing new, and so for the others.
        priority: How much it matters.
        is_pinned: Whether nothing of it goes.
    """

    holds_blocks = False

    def __init__(
        self,
        root: bytes,
        agent_id: str,
        used: Sequence[bytes] = (),
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        self.about = root, agent_id
        self._used = tuple(used)
        self._hint = hint
        self._priority = priority
        self._is_pinned = is_pinned

    def join(self, later: StoreJob) -> bool:
        """Say what a later word about the same agent says too: what was said last counts."""
        if not isinstance(later, Told) or later.about != self.about:
            return False
        self._used = tuple(dict.fromkeys((*self._used, *later._used)))
        self._hint = self._hint if later._hint is None else later._hint
        self._priority = self._priority if later._priority is None else later._priority
        self._is_pinned = self._is_pinned if later._is_pinned is None else later._is_pinned
        return True

    def run(self, store: BlockStore) -> None:
        """Say it."""
        root, agent_id = self.about
        said = (self._hint, self._priority, self._is_pinned)
        if said != (None, None, None):
            store.regard(
                root,
                agent_id,
                hint=self._hint,
                priority=self._priority,
                is_pinned=self._is_pinned,
            )
        if self._used:
            store.used(root, self._used, agent_id)

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

    @property
    def about(self) -> tuple[bytes, str]:
        """The namespace and the agent."""
        return self._sealed.root, self._agent_id

    def join(self, later: StoreJob) -> bool:
        """Each turn is written on its own: False."""
        return False

    def run(self, store: BlockStore) -> None:
        """Write what is not stored yet, heads before tails, and say that all of it was used."""
        root = self._sealed.root
        keys = self._tokens.keys(root)
        try:
            for blocks in self._batches(store, keys):
                store.put(blocks, self._agent_id)
        except CachePersistenceError:
            # What is stored of it already was used all the same, and is not to age.
            with contextlib.suppress(CachePersistenceError):
                store.used(root, keys, self._agent_id)
            raise
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
