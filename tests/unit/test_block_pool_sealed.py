"""Blocks with content, charged bytes and arrays, and another model in the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from semantic.domain.errors import (
    BlockOperationError,
    PoolConfigurationError,
    PoolExhaustedError,
)
from semantic.domain.services import BlockPool
from semantic.testing.specs import dense_spec, windowed_spec
from tests.pools import GLOBAL_BYTES, cached, empty_spec, reading, refused


@pytest.fixture
def pool() -> BlockPool:
    """Ten rows: 60 KiB for global blocks of 2 KiB and window blocks of 4 KiB."""
    return BlockPool(windowed_spec(512), total_blocks=10)


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


def test_more_leases_than_can_be_counted_are_refused():
    pool = BlockPool(windowed_spec(512), total_memory=1 << 20)
    ids = pool.stage("global", 1)
    with pytest.raises(BlockOperationError, match="leases"):
        pool.publish(ids, 1 << 40)
    pool.abandon(ids)


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
