"""The native core: the accounting of KV-cache blocks, in ids and bytes.

Everything here is safe to call from any thread. Each call is one step: other threads see the pool
before it or after it. A refused call changes nothing.

`semantic.BlockPool` is what to use; it adds the model's geometry to `Pool` and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, Self, final, overload

from typing_extensions import Buffer, disjoint_base

__all__ = [
    "BlockFile",
    "BlockFolder",
    "Draft",
    "GroupSnapshot",
    "Hold",
    "MemoryBudget",
    "Pool",
    "PoolSnapshot",
    "PrefixIndex",
    "StoreSecret",
    "TokenIds",
]

_Group = tuple[str, str, int, int | None, int, int | None, int, int | None]
_Spans = list[tuple[str, list[tuple[int, int, int]]]]
_Refusal = (
    tuple[Literal["budget"], int]
    | tuple[Literal["declined"]]
    | tuple[Literal["incomplete_window"], str, int, int]
)

@disjoint_base
class MemoryBudget:
    """A number of bytes that several pools share.

    A pool may take what no other pool has taken or been promised:
    `total - sum over the others of max(taken, minimum) - own taken`, up to its own maximum. What
    others have cached goes for it, the least wanted first, down to their minimums.

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

    def resize(self, total: int) -> None:
        """Another number of bytes from now on: what is cached goes as far as it must.

        Raises:
            PoolConfigurationError: Fewer bytes than the pools' minimums, or than a block.
            PoolExhaustedError: The pools hold more than that; `bytes_short` says how much.
        """

    def evict(self, n_bytes: int, spared: Pool | None = None) -> int:
        """Evict from all pools but one, the least wanted first; how many bytes are free for others.

        Pools keep their minimum.
        """

    def on_gone(self, block_ids: Sequence[int]) -> None:
        """As `Pool.on_gone`, of the steps of the budget itself."""

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
        """Bytes that could be taken without evicting a block of this pool."""

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
        """Arrays of all blocks that are not free, and those that are charged."""

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
        groups: For each group `(name, layer_type, bytes_per_block, max_blocks, arrays_per_block,
            window, keep, chunk)`; `max_blocks` caps what one agent may allocate, None for no cap;
            `window` and `chunk` are None where the layer type has none.
        total: A private budget in bytes, or a `MemoryBudget` to share.
        minimum: Bytes that no other pool of the budget can take.
        maximum: Bytes that this pool never goes beyond; None for the whole budget.
        arrays_max: The most arrays that blocks and charges may be made of.

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

    def charge(self, kind: Literal["live", "staging"], n_bytes: int, n_arrays: int = 0) -> None:
        """Count bytes that are not in blocks, and the arrays they are in; evicts when need be.

        Raises:
            PoolExhaustedError: Too few bytes or arrays.
            BlockOperationError: A negative number, or another kind.
        """

    def discharge(self, kind: Literal["live", "staging"], n_bytes: int, n_arrays: int = 0) -> None:
        """Take charged bytes and arrays off again.

        Raises:
            BlockOperationError: More than was charged, a negative number, or another kind.
        """

    def used_memory(self) -> int:
        """Bytes held, live and staging."""

    def available_memory(self) -> int:
        """Bytes free or evictable, here or in other pools of the budget, down to their minimums.

        Together with `used_memory()` they are `total_memory()`.
        """

    def total_memory(self) -> int:
        """Bytes that the pool has or could have now; constant unless the budget is shared.

        What other pools use or were promised is not among them; what they have cached is.
        """

    def most_memory(self) -> int:
        """The most that `total_memory()` can become with this budget."""

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

    def on_gone(self, block_ids: Sequence[int]) -> None:
        """Called once at the end of a step by which blocks have gone, or events are to be drained.

        For subclasses, which may hold the tensors of blocks. When it raises, it is told of the same
        blocks again, with the next that go; what it raises is raised by the step, or only printed
        where something that the step has taken would be lost.

        Args:
            block_ids: What has gone, of whichever pool of the budget, by a step of this one or of
                its indexes.
        """

    def regroup(self, groups: Sequence[_Group]) -> list[int]:
        """Start again with other groups and the same bytes. Old ids are stale from now on.

        What was cached is dropped, and told by `drain_evicted`.

        Returns:
            The blocks of indexes that went by it; `on_gone` is not called.

        Raises:
            PoolConfigurationError: Something is held, live, staged or leased; or groups that
                cannot be.
        """

@final
class TokenIds:
    """Token ids as signed 64-bit integers, never narrowed, taken over once.

    Args:
        tokens: Any iterable of integers; lists, tuples and one-dimensional buffers of integers
            (`array`, numpy) are read without an object per token.

    Raises:
        BlockArgumentTypeError: Something that is not a sequence of integers.
        BlockValidationError: An id beyond 64 bits.
    """

    def __new__(cls, tokens: Iterable[int]) -> Self: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, place: int, /) -> int: ...
    @overload
    def __getitem__(self, place: slice, /) -> TokenIds: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def tobytes(self) -> bytes:
        """The ids as little-endian signed 64-bit integers."""

    def tolist(self) -> list[int]:
        """The ids as Python's numbers."""

    def keys(self, root: bytes) -> list[bytes]:
        """The keys of all token blocks, of the last even where it is partial, behind a namespace.

        Args:
            root: The namespace's root, 32 bytes.
        """

@final
class Hold:
    """A hit whose blocks nobody can take away, and what is charged for who runs on it.

    Until it is released, or nobody has it any more.
    """

    @property
    def n_tokens(self) -> int:
        """The length of the hit; 0 is a miss."""

    @property
    def matched(self) -> int:
        """Tokens of the request that are cached in some way, restorable or not."""

    @property
    def spans(self) -> _Spans:
        """For each group its name and `(block_id, lo, hi)` in the order of positions."""

    @property
    def block_ids(self) -> list[int]:
        """Every block that the hit reads, once."""

    @property
    def live_bytes(self) -> int:
        """Bytes that are charged to it; 0 once it is released."""

    @property
    def live_arrays(self) -> int:
        """Arrays that are charged to it; 0 once it is released."""

    def enter(self, agent_id: str, now_ms: int, n_bytes: int = 0, n_arrays: int = 0) -> None:
        """Charge live bytes and arrays, evicting what must go, and have an agent use the hit.

        What the hit reads goes last from now on.

        Args:
            agent_id: Whose turn begins.
            now_ms: The time, in milliseconds on any clock that does not go back.
            n_bytes: Bytes of the buffers of who runs.
            n_arrays: Arrays that they are made of.

        Raises:
            PoolExhaustedError: Too few bytes or arrays; nothing has changed.
            BlockOperationError: The hold was released.
        """

    def grow(self, n_bytes: int) -> bool:
        """Charge what is missing to `n_bytes` live bytes in all; False when it was released.

        Raises:
            PoolExhaustedError: Too few bytes; nothing has changed.
        """

    def forgo(self) -> None:
        """Let the blocks go their way, and keep what is charged. Idempotent."""

    def release(self, agent_id: str | None = None, now_ms: int = 0) -> None:
        """Give back the blocks and what is charged. Idempotent.

        Args:
            agent_id: Whose turn is over: it is away from now on.
            now_ms: The time, as for `enter`.
        """

@final
class Draft:
    """A publication on its way: what it adds is staged, what it builds upon is held.

    One that nobody publishes is given back.
    """

    @property
    def n_tokens(self) -> int:
        """The length that will be published; less than was asked for when memory is short."""

    @property
    def bytes_short(self) -> int:
        """Bytes that were missing for the whole."""

    @property
    def spans(self) -> _Spans:
        """What has to be captured: for each group its name and `(staged block_id, lo, hi)`.

        Raises:
            BlockOperationError: The draft was published or abandoned.
        """

    def publish(self, agent_id: str, kind: int) -> tuple[int, bool, bool]:
        """Make it findable.

        Returns:
            The handle of its end, whether nobody had published it before, and whether this agent
            had not.

        Raises:
            BlockOperationError: The draft was published or abandoned.
        """

    def abandon(self) -> bool:
        """Give it back, unless it was published; whether nothing was. Idempotent."""

@final
class PrefixIndex:
    """One namespace of a pool's prefix index.

    Blocks are found by comparing tokens under their exact prefix. Their keys name them in events:
    BLAKE2b-256 over the ids as little-endian signed 64-bit integers, keyed with the parent's key.

    Args:
        pool: The pool whose blocks it indexes; several indexes of one pool share nothing but bytes.
        root: The namespace's root: the parent key of every first block, 32 bytes.
        key_bytes: Bytes of a key that are used, at most 32; fewer make keys collide.

    Raises:
        BlockArgumentTypeError: A root of another length.
        PoolConfigurationError: No such number of bytes.
    """

    def __new__(cls, pool: Pool, root: bytes, key_bytes: int = 32) -> Self: ...
    def plan(self, tokens: TokenIds, limit: int) -> tuple[int, int, _Spans]:
        """The longest hit of at most `limit` tokens: its length, what matched, its spans.

        Changes nothing.
        """

    def hold(self, tokens: TokenIds, limit: int, oldest_ms: int = 0) -> Hold:
        """Plan a hit and hold its blocks, in one step. The order of eviction does not change.

        Args:
            tokens: What is asked for.
            limit: The longest hit, in tokens.
            oldest_ms: What was last used before that time goes first, of all namespaces.
        """

    def draft(
        self,
        tokens: TokenIds,
        known: Sequence[Sequence[tuple[int, int]]],
        agent_id: str,
        now_ms: int,
    ) -> Draft | _Refusal:
        """Stage what is new of `tokens`, or of the longest prefix of them that fits.

        Args:
            tokens: What is to be published.
            known: For each group, the positions whose rows the live caches surely have.
            agent_id: Who publishes.
            now_ms: The time, in milliseconds on any clock that does not go back.

        Returns:
            The draft; or why there is none: ("budget", bytes_short), ("declined",) when it is worth
            less than what would have to go, ("incomplete_window", group, lo, hi) for lost rows.
        """

    def settle(self, end: int, agent_id: str) -> None:
        """The turn that published `end` is over: its agent's shorter ends may be superfluous."""

    def withdraw(self, end: int, agent_id: str) -> None:
        """One agent wants a published end no more; it goes when it was the last."""

    def evict_bytes(self, n_bytes: int) -> int:
        """Evict until so many cached bytes have gone or nothing may go; the bytes that went."""

    def drop_oldest(self) -> bool:
        """The least recently used end that no pin keeps goes; False when there is none."""

    def clear(self) -> None:
        """Forget everything that no running sequence holds, what is pinned included."""

    def set_policy(self, order: str) -> None:
        """In which order things go from now on, in the whole pool.

        Raises:
            PoolConfigurationError: Neither "lru", "resident" nor "scan_resistant".
        """

    def depart(self, agent_id: str, now_ms: int) -> None:
        """The turn of an agent that holds nothing is over: from now on it is away."""

    def hint(self, agent_id: str, word: str) -> None:
        """What is known of an agent's next request; its next request ends the hint.

        Raises:
            BlockOperationError: Neither "active", "waiting" nor "ended".
        """

    def prioritise(self, agent_id: str, word: str) -> None:
        """How much an agent matters.

        Raises:
            BlockOperationError: Neither "low", "normal" nor "high".
        """

    def pin(self, agent_id: str) -> None:
        """Keep what an agent has published, now and later, until it is unpinned."""

    def unpin(self, agent_id: str) -> None:
        """Let what a pin kept go its usual way."""

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the blocks that nobody holds but pins."""

    def ends_of(self, agent_id: str) -> list[int]:
        """Handles of what an agent has published and still wants."""

    def __len__(self) -> int: ...
    def ends(self) -> list[tuple[int, int, int, list[str]]]:
        """Published ends, least recently used first: handle, tokens, kind, agents."""

    def tokens_of(self, end: int) -> list[int] | None:
        """The tokens of a published end; None when it has gone."""

    def blocks(self) -> list[tuple[int, str, int]]:
        """How many findable blocks there are, by kind and group."""

    @property
    def evicted_blocks(self) -> int:
        """Blocks that went because memory was short."""

    def subscribe(self) -> None:
        """Start to record events; what is here now is stored first."""

    def drain_events(
        self,
    ) -> list[
        tuple[Literal["stored", "removed", "cleared"], int | None, str, bytes, bytes, int, int]
    ]:
        """Events since the last call: change, block, group, key, parent key, lo, hi.

        When the pool serves another model they end with one "cleared" for each group: no block, and
        the root for both keys.
        """

_Rows = tuple[int, int, int, int, int]
"""`(outer, room, first, valid, row_bytes)`: which rows of a buffer `[outer, room, row_bytes]`."""

@final
class StoreSecret:
    """What a store hides from who has its disk but not its key.

    Args:
        key: 32 bytes.

    Raises:
        PoolConfigurationError: Another number of bytes.
    """

    def __new__(cls, key: bytes) -> Self: ...
    def hidden(self, name: bytes) -> bytes:
        """Another name for something, always the same: 32 bytes that tell nothing of it."""

    def sealed(self, value: bytes) -> bytes:
        """Bytes that only who has the key can read, other ones each time."""

    def unsealed(self, sealed: bytes) -> bytes | None:
        """What was sealed; None for anything else."""

@final
class BlockFolder:
    """A folder of block files. Every method lets other threads run.

    Args:
        path: The folder, made for its owner alone when it is not there.
        owner: Who writes: a name of this process that no other has.
        secret: Seals the files; None leaves them readable.

    Raises:
        CachePersistenceError: The system refuses; `errno` says why. So for all methods.
    """

    def __new__(
        cls, path: str | PathLike[str], owner: str, secret: StoreSecret | None = None
    ) -> Self: ...
    def write(
        self,
        blocks: Sequence[
            tuple[str, Mapping[str, str], Sequence[tuple[str, str, Sequence[int], Buffer, _Rows]]]
        ],
    ) -> list[int]:
        """Write blocks: each entirely or not at all, and safe from a power cut on return.

        Args:
            blocks: Name, metadata and tensors of each; of a tensor its name, element type in the
                words of safetensors, shape in the file, contiguous memory and valid rows.

        Returns:
            Bytes of each file.

        Raises:
            BlockValidationError: A name that is none, or a buffer of another size than its rows.
        """

    def open(self, name: str) -> BlockFile | None:
        """A block, its header verified; None when it is not there.

        Raises:
            CacheCorruptionError: It is damaged, or of a version that is not read here.
        """

    def remove(self, name: str) -> None:
        """Remove a block, which need not be there."""

    def set_aside(self, name: str) -> Path | None:
        """Move a file to where nobody takes it for a block; None when it is not there."""

    def names(self) -> list[str]:
        """The names of all blocks."""

    def clean(self, running: Sequence[str]) -> int:
        """Remove the temporary files of owners that do not run any more; how many those were.

        An owner's name is sixteen hexadecimal digits: what is called otherwise stays.
        """

@final
class BlockFile:
    """An open block file."""

    @property
    def metadata(self) -> dict[str, str]:
        """What its writer said of the block."""

    @property
    def tensors(self) -> list[tuple[str, str, list[int]]]:
        """Name, element type and shape of its tensors, in the order of their bytes."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the file."""

    def read_into(self, memory: Sequence[tuple[Buffer, _Rows]]) -> None:
        """Read all tensors into fresh memory, in their order, and verify the checksum.

        Args:
            memory: For each tensor contiguous memory that nobody else uses yet, and which rows.

        Raises:
            CacheCorruptionError: The bytes are not those that were written.
            BlockValidationError: Memory of another size.
        """

    def verify(self) -> None:
        """Read the payload without keeping it, and verify the checksum.

        Raises:
            CacheCorruptionError: The bytes are not those that were written.
        """
