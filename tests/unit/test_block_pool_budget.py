"""What a pool is made of, and pools that share a budget."""

from __future__ import annotations

from typing import Any

import pytest

from semantic.domain.errors import (
    BlockArgumentTypeError,
    PoolConfigurationError,
    PoolExhaustedError,
)
from semantic.domain.services import BlockPool, MemoryBudget
from semantic.testing.specs import dense_spec, windowed_spec
from tests.pools import GLOBAL_BYTES, WINDOW_BYTES, cached, empty_spec, reading, refused


@pytest.fixture
def pool() -> BlockPool:
    """Ten rows: 60 KiB for global blocks of 2 KiB and window blocks of 4 KiB."""
    return BlockPool(windowed_spec(512), total_blocks=10)


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
