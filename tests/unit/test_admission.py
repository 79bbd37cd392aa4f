"""Many threads and too little memory: nothing is lost, and whoever fits alone gets through."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from semantic import BlockPool, CacheManager, EvictionPolicy, MemoryBudget, PoolExhaustedError
from semantic.application.counters import Counters
from tests.token_rows import SPECS, TokenRows
from tests.unit.test_eviction_policies import Clock, N, Rows


class AnyRows(Rows):
    """As `Rows`, for tokens that each thread brings along."""

    def open(self, spec: object, caches: object, n_tokens: int) -> TokenRows:
        assert isinstance(caches, list)
        return TokenRows(spec, caches[0], 0)  # type: ignore[arg-type]


def run(threads: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(120)
        assert not thread.is_alive()
    assert not failures


@pytest.mark.parametrize("order", ["lru", "resident"])
@pytest.mark.parametrize("spec", ["global", "window_100", "state", "chunk_300"])
def test_threads_lose_nothing(spec: str, order: str) -> None:
    geometry = SPECS[spec]
    pool = BlockPool(geometry, total_blocks=24)
    memory = CacheManager(
        geometry,
        pool,
        materialiser=AnyRows(),
        policy=EvictionPolicy(order),  # type: ignore[arg-type]
    )

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(60):
            tokens = [rng.randrange(2)] * N + list(range(rng.choice([1, 50, N, 300])))
            try:
                with memory.admit(f"a{number % 3}", tokens) as lease:
                    lease.commit(tokens, [tokens])
                    if rng.random() < 0.2:
                        lease.abort()
            except PoolExhaustedError:
                pass
            if rng.random() < 0.2:
                ids = pool.allocate(
                    0 if pool.available_blocks(geometry.groups[0].name) < 3 else 1,
                    geometry.groups[0].name,
                    f"t{number}",
                )
                pool.free(ids)
            if rng.random() < 0.1:
                memory.hint(f"a{number % 3}", "waiting")

    run(6, work)
    pool.check()
    assert pool.used_memory() == 0
    memory.clear()
    assert pool.snapshot().free == pool.total_memory()
    assert not pool.contents


def test_requests_that_fit_one_by_one_all_finish() -> None:
    """Ten agents, each of whom needs more than half of the memory, wait for their turns."""
    geometry = SPECS["global"]
    tokens = [list(range(n * 10_000, n * 10_000 + 4 * N)) for n in range(10)]
    need = geometry.live_peak_bytes(4 * N)
    pool = BlockPool(geometry, total_memory=need * 3 // 2)
    memory = CacheManager(geometry, pool, materialiser=AnyRows())
    finished: list[int] = []

    def work(number: int) -> None:
        for _ in range(3):
            with memory.admit(f"a{number}", tokens[number], wait=60) as lease:
                lease.commit(tokens[number], [tokens[number]])
        finished.append(number)

    run(10, work)
    assert sorted(finished) == list(range(10))
    assert pool.used_memory() == 0


def test_a_refusal_says_by_how_many_bytes_the_queue_is_short() -> None:
    geometry = SPECS["global"]
    need = geometry.live_peak_bytes(4 * N)
    pool = BlockPool(geometry, total_memory=need * 3 // 2)
    memory = CacheManager(geometry, pool, materialiser=AnyRows())
    with memory.admit("a", list(range(4 * N))), pytest.raises(PoolExhaustedError) as refusal:
        memory.admit("b", list(range(1, 4 * N + 1)))
    assert refusal.value.bytes_short == 2 * need - need * 3 // 2
    assert refusal.value.bytes_requested == need


def test_a_request_that_cannot_be_counted_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    geometry = SPECS["global"]
    pool = BlockPool(geometry, total_blocks=8)
    memory = CacheManager(geometry, pool, materialiser=AnyRows())

    def refuse(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as refused:
        refused.setattr(Counters, "request", refuse)
        with pytest.raises(MemoryError):
            memory.admit("a", list(range(N)))
    assert pool.used_memory() == 0
    with memory.admit("a", list(range(N))) as lease:
        lease.commit(list(range(N)), [list(range(N))])
    memory.swap(geometry)
    pool.check()


@pytest.mark.parametrize("first", ["mine", "theirs"])
def test_what_runs_takes_from_who_is_wanted_least_whosever_it_is(first: str) -> None:
    geometry, clock = SPECS["global"], Clock()
    block = geometry.bytes_per_block("global")
    budget = MemoryBudget(12 * block)
    memories = {
        name: CacheManager(
            geometry, BlockPool(geometry, budget=budget), materialiser=AnyRows(), clock=clock
        )
        for name in ("mine", "theirs")
    }
    last = "theirs" if first == "mine" else "mine"
    for number, name in enumerate((first, last)):
        tokens = list(range(number * 10_000, number * 10_000 + 4 * N))
        clock.seconds += 100
        with memories[name].admit(name, tokens) as lease:
            lease.commit(tokens, [tokens])
    clock.seconds += 100
    with memories["mine"].admit("b", range(-7 * N, 0)):
        cached = {name: memory.pool.snapshot().cached // block for name, memory in memories.items()}
        assert cached == {first: 1, last: 4}
        for memory in memories.values():
            assert len(memory.pool.contents) * block == memory.pool.snapshot().cached
            memory.pool.check()
