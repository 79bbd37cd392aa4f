"""The block pool as a caller sees it: what is granted, what is refused, and what refusals leave."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from semantic.domain.entities import AgentBlocks
from semantic.domain.errors import (
    AgentNotFoundError,
    BlockArgumentTypeError,
    BlockOperationError,
    PoolConfigurationError,
    PoolExhaustedError,
)
from semantic.domain.layer_group import LayerGroup, TokenTensor
from semantic.domain.services import BlockPool, MemoryBudget
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.specs import dense_spec, hybrid_spec, windowed_spec

GLOBAL_BYTES = 2048
WINDOW_BYTES = 4096


@pytest.fixture
def pool() -> BlockPool:
    """Ten rows: 60 KiB for global blocks of 2 KiB and window blocks of 4 KiB."""
    return BlockPool(windowed_spec(512), total_blocks=10)


def reading(pool: BlockPool) -> dict[str, Any]:
    """Everything that can be read; a refused call must not change it."""
    pool.check()
    snapshot: dict[str, Any] = pool.snapshot().as_dict()
    classes = ("free", "held", "live", "staging", "cached")
    assert sum(snapshot[name] for name in classes) == snapshot["total"]
    assert pool.used_memory() + pool.available_memory() == pool.total_memory()
    return snapshot


def refused(
    pool: BlockPool, error: type[Exception], operation: Callable[..., object], *args: Any
) -> Any:
    """The error of an operation that must fail and leave no trace."""
    before = reading(pool)
    with pytest.raises(error) as caught:
        operation(*args)
    assert type(caught.value) is error
    assert reading(pool) == before
    return caught.value


def cached(pool: BlockPool, n: int, layer_type: str = "global") -> list[int]:
    """So many blocks, sealed and at rest."""
    ids = pool.stage(layer_type, n)
    pool.publish(ids)
    return ids


# Taking and giving back ------------------------------------------------------------------------


def test_allocate_success(pool: BlockPool) -> None:
    ids = pool.allocate(10, "global", agent_id="a1")
    assert len(set(ids)) == 10
    assert all(type(i) is int and 0 < i < 2**63 for i in ids)
    assert pool.used_memory() == 10 * GLOBAL_BYTES
    assert pool.snapshot().agents == 1


def test_allocate_defaults_to_the_global_group_and_the_default_agent(pool: BlockPool) -> None:
    pool.allocate(2)
    assert pool.snapshot().held == 2 * GLOBAL_BYTES
    assert pool.free_agent("default") == 2


def test_allocate_pool_exhausted(pool: BlockPool) -> None:
    pool.allocate(28)
    error = refused(pool, PoolExhaustedError, pool.allocate, 3)
    assert error.bytes_requested == 3 * GLOBAL_BYTES
    assert error.bytes_available == 2 * GLOBAL_BYTES
    assert error.bytes_short == GLOBAL_BYTES
    assert pickle.loads(pickle.dumps(error)).bytes_short == GLOBAL_BYTES


def test_free_returns_blocks(pool: BlockPool) -> None:
    before = reading(pool)
    ids = pool.allocate(30)
    assert pool.available_memory() == 0
    pool.free(ids)
    after = reading(pool)
    assert after["free"] == before["free"]
    assert after["agents"] == 0
    assert len(pool.allocate(30)) == 30


def test_free_takes_any_sequence(pool: BlockPool) -> None:
    class Ids(Sequence[int]):
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, index: Any) -> Any:
            return self.ids[index]

    pool.free(tuple(pool.allocate(3)))
    pool.free(Ids(pool.allocate(3)))
    pool.free([])
    assert pool.used_memory() == 0


def test_free_agent_gives_back_what_it_allocated(pool: BlockPool) -> None:
    pool.allocate(3, agent_id="a1")
    pool.allocate(2, "sliding_window", agent_id="a1")
    pool.allocate(1, agent_id="a2")
    assert pool.free_agent("a1") == 5
    assert pool.used_memory() == GLOBAL_BYTES
    error = refused(pool, AgentNotFoundError, pool.free_agent, "a1")
    assert error.agent_id == "a1"
    assert isinstance(error, KeyError)


def test_an_agent_that_holds_nothing_is_forgotten(pool: BlockPool) -> None:
    pool.free(pool.allocate(1, agent_id="a1"))
    assert pool.snapshot().agents == 0
    refused(pool, AgentNotFoundError, pool.free_agent, "a1")


def test_budget_tracking(pool: BlockPool) -> None:
    total = 10 * (GLOBAL_BYTES + WINDOW_BYTES)
    assert (pool.total_memory(), pool.available_memory(), pool.used_memory()) == (total, total, 0)
    pool.allocate(3)
    pool.charge("live", 1000)
    pool.charge("staging", 10)
    sealed = cached(pool, 2)
    snapshot = pool.snapshot()
    assert snapshot.held == 3 * GLOBAL_BYTES
    assert (snapshot.live, snapshot.staging) == (1000, 10)
    assert snapshot.cached == 2 * GLOBAL_BYTES
    assert snapshot.used == pool.used_memory() == 3 * GLOBAL_BYTES + 1010
    assert snapshot.available == pool.available_memory() == total - snapshot.used
    pool.acquire(sealed)
    assert pool.snapshot().held == 5 * GLOBAL_BYTES
    pool.discharge("live", 1000)
    assert pool.snapshot().live == 0
    reading(pool)


def test_groups_share_the_bytes(pool: BlockPool) -> None:
    pool.allocate(2, "sliding_window")
    assert pool.available_blocks("global") == 30 - 4
    assert pool.available_blocks("sliding_window") == 15 - 2
    pool.allocate(26)
    assert pool.available_blocks() == 0
    refused(pool, PoolExhaustedError, pool.allocate, 1, "sliding_window", "another")


def test_a_group_is_named_by_type_or_by_its_own_name() -> None:
    pool = BlockPool(windowed_spec(512, 1024), total_blocks=10)
    assert len(pool.allocate(9, "sliding_window", "a1")) == 2
    assert len(pool.allocate(9, "sliding_window.1", "a1")) == 4
    held = [group.held_blocks for group in pool.snapshot().groups]
    assert held == [0, 2, 4]


# Caps and tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "cap"), [(512, 2), (128, 1), (1024, 4), (513, 3)])
def test_a_window_caps_what_an_agent_holds(window: int, cap: int) -> None:
    pool = BlockPool(windowed_spec(window), total_blocks=50)
    assert len(pool.allocate(1, "sliding_window", "a1")) == 1
    assert len(pool.allocate(40, "sliding_window", "a1")) == cap - 1
    before = reading(pool)
    assert pool.allocate(40, "sliding_window", "a1") == []
    assert reading(pool) == before
    assert len(pool.allocate(40, "sliding_window", "a2")) == cap


def test_a_cap_counts_in_its_own_group_only(pool: BlockPool) -> None:
    pool.allocate(5, agent_id="a1")
    ids = pool.allocate(5, "sliding_window", "a1")
    pool.free(ids[:1])
    assert len(pool.allocate(5, "sliding_window", "a1")) == 1


def test_a_capped_request_for_more_than_any_memory_is_granted_up_to_the_cap(
    pool: BlockPool,
) -> None:
    assert len(pool.allocate(2**70, "sliding_window")) == 2


def test_a_state_is_one_checkpoint_per_agent() -> None:
    pool = BlockPool(hybrid_spec(), total_blocks=4)
    assert len(pool.allocate(3, "state", "a1")) == 1
    assert pool.allocate(3, "state", "a1") == []


def counts(blocks: AgentBlocks) -> dict[str, list[int]]:
    """The token counts of the blocks, by group."""
    return {name: [block.token_count for block in of] for name, of in blocks.blocks.items()}


def test_allocate_tokens_extends_every_group(pool: BlockPool) -> None:
    got = pool.allocate_tokens("a1", n_tokens=300)
    assert got.agent_id == "a1"
    assert got.total_tokens == 300
    assert counts(got) == {"global": [256, 44], "sliding_window": [256, 44]}
    more = pool.allocate_tokens("a1", 1000)
    assert counts(more) == {"global": [256, 256, 256, 232], "sliding_window": [256, 232]}
    assert more.blocks["global"][:2] == got.blocks["global"]
    assert pool.used_memory() == 4 * GLOBAL_BYTES + 2 * WINDOW_BYTES


def test_allocate_tokens_never_shrinks(pool: BlockPool) -> None:
    got = pool.allocate_tokens("a1", 1000)
    before = reading(pool)
    again = pool.allocate_tokens("a1", 10)
    assert (again, again.total_tokens, counts(again)) == (got, 1000, counts(got))
    assert reading(pool) == before


def test_allocate_tokens_replaces_what_was_freed(pool: BlockPool) -> None:
    got = pool.allocate_tokens("a1", 1000)
    gone = got.blocks["global"][1].block_id
    pool.free([gone])
    again = pool.allocate_tokens("a1", 1000)
    assert len(again.blocks["global"]) == 4
    assert gone not in again.block_ids


def test_allocate_tokens_is_all_or_nothing(pool: BlockPool) -> None:
    pool.allocate(25)
    error = refused(pool, PoolExhaustedError, pool.allocate_tokens, "a1", 1000)
    assert error.bytes_requested == 4 * GLOBAL_BYTES + 2 * WINDOW_BYTES
    assert error.bytes_available == 5 * GLOBAL_BYTES


def test_allocate_tokens_of_states_and_chunks() -> None:
    pool = BlockPool(hybrid_spec(), total_blocks=20)
    got = pool.allocate_tokens("a1", 1300)
    assert counts(got) == {
        "global": [256] * 5 + [20],
        "chunked": [256] * 3 + [20],
        "state": [0],
    }


def test_blocks_beyond_the_tokens_cover_none(pool: BlockPool) -> None:
    pool.allocate(3, agent_id="a1")
    pool.allocate(2, "sliding_window", "a1")
    got = pool.allocate_tokens("a1", 100)
    assert counts(got) == {"global": [100, 0, 0], "sliding_window": [100, 0]}


@pytest.mark.parametrize("n_tokens", [1, 256, 257, 1000, 4096])
def test_max_batch_size_is_what_a_loop_finds(n_tokens: int) -> None:
    pool = BlockPool(windowed_spec(512), total_blocks=23, arrays_max=100)
    cached(pool, 5)
    pool.allocate(3)
    predicted = pool.max_batch_size(n_tokens)
    for agent in range(predicted):
        assert pool.max_batch_size(n_tokens) == predicted - agent
        pool.allocate_tokens(f"a{agent}", n_tokens)
    assert pool.max_batch_size(n_tokens) == 0
    refused(pool, PoolExhaustedError, pool.allocate_tokens, "one more", n_tokens)


def test_max_batch_size_of_impossible_contexts(pool: BlockPool) -> None:
    assert pool.max_batch_size(10**6) == 0
    assert pool.max_batch_size(2**80) == 0
    refused(pool, BlockOperationError, pool.max_batch_size, 0)


# Refusals --------------------------------------------------------------------------------------


def test_a_double_free_is_named(pool: BlockPool) -> None:
    ids = pool.allocate(3)
    error = refused(pool, BlockOperationError, pool.free, [*ids, ids[0]])
    assert error.block_id == ids[0]
    pool.free(ids)
    error = refused(pool, BlockOperationError, pool.free, ids)
    assert error.block_id == ids[0]
    assert "stale" in str(error)


def test_a_freed_id_stays_stale_when_its_place_is_used_again(pool: BlockPool) -> None:
    first = pool.allocate(1)
    pool.free(first)
    second = pool.allocate(1)
    assert first != second
    refused(pool, BlockOperationError, pool.free, first)
    pool.free(second)


def test_another_pools_id_is_foreign(pool: BlockPool) -> None:
    other = BlockPool(windowed_spec(512), total_blocks=10)
    ids, foreign = pool.allocate(2), other.allocate(2)
    error = refused(pool, BlockOperationError, pool.free, [*ids, foreign[1]])
    assert error.block_id == foreign[1]
    assert "another pool" in str(error)


@pytest.mark.parametrize("unknown", [0, 1, 12345, 2**62, 2**63, 2**64, -1, 10**30])
def test_an_unknown_id_at_the_end_of_a_list_frees_nothing(pool: BlockPool, unknown: int) -> None:
    ids = pool.allocate(2)
    error = refused(pool, BlockOperationError, pool.free, [*ids, unknown])
    assert error.block_id == unknown


def test_an_id_that_was_not_given_out_yet_is_unknown(pool: BlockPool) -> None:
    last = pool.allocate(2)[-1]
    assert "unknown" in str(refused(pool, BlockOperationError, pool.free, [last + 1]))


@pytest.mark.parametrize("bad", [True, 1.0, "1", None, b"1", [1]])
def test_a_count_of_the_wrong_type(pool: BlockPool, bad: object) -> None:
    refused(pool, BlockArgumentTypeError, pool.allocate, bad)
    refused(pool, BlockArgumentTypeError, pool.stage, "global", bad)
    refused(pool, BlockArgumentTypeError, pool.allocate_tokens, "a1", bad)
    refused(pool, BlockArgumentTypeError, pool.max_batch_size, bad)
    refused(pool, BlockArgumentTypeError, pool.charge, "live", bad)
    refused(pool, BlockArgumentTypeError, pool.free, [bad])


def test_a_wrong_type_names_its_argument_and_is_a_type_error(pool: BlockPool) -> None:
    error = refused(pool, BlockArgumentTypeError, pool.allocate, "3")
    assert isinstance(error, TypeError)
    assert isinstance(error, ValueError)
    assert "'n'" in "".join(error.__notes__)


def test_negative_counts(pool: BlockPool) -> None:
    refused(pool, BlockOperationError, pool.allocate, -1)
    refused(pool, BlockOperationError, pool.allocate_tokens, "a1", -1)
    refused(pool, BlockOperationError, pool.allocate_tokens, "a1", 0)
    refused(pool, BlockOperationError, pool.charge, "live", -1)
    refused(pool, BlockOperationError, pool.discharge, "live", -1)


@pytest.mark.parametrize("huge", [2**62, 2**63, 2**64 - 1, 2**64, 10**40])
def test_huge_counts_are_exhausted_with_numbers(pool: BlockPool, huge: int) -> None:
    for operation in (pool.allocate, lambda n: pool.stage("global", n)):
        error = refused(pool, PoolExhaustedError, operation, huge)
        assert error.bytes_available == pool.available_memory()
        assert error.bytes_short == error.bytes_requested - error.bytes_available > 2**61
    refused(pool, PoolExhaustedError, pool.charge, "live", huge)
    refused(pool, PoolExhaustedError, pool.allocate_tokens, "a1", huge)


@pytest.mark.parametrize("bad", [None, 3, b"a", True])
def test_names_of_the_wrong_type(pool: BlockPool, bad: object) -> None:
    refused(pool, BlockArgumentTypeError, pool.allocate, 1, bad)
    refused(pool, BlockArgumentTypeError, pool.allocate, 1, "global", bad)
    refused(pool, BlockArgumentTypeError, pool.free_agent, bad)
    refused(pool, BlockArgumentTypeError, pool.available_blocks, bad)


def test_names_that_mean_nothing(pool: BlockPool) -> None:
    refused(pool, BlockOperationError, pool.allocate, 1, "chunked")
    refused(pool, BlockOperationError, pool.allocate, 1, "")
    refused(pool, BlockOperationError, pool.allocate, 1, "global", "")
    refused(pool, BlockOperationError, pool.allocate_tokens, "", 1)
    refused(pool, BlockOperationError, pool.free_agent, "")
    refused(pool, BlockOperationError, pool.charge, "cached", 1)
    refused(pool, BlockArgumentTypeError, pool.allocate, 1, "global", "\ud800")


@pytest.mark.parametrize("bad", [None, 3, {1}, {1: 2}, iter([1]), "12"])
def test_ids_that_are_no_sequence_of_integers(pool: BlockPool, bad: object) -> None:
    refused(pool, BlockArgumentTypeError, pool.free, bad)


def test_a_sequence_that_lies_about_its_length(pool: BlockPool) -> None:
    class Liar(Sequence[int]):
        def __len__(self) -> int:
            return 2**62

        def __getitem__(self, index: Any) -> Any:
            raise IndexError

    pool.free(Liar())


def test_an_argument_that_raises_leaves_no_trace(pool: BlockPool) -> None:
    class Trap(Sequence[int]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: Any) -> Any:
            return pool.allocate(1)[0] if index == 0 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        pool.free(Trap())
    assert pool.snapshot().held == GLOBAL_BYTES
    pool.check()


# Blocks with content ---------------------------------------------------------------------------


def test_the_life_of_a_sealed_block(pool: BlockPool) -> None:
    ids = pool.stage("global", 2)
    assert pool.snapshot().staging == 2 * GLOBAL_BYTES
    pool.publish(ids, leases=1)
    assert pool.snapshot().held == 2 * GLOBAL_BYTES
    pool.acquire(ids[:1])
    pool.release(ids)
    assert pool.snapshot().held == pool.snapshot().cached == GLOBAL_BYTES
    pool.release(ids[:1])
    assert pool.snapshot().cached == 2 * GLOBAL_BYTES
    pool.evict(ids)
    assert pool.used_memory() == 0
    refused(pool, BlockOperationError, pool.evict, ids)


def test_an_operation_takes_blocks_of_its_own_state_only(pool: BlockPool) -> None:
    held = pool.allocate(1)
    staged = pool.stage("global", 1)
    leased = pool.stage("global", 1)
    pool.publish(leased, leases=1)
    rest = cached(pool, 1)
    accepts = {
        pool.free: [held],
        pool.abandon: [staged],
        pool.publish: [staged],
        pool.acquire: [leased, rest],
        pool.release: [leased],
        pool.touch: [leased, rest],
        pool.evict: [rest],
    }
    for operation, accepted in accepts.items():
        for ids in (held, staged, leased, rest):
            if ids not in accepted:
                error = refused(pool, BlockOperationError, operation, ids)
                assert error.block_id == ids[0]


def test_leases_are_counted_up_to_a_limit(pool: BlockPool) -> None:
    ids = pool.stage("global", 2)
    pool.publish(ids[:1], leases=2**32 - 1)
    pool.publish(ids[1:])
    error = refused(pool, BlockOperationError, pool.acquire, ids[::-1])
    assert error.block_id == ids[0]
    pool.release(ids[:1])
    pool.acquire(ids[:1])


def test_memory_is_found_by_evicting_the_least_recently_used(pool: BlockPool) -> None:
    old, new = cached(pool, 10), cached(pool, 10)
    pool.touch(old[:2])
    pool.allocate(10)
    assert pool.drain_evicted() == []
    pool.allocate(10)
    # Within one call the tail goes before the head.
    assert pool.drain_evicted() == [*reversed(old[2:]), *reversed(new[8:])]
    assert pool.drain_evicted() == []
    refused(pool, BlockOperationError, pool.acquire, old[2:3])
    pool.acquire(old[:2])
    reading(pool)


def test_what_is_leased_is_not_evicted(pool: BlockPool) -> None:
    ids = cached(pool, 30)
    pool.acquire(ids[:20])
    refused(pool, PoolExhaustedError, pool.allocate, 11)
    pool.allocate(10)
    assert sorted(pool.drain_evicted()) == sorted(ids[20:])


def test_charged_bytes_evict_too(pool: BlockPool) -> None:
    ids = cached(pool, 30)
    pool.charge("live", 1)
    assert pool.drain_evicted() == ids[-1:]
    error = refused(pool, PoolExhaustedError, pool.charge, "live", 30 * GLOBAL_BYTES)
    assert error.bytes_short == 1
    refused(pool, BlockOperationError, pool.discharge, "live", 2)
    refused(pool, BlockOperationError, pool.discharge, "staging", 1)


def test_arrays_have_a_limit_of_their_own() -> None:
    pool = BlockPool(dense_spec(), total_blocks=100, arrays_max=20)
    assert pool.available_blocks() == 10
    assert pool.max_batch_size(512) == 5
    ids = cached(pool, 4)
    error = refused(pool, PoolExhaustedError, pool.allocate, 11)
    assert (error.arrays_requested, error.arrays_available, error.bytes_short) == (22, 20, 0)
    pool.allocate(7)
    assert pool.drain_evicted() == ids[-1:]
    assert pool.snapshot().arrays_used == pool.snapshot().arrays_max == 20


# Hot swap --------------------------------------------------------------------------------------


def test_reconfigure_clears_pool(pool: BlockPool) -> None:
    gone = cached(pool, 3)
    freed = pool.allocate(2)
    pool.free(freed)
    total = pool.total_memory()
    pool.reconfigure(dense_spec(layers=3))
    assert pool.spec == dense_spec(layers=3)
    assert (pool.total_memory(), pool.available_memory()) == (total, total)
    assert sorted(pool.drain_evicted()) == sorted(gone)
    for ids in (gone, freed):
        refused(pool, BlockOperationError, pool.evict, ids)
    assert len(pool.allocate(10)) == 10
    assert pool.used_memory() == 10 * 3 * GLOBAL_BYTES


@pytest.mark.parametrize("use", ["held", "tokens", "live", "staging", "staged", "leased"])
def test_reconfigure_is_refused_while_anything_is_in_use(pool: BlockPool, use: str) -> None:
    sealed = cached(pool, 2)
    uses: dict[str, Callable[[], object]] = {
        "held": lambda: pool.allocate(1),
        "tokens": lambda: pool.allocate_tokens("a1", 1),
        "live": lambda: pool.charge("live", 1),
        "staging": lambda: pool.charge("staging", 1),
        "staged": lambda: pool.stage("sliding_window", 1),
        "leased": lambda: pool.acquire(sealed[:1]),
    }
    uses[use]()
    refused(pool, PoolConfigurationError, pool.reconfigure, dense_spec())
    assert pool.spec == windowed_spec(512)
    pool.acquire(sealed[1:])


def test_reconfigure_with_what_cannot_be_changes_nothing(pool: BlockPool) -> None:
    sealed = cached(pool, 2)
    refused(pool, PoolConfigurationError, pool.reconfigure, dense_spec(layers=1000))
    refused(pool, PoolConfigurationError, pool.reconfigure, "gemma")
    refused(pool, PoolConfigurationError, pool.reconfigure, empty_spec())
    pool.acquire(sealed)


# Construction ----------------------------------------------------------------------------------


def empty_spec() -> ModelCacheSpec:
    """A block of no bytes."""
    nothing = (TokenTensor("keys", 1, 0, "bfloat16"),)
    return ModelCacheSpec((LayerGroup("global", "global", (0,), nothing),))


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "1000", 2047, 2**64])
def test_budgets_that_cannot_be(bad: Any) -> None:
    with pytest.raises(PoolConfigurationError):
        BlockPool(windowed_spec(512), total_memory=bad)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "10", 2**60])
def test_block_numbers_that_cannot_be(bad: Any) -> None:
    with pytest.raises(PoolConfigurationError):
        BlockPool(windowed_spec(512), total_blocks=bad)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"total_memory": 4096, "total_blocks": 1},
        {"total_memory": 4096, "budget": MemoryBudget(4096)},
        {"budget": 4096},
        {"total_memory": 8192, "minimum": 4096, "maximum": 2048},
        {"total_memory": 8192, "minimum": 8193},
        {"total_memory": 8192, "minimum": True},
        {"total_memory": 8192, "maximum": 1.0},
        {"total_memory": 8192, "maximum": 2047},
        {"total_memory": 8192, "arrays_max": -1},
        {"total_memory": 8192, "arrays_max": 0},
        {"total_memory": 8192, "arrays_max": 1},
    ],
)
def test_arguments_that_contradict_each_other(arguments: dict[str, Any]) -> None:
    with pytest.raises(PoolConfigurationError):
        BlockPool(dense_spec(), **arguments)


def test_specs_that_cannot_be_counted() -> None:
    not_a_spec: Any = "gemma"
    for spec in (empty_spec(), not_a_spec):
        with pytest.raises(PoolConfigurationError):
            BlockPool(spec, total_memory=8192)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "1000", None, 2**64 - 1])
def test_shared_budgets_that_cannot_be(bad: Any) -> None:
    with pytest.raises(PoolConfigurationError):
        MemoryBudget(bad)


def test_total_blocks_are_rows_over_all_groups() -> None:
    pool = BlockPool(windowed_spec(512), total_blocks=7)
    assert pool.total_memory() == 7 * (GLOBAL_BYTES + WINDOW_BYTES)


def test_readings_print_as_what_they_are(pool: BlockPool) -> None:
    pool.allocate(1)
    assert repr(pool) == "BlockPool(total_memory=61440, used_memory=2048)"
    assert "held=2048" in repr(pool.snapshot())
    assert "'global'" in repr(pool.snapshot().groups[0]).replace('"', "'")
    assert "total=9" in repr(MemoryBudget(9))
    assert pool.snapshot() == pool.snapshot()
    for name in ("total", "held"):
        with pytest.raises(AttributeError):
            setattr(pool.snapshot(), name, 0)


# A shared budget -------------------------------------------------------------------------------


def test_pools_share_a_budget() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    one, two = (BlockPool(dense_spec(), budget=budget) for _ in range(2))
    one.allocate(4)
    cached(one, 2)
    assert (budget.used, budget.cached, budget.free) == (8192, 4096, 8192)
    assert two.total_memory() == two.available_memory() == 6 * GLOBAL_BYTES
    assert one.total_memory() == 10 * GLOBAL_BYTES
    refused(two, PoolExhaustedError, two.allocate, 7)
    assert one.drain_evicted() == []
    two.allocate(4)
    assert one.drain_evicted() == []
    assert one.available_memory() == two.available_memory() == 2 * GLOBAL_BYTES
    one.allocate(2)
    assert len(one.drain_evicted()) == 2
    assert budget.free == one.available_memory() == two.available_memory() == 0


def test_a_minimum_is_kept_free_and_a_maximum_holds() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    kept = BlockPool(dense_spec(), budget=budget, minimum=3 * GLOBAL_BYTES)
    small = BlockPool(dense_spec(), budget=budget, maximum=2 * GLOBAL_BYTES)
    other = BlockPool(dense_spec(), budget=budget)
    assert len(other.allocate(7)) == 7
    refused(other, PoolExhaustedError, other.allocate, 1)
    refused(small, PoolExhaustedError, small.allocate, 1)
    kept.allocate(3)
    refused(kept, PoolExhaustedError, kept.allocate, 1)
    other.free_agent("default")
    small.allocate(2)
    refused(small, PoolExhaustedError, small.allocate, 1)
    with pytest.raises(PoolConfigurationError):
        BlockPool(dense_spec(), budget=budget, minimum=8 * GLOBAL_BYTES)


def test_a_minimum_that_others_have_taken_cannot_be_promised() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    greedy = BlockPool(dense_spec(), budget=budget)
    greedy.allocate(8)
    with pytest.raises(PoolExhaustedError) as caught:
        BlockPool(dense_spec(), budget=budget, minimum=3 * GLOBAL_BYTES)
    assert caught.value.bytes_short == GLOBAL_BYTES
    greedy.free_agent("default")
    BlockPool(dense_spec(), budget=budget, minimum=3 * GLOBAL_BYTES)


def test_a_budget_is_resized_while_pools_use_it() -> None:
    spec = dense_spec()
    block = spec.bytes_per_block("global")
    budget = MemoryBudget(20 * block)
    first, second = BlockPool(spec, budget=budget), BlockPool(spec, budget=budget, minimum=block)
    first.allocate(4)
    cached(first, 3)
    cached(second, 5)
    budget.resize(30 * block)
    assert budget.total == 30 * block
    assert budget.free == 18 * block
    budget.resize(9 * block)
    assert (budget.used, budget.cached, budget.free) == (4 * block, 5 * block, 0)
    for pool in (first, second):
        reading(pool)
    assert len(first.drain_evicted()) + len(second.drain_evicted()) == 3
    budget.resize(5 * block)
    assert second.snapshot().cached <= block
    with pytest.raises(PoolExhaustedError) as short:
        budget.resize(4 * block)
    assert short.value.bytes_short == block
    assert budget.total == 5 * block
    for bad in (0, -1, True, 1.5, 1 << 64, "1GB", float("nan"), block - 1):
        with pytest.raises((PoolConfigurationError, BlockArgumentTypeError)):
            budget.resize(bad)  # type: ignore[arg-type]
    assert budget.total == 5 * block
    reading(first)


def test_idle_bytes_flow_to_the_pool_that_asks_down_to_minimums() -> None:
    spec = dense_spec()
    block = spec.bytes_per_block("global")
    budget = MemoryBudget(10 * block)
    idle, busy = BlockPool(spec, budget=budget, minimum=2 * block), BlockPool(spec, budget=budget)
    cached(idle, 6)
    cached(busy, 4)
    assert budget.evict(3 * block, busy) == 3 * block
    assert (idle.snapshot().cached, busy.snapshot().cached) == (3 * block, 4 * block)
    assert busy.allocate(3)
    assert budget.evict(9 * block, busy) == block
    assert (idle.snapshot().cached, busy.snapshot().cached) == (2 * block, 4 * block)
    assert budget.evict(0) == 0
    assert budget.evict(99 * block) == 4 * block
    reading(idle)
    reading(busy)


def test_a_dropped_pool_returns_its_share() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    pool = BlockPool(dense_spec(), budget=budget, minimum=4 * GLOBAL_BYTES)
    pool.allocate(6)
    pool.charge("live", 5)
    del pool
    assert budget.free == budget.total
    BlockPool(dense_spec(), budget=budget, minimum=10 * GLOBAL_BYTES)


def test_a_pool_that_was_refused_takes_no_share() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    with pytest.raises(PoolConfigurationError):
        BlockPool(dense_spec(layers=11), budget=budget, minimum=10 * GLOBAL_BYTES)
    BlockPool(dense_spec(), budget=budget, minimum=10 * GLOBAL_BYTES)


# Threads ---------------------------------------------------------------------------------------


def test_concurrent_agent_creation_race() -> None:
    n_agents = 64
    pool = BlockPool(windowed_spec(512), total_blocks=1000)
    start = threading.Barrier(8)

    def create(first: int) -> list[int]:
        start.wait()
        ids: list[int] = []
        for agent in range(first, n_agents, 8):
            ids += pool.allocate(2, agent_id=f"a{agent}")
            ids += pool.allocate_tokens(f"a{agent}", 700).block_ids
            ids += pool.allocate(1, agent_id="shared by all")
        return ids

    with ThreadPoolExecutor(8) as threads:
        ids = [i for made in threads.map(create, range(8)) for i in made]
    pool.check()
    snapshot = pool.snapshot()
    assert snapshot.agents == n_agents + 1
    assert snapshot.held == n_agents * (3 * GLOBAL_BYTES + 2 * WINDOW_BYTES + GLOBAL_BYTES)
    # Two of an agent's ids are told twice: by `allocate`, and by `allocate_tokens` again.
    assert len(set(ids)) == len(ids) - 2 * n_agents == n_agents * 6
    assert pool.free_agent("shared by all") == n_agents


def test_threads_in_every_operation_leave_the_books_in_order() -> None:
    budget = MemoryBudget(9000 * GLOBAL_BYTES)
    pools = [BlockPool(windowed_spec(512), budget=budget) for _ in range(2)]

    def churn(thread: int) -> None:
        pool, agent = pools[thread % 2], f"a{thread}"
        for _ in range(40):
            ids = pool.allocate(5, agent_id=agent)
            sealed = cached(pool, 3)
            with suppress(BlockOperationError):  # another thread may have evicted them
                pool.acquire(sealed)
                pool.release(sealed)
            with suppress(PoolExhaustedError):  # only one such agent at a time fits
                pool.free(pool.allocate(5000, agent_id=agent))
            pool.check()
            pool.free(ids)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(churn, range(8)))
    for pool in pools:
        assert reading(pool)["held"] == 0


def test_a_call_may_be_asked_back_by_what_it_runs():
    """A repr, a finaliser or a signal handler that reads the pool in the middle of a call."""
    pool = BlockPool(windowed_spec(512), total_memory=1 << 20)

    class Asking:
        def __repr__(self) -> str:
            return f"<{pool.spec.n_layers} layers>"

    with pytest.raises(BlockArgumentTypeError, match="layers"):
        pool.allocate_tokens("a", Asking())  # type: ignore[arg-type]


def test_refused_pools_use_up_no_numbers():
    """Ids tell 2,097,152 pools apart: a retry loop must not spend them."""
    spec = windowed_spec(512)
    budget = MemoryBudget(sum(group.bytes_per_block for group in spec.groups))
    holder = BlockPool(spec, budget=budget)
    (before,) = holder.allocate(1)
    for _ in range(100):
        with pytest.raises(PoolExhaustedError):
            BlockPool(spec, budget=budget, minimum=budget.total)
    (after,) = BlockPool(spec, total_blocks=1).allocate(1)
    assert (after >> 42) - (before >> 42) == 1


def test_a_spec_and_its_groups_stay_together():
    pool = BlockPool(windowed_spec(512), total_memory=1 << 20)
    with pytest.raises(PoolConfigurationError, match="reconfigure"):
        pool.regroup([("x", "global", 1024, None, 2)])
    assert pool.allocate_tokens("a", 1).total_tokens == 1


def test_more_leases_than_can_be_counted_are_refused():
    pool = BlockPool(windowed_spec(512), total_memory=1 << 20)
    ids = pool.stage("global", 1)
    with pytest.raises(BlockOperationError, match="leases"):
        pool.publish(ids, 1 << 40)
    pool.abandon(ids)


def test_tokens_are_those_that_the_blocks_still_cover():
    pool = BlockPool(windowed_spec(512), total_memory=1 << 24)
    blocks = pool.allocate_tokens("a", 4096).blocks["global"]
    pool.free([block.block_id for block in blocks[1:]])
    again = pool.allocate_tokens("a", 256)
    assert again.total_tokens == 256
    assert [block.token_count for block in again.blocks["global"]] == [256]
    assert pool.allocate_tokens("a", 1000).total_tokens == 1000


def test_what_another_pool_has_cached_goes_for_a_request_down_to_its_minimum() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    idle = BlockPool(dense_spec(), budget=budget, minimum=3 * GLOBAL_BYTES)
    busy = BlockPool(dense_spec(), budget=budget)
    ids = cached(idle, 10)
    assert (budget.free, idle.total_memory()) == (0, 10 * GLOBAL_BYTES)
    assert busy.total_memory() == busy.available_memory() == 7 * GLOBAL_BYTES
    assert (busy.available_blocks(), busy.max_batch_size(256)) == (7, 7)
    snapshot = reading(busy)
    assert (snapshot["free"], snapshot["cached"]) == (7 * GLOBAL_BYTES, 0)
    error = refused(busy, PoolExhaustedError, busy.allocate, 8)
    assert (error.bytes_available, error.bytes_short) == (7 * GLOBAL_BYTES, GLOBAL_BYTES)
    assert reading(idle)["cached"] == 10 * GLOBAL_BYTES
    busy.allocate(2)
    assert idle.drain_evicted() == ids[:-3:-1], "the tail goes first"
    busy.allocate_tokens("a", 2 * 256)
    busy.stage("global", 1)
    busy.charge("live", GLOBAL_BYTES + 1)
    assert idle.drain_evicted() == ids[-3:2:-1]
    assert reading(idle)["cached"] == 3 * GLOBAL_BYTES
    refused(busy, PoolExhaustedError, busy.allocate, 1)
    assert (busy.available_memory(), busy.max_batch_size(256)) == (GLOBAL_BYTES - 1, 0)
    reading(busy)


def test_equals_are_taken_from_the_pool_that_asks() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    mine, theirs = (BlockPool(dense_spec(), budget=budget) for _ in range(2))
    cached(theirs, 5)
    cached(mine, 5)
    mine.allocate(6)
    assert (len(mine.drain_evicted()), len(theirs.drain_evicted())) == (5, 1)


def test_what_a_pool_lacks_by_its_own_limits_comes_from_its_own_blocks() -> None:
    budget = MemoryBudget(20 * GLOBAL_BYTES)
    theirs = BlockPool(dense_spec(), budget=budget)
    capped = BlockPool(dense_spec(), budget=budget, maximum=4 * GLOBAL_BYTES, arrays_max=6)
    cached(theirs, 10)
    cached(capped, 3)
    assert capped.most_memory() == capped.total_memory() == 4 * GLOBAL_BYTES
    capped.allocate(2)
    assert (len(capped.drain_evicted()), theirs.drain_evicted()) == (2, [])
    error = refused(capped, PoolExhaustedError, capped.allocate, 3)
    assert error.bytes_short == GLOBAL_BYTES
    capped.charge("live", 2 * GLOBAL_BYTES, 2)
    assert (len(capped.drain_evicted()), theirs.drain_evicted()) == (1, [])
    assert theirs.most_memory() == 20 * GLOBAL_BYTES


def test_what_a_pool_could_ever_have_is_less_the_minimums_of_others() -> None:
    budget = MemoryBudget(10 * GLOBAL_BYTES)
    one = BlockPool(dense_spec(), budget=budget, minimum=2 * GLOBAL_BYTES)
    two = BlockPool(dense_spec(), budget=budget, minimum=3 * GLOBAL_BYTES)
    one.allocate(7)
    assert (one.most_memory(), two.most_memory()) == (7 * GLOBAL_BYTES, 8 * GLOBAL_BYTES)
    assert two.total_memory() == 3 * GLOBAL_BYTES


def test_charged_arrays_are_counted_and_given_back() -> None:
    pool = BlockPool(dense_spec(), total_blocks=100, arrays_max=20)
    sealed = cached(pool, 4)
    pool.charge("live", 100, 12)
    assert pool.snapshot().arrays_used == 20
    pool.charge("staging", 1, 3)
    assert pool.drain_evicted() == sealed[:1:-1]
    assert pool.snapshot().arrays_used == 12 + 3 + 4
    error = refused(pool, PoolExhaustedError, pool.charge, "live", 1, 6)
    assert (error.arrays_requested, error.arrays_available, error.bytes_short) == (6, 5, 0)
    error = refused(pool, BlockOperationError, pool.discharge, "live", 100, 13)
    assert (error.arrays_requested, error.arrays_charged) == (13, 12)
    refused(pool, BlockOperationError, pool.discharge, "staging", 1, 12)
    pool.discharge("live", 100)
    pool.discharge("staging", 1, 3)
    refused(pool, PoolConfigurationError, pool.reconfigure, dense_spec(layers=3))
    pool.discharge("live", 0, 12)
    assert pool.snapshot().arrays_used == 4
    pool.reconfigure(dense_spec(layers=3))
