"""The behaviours of shared/BEHAVIOURS.md that a pool shows by itself, by their numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from semantic.domain.errors import BlockOperationError, PoolConfigurationError, PoolExhaustedError
from semantic.testing.specs import dense_spec, hybrid_spec, windowed_spec

BLOCK_BYTES = 2048

PoolClass = Callable[..., Any]


def books(pool: Any) -> dict[str, Any]:
    """Everything that can be read, after a look at the sums."""
    pool.check()
    snapshot: dict[str, Any] = pool.snapshot().as_dict()
    classes = ("free", "held", "live", "staging", "cached")
    assert sum(snapshot[name] for name in classes) == snapshot["total"] == pool.total_memory()
    assert pool.used_memory() + pool.available_memory() == pool.total_memory()
    return snapshot


def refused(
    pool: Any, error: type[Exception], operation: Callable[..., object], *args: object
) -> Any:
    """The error of an operation that must change nothing."""
    before = books(pool)
    with pytest.raises(error) as caught:
        operation(*args)
    assert books(pool) == before
    return caught.value


def cached(pool: Any, n: int, layer_type: str = "global") -> list[int]:
    """So many sealed blocks at rest, the most recently used ones."""
    ids: list[int] = pool.stage(layer_type, n)
    pool.publish(ids)
    return ids


def test_b01_taking_more_than_is_free_fails_and_changes_nothing(pool_class: PoolClass) -> None:
    pool = pool_class(dense_spec(), total_blocks=10)
    pool.allocate(4)
    error = refused(pool, PoolExhaustedError, pool.allocate, 7)
    assert (error.bytes_requested, error.bytes_short) == (7 * BLOCK_BYTES, BLOCK_BYTES)
    refused(pool, PoolExhaustedError, pool.stage, "global", 7)
    refused(pool, PoolExhaustedError, pool.charge, "live", 6 * BLOCK_BYTES + 1)
    refused(pool, PoolExhaustedError, pool.allocate_tokens, "a1", 7 * 256)


def test_b01_taking_none_gives_an_empty_list(pool_class: PoolClass) -> None:
    pool = pool_class(dense_spec(), total_blocks=10)
    before = books(pool)
    assert pool.allocate(0) == pool.stage("global", 0) == []
    assert books(pool) == before
    pool.allocate(10)
    assert pool.allocate(0) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 10])
def test_b01_draining_and_refilling_works_for_every_batch_size(
    pool_class: PoolClass, batch: int
) -> None:
    pool = pool_class(dense_spec(), total_blocks=10)
    for _ in range(3):
        taken: list[list[int]] = []
        while pool.available_blocks() >= batch:
            taken.append(pool.allocate(batch))
        assert len(taken) == 10 // batch
        refused(pool, PoolExhaustedError, pool.allocate, batch)
        for ids in taken:
            pool.free(ids)
        assert pool.used_memory() == 0


def test_b02_a_freed_block_goes_out_before_a_cached_one(pool_class: PoolClass) -> None:
    pool = pool_class(dense_spec(), total_blocks=10)
    cached(pool, 4)
    pool.free(pool.allocate(6))
    pool.allocate(6)
    assert pool.drain_evicted() == []
    assert books(pool)["groups"][0]["free_slots"] == 0


def test_b02_the_tail_of_a_sequence_goes_before_its_head(pool_class: PoolClass) -> None:
    pool = pool_class(dense_spec(), total_blocks=6)
    first, second = cached(pool, 3), cached(pool, 3)
    pool.allocate(4)
    assert pool.drain_evicted() == [*reversed(first), second[2]]


def test_b02_released_and_touched_blocks_go_last(pool_class: PoolClass) -> None:
    pool = pool_class(dense_spec(), total_blocks=6)
    ids = cached(pool, 6)
    pool.acquire(ids[2:4])
    pool.touch(ids[4:])
    pool.release(ids[2:4])
    pool.allocate(6)
    assert pool.drain_evicted() == [ids[1], ids[0], ids[5], ids[4], ids[3], ids[2]]


def one_of_each(pool: Any) -> dict[str, list[int]]:
    """Two blocks in every state, by the operation that is for them."""
    staged, sealed, leased = pool.stage("global", 2), cached(pool, 2), pool.stage("global", 2)
    pool.publish(leased, leases=1)
    return {
        "free": pool.allocate(2),
        "abandon": staged,
        "publish": staged,
        "acquire": sealed,
        "release": leased,
        "evict": sealed,
    }


@pytest.mark.parametrize("fault", ["double", "twice", "unknown", "foreign", "outdated", "evicted"])
@pytest.mark.parametrize("operation", ["free", "abandon", "publish", "acquire", "release", "evict"])
def test_b03_a_wrong_id_is_refused_even_at_the_end_of_a_list(
    pool_class: PoolClass, fault: str, operation: str
) -> None:
    pool = pool_class(dense_spec(), total_blocks=10)
    other = pool_class(dense_spec(), total_blocks=10)
    # The same program in another pool, and in this one before: ids that differ in the pool alone.
    foreign, outdated = one_of_each(other), one_of_each(pool)
    pool.free(outdated["free"])
    pool.abandon(outdated["abandon"])
    pool.release(outdated["release"])
    pool.reconfigure(dense_spec())
    valid = one_of_each(pool)[operation]

    double = pool.allocate(1)
    pool.free(double)
    evicted = cached(pool, 1)
    pool.evict(evicted)
    wrong = {
        "double": double[0],
        "twice": valid[1],
        "unknown": 2**62,
        "foreign": foreign[operation][0],
        "outdated": outdated[operation][0],
        "evicted": evicted[0],
    }[fault]
    call = getattr(pool, operation)
    error = refused(pool, BlockOperationError, call, [valid[1], wrong])
    assert error.block_id == wrong
    call(valid)
    books(pool)


@pytest.mark.parametrize("seed", range(20))
def test_b04_after_any_program_every_block_is_free_exactly_once(
    pool_class: PoolClass, seed: int
) -> None:
    pool = pool_class(windowed_spec(512), total_blocks=12)
    chance = random.Random(seed)
    held: list[int] = []
    sealed: list[int] = []
    for _ in range(60):
        match chance.randrange(4):
            case 0:
                n = min(3, pool.available_blocks())
                held += pool.allocate(n, "global", f"a{chance.randrange(3)}")
            case 1 if pool.available_blocks("sliding_window"):
                ids = pool.stage("sliding_window", 1)
                pool.publish(ids, leases=1)
                sealed += ids
            case 2 if held:
                pool.free([held.pop(chance.randrange(len(held)))])
            case 3 if sealed:
                pool.release([sealed.pop()])
        books(pool)
    pool.free(held)
    pool.release(sealed)
    assert pool.used_memory() == 0
    pool.reconfigure(dense_spec())
    assert len(set(pool.allocate(pool.available_blocks()))) == 36
    assert books(pool)["free"] == 0


def test_b12_what_a_request_holds_is_never_its_own_victim(pool_class: PoolClass) -> None:
    pool = pool_class(dense_spec(), total_blocks=6)
    hit, other = cached(pool, 3), cached(pool, 3)
    pool.acquire(hit)
    pool.allocate(3)
    assert pool.drain_evicted() == other[::-1]
    refused(pool, PoolExhaustedError, pool.allocate, 1)
    pool.release(hit)
    pool.acquire(hit)


@pytest.mark.parametrize("spec", [dense_spec(), windowed_spec(512), hybrid_spec()])
def test_b15_what_is_predicted_is_taken(pool_class: PoolClass, spec: object) -> None:
    pool = pool_class(spec, total_blocks=24)
    hits = cached(pool, 6)
    pool.acquire(hits[:2])
    for n_tokens in (100, 256, 700, 1500):
        predicted = pool.max_batch_size(n_tokens)
        for agent in range(predicted):
            pool.allocate_tokens(f"{n_tokens} {agent}", n_tokens)
        assert pool.max_batch_size(n_tokens) == 0
        refused(pool, PoolExhaustedError, pool.allocate_tokens, "more", n_tokens)
        for agent in range(predicted):
            pool.free_agent(f"{n_tokens} {agent}")


def test_b15_a_chunked_prefill_takes_what_each_step_adds(pool_class: PoolClass) -> None:
    pool = pool_class(windowed_spec(512), total_blocks=24)
    for n_tokens in range(100, 3000, 100):
        whole = pool_class(windowed_spec(512), total_blocks=24)
        whole.allocate_tokens("a1", n_tokens)
        pool.allocate_tokens("a1", n_tokens)
        assert pool.used_memory() == whole.used_memory()


@pytest.mark.parametrize(("window", "cap"), [(512, 2), (128, 1), (1024, 4), (513, 3)])
def test_b17_a_window_grants_at_most_its_blocks(
    pool_class: PoolClass, window: int, cap: int
) -> None:
    pool = pool_class(windowed_spec(window), total_blocks=100)
    assert len(pool.allocate(cap + 5, "sliding_window", "a1")) == cap
    assert pool.allocate(1, "sliding_window", "a1") == []
    got = pool.allocate_tokens("a2", 10 * window)
    assert len(got.blocks["sliding_window"]) == cap
    pool.free([got.blocks["sliding_window"][0].block_id])
    assert len(pool.allocate(9, "sliding_window", "a2")) == 1


@pytest.mark.parametrize("use", ["held", "staged", "leased", "live", "staging"])
def test_b25_reconfigure_is_refused_while_anything_is_held(pool_class: PoolClass, use: str) -> None:
    pool = pool_class(windowed_spec(512), total_blocks=10)
    sealed = cached(pool, 2)
    match use:
        case "held":
            pool.allocate(1)
        case "staged":
            pool.stage("global", 1)
        case "leased":
            pool.acquire(sealed[:1])
        case _:
            pool.charge(use, 1)
    refused(pool, PoolConfigurationError, pool.reconfigure, dense_spec())
    assert pool.spec == windowed_spec(512)
    pool.acquire(sealed[1:])


def test_b25_reconfigure_drops_what_is_cached_and_outdates_every_id(pool_class: PoolClass) -> None:
    pool = pool_class(windowed_spec(512), total_blocks=10)
    sealed = cached(pool, 2)
    total = pool.total_memory()
    pool.reconfigure(dense_spec())
    assert pool.drain_evicted() == sealed[::-1]
    assert pool.available_memory() == pool.total_memory() == total
    refused(pool, BlockOperationError, pool.acquire, sealed)


def test_a_budget_is_shared_and_its_minimums_are_kept(
    pool_class: PoolClass, budget_class: Callable[[int], Any]
) -> None:
    budget = budget_class(10 * BLOCK_BYTES)
    kept = pool_class(dense_spec(), budget=budget, minimum=3 * BLOCK_BYTES)
    other = pool_class(dense_spec(), budget=budget, maximum=8 * BLOCK_BYTES)
    other.allocate(5)
    cached(other, 2)
    refused(other, PoolExhaustedError, other.allocate, 3)
    refused(kept, PoolExhaustedError, kept.allocate, 6)
    kept.allocate(3)
    assert (budget.used, budget.cached, budget.free) == (8 * BLOCK_BYTES, 2 * BLOCK_BYTES, 0)
    refused(other, PoolExhaustedError, other.allocate, 3)
    kept.allocate(1)
    assert len(other.drain_evicted()) == 1
    assert (budget.used, budget.cached, budget.free) == (9 * BLOCK_BYTES, BLOCK_BYTES, 0)
    assert kept.available_memory() == other.available_memory() == BLOCK_BYTES
    books(other)


def test_a_pool_that_is_gone_has_returned_its_share(
    pool_class: PoolClass, budget_class: Callable[[int], Any]
) -> None:
    budget = budget_class(10 * BLOCK_BYTES)
    pool_class(dense_spec(), budget=budget, minimum=3 * BLOCK_BYTES).allocate(5)
    assert budget.free == budget.total
    assert pool_class(dense_spec(), budget=budget).available_blocks() == 10
