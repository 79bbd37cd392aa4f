"""Who comes in, in which order, and what becomes of owners that were silent for too long."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from semantic import (
    BlockOperationError,
    BlockPool,
    BlockValidationError,
    CacheManager,
    MemoryBudget,
    Namespace,
    PoolConfigurationError,
    PoolExhaustedError,
)
from semantic.application.sealed_blocks import Hold
from semantic.domain.layer_group import LayerGroup, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec
from tests.stateful.test_many_agents import Clock, Rows
from tests.token_rows import SPECS

SPEC = SPECS["global"]
SMALL = list(range(256))
BIG = list(range(5000, 5000 + 9 * 256))
SMALL_BYTES = SPEC.live_peak_bytes(len(SMALL))
BIG_BYTES = SPEC.live_peak_bytes(len(BIG))
TIMEOUT = 60.0


def memory_under(budget: MemoryBudget, spec: str = "global", **terms: Any) -> CacheManager:
    options = {name: terms.pop(name) for name in ("clock", "lease_timeout") if name in terms}
    pool = BlockPool(SPECS[spec], budget=budget, **terms)
    return CacheManager(
        SPECS[spec], pool, materialiser=Rows(), namespace=Namespace(spec), **options
    )


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def when(condition: Callable[[], bool]) -> None:
    """Wait for another thread to get there."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting(
    threads: ThreadPoolExecutor, memory: CacheManager, tokens: list[int], place: int = 1
) -> Future[Any]:
    """A request that stands in the line as number `place`."""
    asked = threads.submit(memory.admit, "waits", tokens, wait=30)
    when(lambda: len(memory.pool.budget.line) == place)
    return asked


# The line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_same", [True, False], ids=["one memory", "two memories"])
def test_nobody_overtakes_who_waits(threads: ThreadPoolExecutor, is_same: bool) -> None:
    budget = MemoryBudget(BIG_BYTES + SMALL_BYTES // 2)
    asked = memory_under(budget)
    other = asked if is_same else memory_under(budget)
    runs = other.admit("small", SMALL)
    large = waiting(threads, asked, BIG)
    with pytest.raises(PoolExhaustedError) as refusal:
        other.admit("next", SMALL)
    error = refusal.value
    assert (error.bytes_requested, error.bytes_ahead) == (SMALL_BYTES, BIG_BYTES)
    assert error.bytes_short == SMALL_BYTES + BIG_BYTES - other.pool.available_memory() > 0
    assert error.can_ever_fit
    small = waiting(threads, other, SMALL, place=2)
    assert asked.stats()["waiting"] == (2 if is_same else 1)
    runs.release()
    lease = large.result(30)
    assert not small.done()
    lease.release()
    small.result(30).release()
    assert len(budget.line) == 0
    assert (budget.used, asked.stats()["running"]) == (0, 0)


def test_a_large_request_gets_through_small_ones_that_come_again_and_again(
    threads: ThreadPoolExecutor,
) -> None:
    budget = MemoryBudget(BIG_BYTES + SMALL_BYTES // 2)
    memories = memory_under(budget), memory_under(budget)
    is_over = threading.Event()

    def cycle(number: int) -> int:
        turns = 0
        while not is_over.is_set():
            with memories[number % 2].admit(f"s{number}", SMALL, wait=30):
                time.sleep(0.01)
            turns += 1
        return turns

    small = [threads.submit(cycle, number) for number in range(4)]
    when(lambda: budget.used > 0)
    for _ in range(3):
        memories[0].admit("big", BIG, wait=30).release()
    is_over.set()
    assert all(turns.result(30) for turns in small)
    assert budget.used == 0


def test_requests_of_two_memories_that_fit_one_by_one_all_finish() -> None:
    """Whoever waits, of whatever size and in whichever memory, comes in."""
    sizes = {"global": (1, 4, 9), "two_windows": (1, 3, 6)}
    most = max(SPECS[n].live_peak_bytes(256 * size) for n in sizes for size in sizes[n])
    budget = MemoryBudget(most + most // 4)
    memories = {name: memory_under(budget, name) for name in sizes}
    finished: list[tuple[str, int, int]] = []

    def work(name: str, size: int, number: int) -> None:
        tokens = list(range(number * 10_000, number * 10_000 + size * 256))
        for turn in range(4):
            with memories[name].admit(f"a{number}", tokens, wait=60) as lease:
                lease.commit(tokens, [tokens])
            finished.append((name, number, turn))

    with ThreadPoolExecutor(12) as pool:
        jobs = [(n, size, k) for n in sizes for size in sizes[n] for k in (size, size + 20)]
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result(120)
    assert len(set(finished)) == 4 * len(jobs)
    for memory in memories.values():
        memory.pool.check()
        memory.clear()
    assert budget.free == budget.total


def test_who_is_full_by_itself_holds_up_no_other_memory(threads: ThreadPoolExecutor) -> None:
    budget = MemoryBudget(4 * BIG_BYTES)
    capped = memory_under(budget, maximum=BIG_BYTES + SMALL_BYTES // 2)
    other = memory_under(budget)
    runs = capped.admit("small", SMALL)
    large = waiting(threads, capped, BIG)
    other.admit("b", SMALL, wait=30).release()
    with pytest.raises(PoolExhaustedError) as refusal:
        capped.admit("next", SMALL)
    assert refusal.value.bytes_ahead == BIG_BYTES
    runs.release()
    large.result(30).release()


# Requests that never fit -------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once() -> None:
    budget = MemoryBudget(2 * BIG_BYTES)
    kept = BlockPool(SPEC, budget=budget, minimum=BIG_BYTES + 1)
    memory = memory_under(budget)
    start = time.monotonic()
    with pytest.raises(PoolExhaustedError, match="never have more than") as refusal:
        memory.admit("a", BIG, wait=30)
    assert time.monotonic() - start < 10
    error = refusal.value
    assert not error.can_ever_fit
    assert (error.bytes_requested, error.bytes_short) == (BIG_BYTES, 1)
    del kept
    memory.admit("a", BIG).release()
    capped = memory_under(budget, maximum=BIG_BYTES - 7)
    with pytest.raises(PoolExhaustedError, match="7 short"):
        capped.admit("a", BIG, wait=30)
    few = memory_under(budget, arrays_max=3)
    few.admit("a", SMALL).release()
    few = memory_under(budget, "two_windows", arrays_max=3)
    with pytest.raises(PoolExhaustedError, match="arrays") as refusal:
        few.admit("a", SMALL, wait=30)
    assert not refusal.value.can_ever_fit


def test_what_fits_only_with_its_hit_may_wait() -> None:
    tensors = TokenTensor("keys", 1, 64, "float16"), TokenTensor("values", 1, 64, "float16")
    group = LayerGroup("sliding_window", "sliding_window", (0,), tensors, window=512)
    spec = ModelCacheSpec((group,)).quantised_at_rest(4)
    tokens = list(range(3000))
    pool = BlockPool(spec, total_memory=1 << 20)
    memory = CacheManager(spec, pool, materialiser=Rows())
    with memory.admit("a", tokens) as lease:
        lease.commit(tokens, [tokens])
    needed = spec.live_peak_bytes(3001, cached_tokens=3000) + pool.snapshot().cached
    assert needed < spec.live_peak_bytes(3001, 256)
    pool.budget.resize(needed)
    pool.charge("live", 1)
    with pytest.raises(PoolExhaustedError) as refusal:
        memory.admit("a", [*tokens, 1])
    assert refusal.value.can_ever_fit
    pool.discharge("live", 1)
    with memory.admit("a", [*tokens, 1]) as lease:
        assert lease.cached_tokens == 3000


# Swaps -------------------------------------------------------------------------------------------


def test_who_waits_is_outside_while_a_model_is_swapped(threads: ThreadPoolExecutor) -> None:
    budget = MemoryBudget(BIG_BYTES + 3 * SMALL_BYTES // 2)
    memory, other = memory_under(budget), memory_under(budget)
    lease = memory.admit("small", SMALL)
    beside = other.admit("beside", SMALL)
    large = waiting(threads, memory, BIG)
    with pytest.raises(PoolExhaustedError):
        other.admit("b", SMALL)
    seen: list[bool] = []

    def drain(running: Any) -> None:
        other.admit("b", list(range(9))).release()
        running.release()
        beside.release()
        time.sleep(0.2)  # long enough for who waits to try
        seen.append(large.done())

    memory.swap(SPECS["state"], wait=10, drain=drain)
    assert lease.has_ended
    assert seen == [False]
    served = large.result(30)
    assert served.live_bytes == SPECS["state"].live_peak_bytes(len(BIG))
    served.release()


def test_swaps_under_load_succeed(threads: ThreadPoolExecutor) -> None:
    budget = MemoryBudget(4 * BIG_BYTES)
    memory = memory_under(budget)
    names = ("state", "two_windows", "chunk_300", "global")
    is_over = threading.Event()

    def cycle(number: int) -> int:
        tokens, turns = [*range(number, number + 300)], 0
        while not is_over.is_set():
            with memory.admit(f"a{number}", tokens, wait=30) as lease:
                lease.commit(tokens, [tokens])
            turns += 1
        return turns

    load = [threads.submit(cycle, number) for number in range(4)]
    for turn in range(40):
        name = names[turn % 4]
        memory.swap(SPECS[name], namespace=Namespace(name), wait=10)
        assert memory.spec == SPECS[name]
    is_over.set()
    assert all(turns.result(30) for turns in load)
    memory.clear()
    assert budget.free == budget.total
    memory.pool.check()


def test_an_admission_under_way_when_the_gate_closes_starts_again_behind_it(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_under(MemoryBudget(4 * BIG_BYTES))
    is_charged, may_go = threading.Event(), threading.Event()
    enter = memory._memory.sealed.enter

    def slow(*charge: Any) -> None:
        enter(*charge)
        is_charged.set()
        may_go.wait(30)

    monkeypatch.setattr(memory._memory.sealed, "enter", slow)
    asked = threads.submit(memory.admit, "a", SMALL, wait=30)
    is_charged.wait(30)
    swapped = threads.submit(memory.swap, SPECS["state"])
    when(lambda: memory._gate.is_swapping)
    may_go.set()
    swapped.result(30)
    lease = asked.result(30)
    assert lease.live_bytes == SPECS["state"].live_peak_bytes(len(SMALL))
    lease.release()
    assert memory.pool.snapshot().live == 0


# Owners that were silent -------------------------------------------------------------------------


def test_a_dead_owner_in_one_memory_holds_up_no_other() -> None:
    clock = Clock()
    budget = MemoryBudget(BIG_BYTES * 3 // 2)
    one, other = (memory_under(budget, clock=clock, lease_timeout=TIMEOUT) for _ in range(2))
    dead = one.admit("dead", BIG)
    with pytest.raises(PoolExhaustedError):
        other.admit("b", BIG)
    clock.seconds += TIMEOUT + 1
    other.admit("b", BIG).release()
    assert dead.has_expired
    assert one.stats()["failures"] == {"lease_expired": 1}
    assert not other.stats()["failures"]
    assert budget.used == 0


def test_an_owner_that_comes_back_too_late_gets_misses_not_errors() -> None:
    clock = Clock()
    memory = memory_under(MemoryBudget(4 * BIG_BYTES), clock=clock, lease_timeout=TIMEOUT)
    with memory.admit("a", BIG) as lease:
        lease.commit(BIG, [BIG])
    late = memory.admit("a", [*BIG, 1])
    assert late.cached_tokens == len(BIG)
    clock.seconds += TIMEOUT + 1
    assert memory.expire_leases() == 1
    before = memory.pool.snapshot()
    assert not late.grow(len(BIG) + 500)
    assert late.materialise() is None
    assert late.cached_tokens == 0
    for publish in (late.commit, late.checkpoint):
        assert publish(BIG, [BIG]).reason == "expired"
    with pytest.raises(BlockValidationError):
        late.commit([], [[]])
    late.abort()
    late.release()
    assert memory.pool.snapshot() == before
    assert memory.stats()["failures"] == {"lease_expired": 1, "expired": 1}
    ended = memory.admit("a", SMALL)
    ended.release()
    uses: tuple[Callable[[], object], ...] = (
        ended.materialise,
        lambda: ended.grow(300),
        lambda: ended.commit(SMALL, [SMALL]),
    )
    for use in uses:
        with pytest.raises(BlockOperationError, match="has ended"):
            use()


def test_an_owner_in_the_middle_of_a_long_call_is_alive() -> None:
    clock = Clock()
    memory = memory_under(MemoryBudget(4 * BIG_BYTES), clock=clock, lease_timeout=TIMEOUT)
    lease = memory.admit("a", SMALL)
    expired: list[int] = []

    class Slow(Rows):
        def open(self, *arguments: Any) -> Any:
            clock.seconds += TIMEOUT + 1
            expired.append(memory.expire_leases())
            return super().open(*arguments)

    object.__setattr__(memory._memory, "materialiser", Slow())
    assert lease.commit(SMALL, [SMALL]).reason == "published"
    assert (expired, memory.expire_leases()) == ([0], 0)
    clock.seconds += TIMEOUT + 1
    assert memory.expire_leases() == 1


@pytest.mark.parametrize("how", ["expire", "release", "grow"])
def test_growing_leaks_nothing_when_something_happens_in_between(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_under(MemoryBudget(4 * BIG_BYTES))
    lease = memory.admit("a", SMALL)
    grow = Hold.grow

    def between(hold: Hold, n_bytes: int) -> bool:
        monkeypatch.setattr(Hold, "grow", grow)
        if how == "grow":
            assert lease.grow(1000)
        elif how == "release":
            lease.release()
        else:
            monkeypatch.setattr(lease, "_calls", 0)
            assert lease.expire(math.inf)
        return grow(hold, n_bytes)

    monkeypatch.setattr(Hold, "grow", between)
    assert lease.grow(2000) == (how == "grow")
    live = SPEC.live_peak_bytes(256, new_tokens=2000 - 256) if how == "grow" else 0
    assert memory.pool.snapshot().live == lease.live_bytes == live
    lease.release()
    assert memory.pool.snapshot().live == 0
    memory.pool.check()


def test_owners_that_grow_while_others_expire_them_leak_nothing(
    threads: ThreadPoolExecutor,
) -> None:
    memory = memory_under(MemoryBudget(64 * BIG_BYTES), lease_timeout=1e-9)

    def work(number: int) -> None:
        for _ in range(30):
            lease = memory.admit(f"a{number}", SMALL)
            for n in range(300, 3000, 300):
                lease.grow(n)
                memory.expire_leases()
            lease.release()

    for done in [threads.submit(work, number) for number in range(6)]:
        done.result(60)
    snapshot = memory.pool.snapshot()
    assert (snapshot.live, snapshot.arrays_used, memory.stats()["running"]) == (0, 0, 0)


@pytest.mark.parametrize("end", ["abort", "release"])
def test_a_lease_that_ends_while_it_commits_leaves_what_its_end_says(end: str) -> None:
    memory = memory_under(MemoryBudget(4 * BIG_BYTES))
    lease = memory.admit("a", SMALL)

    class Ending(Rows):
        def open(self, *arguments: Any) -> Any:
            getattr(lease, end)()
            return super().open(*arguments)

    object.__setattr__(memory._memory, "materialiser", Ending())
    lease.commit(SMALL, [SMALL])
    assert memory.stats()["sequences"] == (1 if end == "release" else 0)
    assert memory.pool.snapshot().live == 0
    memory.pool.check()


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, "x", -1, -0.5, True, [1]])
def test_times_that_cannot_be(bad: Any) -> None:
    memory = memory_under(MemoryBudget(BIG_BYTES))
    with pytest.raises(BlockValidationError, match="wait must be"):
        memory.admit("a", SMALL, wait=bad)
    with pytest.raises(BlockValidationError, match="wait must be"):
        memory.swap(SPECS["state"], wait=bad)
    for timeout in (bad, 0):
        with pytest.raises(PoolConfigurationError, match="lease_timeout must be"):
            memory_under(MemoryBudget(BIG_BYTES), lease_timeout=timeout)
    assert memory.pool.snapshot().used == 0


def test_for_ever_is_a_time() -> None:
    memory = memory_under(MemoryBudget(BIG_BYTES), lease_timeout=10**400)
    memory.admit("a", SMALL, wait=math.inf).release()
    memory.admit("a", SMALL, wait=10**400).release()
    memory.swap(SPECS["state"], wait=math.inf)


@pytest.mark.parametrize("bad", [math.nan, "x", -1, 2.0, True])
def test_lengths_that_cannot_be_grown_to(bad: Any) -> None:
    memory = memory_under(MemoryBudget(BIG_BYTES))
    with memory.admit("a", SMALL) as lease, pytest.raises(BlockValidationError, match="n_tokens"):
        lease.grow(bad)


# Prefill steps and arrays ------------------------------------------------------------------------


def test_a_smaller_prefill_step_is_charged_where_the_asked_one_does_not_fit() -> None:
    spec = SPECS["window_only"]
    peaks = {step: spec.live_peak_bytes(5000, step) for step in (2048, 1024, 512, 256)}
    assert sorted(peaks.values(), reverse=True) == list(peaks.values())
    for step, peak in peaks.items():
        memory = CacheManager(spec, BlockPool(spec, total_memory=peak), materialiser=Rows())
        with memory.admit("a", range(5000)) as lease:
            assert (lease.prefill_step, lease.live_bytes) == (step, peak)
            assert lease.grow(5000)
    memory = CacheManager(spec, BlockPool(spec, total_memory=peaks[256]), materialiser=Rows())
    with memory.admit("a", range(5000), prefill_step=300) as lease:
        assert lease.prefill_step == 256
    with memory.admit("a", range(5000), prefill_step=100) as lease:
        assert lease.prefill_step == 100
    small = CacheManager(spec, BlockPool(spec, total_memory=peaks[256] - 1), materialiser=Rows())
    with pytest.raises(PoolExhaustedError) as refusal:
        small.admit("a", range(5000))
    assert (refusal.value.bytes_requested, refusal.value.bytes_short) == (peaks[256], 1)


@pytest.mark.parametrize("end", ["release", "abort", "expire"])
def test_the_arrays_of_what_runs_are_counted(end: str) -> None:
    clock = Clock()
    budget = MemoryBudget(4 * BIG_BYTES)
    memory = memory_under(budget, "two_windows", clock=clock, lease_timeout=TIMEOUT, arrays_max=13)
    lease = memory.admit("a", SMALL)
    assert memory.pool.snapshot().arrays_used == lease.live_arrays == 6
    second = memory.admit("b", SMALL)
    with pytest.raises(PoolExhaustedError) as refusal:
        memory.admit("c", SMALL)
    assert (refusal.value.arrays_requested, refusal.value.arrays_available) == (6, 1)
    second.release()
    if end == "expire":
        clock.seconds += TIMEOUT + 1
        memory.expire_leases()
    else:
        getattr(lease, end)()
    assert memory.pool.snapshot().arrays_used == 0
