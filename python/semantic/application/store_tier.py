"""Between one memory and a store: what is stored comes back when asked for, what is new goes out.

What comes back is published as if it had been captured; what goes out is written by the store's
writer, behind generation.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor

from semantic.application.counters import Counters
from semantic.application.saved_turn import SavedSpan, SavedTurn, Told
from semantic.application.sealed_blocks import Hold, SealedBlocks
from semantic.application.store_writer import StoreWriter
from semantic.application.stored_rows import StoredBlockGoneError, StoredRows
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.policy import Hint, Priority
from semantic.domain.stored_hit import StoredHit, stored_hit
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockMemory, BlockStore

__all__ = ["StoreTier"]

_log = logging.getLogger("semantic")

_FETCHES = 3
"""How often a hit is looked for when blocks vanish while they are read."""

_MOST_READERS = 8

_FORGET_SECONDS = 60.0
"""How long forgetting waits for a turn of the agent that is just being written."""


class StoreTier:
    """One memory's way to and from a store.

    Args:
        spec: The geometry.
        sealed: The memory's blocks.
        store: Where they are kept.
        memory: Their bytes.
        counters: What fails is counted here.
        writer: The way into the store.
    """

    def __init__(
        self,
        spec: ModelCacheSpec,
        sealed: SealedBlocks,
        store: BlockStore,
        memory: BlockMemory,
        counters: Counters,
        writer: StoreWriter,
    ) -> None:
        self.spec = spec
        self.sealed = sealed
        self.writer = writer
        self._store = store
        self._memory = memory
        self._counters = counters
        self._loaded_tokens = 0
        self._readers = ThreadPoolExecutor(
            min(_MOST_READERS, os.cpu_count() or 1), thread_name_prefix="semantic-read"
        )

    @property
    def root(self) -> bytes:
        """The root of the namespace."""
        return self.sealed.root

    # From the store ----------------------------------------------------------------------------

    def fetch(self, tokens: TokenIds, cached_tokens: int, agent_id: str) -> bool:
        """Bring what is stored of a prompt, beyond what memory has of it, into memory.

        Calls MLX: for the thread that generates. Whatever fails is counted and left out.

        Args:
            tokens: The prompt.
            cached_tokens: What memory can restore of it.
            agent_id: Who asks.

        Returns:
            Whether memory can restore more now.
        """
        try:
            return self._fetch(tokens, cached_tokens, agent_id)
        except Exception as error:
            if not isinstance(error, CachePersistenceError):
                _log.exception("a fetch from the store failed")
            self._counters.failure("store_read", str(error))
            return False

    def _fetch(self, tokens: TokenIds, cached_tokens: int, agent_id: str) -> bool:
        if cached_tokens >= len(tokens) - 1:
            return False
        keys = tokens.keys(self.root)
        tried = StoredHit(0)
        for _ in range(_FETCHES):
            path = self._store.path_of(self.root, keys)
            hit = stored_hit(self.spec.groups, path, tokens, len(tokens) - 1)
            if hit.n_tokens <= cached_tokens or hit == tried:
                return False
            tried = hit
            rows = StoredRows(self.spec, self._store, self._memory, hit, self._readers)
            prefix = tokens[: hit.n_tokens]
            try:
                publication = self.sealed.publish(prefix, rows, agent_id, "assistant")
            except StoredBlockGoneError as error:
                self._counters.failure("store_gone", str(error))
                continue
            if publication.end is not None:
                self.sealed.settle(publication.end, agent_id)
            self.writer.submit(Told(self.root, agent_id, _said(hit, tokens), hint="active"))
            loaded = max(0, publication.report.published_tokens - cached_tokens)
            self._loaded_tokens += loaded
            _log.info("%d of %d tokens of a prompt came from the store", loaded, len(tokens))
            return loaded > 0
        return False

    # To the store ------------------------------------------------------------------------------

    def save(self, tokens: TokenIds, agent_id: str) -> None:
        """Have what memory has of a sequence written, behind what is done meanwhile.

        Calls MLX: for the thread that generates. Never waits for the disk.
        """
        hold = self.sealed.hold_all(tokens)
        try:
            spans, stored = self._spans(hold), tokens[: hold.n_tokens]
            job = SavedTurn(self.spec, self.sealed, stored, agent_id, hold, spans)
        except Exception as error:
            self.sealed.release(hold)
            _log.exception("a turn cannot be stored")
            self._counters.failure("store_write", repr(error))
            return
        self.writer.submit(job)

    def _spans(self, hold: Hold) -> list[SavedSpan]:
        """The blocks of a hold, and their memory."""
        data = hold.data
        spans = []
        for name, rows in hold.plan.spans:
            group = self.spec.group(name)
            for row in rows:
                tensors = tensors_of_block(group, row.lo, row.hi)
                memory = self._memory.memory_of(data[row.block_id], tensors)
                spans.append(SavedSpan(name, row, memory))
        return spans

    def regard(
        self,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """Have the store told how an agent's blocks stand, behind what is done meanwhile."""
        said = Told(self.root, agent_id, hint=hint, priority=priority, is_pinned=is_pinned)
        self.writer.submit(said)

    def admitted(self, agent_id: str) -> None:
        """An agent is heard of: should its session have ended, here or elsewhere, that is over."""
        self.regard(agent_id, hint="active")

    def forget(self, agent_id: str) -> int:
        """Remove what only this agent has stored; how many blocks that were.

        What waits to be stored of it will not be.

        Raises:
            CachePersistenceError: A turn of it is being written, and does not come to its end; or
                the system refuses.
        """
        if not self.writer.forget((self.root, agent_id), _FORGET_SECONDS):
            raise CachePersistenceError(f"a turn of {agent_id!r} is still being stored: try again")
        return self._store.forget(self.root, agent_id)

    def stats(self) -> dict[str, int]:
        """What is stored, what waits to be, and tokens that came from the store."""
        own = {"waiting": self.writer.waiting, "loaded_tokens": self._loaded_tokens}
        return {**self._store.stats(), **own}


def _said(hit: StoredHit, tokens: TokenIds) -> list[bytes]:
    """The token blocks of a hit of which the prompt says every token.

    Whoever begins as another one goes on uses none of what that one alone has said.
    """
    nodes = {
        node.key: (name.lo // BLOCK_TOKENS, node)
        for _, read in hit.blocks
        for name, node, _ in read
    }
    return [
        key
        for key, (number, node) in nodes.items()
        if tokens[number * BLOCK_TOKENS : number * BLOCK_TOKENS + len(node.tokens)] == node.tokens
    ]
