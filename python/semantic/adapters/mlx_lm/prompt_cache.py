"""The drop-in for `mlx_lm.models.cache.LRUPromptCache`.

Same surface, other memory: sequences are sealed blocks under one byte budget, shared by what they
have in common, and a sequence whose window has wrapped is restored where its rows are known, never
trimmed. Every failure is a counted miss: nothing is raised into a generation thread (law 7).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from semantic.adapters.mlx.block_memory import MlxBlockMemory
from semantic.adapters.mlx.layout import spec_of_caches
from semantic.adapters.mlx.materialise import MlxMaterialiser
from semantic.adapters.mlx.namespace import in_geometry
from semantic.adapters.mlx_lm.model_identity import namespace_of_key
from semantic.adapters.mlx_lm.request_agents import RequestAgents
from semantic.adapters.mlx_lm.request_queue import NOT_COPIED
from semantic.application.counted_store import CountedStore
from semantic.application.counters import Counters, FailureCallback, totals
from semantic.application.publish import publish_caches, reason_of
from semantic.application.resources import Resources, stats_of_all
from semantic.application.restore import restored
from semantic.application.sealed_blocks import SealedBlocks
from semantic.application.store_tier import StoreTier
from semantic.application.store_writer import StoreWriter
from semantic.domain.checkpoints import CheckpointPolicy
from semantic.domain.errors import IncompatibleCacheError, SemanticError
from semantic.domain.identity import Namespace
from semantic.domain.native import TokenIds
from semantic.domain.services import BlockPool, MemoryBudget
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockStore

__all__ = ["PromptCache"]

_log = logging.getLogger("semantic")

_KINDS = ("assistant", "user", "system")

_TAKEN = ("held", "live", "staging", "cached")

_Member = tuple[Hashable, ModelCacheSpec]


class PromptCache:
    """What mlx_lm.server calls its prompt cache, over shared blocks.

    `fetch_nearest_cache` and `insert_cache` call MLX and belong on the generation thread; the rest
    may be called from any thread.

    Args:
        max_size: Most sequences to remember.
        max_bytes: Most bytes of sealed blocks, over all models.
        budget: A budget shared with other pools, instead of `max_bytes`.
        spec_of: The geometry of a model key; without it, or where it answers None, the geometry is
            learned from the first caches that are inserted under the key.
        store: Keeps blocks over restarts, where `namespace_of` knows whose they are. What was
            stored under a key is found again once its geometry is known: from `spec_of`, else
            after the first insertion.
        namespace_of: The namespace of a model key and a geometry; None: from the model's folder,
            as mlx_lm.server names it.
        on_failure: Called with (reason, detail) for each failure that became a miss.
        checkpoints: Where a prefill stops to be remembered, for servers that ask `stops`.
    """

    def __init__(
        self,
        max_size: int = 10,
        max_bytes: int = 1 << 63,
        *,
        budget: MemoryBudget | None = None,
        spec_of: Callable[[Any], ModelCacheSpec | None] | None = None,
        store: BlockStore | None = None,
        namespace_of: Callable[[Any, ModelCacheSpec], Namespace] | None = None,
        on_failure: FailureCallback | None = None,
        checkpoints: CheckpointPolicy | None = None,
    ) -> None:
        self.max_size = max_size
        self.max_bytes = max_bytes
        # A limit of no bytes at all is legal here: nothing fits into one byte either.
        self._budget = budget or MemoryBudget(max(1, max_bytes))
        self._spec_of = spec_of
        self._counters = Counters(on_failure)
        self._counters_of: dict[Hashable, Counters] = {}
        self._on_failure = on_failure
        self._store = None if store is None else CountedStore(store)
        self.writer = None if self._store is None else StoreWriter(self._store, self._counters)
        """Writes to the store: whoever ends the process waits for it, or not."""
        self._namespace_of = namespace_of or namespace_of_key
        self._checkpoints = checkpoints or CheckpointPolicy()
        self._materialiser = MlxMaterialiser()
        self._lock = threading.RLock()
        self._members: OrderedDict[_Member, Resources] = OrderedDict()
        self._running_bytes = 0
        self.may_restore: Callable[[int], bool] | None = None
        """Asked before so many tokens are restored, by a server that admits by memory."""
        self.queue_stats: Callable[[], dict[str, float]] | None = None
        """What a server that admits by memory tells of its queue, for `stats`."""
        self.agent_of: Callable[[list[Any] | None], str] = RequestAgents().of
        """Whose are the caches that are inserted, or, asked with None, the prompt that is fetched:
        said by a server that knows its agents."""

    def __len__(self) -> int:
        """Remembered sequences, over all models."""
        return sum(len(member.sealed) for member in self._each_member())

    @property
    def budget(self) -> MemoryBudget:
        """What all models share."""
        return self._budget

    @property
    def nbytes(self) -> int:
        """Bytes of all sealed blocks."""
        snapshots = (member.pool.snapshot() for member in self._each_member())
        return sum(snapshot.held + snapshot.cached for snapshot in snapshots)

    # The server's two calls --------------------------------------------------------------------

    def fetch_nearest_cache(
        self, model: Any, tokens: Sequence[int]
    ) -> tuple[list[Any] | None, Sequence[int]]:
        """The longest restorable prefix of `tokens`.

        Args:
            model: The model's key.
            tokens: The prompt.

        Returns:
            Fresh caches and the tokens that are left to compute, at least one; or None and all
            tokens.
        """
        caches, cached_tokens, matched_tokens = None, 0, 0
        try:
            caches, cached_tokens, matched_tokens = self._fetch(model, TokenIds(tokens))
        except Exception as error:
            _log.exception("a fetch failed")
            self._counts(model).failure(reason_of(error), repr(error))
        self._counts(model).request(len(tokens), cached_tokens, matched_tokens)
        return (caches, tokens[cached_tokens:]) if caches else (None, tokens)

    def insert_cache(
        self,
        model: Any,
        tokens: Sequence[int],
        prompt_cache: list[Any],
        *,
        cache_type: str = "assistant",
    ) -> None:
        """Remember what `prompt_cache` holds of `tokens`, as far as the budget allows.

        Args:
            model: The model's key.
            tokens: The tokens in the caches; where the caches hold fewer, only those count.
            prompt_cache: The caches; they stay the caller's.
            cache_type: "assistant", "user" or "system": what kind of segment ends here.
        """
        if prompt_cache is NOT_COPIED:
            return
        try:
            packed, agent_id = TokenIds(tokens), self.agent_of(prompt_cache)
            member = self._member_for(model, prompt_cache, len(packed))
            publication = publish_caches(
                member, packed, prompt_cache, agent_id, cache_type, exact=False
            )
            published = publication.report.published_tokens
            if member.tier is not None and published:
                member.tier.save(packed[:published], agent_id)
            if publication.end is not None:
                member.sealed.settle(publication.end, agent_id)
            member.sealed.depart(agent_id)
            self.trim_to(n_sequences=self.max_size)
        except Exception as error:
            reason = reason_of(error)
            if reason == "failed":
                _log.exception("an insert failed")
            self._counts(model).failure(reason, str(error))

    def stops(self, model: Any, tokens: Sequence[int]) -> tuple[int, ...]:
        """Lengths of `tokens` at which a prefill should stop for `insert_cache`, in order.

        Where a model can be restored at every length there are none.

        Args:
            model: The model's key.
            tokens: The prompt.
        """
        try:
            packed = TokenIds(tokens)
            member = self._best_member(model, packed)
            return () if member is None else _stops(member, packed)
        except Exception as error:
            _log.exception("stops were not found")
            self._counts(model).failure(reason_of(error), repr(error))
            return ()

    def _fetch(self, model: Any, tokens: TokenIds) -> tuple[list[Any] | None, int, int]:
        """Caches, tokens that they hold, and tokens that were cached in some way."""
        member = self._best_member(model, tokens) or self._stored_member(model)
        if member is None:
            return None, 0, 0
        agent_id = self.agent_of(None)
        if member.tier is not None:
            member.tier.fetch(tokens, member.sealed.plan(tokens).n_tokens, agent_id)
        hold = member.sealed.hold(tokens)
        try:
            if not hold.n_tokens:
                return None, 0, hold.matched_tokens
            if self.may_restore is not None and not self.may_restore(hold.n_tokens):
                member.counters.failure("budget", "no room to restore a prefix")
                return None, 0, hold.matched_tokens
            caches = restored(member, hold)
            member.sealed.enter(hold, agent_id)
            return caches, hold.n_tokens, hold.matched_tokens
        finally:
            # Nothing tells of a turn that comes to no insertion: an agent may always have left.
            member.sealed.release(hold, agent_id)

    def _best_member(self, model: Any, tokens: TokenIds) -> Resources | None:
        """The layout under this key that has the longest hit."""
        members = [member for (key, _), member in self._items() if key == model]
        if len(members) < 2:
            return members[0] if members else None
        return max(members, key=lambda member: member.sealed.plan(tokens).n_tokens)

    def _stored_member(self, model: Any) -> Resources | None:
        """The memory of a key of which only the store can know something so far."""
        spec = self._spec_of(model) if self._store and self._spec_of is not None else None
        return None if spec is None else self._member(model, spec)

    def memory_of(self, model: Any) -> Resources | None:
        """The memory of a model key, to be charged for what runs; None where `spec_of` knows none.

        Args:
            model: The model's key.
        """
        spec = None if self._spec_of is None else self._spec_of(model)
        return None if spec is None else self._member(model, spec)

    # Limits and counts -------------------------------------------------------------------------

    def trim_to(self, *, n_sequences: int | None = None, n_bytes: int | None = None) -> None:
        """Forget the least recently used until these limits hold.

        Args:
            n_sequences: Most sequences to keep.
            n_bytes: Most bytes to keep; a sequence that runs keeps what it holds.
        """
        try:
            if n_sequences is not None:
                self._trim_sequences(max(0, n_sequences))
            if n_bytes is not None:
                self._budget.evict(max(0, self.nbytes - max(0, n_bytes)))
        except Exception as error:
            _log.exception("a trim failed")
            self._counters.failure("trim", repr(error))

    def stats_by_type(self) -> dict[str, dict[str, int]]:
        """Sequences and bytes by kind of segment; a shared block counts once, at its origin."""
        sequences: Counter[str] = Counter()
        n_bytes: Counter[str] = Counter()
        for member in self._each_member():
            sequences.update(c.kind for c in member.sealed.sequences())
            n_bytes.update(member.sealed.bytes_by_kind())
        kinds = dict.fromkeys((*_KINDS, *sequences, *n_bytes))
        return {k: {"n_sequences": sequences[k], "n_bytes": n_bytes[k]} for k in kinds}

    def report_running(self, n_bytes: int) -> None:
        """Tell what the server's running caches hold: shown as live where nobody charges it."""
        self._running_bytes = n_bytes

    def stats(self) -> dict[str, Any]:
        """Counters, sequences and bytes by class: over all models, and of each, for monitoring."""
        read = [(key, member, member.pool.snapshot()) for (key, _), member in self._items()]
        with self._lock:
            counters_of = dict(self._counters_of)
        models = {}
        for model, counters in counters_of.items():
            of_model = [(member, snapshot) for key, member, snapshot in read if key == model]
            name = _name_of(model)
            unique = repr(model) if name in models else name
            models[unique] = {**counters.as_dict(), **stats_of_all(of_model)}
        whole = stats_of_all([(member, snapshot) for _, member, snapshot in read])
        by_class = whole.pop("bytes")
        by_class = {name: by_class[name] for name in _TAKEN}
        uncharged = max(0, self._running_bytes - by_class["live"])
        total = self._budget.total
        return {
            **totals([self._counters, *counters_of.values()]),
            **whole,
            "bytes": {
                "total": total,
                **by_class,
                "live": by_class["live"] + uncharged,
                # What the parts leave: pools are read one after the other.
                "free": max(0, total - sum(by_class.values()) - uncharged),
            },
            "running_bytes": self._running_bytes,
            "models": models,
            **({} if self.queue_stats is None else {"queue": self.queue_stats()}),
            **self._store_stats([member for _, member, _ in read]),
        }

    def _store_stats(self, members: Sequence[Resources]) -> dict[str, Any]:
        if self._store is None or self.writer is None:
            return {}
        tiers = [member.tier.stats() for member in members if member.tier is not None]
        loaded = sum(tier["loaded_tokens"] for tier in tiers)
        waiting = self.writer.waiting
        return {"store": {**self._store.stats(), "waiting": waiting, "loaded_tokens": loaded}}

    def forget_model(self, model: Any) -> None:
        """Forget everything in memory under a model's key: another model has it now."""
        with self._lock:
            keys = [key for key in self._members if key[0] == model]
            forgotten = [self._members.pop(key) for key in keys]
        for member in forgotten:
            member.sealed.clear()

    def _trim_sequences(self, n_sequences: int) -> None:
        for member in self._each_member():
            while len(self) > n_sequences and member.sealed.evict_oldest():
                pass

    # Models ------------------------------------------------------------------------------------

    def _member_for(self, model: Hashable, caches: list[Any], n_tokens: int) -> Resources:
        """The memory of one model key and layout; other layouts never mix with it.

        The first caches of a layout decide its geometry, unless `spec_of` knows it: a cache that
        compresses groups of tokens does not show how before one is full.
        """
        known = [spec for (key, spec), _ in self._items() if key == model]
        declared = self._spec_of(model) if self._spec_of is not None else None
        if declared is not None and declared not in known:
            known.insert(0, declared)
        spec = next((s for s in known if self._fits(s, caches, n_tokens)), None)
        return self._member(model, spec_of_caches(caches) if spec is None else spec)

    def _member(self, model: Hashable, spec: ModelCacheSpec) -> Resources:
        with self._lock:
            key = (model, spec)
            if key not in self._members:
                self._members[key] = self._new_member(model, spec)
            self._members.move_to_end(key)
            return self._members[key]

    def _fits(self, spec: ModelCacheSpec, caches: list[Any], n_tokens: int) -> bool:
        try:
            self._materialiser.open(spec, caches, n_tokens)
        except IncompatibleCacheError:
            return False
        return True

    def _new_member(self, model: Hashable, spec: ModelCacheSpec) -> Resources:
        pool = BlockPool(spec, budget=self._budget)
        counters = self._counts(model)
        namespace = self._stored_namespace(model, spec)
        sealed = SealedBlocks(
            spec,
            pool,
            namespace or Namespace.private(),
        )
        tier = None
        if self._store is not None and self.writer is not None and namespace is not None:
            tier = StoreTier(spec, sealed, self._store, MlxBlockMemory(), counters, self.writer)
        return Resources(spec, pool, sealed, self._materialiser, counters, self._checkpoints, tier)

    def _stored_namespace(self, model: Hashable, spec: ModelCacheSpec) -> Namespace | None:
        """Whose blocks are stored under a key; None where they are kept in memory only."""
        if self._store is None:
            return None
        try:
            return in_geometry(self._namespace_of(model, spec), spec)
        except SemanticError as error:
            self._counts(model).failure("store_namespace", str(error))
            return None

    def _counts(self, model: Hashable) -> Counters:
        """The counters of one model key; of something that is no key, those of nobody."""
        try:
            counters = self._counters_of.get(model)
        except TypeError:
            return self._counters
        if counters is None:
            with self._lock:
                counters = self._counters_of.setdefault(model, Counters(self._on_failure))
        return counters

    def _each_member(self) -> list[Resources]:
        return [member for _, member in self._items()]

    def _items(self) -> list[tuple[_Member, Resources]]:
        with self._lock:
            return list(self._members.items())


def _name_of(model: Hashable) -> str:
    """A model key in words: mlx_lm.server's is the path, the adapter and the draft model."""
    parts = model if isinstance(model, tuple) else (model,)
    return ", ".join(str(part) for part in parts if part is not None)


def _stops(member: Resources, tokens: TokenIds) -> tuple[int, ...]:
    n_tokens, matched = member.sealed.lengths(tokens)
    return member.checkpoints.stops(member.spec, len(tokens), n_tokens, matched)
