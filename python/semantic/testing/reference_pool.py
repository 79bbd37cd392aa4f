"""The block pool again, as plainly as Python allows: the oracle for the native one.

Same operations, same errors, same numbers. Nothing is counted ahead: every reading walks all
blocks. Slow on purpose, and not safe to use from several threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from semantic.domain.entities import AgentBlocks
from semantic.domain.errors import (
    AgentNotFoundError,
    BlockArgumentTypeError,
    BlockOperationError,
    PoolConfigurationError,
)
from semantic.domain.layer_group import LayerGroup
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_arguments import (
    HUGE,
    check_named,
    check_tokens,
    count_of,
    exhausted,
    setting_of,
    text_of,
)
from semantic.testing.reference_budget import ReferenceBudget
from semantic.testing.reference_snapshot import (
    ReferenceGroupSnapshot,
    ReferenceSnapshot,
    kv_blocks,
)

__all__ = ["ReferencePool"]

_MOST_LEASES = 2**32 - 1
_ids = itertools.count(1000)

State = Literal["held", "staged", "leased", "cached"]


@dataclass
class _Block:
    group: str
    state: State
    agent: str = ""
    leases: int = 0


class ReferencePool:
    """What `BlockPool` is, with the same arguments and operations; see there."""

    def __init__(
        self,
        spec: ModelCacheSpec,
        total_memory: int | None = None,
        *,
        total_blocks: int | None = None,
        budget: ReferenceBudget | None = None,
        minimum: int = 0,
        maximum: int | None = None,
        arrays_max: int = 499_000,
    ) -> None:
        if [total_memory, total_blocks, budget].count(None) != 2:
            raise PoolConfigurationError("exactly one of total_memory, total_blocks and budget")
        if total_blocks is not None:
            per_row = sum(group.bytes_per_block for group in spec.groups)
            total_memory = setting_of(total_blocks, at_least=1) * per_row
        if budget is None:
            assert total_memory is not None
            budget = ReferenceBudget(total_memory)
        self.budget = budget
        self.minimum = setting_of(minimum)
        self.maximum = budget.total if maximum is None else setting_of(maximum)
        self.arrays_max = setting_of(arrays_max)
        self._begin(spec)
        self._check_terms()
        self._check_block_fits(spec)
        self._evicted: list[int] = []
        self.victims: list[Callable[[], bool]] = []
        """Indexes over this pool: each lets go of its least wanted thing, or says that nothing may
        go. They are asked before the oldest cached block goes."""
        self.listeners: list[Callable[[], None]] = []
        """Called when the pool serves another model."""
        budget.pools.add(self)

    def _begin(self, spec: ModelCacheSpec) -> None:
        _check_groups(spec)
        self.spec = spec
        self.blocks: dict[int, _Block] = {}
        self.eviction: list[int] = []
        self.tokens: dict[str, int] = {}
        self.charged = {"live": 0, "staging": 0}
        self.charged_arrays = {"live": 0, "staging": 0}
        self.free_slots = {group.name: 0 for group in spec.groups}

    def _check_terms(self) -> None:
        if self.minimum > self.maximum:
            raise PoolConfigurationError("a minimum above the maximum")
        others = self.budget.pools
        if self.minimum + sum(pool.minimum for pool in others) > self.budget.total:
            raise PoolConfigurationError("the minimums add up to more than the budget")
        left = self.budget.total - sum(pool.kept() for pool in others)
        if self.minimum > left:
            raise exhausted(self.minimum, left)

    def _check_block_fits(self, spec: ModelCacheSpec) -> None:
        smallest = min(group.bytes_per_block for group in spec.groups)
        if smallest > min(self.maximum, self.budget.total):
            raise PoolConfigurationError("the budget does not hold one block")
        if min(len(group.tensors) for group in spec.groups) > self.arrays_max:
            raise PoolConfigurationError("the limit of arrays does not hold one block")

    # Readings ----------------------------------------------------------------------------------

    def bytes_in(self, *states: State) -> int:
        """Bytes of the blocks in these states."""
        blocks = [block for block in self.blocks.values() if block.state in states]
        return sum(self.spec.bytes_per_block(block.group) for block in blocks)

    def kept(self) -> int:
        """What no other pool of the budget can take."""
        return max(self.minimum, self.used_memory() + self.bytes_in("cached"))

    def used_memory(self) -> int:
        """Bytes held, live and staging."""
        return self.bytes_in("held", "leased", "staged") + sum(self.charged.values())

    def free_memory(self) -> int:
        """Bytes that could be taken without evicting a block of this pool."""
        return self.available_memory() - self.bytes_in("cached")

    def available_memory(self) -> int:
        """Bytes free or evictable, here or in others."""
        return self.total_memory() - self.used_memory()

    def total_memory(self) -> int:
        """Bytes that the pool has or could have now: what others do not use, nor were promised."""
        others = sum(max(pool.used_memory(), pool.minimum) for pool in self._others())
        return min(self.budget.total - others, self.maximum)

    def most_memory(self) -> int:
        """The most that the pool could have if nobody held anything."""
        promised = sum(pool.minimum for pool in self._others())
        return min(self.budget.total - promised, self.maximum)

    def _others(self) -> list[ReferencePool]:
        return [pool for pool in self.budget.pools if pool is not self]

    def _unclaimed(self) -> int:
        """Bytes that could be taken without evicting anybody's block."""
        others = sum(pool.kept() for pool in self._others())
        taken = self.used_memory() + self.bytes_in("cached")
        return min(self.budget.total - others, self.maximum) - taken

    def available_blocks(self, layer_type: str = "global") -> int:
        """Blocks of one group that could be taken now."""
        group = self._group(text_of(layer_type))
        by_arrays = self._arrays_free(with_cached=True) // len(group.tensors)
        return min(self.available_memory() // group.bytes_per_block, by_arrays)

    def max_batch_size(self, n_tokens: int) -> int:
        """How many more agents `allocate_tokens` would serve: counted one by one."""
        n_tokens = check_tokens(count_of(n_tokens))
        n_bytes = sum(g.blocks_for(n_tokens) * g.bytes_per_block for g in self.spec.groups)
        arrays = sum(g.blocks_for(n_tokens) * len(g.tensors) for g in self.spec.groups)
        agents = 0
        bytes_left, arrays_left = self.available_memory(), self._arrays_free(with_cached=True)
        while n_bytes <= bytes_left and arrays <= arrays_left:
            bytes_left, arrays_left, agents = bytes_left - n_bytes, arrays_left - arrays, agents + 1
        return agents

    def snapshot(self) -> ReferenceSnapshot:
        """One reading of everything."""
        return ReferenceSnapshot(
            total=self.total_memory(),
            free=self.free_memory(),
            held=self.bytes_in("held", "leased"),
            live=self.charged["live"],
            staging=self.bytes_in("staged") + self.charged["staging"],
            cached=self.bytes_in("cached"),
            used=self.used_memory(),
            available=self.available_memory(),
            arrays_used=self.arrays_max - self._arrays_free(with_cached=False),
            arrays_max=self.arrays_max,
            agents=len({block.agent for block in self.blocks.values() if block.state == "held"}),
            groups=tuple(self._group_snapshot(group) for group in self.spec.groups),
        )

    def _group_snapshot(self, group: LayerGroup) -> ReferenceGroupSnapshot:
        states = [block.state for block in self.blocks.values() if block.group == group.name]
        return ReferenceGroupSnapshot(
            name=group.name,
            bytes_per_block=group.bytes_per_block,
            held_blocks=states.count("held"),
            staged_blocks=states.count("staged"),
            leased_blocks=states.count("leased"),
            cached_blocks=states.count("cached"),
            free_slots=self.free_slots[group.name],
        )

    def check(self) -> None:
        """What is counted ahead nowhere cannot disagree; the limits can still be broken."""
        assert self.free_memory() >= self._unclaimed() >= 0
        assert self._arrays_free(with_cached=False) >= 0
        assert sorted(self.eviction) == sorted(self._ids_in("cached"))

    # Agents' blocks ----------------------------------------------------------------------------

    def allocate(self, n: int, layer_type: str = "global", agent_id: str = "default") -> list[int]:
        """Take `n` blocks of a group, or what the agent's cap leaves."""
        n, layer_type, agent_id = count_of(n), text_of(layer_type), text_of(agent_id)
        group = self._group(layer_type)
        check_named(agent_id)
        if group.max_blocks is not None:
            n = min(n, group.max_blocks - len(self._held(agent_id, group)))
        self._make_room({group.name: n})
        return [self._add(_Block(group.name, "held", agent_id)) for _ in range(n)]

    def allocate_tokens(self, agent_id: str, n_tokens: int) -> AgentBlocks:
        """Extend an agent to `n_tokens` in every group."""
        agent_id, n_tokens = text_of(agent_id), count_of(n_tokens)
        check_named(agent_id)
        check_tokens(n_tokens)
        wants = {
            group.name: max(0, group.blocks_for(n_tokens) - len(self._held(agent_id, group)))
            for group in self.spec.groups
        }
        self._make_room(wants)
        for name, n in wants.items():
            for _ in range(n):
                self._add(_Block(name, "held", agent_id))
        total = max(self.tokens.get(agent_id, 0), n_tokens)
        for group in self.spec.groups:
            if group.max_blocks is None:  # some may have been freed one by one
                total = min(total, 256 * len(self._held(agent_id, group)))
        self.tokens[agent_id] = total
        blocks = {
            group.name: kv_blocks(group, self._held(agent_id, group), total)
            for group in self.spec.groups
        }
        return AgentBlocks(agent_id, blocks, total)

    def free(self, ids: Sequence[int]) -> None:
        """Give back blocks that agents hold."""
        for block_id in self._checked(ids, "held"):
            self._remove(block_id)

    def free_agent(self, agent_id: str) -> int:
        """Give back everything that an agent allocated."""
        check_named(text_of(agent_id))
        held = [i for i in self._ids_in("held") if self.blocks[i].agent == agent_id]
        if not held:
            raise AgentNotFoundError(f"agent {agent_id!r} holds nothing", agent_id=agent_id)
        for block_id in held:
            self._remove(block_id)
        return len(held)

    # Blocks with content -----------------------------------------------------------------------

    def stage(self, layer_type: str, n: int) -> list[int]:
        """Take blocks that are about to be filled."""
        layer_type, n = text_of(layer_type), count_of(n)
        group = self._group(layer_type)
        self._make_room({group.name: n})
        return [self._add(_Block(group.name, "staged")) for _ in range(n)]

    def abandon(self, ids: Sequence[int]) -> None:
        """Give back staged blocks."""
        for block_id in self._checked(ids, "staged"):
            self._remove(block_id)

    def publish(self, ids: Sequence[int], leases: int = 0) -> None:
        """Seal staged blocks."""
        if count_of(leases) > _MOST_LEASES:
            raise BlockOperationError("too many leases")
        for block_id in reversed(self._checked(ids, "staged")):
            self._set_leases(block_id, leases)

    def acquire(self, ids: Sequence[int]) -> None:
        """One more lease on each block."""
        checked = self._checked(ids, "leased", "cached")
        for block_id in checked:
            if self.blocks[block_id].leases == _MOST_LEASES:
                raise BlockOperationError("too many leases", block_id=block_id)
        for block_id in checked:
            self._set_leases(block_id, self.blocks[block_id].leases + 1)

    def release(self, ids: Sequence[int]) -> None:
        """One lease less on each block."""
        for block_id in reversed(self._checked(ids, "leased")):
            self._set_leases(block_id, self.blocks[block_id].leases - 1)

    def touch(self, ids: Sequence[int]) -> None:
        """Make cached blocks the last to be evicted."""
        for block_id in reversed(self._checked(ids, "leased", "cached")):
            if block_id in self.eviction:
                self.eviction.remove(block_id)
                self.eviction.append(block_id)

    def evict(self, ids: Sequence[int]) -> None:
        """Give back cached blocks."""
        for block_id in self._checked(ids, "cached"):
            self._remove(block_id)

    def drain_evicted(self) -> list[int]:
        """What the pool evicted by itself since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted

    # Plain bytes -------------------------------------------------------------------------------

    def charge(self, kind: Literal["live", "staging"], n_bytes: int, n_arrays: int = 0) -> None:
        """Count bytes that are not in blocks, and their arrays."""
        kind_name, n_bytes, n_arrays = text_of(kind), count_of(n_bytes), count_of(n_arrays)
        self._check_kind(kind_name)
        self._make_room({}, n_bytes, n_arrays)
        self.charged[kind_name] += n_bytes
        self.charged_arrays[kind_name] += n_arrays

    def discharge(self, kind: Literal["live", "staging"], n_bytes: int, n_arrays: int = 0) -> None:
        """Take charged bytes and arrays off again."""
        kind_name, n_bytes, n_arrays = text_of(kind), count_of(n_bytes), count_of(n_arrays)
        self._check_kind(kind_name)
        if n_bytes > self.charged[kind_name] or n_arrays > self.charged_arrays[kind_name]:
            raise BlockOperationError("more than was charged")
        self.charged[kind_name] -= n_bytes
        self.charged_arrays[kind_name] -= n_arrays

    def reconfigure(self, new_spec: ModelCacheSpec) -> None:
        """Other groups, the same bytes."""
        if self.used_memory() or sum(self.charged_arrays.values()):
            raise PoolConfigurationError("something is in use")
        _check_groups(new_spec)
        self._check_block_fits(new_spec)
        self._evicted += self.eviction
        self._begin(new_spec)
        for listener in self.listeners:
            listener()

    # How it is done ----------------------------------------------------------------------------

    def _group(self, name: str) -> LayerGroup:
        by_name = [group for group in self.spec.groups if group.name == name]
        by_type = [group for group in self.spec.groups if group.layer_type == name]
        if not by_name + by_type:
            raise BlockOperationError(f"no layer group {name!r}")
        return (by_name + by_type)[0]

    def _check_kind(self, kind: str) -> None:
        if kind not in self.charged:
            raise BlockOperationError(f"no charge {kind!r}")

    def _ids_in(self, *states: State) -> list[int]:
        return [i for i, block in self.blocks.items() if block.state in states]

    def _held(self, agent_id: str, group: LayerGroup) -> list[int]:
        of_group = [i for i in self._ids_in("held") if self.blocks[i].group == group.name]
        return [i for i in of_group if self.blocks[i].agent == agent_id]

    def _arrays_free(self, *, with_cached: bool) -> int:
        blocks = self.blocks.values()
        taken = [b for b in blocks if not (with_cached and b.state == "cached")]
        in_blocks = sum(len(self.spec.group(b.group).tensors) for b in taken)
        return self.arrays_max - in_blocks - sum(self.charged_arrays.values())

    def _make_room(
        self, wants: Mapping[str, int], extra_bytes: int = 0, extra_arrays: int = 0
    ) -> None:
        n_bytes = extra_bytes + sum(n * self.spec.bytes_per_block(g) for g, n in wants.items())
        arrays = extra_arrays + sum(n * len(self.spec.group(g).tensors) for g, n in wants.items())
        if n_bytes > self.available_memory():
            raise exhausted(n_bytes, self.available_memory())
        if arrays > self._arrays_free(with_cached=True):
            raise exhausted(n_bytes, self.available_memory())
        while n_bytes > self._unclaimed() or arrays > self._arrays_free(with_cached=False):
            # Of equals its own goes first; all that nobody indexes are equal across pools.
            if not any(victim() for victim in self.victims):
                self._giver()._evict_oldest()

    def _giver(self) -> ReferencePool:
        """Who gives the next block that nobody indexes: this pool, else one above its minimum."""
        if self.eviction:
            return self
        return next(pool for pool in self._others() if pool.eviction and pool._is_above_minimum())

    def _is_above_minimum(self) -> bool:
        return self.used_memory() + self.bytes_in("cached") > self.minimum

    def _evict_oldest(self) -> None:
        self._evicted.append(self.eviction[0])
        self._remove(self.eviction[0])

    def _add(self, block: _Block) -> int:
        block_id = next(_ids)
        self.blocks[block_id] = block
        self.free_slots[block.group] = max(0, self.free_slots[block.group] - 1)
        return block_id

    def _remove(self, block_id: int) -> None:
        block = self.blocks.pop(block_id)
        self.free_slots[block.group] += 1
        if block_id in self.eviction:
            self.eviction.remove(block_id)
        if not any(other.agent == block.agent for other in self.blocks.values()):
            self.tokens.pop(block.agent, None)

    def _set_leases(self, block_id: int, leases: int) -> None:
        if block_id in self.eviction:
            self.eviction.remove(block_id)
        if not leases:
            self.eviction.append(block_id)
        self.blocks[block_id].leases = leases
        self.blocks[block_id].state = "leased" if leases else "cached"

    def _checked(self, ids: Sequence[int], *states: State) -> list[int]:
        if not isinstance(ids, Sequence):
            raise BlockArgumentTypeError(f"must be a sequence of block ids, not {ids!r}")
        for block_id in ids:
            if isinstance(block_id, bool) or not isinstance(block_id, int):
                raise BlockArgumentTypeError(f"a block id is an integer, not {block_id!r}")
            if not 0 <= block_id <= HUGE:
                raise BlockOperationError("no id has such a number", block_id=block_id)
        for block_id in ids:
            if block_id not in self.blocks or self.blocks[block_id].state not in states:
                raise BlockOperationError(f"block {block_id} is not {states}", block_id=block_id)
        for n, block_id in enumerate(ids):
            if block_id in ids[:n]:
                raise BlockOperationError(f"block {block_id} twice", block_id=block_id)
        return list(ids)


def _check_groups(spec: ModelCacheSpec) -> None:
    if not isinstance(spec, ModelCacheSpec):
        raise PoolConfigurationError(f"not a ModelCacheSpec: {spec!r}")
    if any(group.bytes_per_block == 0 for group in spec.groups):
        raise PoolConfigurationError("a block without bytes")
