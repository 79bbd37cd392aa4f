"""Events: in order, whoever causes them; nobody is harmed by a callback that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from semantic import BlockPool, CacheEvent, CacheManager, Namespace, PoolExhaustedError
from semantic.domain.native import TokenIds
from tests.event_picture import EventPicture
from tests.token_rows import SPECS, TokenRows
from tests.unit.test_eviction_policies import N, blocks


class Rows:
    """Opens caches that are token lists."""

    def open(self, spec: Any, caches: list[Any], n_tokens: int) -> TokenRows:
        return TokenRows(spec, caches[0], 0)

    def restore(self, spec: Any, plan: Any, data: Any) -> list[Any]:
        return [plan, data]

    def extract(self, batch_caches: Any, row: int) -> Any:
        raise NotImplementedError("no test here has a batch")


def memory_of(on_event: Any, n_blocks: int = 20, spec: str = "global") -> CacheManager:
    pool = BlockPool(SPECS[spec], total_blocks=n_blocks)
    return CacheManager(pool.spec, pool, materialiser=Rows(), on_event=on_event)


def turn(memory: CacheManager, agent: str, tokens: Sequence[int]) -> None:
    with memory.admit(agent, tokens) as lease:
        lease.commit(tokens, [tokens])


def agrees(picture: EventPicture, memory: CacheManager) -> bool:
    index = memory._memory.sealed.index
    counts = {group: n for _, group, n in index.blocks()}
    return not picture.wrong and counts == {g: picture.count(g) for g in counts}


@pytest.mark.parametrize("spec", ["global", "window_100"])
def test_a_callback_that_fails_is_counted_and_harms_nobody(spec: str) -> None:
    def fails(event: CacheEvent) -> None:
        raise ValueError("no room for metrics")

    memory = memory_of(fails, spec=spec)
    for kind in range(12):  # commits evict, and so do admissions
        turn(memory, f"a{kind}", blocks(2, kind))
    lease = memory.admit("b", blocks(5, 99))
    assert memory.pool.snapshot().live == lease.live_bytes
    assert lease.commit(blocks(1, 99), [blocks(1, 99)]).reason == "published"
    lease.abort()
    assert memory._memory.sealed.plan(TokenIds([*blocks(1, 99), 1])).n_tokens == 0
    memory.clear()
    snapshot = memory.pool.snapshot()
    assert snapshot.free == snapshot.total
    assert not memory.pool.contents
    stats: Any = memory.stats()
    assert set(stats["failures"]) == {"event_callback"}
    assert stats["failures"]["event_callback"] > 2 * 12


def test_what_interrupts_a_callback_in_an_admission_leaves_nothing_charged() -> None:
    is_on = False

    def interrupted(event: CacheEvent) -> None:
        if is_on:
            raise KeyboardInterrupt

    memory = memory_of(interrupted, 10)
    for kind in range(4):
        turn(memory, f"a{kind}", blocks(2, kind))
    is_on = True
    with pytest.raises(KeyboardInterrupt):
        memory.admit("b", blocks(8, 9))
    is_on = False
    snapshot = memory.pool.snapshot()
    assert (snapshot.live, snapshot.held, memory.stats()["running"]) == (0, 0, 0)
    memory.admit("b", blocks(8, 9)).release()


@pytest.mark.parametrize("spec", ["global", "window_100"])
def test_threads_and_a_slow_callback_do_not_mix_up_the_order(spec: str) -> None:
    picture = EventPicture()
    telling = threading.Lock()

    def slow(event: CacheEvent) -> None:
        assert telling.acquire(blocking=False), "one after the other"
        try:
            time.sleep(0.0002)
            picture(event)
        finally:
            telling.release()

    memory = memory_of(slow, 16, spec)

    def program(agent: str, kinds: range) -> None:
        for kind in kinds:
            tokens = [*blocks(1, kind % 3), *range(50 * (kind % 4))]
            try:
                turn(memory, agent, tokens)
            except PoolExhaustedError:
                memory.clear()

    threads = [
        threading.Thread(target=program, args=(f"a{n}", range(n, 50 * (n + 1), n + 1)))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert agrees(picture, memory)
    assert not memory.stats()["failures"]
    memory.clear()
    assert picture.found == {}


def test_a_callback_may_call_the_memory_and_hears_of_it_afterwards() -> None:
    picture = EventPicture()
    calls = 0

    def meddles(event: CacheEvent) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            memory.clear()
            assert memory.pool.snapshot().cached == 0
        picture(event)

    memory = memory_of(meddles, spec="window_100")
    turn(memory, "a", blocks(3, 1))
    assert (picture.found, picture.wrong) == ({}, [])
    assert calls > 2
    assert not memory.stats()["failures"]


@pytest.mark.parametrize("swaps", [True, False])
def test_another_model_clears_the_picture_of_the_one_before(swaps: bool) -> None:
    picture = EventPicture()
    events: list[CacheEvent] = []

    def both(event: CacheEvent) -> None:
        picture(event)
        events.append(event)

    pool = BlockPool(SPECS["window_100"], total_blocks=50)
    namespace = Namespace("model")
    memory = CacheManager(pool.spec, pool, materialiser=Rows(), on_event=both, namespace=namespace)
    turn(memory, "a", blocks(2, 1))
    assert agrees(picture, memory)
    assert picture.found
    if swaps:
        memory.pin("a")
        memory.swap(SPECS["global"])
        turn(memory, "a", blocks(2, 1))
        assert agrees(picture, memory)
        assert len(picture.found) == 2
    else:
        pool.reconfigure(SPECS["global"])
        assert (picture.found, picture.wrong) == ({}, [])
    cleared = [event for event in events if event.change == "cleared"]
    assert [event.group for event in cleared] == ["global", "sliding_window"]
    assert {(event.key, event.parent) for event in cleared} == {(namespace.root, namespace.root)}


def test_a_pinned_agent_is_no_reason_to_refuse_a_swap_but_others_are() -> None:
    from semantic import PoolConfigurationError

    memory = memory_of(None)
    memory.pin("p")
    turn(memory, "p", blocks(2, 1))
    held = memory.pool.allocate(1)
    with pytest.raises(PoolConfigurationError, match="held outside"):
        memory.swap(SPECS["window_100"])
    assert memory._memory.sealed.plan(TokenIds([*blocks(2, 1), 1])).n_tokens == 2 * N
    memory.pool.free(held)
    memory.swap(SPECS["window_100"])
    snapshot = memory.pool.snapshot()
    assert snapshot.free == snapshot.total
    turn(memory, "p", blocks(2, 1))
    assert memory.pool.snapshot().held == 0, "a pin goes with the model that it was for"


def test_a_callback_may_wait_for_a_thread_that_asks_for_the_spec() -> None:
    seen: list[bool] = []

    def ask(event: CacheEvent) -> None:
        asked = threading.Event()
        thread = threading.Thread(target=lambda: (memory.pool.spec, asked.set()), daemon=True)
        thread.start()
        seen.append(asked.wait(5))

    memory = memory_of(ask, n_blocks=4)
    turn(memory, "a", range(2 * N))
    memory.pool.allocate_tokens("b", 4 * N)
    assert len(seen) == 4
    assert all(seen)
