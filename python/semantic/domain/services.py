"""The block pool: the accounting of one model's cache, with the model's geometry around it.

Counting is the native pool's; what is here only knows which groups a spec has, and what the ids
mean in tokens. `allocate`, `free` and the readings are inherited as they are, so that a call costs
no Python.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol, Self

from semantic.domain._check import whole_number
from semantic.domain.admission_line import AdmissionLine
from semantic.domain.entities import AgentBlocks, KVBlock
from semantic.domain.errors import PoolConfigurationError, PoolExhaustedError
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup
from semantic.domain.native import MemoryBudget as NativeBudget
from semantic.domain.native import Pool
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["BlockPool", "MemoryBudget"]

_log = logging.getLogger("semantic")

_Group = tuple[str, str, int, int | None, int, int | None, int, int | None]


class MemoryBudget(NativeBudget):
    """A number of bytes that several pools share.

    A pool may take what no other pool has taken or been promised:
    `total - sum over the others of max(taken, minimum) - own taken`, up to its own maximum. What
    others have cached goes for it, the least wanted first, down to their minimums.

    Args:
        total: Bytes, at least 1.

    Raises:
        PoolConfigurationError: Not a whole number of bytes, or none.
    """

    __slots__ = ("__weakref__", "_listeners", "_lock", "_memories", "_pools", "line")

    _pools: weakref.WeakSet[BlockPool]
    _listeners: weakref.WeakSet[_Listener]
    _memories: weakref.WeakSet[_Memory]
    _lock: threading.RLock
    line: AdmissionLine
    """Who waits for bytes of this budget."""

    def __new__(cls, total: int) -> Self:
        """Build the native budget; everything is said there, nothing is left for `__init__`."""
        budget = super().__new__(cls, total)
        budget._pools = weakref.WeakSet()
        budget._listeners = weakref.WeakSet()
        budget._memories = weakref.WeakSet()
        # Re-entrant: a finaliser may end a memory in the middle of a call.
        budget._lock = threading.RLock()
        budget.line = AdmissionLine()
        return budget

    def open(self, pool: BlockPool) -> None:
        """Have `pool.drop(ids)` called with blocks that have gone. Held weakly."""
        with self._lock:
            self._pools.add(pool)

    def listen(self, listener: _Listener) -> None:
        """Have `listener.tell()` called when there may be events. Held weakly."""
        with self._lock:
            self._listeners.add(listener)

    def join(self, memory: _Memory) -> None:
        """Have `memory.expire_leases()` called when somebody is short of bytes. Held weakly."""
        with self._lock:
            self._memories.add(memory)

    def expire_leases(self) -> int:
        """Abort what dead owners hold, in whichever memory; how many leases those were."""
        with self._lock:
            memories = list(self._memories)
        return sum(memory.expire_leases() for memory in memories)

    def on_gone(self, block_ids: Sequence[int]) -> None:
        """Blocks have gone, of whichever pool, and so do their tensors; then events are told."""
        with self._lock:
            pools, listeners = list(self._pools), list(self._listeners)
        for pool in pools:
            pool.drop(block_ids)
        for listener in listeners:
            try:
                listener.tell()
            except Exception:
                _log.exception("the events of an index could not all be told")


class _Listener(Protocol):
    """Who tells of events."""

    def tell(self) -> None:
        """Tell of what there is to tell."""


class _Memory(Protocol):
    """Who has leases."""

    def expire_leases(self) -> int:
        """Abort the leases whose owners are dead; how many those were."""


class BlockPool(Pool):
    """The blocks of one model, under one budget of bytes.

    Exactly one of `total_memory`, `total_blocks` and `budget` is given.

    Args:
        spec: The model's cache geometry.
        total_memory: A private budget in bytes.
        total_blocks: A private budget of that many blocks of every group.
        budget: A budget that other pools share.
        minimum: Bytes that no other pool of the budget can take.
        maximum: Bytes that this pool never goes beyond; None for the whole budget.
        arrays_max: The most arrays that blocks and running sequences may be made of; Metal's limit
            of buffers.

    Raises:
        PoolConfigurationError: None or several budgets, one that is not a whole number of bytes or
            smaller than the smallest block, or terms that contradict each other.
        PoolExhaustedError: Others have taken too much of the budget to promise the minimum.
    """

    __slots__ = ("__weakref__", "_maximum", "_spec", "_swap", "budget", "contents")

    _spec: ModelCacheSpec
    _maximum: int | None
    _swap: threading.RLock
    budget: MemoryBudget
    """The budget, its own or shared."""
    contents: dict[int, Mapping[str, object]]
    """The tensors of sealed blocks by id, for all namespaces of the pool. The pool never looks."""

    def __new__(
        cls,
        spec: ModelCacheSpec,
        total_memory: int | None = None,
        *,
        total_blocks: int | None = None,
        budget: MemoryBudget | None = None,
        minimum: int = 0,
        maximum: int | None = None,
        arrays_max: int = 499_000,
    ) -> Self:
        """Build the native pool; everything is said there, nothing is left for `__init__`."""
        groups = _native_groups(spec)
        shared = _budget(spec, total_memory, total_blocks, budget)
        try:
            pool = super().__new__(cls, groups, shared, minimum, maximum, arrays_max)
        except PoolExhaustedError as error:
            # What others have cached gives way to a promise.
            shared.evict(error.bytes_short)
            pool = super().__new__(cls, groups, shared, minimum, maximum, arrays_max)
        pool.budget = shared
        pool._maximum = maximum
        pool._spec = spec
        pool.contents = {}
        # Re-entrant: a signal handler or a finaliser may ask this pool in the middle of a call.
        pool._swap = threading.RLock()
        shared.open(pool)
        return pool

    @property
    def spec(self) -> ModelCacheSpec:
        """The geometry that the pool counts by."""
        with self._swap:
            return self._spec

    def allocate_tokens(self, agent_id: str, n_tokens: int) -> AgentBlocks:
        """Extend an agent *to* `n_tokens` in every group at once, all or nothing as to memory.

        Never shrinks an agent: fewer tokens than before change nothing.

        Args:
            agent_id: Who holds the blocks.
            n_tokens: The context that the blocks are to stand for, at least 1.

        Returns:
            All blocks of the agent, in the order of allocation: the order of tokens, unless blocks
            were freed one by one. `token_count` is what the block's token block covers of the
            agent's tokens; 0 for a state, which has no tokens of its own.

        Raises:
            PoolExhaustedError: Too few bytes or arrays; `bytes_short` says how many bytes.
            BlockOperationError: No tokens, or an empty agent_id.
            BlockArgumentTypeError: An argument of the wrong type.
        """
        # Not within the lock of `spec`: who is told of what went may ask for it on another thread.
        before = self.spec
        total_tokens, ids = self.extend_agent(agent_id, n_tokens)
        # An agent that holds blocks keeps the spec; a swap came before them, or after it was freed.
        groups = {group.name: group for spec in (before, self.spec) for group in spec.groups}
        blocks = {
            name: _blocks_in_token_order(groups[name], held, total_tokens)
            for name, held in ids.items()
        }
        return AgentBlocks(agent_id, blocks, total_tokens)

    def reconfigure(self, new_spec: ModelCacheSpec) -> None:
        """Swap the model: other groups, the same bytes. Old ids are stale from now on.

        Cached blocks are dropped, and told by `drain_evicted`.

        Args:
            new_spec: The geometry of the next model.

        Raises:
            PoolConfigurationError: Something is held, live, staged or leased, and nothing changed.
        """
        groups = _native_groups(new_spec)
        # Whoever reads `spec` meanwhile waits here, so that it never differs from the groups.
        with self._swap:
            gone = super().regroup(groups)
            self._spec = new_spec
        self.on_gone(gone)

    def check_spec(self, new_spec: ModelCacheSpec) -> None:
        """Refuse a geometry that this pool could never serve, as `reconfigure` would.

        Raises:
            PoolConfigurationError: It cannot be counted, or no block of it fits.
        """
        total = self.budget.total
        limit = total if self._maximum is None else min(total, self._maximum)
        Pool(_native_groups(new_spec), limit)

    def on_gone(self, block_ids: Sequence[int]) -> None:
        """Blocks have gone, of this pool or of others: see `MemoryBudget.on_gone`."""
        self.budget.on_gone(block_ids)

    def drop(self, block_ids: Sequence[int]) -> None:
        """Drop the tensors of those of these blocks that are this pool's."""
        for block_id in block_ids:
            self.contents.pop(block_id, None)

    def regroup(self, groups: object) -> NoReturn:
        """Refused: the groups of a pool with a spec change through `reconfigure`.

        Raises:
            PoolConfigurationError: Always.
        """
        raise PoolConfigurationError("use reconfigure(spec): the groups belong to the spec")


def _native_groups(spec: ModelCacheSpec) -> list[_Group]:
    if not isinstance(spec, ModelCacheSpec):
        raise PoolConfigurationError(f"spec must be a ModelCacheSpec, not {spec!r}")
    return [
        (
            group.name,
            group.layer_type,
            group.bytes_per_block,
            group.max_blocks,
            len(group.rest_tensors),
            group.window,
            group.keep,
            group.chunk,
        )
        for group in spec.groups
    ]


def _budget(
    spec: ModelCacheSpec,
    total_memory: int | None,
    total_blocks: int | None,
    budget: MemoryBudget | None,
) -> MemoryBudget:
    given = [size for size in (total_memory, total_blocks, budget) if size is not None]
    if len(given) != 1:
        raise PoolConfigurationError(
            "a pool needs exactly one of total_memory, total_blocks and budget"
        )
    if budget is not None:
        if not isinstance(budget, MemoryBudget):
            raise PoolConfigurationError(f"budget must be a MemoryBudget, not {budget!r}")
        return budget
    if total_memory is not None:
        return MemoryBudget(
            whole_number(total_memory, "total_memory", PoolConfigurationError, at_least=1)
        )
    blocks = whole_number(total_blocks, "total_blocks", PoolConfigurationError, at_least=1)
    return MemoryBudget(blocks * sum(group.bytes_per_block for group in spec.groups))


def _blocks_in_token_order(
    group: LayerGroup, ids: list[int], total_tokens: int
) -> tuple[KVBlock, ...]:
    """The blocks of a group with what each covers; a capped group has the last token blocks."""
    if group.layer_type == "state":
        return tuple(KVBlock(block_id) for block_id in ids)
    all_blocks = -(-total_tokens // BLOCK_TOKENS)
    first = 0 if group.max_blocks is None else max(0, all_blocks - len(ids))
    return tuple(
        KVBlock(block_id, token_count=_covered(first + n, total_tokens))
        for n, block_id in enumerate(ids)
    )


def _covered(token_block: int, total_tokens: int) -> int:
    return min(BLOCK_TOKENS, max(0, total_tokens - token_block * BLOCK_TOKENS))
