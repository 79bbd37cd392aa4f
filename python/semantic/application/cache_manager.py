"""The story of one agent's turn: admit, materialise, checkpoint, commit, release."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from threading import TIMEOUT_MAX
from typing import ClassVar

from semantic.application.admission import Admission, Request
from semantic.application.clock import SystemClock
from semantic.application.counted_store import CountedStore
from semantic.application.counters import Counters, FailureCallback
from semantic.application.events import EventCallback
from semantic.application.gate import Gate
from semantic.application.lease import Lease
from semantic.application.no_mlx import NoBlockMemory, NoMaterialiser, NoSpecSource
from semantic.application.resources import Resources, stats_of
from semantic.application.sealed_blocks import SealedBlocks
from semantic.application.store_tier import StoreTier
from semantic.application.store_writer import StoreWriter
from semantic.domain._check import agent_name, seconds
from semantic.domain.checkpoints import CheckpointPolicy
from semantic.domain.errors import (
    AgentNotFoundError,
    BlockValidationError,
    CachePersistenceError,
    PoolConfigurationError,
    SemanticError,
    UnsupportedCacheError,
)
from semantic.domain.growth import DEFAULT_PREFILL_STEP
from semantic.domain.identity import KEY_BYTES, Namespace
from semantic.domain.native import TokenIds
from semantic.domain.policy import EvictionPolicy, Hint, Priority
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import (
    BlockMemory,
    BlockStore,
    Caches,
    Clock,
    Materialiser,
    SpecSource,
)

__all__ = ["CacheManager"]


class CacheManager:
    """The KV memory of one model: what its agents share at rest and charge while they run.

    Methods may be called from any thread, except that `Lease.materialise`, `Lease.commit`,
    `Lease.checkpoint` and `capture_batch` call MLX and belong on the thread that generates.

    Args:
        spec: The model's geometry.
        pool: Where every byte is counted; made for the same spec.
        store: Keeps blocks over restarts; needs a namespace.
        namespace: Who may share. None: a fresh random one, so nothing is shared outside.
        materialiser: The MLX side. None: MLX itself, imported when the first tensor is needed.
        policy: What goes first when memory is short, for the whole pool; None leaves it as it is:
            tail-first least recently used, unless another manager has said otherwise.
        checkpoints: Where a prefill stops to publish what cannot be cut afterwards.
        on_failure: Called with (reason, detail) for each failure that became a miss.
        on_event: Called for each block that becomes findable or is findable no more, in order, on
            the thread of whoever caused it. Its exceptions are counted and dropped.
        clock: Time, for tests.
        key_bytes: Bytes of a block's key that are used, for tests that make keys collide.
        block_memory: The bytes of blocks, for a store. None: MLX's.
        lease_timeout: Seconds after the last call on a lease at which, when memory is short in any
            memory of the budget or the model is swapped, its owner is taken for dead and the lease
            is aborted; None: never.

    Raises:
        PoolConfigurationError: A pool of another spec, a store without a namespace, or a
            `lease_timeout` that is no time.
    """

    _default_materialiser: ClassVar[type[Materialiser]] = NoMaterialiser
    _default_block_memory: ClassVar[type[BlockMemory]] = NoBlockMemory
    _default_spec_source: ClassVar[type[SpecSource]] = NoSpecSource

    def __init__(
        self,
        spec: ModelCacheSpec,
        pool: BlockPool,
        *,
        store: BlockStore | None = None,
        namespace: Namespace | None = None,
        materialiser: Materialiser | None = None,
        policy: EvictionPolicy | None = None,
        checkpoints: CheckpointPolicy | None = None,
        on_failure: FailureCallback | None = None,
        on_event: EventCallback | None = None,
        clock: Clock | None = None,
        key_bytes: int = KEY_BYTES,
        block_memory: BlockMemory | None = None,
        lease_timeout: float | None = None,
    ) -> None:
        if pool.spec != spec:
            raise PoolConfigurationError("the pool was made for another spec")
        given: object = policy
        if not isinstance(given, EvictionPolicy | None):
            raise PoolConfigurationError(f"policy must be an EvictionPolicy, not {given!r}")
        self._clock = clock or SystemClock()
        if lease_timeout is not None:
            lease_timeout = seconds(
                lease_timeout,
                "lease_timeout",
                PoolConfigurationError,
                is_positive=True,
                may_be_endless=True,
            )
        self._lease_timeout = lease_timeout
        self._gate = Gate(self._clock, pool.budget.line)
        counters = Counters(on_failure)
        self._sealed = partial(
            SealedBlocks,
            policy=policy,
            clock=self._clock,
            key_bytes=key_bytes,
            on_event=on_event,
            counters=counters,
        )
        self._writer: StoreWriter | None = None
        self._tier = None
        if store is not None:
            store = CountedStore(store)
            writer = self._writer = StoreWriter(store, counters, self._clock)
            self._tier = partial(
                StoreTier,
                store=store,
                memory=block_memory or self._default_block_memory(),
                counters=counters,
                writer=writer,
            )
        sealed, tier = self._sealed_and_tier(spec, pool, namespace)
        memory = Resources(
            spec,
            pool,
            sealed,
            materialiser or self._default_materialiser(),
            counters,
            checkpoints or CheckpointPolicy(),
            tier,
        )
        self._admission = Admission(memory, self._gate, self._clock)
        pool.budget.join(self)

    def _check_namespace(self, namespace: Namespace | None) -> None:
        if self._tier is not None and namespace is None:
            raise PoolConfigurationError(
                "a store needs a namespace: semantic.mlx.namespace(model, path) makes one"
            )

    def _sealed_and_tier(
        self, spec: ModelCacheSpec, pool: BlockPool, namespace: Namespace | None
    ) -> tuple[SealedBlocks, StoreTier | None]:
        self._check_namespace(namespace)
        sealed = self._sealed(spec, pool, namespace or Namespace.private())
        return sealed, None if self._tier is None else self._tier(spec, sealed)

    @property
    def _memory(self) -> Resources:
        return self._admission.memory

    @property
    def spec(self) -> ModelCacheSpec:
        """The geometry that this memory serves."""
        return self._memory.spec

    @property
    def pool(self) -> BlockPool:
        """Where the bytes are counted."""
        return self._memory.pool

    def admit(
        self,
        agent_id: str,
        tokens: Iterable[int],
        *,
        max_new_tokens: int = 0,
        prefill_step: int = DEFAULT_PREFILL_STEP,
        wait: float | None = None,
    ) -> Lease:
        """Start a turn: find the longest valid hit, hold it, and charge what the turn needs.

        Who has to wait stands in one line with all who wait for bytes of the same budget, whichever
        memory they ask: first come, first served, so that every request that fits alone gets
        through. Nobody overtakes, also who does not wait at all; except that a memory which is
        being swapped, or which is full by itself, holds up no other.

        Args:
            agent_id: Who runs.
            tokens: The whole prompt; at least one token of it is left to compute.
            max_new_tokens: Tokens that may be decoded; `Lease.grow` asks for more later.
            prefill_step: Tokens per prefill step, which sets the peak of sliding windows. Where
                memory is short it is halved, down to 256: prefill by `Lease.prefill_step`.
            wait: Seconds to wait for memory; None does not wait.

        Returns:
            The lease, with `cached_tokens` of the prompt already known.

        Raises:
            PoolExhaustedError: The live peak does not fit, not even after evicting all that may
                go; `bytes_short` says by how much, `bytes_ahead` what those need who wait already.
                Raised at once, and with `can_ever_fit` False, when waiting cannot help. Nothing
                has changed.
            BlockValidationError: An empty prompt or agent id, or a `wait` that is no time.
            ModelSpecValidationError: `max_new_tokens` or `prefill_step` are no such numbers.
            PoolConfigurationError: The pool serves another model by now.
        """
        agent_name(agent_id)
        prompt = TokenIds(tokens)
        if not prompt:
            raise BlockValidationError("tokens must not be empty")
        patience = 0.0 if wait is None else _patience(wait)
        request = Request(agent_id, prompt, max_new_tokens, prefill_step)
        return self._admission.admit(request, patience)

    def expire_leases(self) -> int:
        """Abort the leases of which nothing was heard for `lease_timeout`; how many those were.

        Admissions do so by themselves when memory is short. Each is counted as a failure.
        """
        if self._lease_timeout is None:
            return 0
        expired = self._gate.expire(self._lease_timeout)
        for lease in expired:
            self._memory.counters.failure("lease_expired", f"of agent {lease.agent_id!r}")
        return len(expired)

    def swap(
        self,
        model: object = None,
        *,
        load: Callable[[], object] | None = None,
        namespace: Namespace | None = None,
        wait: float = 0.0,
        drain: Callable[[Lease], None] | None = None,
    ) -> None:
        """Serve another model from now on, with the same bytes.

        Nobody is admitted meanwhile; who waits, waits on. What is cached of the old model goes from
        memory, and stays in the store where there is one, to be found when it is swapped back. Pins
        go with the blocks that they keep.

        With `model`, both models are there at once. With `load`, everything of the old one's cache
        is released first; let go of its weights in `load`, before the next ones are read.

        Whatever fails, the old model is served on, with the same bytes. Up to the loading nothing
        is lost of what was cached, but what `drain` has ended has ended; after it, what is not in
        a store is lost.

        Args:
            model: The next model, or its `ModelCacheSpec`.
            load: Instead of `model`: returns it, on this thread, once nothing is held any more.
            namespace: Whose blocks the next model's are; None: a fresh random one.
            wait: Seconds to wait for running leases, and for what is still to be stored.
            drain: Called with each running lease, to commit and release it. Commits call MLX: swap
                on the thread that generates then.

        Raises:
            PoolConfigurationError: Leases still run, or blocks are held outside of this memory, or
                the pool cannot serve the model; or not exactly one of `model` and `load`.
            UnsupportedCacheError: What was given cannot be probed.
            BlockValidationError: A `wait` that is no time.
            CachePersistenceError: What is to be stored was not stored within `wait` seconds.
            Exception: What `drain` or `load` raised.
        """
        if (model is None) == (load is None):
            raise PoolConfigurationError("swap needs a model, or load= to load one")
        wait = _patience(wait)
        self._check_namespace(namespace)
        if load is None:
            spec = self._probed(model)
            self._memory.pool.check_spec(spec)
        deadline = self._clock.monotonic() + wait
        self.expire_leases()
        with self._gate.closed(wait, drain):
            if not self.flush(min(max(0.0, deadline - self._clock.monotonic()), TIMEOUT_MAX)):
                raise CachePersistenceError("turns are still being stored: wait longer")
            self._release()
            if load is not None:
                spec = self._probed(load())
            self._take_over(spec, namespace)

    def _release(self) -> None:
        """Give up what is cached, in all namespaces of the pool."""
        memory = self._memory
        taken = memory.pool.snapshot()
        if taken.held > memory.sealed.index.pinned_bytes or taken.live or taken.staging:
            raise PoolConfigurationError("blocks of the pool are held outside of this memory")
        memory.sealed.clear()
        memory.sealed.evict_bytes(memory.pool.snapshot().cached)

    def _take_over(self, spec: ModelCacheSpec, namespace: Namespace | None) -> None:
        old, pool = self._memory, self._memory.pool
        pool.reconfigure(spec)
        pool.contents.clear()
        try:
            sealed, tier = self._sealed_and_tier(spec, pool, namespace)
        except BaseException:
            pool.reconfigure(old.spec)
            sealed, tier = self._sealed_and_tier(old.spec, pool, old.sealed.namespace)
            self._admission.memory = replace(old, sealed=sealed, tier=tier)
            raise
        self._admission.memory = replace(old, spec=spec, sealed=sealed, tier=tier)

    def _probed(self, model: object) -> ModelCacheSpec:
        if isinstance(model, ModelCacheSpec):
            return model
        try:
            return self._default_spec_source().probe(model)
        except SemanticError:
            raise
        except Exception as error:
            raise UnsupportedCacheError(
                f"no model that can be probed, nor a ModelCacheSpec: {type(model).__name__}"
            ) from error

    def forget(self, agent_id: str) -> int:
        """Forget what an agent published and nobody else needs.

        Returns:
            How many published prefixes, and stored blocks, were forgotten.

        Raises:
            AgentNotFoundError: The agent has published nothing that is still here.
        """
        forgotten = self._memory.sealed.forget(agent_id)
        if self._memory.tier is not None:
            forgotten += self._memory.tier.forget(agent_id)
        if not forgotten:
            raise AgentNotFoundError(
                f"agent {agent_id!r} has nothing published here", agent_id=agent_id
            )
        return forgotten

    def hint(self, agent_id: str, state: Hint) -> None:
        """Say what is known of an agent's next request; its next request ends the hint.

        Best said before the turn is released. Of an agent that was never here nothing is kept.

        Args:
            agent_id: The agent.
            state: "waiting", for its human or for anything that takes more than a minute; "ended",
                its session is over; "active", neither.

        Raises:
            BlockOperationError: Another word.
            BlockValidationError: An empty agent id.
        """
        self._memory.sealed.index.hint(agent_name(agent_id), state)
        self._tell_store(agent_id, hint=state)

    def prioritise(self, agent_id: str, priority: Priority) -> None:
        """Say how much an agent matters: everything of a lower priority goes first.

        What several agents use matters as much as to the one of them to whom it matters most.

        Raises:
            BlockOperationError: Another word than "low", "normal" or "high".
        """
        self._memory.sealed.index.prioritise(agent_name(agent_id), priority)
        self._tell_store(agent_id, priority=priority)

    def pin(self, agent_id: str) -> None:
        """Keep what an agent has published, and what it will publish, until `unpin`.

        Pinned blocks count as held: they take from what can be admitted. `forget`, an aborted turn
        and `clear` take from a pin what they forget. What is stored of pinned blocks stays stored
        while this process runs.
        """
        self._memory.sealed.index.pin(agent_name(agent_id))
        self._tell_store(agent_id, is_pinned=True)

    def unpin(self, agent_id: str) -> None:
        """Let what an agent has published go its usual way again."""
        self._memory.sealed.index.unpin(agent_name(agent_id))
        self._tell_store(agent_id, is_pinned=False)

    def _tell_store(
        self,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        if self._memory.tier is not None:
            self._memory.tier.regard(agent_id, hint=hint, priority=priority, is_pinned=is_pinned)

    def clear(self) -> None:
        """Forget every published prefix, pinned ones included.

        What running sequences hold goes when they end. A pin stays, for what is published next.
        """
        self._memory.sealed.clear()

    def stats(self) -> dict[str, object]:
        """Counters, sequences and bytes by class, in one reading of the pool."""
        gate = self._gate
        return {**stats_of(self._memory), "running": len(gate), "waiting": gate.n_waiting}

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what was released is stored; False when that took longer than `timeout`."""
        return self._writer is None or self._writer.flush(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Store what waits, and stop writing. Idempotent; the store stays open.

        Returns:
            Whether all of it was stored within `timeout` seconds.
        """
        return self._writer is None or self._writer.close(timeout)

    def capture_batch(self, batch_caches: Caches, row: int) -> Caches:
        """One row of BatchGenerator's caches as single caches, ready for `Lease.commit`.

        Call it on the thread that generates.
        """
        return self._memory.materialiser.extract(batch_caches, row)


def _patience(wait: float) -> float:
    return seconds(wait, "wait", BlockValidationError, may_be_endless=True)
