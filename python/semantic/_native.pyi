"""The native core: the accounting of KV-cache blocks, in ids and bytes.

Everything here is safe to call from any thread. Each call is one step: other threads see the pool
before it or after it. A refused call changes nothing.

`semantic.BlockPool` is what to use; it adds the model's geometry to `Pool` and nothing else.
"""

from collections.abc import Sequence
from typing import Literal, Self, final

from typing_extensions import disjoint_base

__all__ = ["GroupSnapshot", "MemoryBudget", "Pool", "PoolSnapshot"]

_Group = tuple[str, str, int, int | None, int]

@final
class MemoryBudget:
    """A number of bytes that several pools share.

    A pool may take what no other pool has taken or been promised:
    `total - sum over the others of max(taken, minimum) - own taken`, up to its own maximum. Cached
    blocks count as taken; a pool never evicts another pool's.

    Args:
        total: Bytes, at least 1.

    Raises:
        PoolConfigurationError: Not a whole number of bytes, or none.
    """

    def __new__(cls, total: int) -> Self: ...
    @property
    def total(self) -> int:
        """Bytes to share."""

    @property
    def used(self) -> int:
        """Bytes that pools hold and cannot evict."""

    @property
    def cached(self) -> int:
        """Bytes of the pools' cached blocks."""

    @property
    def free(self) -> int:
        """Bytes that no pool has taken: `used + cached + free == total`."""

@final
class GroupSnapshot:
    """The blocks of one layer group, by what they are doing."""

    @property
    def name(self) -> str:
        """The group's name."""

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block."""

    @property
    def held_blocks(self) -> int:
        """Taken by agents."""

    @property
    def staged_blocks(self) -> int:
        """Being filled."""

    @property
    def leased_blocks(self) -> int:
        """Sealed, in use by at least one lease."""

    @property
    def cached_blocks(self) -> int:
        """Sealed, at rest, evictable."""

    @property
    def free_slots(self) -> int:
        """Freed and waiting to be used again."""

    def as_dict(self) -> dict[str, str | int]:
        """The same as a dict."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@final
class PoolSnapshot:
    """One consistent reading of a pool: `free + held + live + staging + cached == total`."""

    @property
    def total(self) -> int:
        """Bytes that the pool has or could have now."""

    @property
    def free(self) -> int:
        """Bytes that could be taken without evicting."""

    @property
    def held(self) -> int:
        """Bytes of blocks that agents hold, or that leases hold."""

    @property
    def live(self) -> int:
        """Bytes charged for the buffers of running sequences."""

    @property
    def staging(self) -> int:
        """Bytes of staged blocks, and charged for copies on their way."""

    @property
    def cached(self) -> int:
        """Bytes of sealed blocks that no lease holds."""

    @property
    def used(self) -> int:
        """`held + live + staging`."""

    @property
    def available(self) -> int:
        """`free + cached`."""

    @property
    def arrays_used(self) -> int:
        """Arrays of all blocks that are not free."""

    @property
    def arrays_max(self) -> int:
        """The most that `arrays_used` may become."""

    @property
    def agents(self) -> int:
        """Agents that hold something."""

    @property
    def groups(self) -> tuple[GroupSnapshot, ...]:
        """The layer groups, in the pool's order."""

    def as_dict(self) -> dict[str, int | list[dict[str, str | int]]]:
        """The same as nested dicts, ready for JSON."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...

@disjoint_base
class Pool:
    """Blocks of layer groups under a budget.

    Args:
        groups: For each group `(name, layer_type, bytes_per_block, max_blocks, arrays_per_block)`;
            `max_blocks` caps what one agent may allocate, None for no cap.
        total: A private budget in bytes, or a `MemoryBudget` to share.
        minimum: Bytes that no other pool of the budget can take.
        maximum: Bytes that this pool never goes beyond; None for the whole budget.
        arrays_max: The most arrays that blocks may be made of.

    Raises:
        PoolConfigurationError: Groups, numbers or terms that contradict themselves or the budget.
        PoolExhaustedError: Others have taken too much of the budget to promise the minimum.
    """

    def __new__(
        cls,
        groups: Sequence[_Group],
        total: int | MemoryBudget,
        minimum: int = 0,
        maximum: int | None = None,
        arrays_max: int = 499000,
    ) -> Self: ...
    def allocate(self, n: int, layer_type: str = "global", agent_id: str = "default") -> list[int]:
        """Take `n` blocks of a group for an agent.

        All or nothing as to memory; cached blocks are evicted when that makes the difference. A
        group with a cap grants what is left of the agent's cap, which may be nothing.

        Args:
            n: Blocks; 0 is `[]`.
            layer_type: A group's own name, or a layer type: the first group of that type.
            agent_id: Who holds them.

        Returns:
            The ids, unique in the process and below 2**63.

        Raises:
            PoolExhaustedError: Too few bytes or arrays; `bytes_short` says how many bytes.
            BlockOperationError: A negative count, an unknown group or an empty agent_id.
            BlockArgumentTypeError: An argument of the wrong type.
        """

    def extend_agent(self, agent_id: str, n_tokens: int) -> tuple[int, dict[str, list[int]]]:
        """Extend an agent *to* `n_tokens` in every group at once, all or nothing.

        Returns:
            The most tokens that the agent was extended to, as far as its blocks still cover them;
            and all its ids by group name, in the order in which they were allocated.

        Raises:
            PoolExhaustedError: Too few bytes or arrays.
            BlockOperationError: No tokens, or an empty agent_id.
            BlockArgumentTypeError: An argument of the wrong type.
        """

    def free(self, ids: Sequence[int]) -> None:
        """Give back blocks that agents hold.

        Raises:
            BlockOperationError: `block_id` is unknown, foreign, stale, not held by an agent, or
                listed twice; nothing was freed.
            BlockArgumentTypeError: Not a sequence of integers.
        """

    def free_agent(self, agent_id: str) -> int:
        """Give back everything that an agent allocated.

        Returns:
            How many blocks that were.

        Raises:
            AgentNotFoundError: The agent holds nothing.
        """

    def stage(self, layer_type: str, n: int) -> list[int]:
        """Take `n` blocks that are about to be filled; no agent's cap applies.

        Raises:
            PoolExhaustedError: Too few bytes or arrays.
            BlockOperationError: A negative count or an unknown group.
            BlockArgumentTypeError: An argument of the wrong type.
        """

    def abandon(self, ids: Sequence[int]) -> None:
        """Give back staged blocks.

        Raises:
            BlockOperationError: `block_id` is not a staged block, or listed twice.
        """

    def publish(self, ids: Sequence[int], leases: int = 0) -> None:
        """Seal staged blocks; each starts with so many leases, or cached with none.

        Raises:
            BlockOperationError: `block_id` is not a staged block, or listed twice.
        """

    def acquire(self, ids: Sequence[int]) -> None:
        """One more lease on each sealed block: it counts as held and cannot be evicted.

        Raises:
            BlockOperationError: `block_id` is not a sealed block, or listed twice.
        """

    def release(self, ids: Sequence[int]) -> None:
        """One lease less on each block. Those without any are cached, the list's tail to go first.

        Raises:
            BlockOperationError: `block_id` is not a leased block, or listed twice.
        """

    def touch(self, ids: Sequence[int]) -> None:
        """Make cached blocks the last to be evicted; leased ones stay as they are.

        Raises:
            BlockOperationError: `block_id` is not a sealed block, or listed twice.
        """

    def evict(self, ids: Sequence[int]) -> None:
        """Give back cached blocks.

        Raises:
            BlockOperationError: `block_id` is not a cached block (a leased one is not), or listed
                twice.
        """

    def drain_evicted(self) -> list[int]:
        """The ids that the pool evicted by itself since the last call, in the order they went."""

    def charge(self, kind: Literal["live", "staging"], n_bytes: int) -> None:
        """Count bytes that are not in blocks; evicts when need be.

        Raises:
            PoolExhaustedError: Too few bytes.
            BlockOperationError: A negative number, or another kind.
        """

    def discharge(self, kind: Literal["live", "staging"], n_bytes: int) -> None:
        """Take charged bytes off again.

        Raises:
            BlockOperationError: More than was charged, a negative number, or another kind.
        """

    def used_memory(self) -> int:
        """Bytes held, live and staging."""

    def available_memory(self) -> int:
        """Bytes free or evictable. Together with `used_memory()` they are `total_memory()`."""

    def total_memory(self) -> int:
        """Bytes that the pool has or could have now; constant unless the budget is shared."""

    def available_blocks(self, layer_type: str = "global") -> int:
        """Blocks of one group that could be taken now, that group alone.

        Raises:
            BlockOperationError: An unknown group.
        """

    def max_batch_size(self, n_tokens: int) -> int:
        """How many more agents could be extended to `n_tokens`, one after the other.

        Raises:
            BlockOperationError: No tokens.
        """

    def snapshot(self) -> PoolSnapshot:
        """One consistent reading of bytes and blocks."""

    def check(self) -> None:
        """Check every invariant of the pool and its budget, in a time that grows with the blocks.

        Raises:
            CacheCorruptionError: The books are wrong: a bug in semantic.
        """

    def regroup(self, groups: Sequence[_Group]) -> None:
        """Start again with other groups and the same bytes. Old ids are stale from now on.

        What was cached is dropped, and told by `drain_evicted`.

        Raises:
            PoolConfigurationError: Something is held, live, staged or leased; or groups that
                cannot be.
        """
