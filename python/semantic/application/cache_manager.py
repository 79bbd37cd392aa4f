"""The story of one agent's turn: admit, materialise, checkpoint, commit, release."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import ClassVar

from semantic.application.counters import Counters, FailureCallback
from semantic.application.lease import Lease
from semantic.application.resources import Resources
from semantic.application.sealed_blocks import Hold, SealedBlocks
from semantic.domain._check import agent_name
from semantic.domain.errors import (
    AgentNotFoundError,
    BlockValidationError,
    PoolConfigurationError,
    PoolExhaustedError,
    UnsupportedCacheError,
)
from semantic.domain.growth import DEFAULT_PREFILL_STEP
from semantic.domain.identity import BlockHash, Namespace, Tokens, block_key, pack
from semantic.domain.reports import HitPlan
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import (
    BlockData,
    BlockStore,
    Caches,
    Clock,
    LiveCaches,
    Materialiser,
)

__all__ = ["CacheManager", "SystemClock", "packed_prompt"]

_WAIT_POLL_SECONDS = 0.05
"""How often a waiting admission looks again: another pool may free bytes without telling us."""


class SystemClock:
    """The machine's monotonic clock."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


class _NoMaterialiser:
    """Stands in where no MLX side was given: accounting works, tensors do not."""

    def open(self, spec: ModelCacheSpec, caches: Caches, n_tokens: int) -> LiveCaches:
        raise UnsupportedCacheError(_NO_MLX)

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        raise UnsupportedCacheError(_NO_MLX)

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        raise UnsupportedCacheError(_NO_MLX)


_NO_MLX = "there is no MLX side here: install 'semantic-kv[mlx]', or pass materialiser="


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
        policy: The eviction policy; there is one so far, None.
        on_failure: Called with (reason, detail) for each failure that became a miss.
        clock: Time, for tests.
        hash_block: The key function, for tests.

    Raises:
        PoolConfigurationError: A pool of another spec, or a store without a namespace.
    """

    _default_materialiser: ClassVar[type[Materialiser]] = _NoMaterialiser

    def __init__(
        self,
        spec: ModelCacheSpec,
        pool: BlockPool,
        *,
        store: BlockStore | None = None,
        namespace: Namespace | None = None,
        materialiser: Materialiser | None = None,
        policy: None = None,
        on_failure: FailureCallback | None = None,
        clock: Clock | None = None,
        hash_block: BlockHash = block_key,
    ) -> None:
        if pool.spec != spec:
            raise PoolConfigurationError("the pool was made for another spec")
        if store is not None:
            reason = "a store needs a namespace" if namespace is None else "there is none yet"
            raise PoolConfigurationError(f"{reason}: blocks are kept in memory only")
        if policy is not None:
            raise PoolConfigurationError("there is one eviction policy: leave policy=None")
        self._memory = Resources(
            spec,
            pool,
            SealedBlocks(spec, pool, namespace or Namespace.private(), hash_block=hash_block),
            materialiser or self._default_materialiser(),
            Counters(on_failure),
        )
        self._clock = clock or SystemClock()
        self._released = threading.Condition()
        self._leases: set[Lease] = set()

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

        Args:
            agent_id: Who runs.
            tokens: The whole prompt; at least one token of it is left to compute.
            max_new_tokens: Tokens that may be decoded; `Lease.grow` asks for more later.
            prefill_step: Tokens per prefill step, which sets the peak of sliding windows.
            wait: Seconds to wait for memory; None does not wait.

        Returns:
            The lease, with `cached_tokens` of the prompt already known.

        Raises:
            PoolExhaustedError: The live peak does not fit, not even after evicting all that may
                go; `bytes_short` says by how much. Nothing has changed.
            BlockValidationError: An empty prompt or agent id.
            PoolConfigurationError: The pool serves another model by now.
        """
        agent_name(agent_id)
        prompt = packed_prompt(tokens)
        deadline = self._clock.monotonic() + (wait or 0.0)
        while True:
            try:
                lease = self._admit(agent_id, prompt, max_new_tokens, prefill_step)
            except PoolExhaustedError:
                remaining = deadline - self._clock.monotonic()
                if remaining <= 0:
                    raise
                with self._released:
                    self._released.wait(min(remaining, _WAIT_POLL_SECONDS))
            else:
                self._memory.counters.request(len(prompt), lease.cached_tokens)
                return lease

    def _admit(
        self, agent_id: str, prompt: Tokens, max_new_tokens: int, prefill_step: int
    ) -> Lease:
        if self._memory.pool.spec != self._memory.spec:
            raise PoolConfigurationError(
                "the pool was reconfigured: make a CacheManager for its new spec"
            )
        hold = self._memory.sealed.hold(prompt)
        try:
            return self._charged(agent_id, prompt, hold, max_new_tokens, prefill_step)
        except PoolExhaustedError:
            if not hold.plan.n_tokens:
                raise
        # Holding the hit may be what leaves too little: served without it, it may be evicted.
        return self._charged(agent_id, prompt, Hold(HitPlan(0), {}), max_new_tokens, prefill_step)

    def _charged(
        self, agent_id: str, prompt: Tokens, hold: Hold, max_new_tokens: int, prefill_step: int
    ) -> Lease:
        """A lease over `hold`, its live peak charged; on failure the hold is given back."""
        charged = 0
        try:
            peak = self._memory.spec.live_peak_bytes(
                len(prompt),
                prefill_step,
                cached_tokens=hold.plan.n_tokens,
                new_tokens=max_new_tokens,
            )
            self._memory.sealed.make_room(peak)
            self._memory.pool.charge("live", peak)
            charged = peak
            self._memory.sealed.touch(hold)
            lease = Lease(
                self._memory,
                agent_id,
                prompt,
                hold,
                live_bytes=peak,
                prefill_step=prefill_step,
                on_end=self._lease_ended,
            )
            with self._released:
                self._leases.add(lease)
        except BaseException:
            self._memory.sealed.release(hold)
            self._memory.pool.discharge("live", charged)
            raise
        return lease

    def _lease_ended(self, lease: Lease) -> None:
        with self._released:
            self._leases.discard(lease)
            self._released.notify_all()

    def forget(self, agent_id: str) -> int:
        """Forget what an agent published and nobody else needs.

        Returns:
            How many published prefixes were forgotten.

        Raises:
            AgentNotFoundError: The agent has published nothing that is still here.
        """
        mine = [c for c in self._memory.sealed.sequences() if agent_id in c.agents]
        if not mine:
            raise AgentNotFoundError(
                f"agent {agent_id!r} has nothing published here", agent_id=agent_id
            )
        for checkpoint in mine:
            self._memory.sealed.withdraw(checkpoint, agent_id)
        return len(mine)

    def clear(self) -> None:
        """Forget every published prefix; what running sequences hold goes when they end."""
        self._memory.sealed.clear()

    def stats(self) -> dict[str, object]:
        """Counters, sequences and bytes by class, in one reading of the pool."""
        snapshot = self._memory.pool.snapshot()
        sequences = self._memory.sealed.sequences()
        return {
            **self._memory.counters.as_dict(),
            "sequences": len(sequences),
            "running": len(self._leases),
            "blocks": self._memory.sealed.n_blocks,
            "evicted_blocks": self._memory.sealed.evicted_blocks,
            "bytes": {
                "total": snapshot.total,
                "free": snapshot.free,
                "held": snapshot.held,
                "live": snapshot.live,
                "staging": snapshot.staging,
                "cached": snapshot.cached,
            },
            "unshared_bytes": sum(self._memory.spec.cached_bytes(c.end) for c in sequences),
        }

    def capture_batch(self, batch_caches: Caches, row: int) -> Caches:
        """One row of BatchGenerator's caches as single caches, ready for `Lease.commit`.

        Call it on the thread that generates.
        """
        return self._memory.materialiser.extract(batch_caches, row)


def packed_prompt(tokens: Iterable[int]) -> Tokens:
    """Token ids packed as signed 64-bit integers.

    Raises:
        BlockValidationError: No token at all, or an id beyond 64 bits.
        BlockArgumentTypeError: Something that is not a sequence of integers.
    """
    packed = pack(tokens)
    if not packed:
        raise BlockValidationError("tokens must not be empty")
    return packed
