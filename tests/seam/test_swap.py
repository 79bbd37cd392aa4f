"""Models that take turns in one memory, and memories that take turns under one budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from semantic import (
    BlockPool,
    CacheManager,
    MemoryBudget,
    MemoryStore,
    Namespace,
    PoolConfigurationError,
    PoolExhaustedError,
    UnsupportedCacheError,
)
from semantic.cli.plan_models import preset_names, spec_of
from semantic.mlx import probe
from tests.conftest import feed, fresh_caches, random_tokens

PROMPT = random_tokens(600, seed=1)


def turn(memory: CacheManager, model: Any, tokens: Sequence[int], agent: str = "a") -> int:
    """A turn that publishes its prompt; how much of it was cached."""
    with memory.admit(agent, tokens) as lease:
        caches = lease.materialise() or fresh_caches(model)
        feed(model, tokens[lease.cached_tokens :], caches)
        assert lease.commit(tokens, caches).reason in ("published", "already_cached")
        return lease.cached_tokens


def manager(model: Any, n_bytes: int = 1 << 28, **options: Any) -> CacheManager:
    spec = probe(model)
    pool = BlockPool(spec, n_bytes) if "budget" not in options else None
    pool = pool or BlockPool(spec, budget=options.pop("budget"), **options.pop("terms", {}))
    return CacheManager(spec, pool, **options)


@pytest.fixture
def models(model_of: Any) -> tuple[Any, Any]:
    return model_of("llama"), model_of("gemma3_text")


def test_a_swap_serves_the_other_model_with_the_same_bytes(models: tuple[Any, Any]) -> None:
    one, other = models
    memory = manager(one)
    total = memory.pool.total_memory()
    assert turn(memory, one, PROMPT) == 0
    memory.swap(other)
    assert memory.spec == memory.pool.spec == probe(other)
    assert memory.pool.snapshot().cached == 0
    assert not memory.pool.contents
    assert turn(memory, other, PROMPT) == 0
    assert turn(memory, other, [*PROMPT, 1]) == len(PROMPT)
    memory.swap(probe(one))
    assert turn(memory, one, PROMPT) == 0
    assert memory.pool.total_memory() == total
    memory.pool.check()


def test_what_was_cached_survives_a_swap_in_the_store(models: tuple[Any, Any]) -> None:
    one, other = models
    names = {id(one): Namespace("one"), id(other): Namespace("other")}
    store = MemoryStore(1 << 28)
    memory = manager(one, store=store, namespace=names[id(one)])
    assert turn(memory, one, PROMPT) == 0
    with pytest.raises(PoolConfigurationError, match="needs a namespace"):
        memory.swap(other)
    assert memory.spec == probe(one)
    assert turn(memory, one, PROMPT) > 0
    longer = [*PROMPT, 1]
    for model, tokens, found in ((other, PROMPT, 0), (one, longer, 600), (other, longer, 600)):
        memory.swap(model, namespace=names[id(model)], wait=30)
        assert turn(memory, model, tokens) == found
    assert not memory.stats()["failures"]
    memory.close(10)


def test_a_swap_waits_for_those_who_run_and_is_refused_else(models: tuple[Any, Any]) -> None:
    one, other = models
    memory = manager(one)
    turn(memory, one, PROMPT)
    lease = memory.admit("a", [*PROMPT, 1])
    with pytest.raises(PoolConfigurationError, match="1 leases still run"):
        memory.swap(other)
    assert memory.spec == probe(one)
    assert turn(memory, one, PROMPT) > 0, "served on, with what was cached"
    threading.Timer(0.2, lease.release).start()
    memory.swap(other, wait=10)
    assert turn(memory, other, PROMPT) == 0


def test_a_drain_commits_what_runs(models: tuple[Any, Any]) -> None:
    one, other = models
    store = MemoryStore(1 << 28)
    memory = manager(one, store=store, namespace=Namespace("one"))
    lease = memory.admit("a", PROMPT)
    caches = fresh_caches(one)
    feed(one, PROMPT[:500], caches)

    def drain(running: Any) -> None:
        running.commit(PROMPT[:500], caches)
        running.release()

    memory.swap(other, namespace=Namespace("other"), wait=10, drain=drain)
    assert lease.has_ended
    memory.swap(one, namespace=Namespace("one"), wait=10)
    assert turn(memory, one, PROMPT) == 500, "what ran was stored"
    memory.close(10)


def test_nobody_comes_in_while_a_model_is_swapped(models: tuple[Any, Any]) -> None:
    one, other = models
    memory = manager(one)
    lease = memory.admit("a", PROMPT)
    seen: list[Any] = []

    def swap() -> None:
        memory.swap(other, wait=10)

    swapping = threading.Thread(target=swap)
    swapping.start()
    time.sleep(0.2)
    with pytest.raises(PoolExhaustedError, match="being swapped"):
        memory.admit("b", PROMPT)
    with pytest.raises(PoolConfigurationError, match="another swap"):
        memory.swap(other)
    waiting = threading.Thread(target=lambda: seen.append(memory.admit("b", PROMPT, wait=10)))
    waiting.start()
    lease.release()
    swapping.join()
    waiting.join()
    assert memory.spec == probe(other)
    seen[0].release()
    memory.pool.check()


def test_what_cannot_be_swapped_in_changes_nothing(models: tuple[Any, Any]) -> None:
    one, _ = models
    memory = manager(one, n_bytes=1 << 22)
    turn(memory, one, PROMPT)
    before = memory.pool.snapshot()
    huge = spec_of("llama-3.1-8b")
    with pytest.raises(PoolConfigurationError):
        memory.swap(huge)
    with pytest.raises((UnsupportedCacheError, AttributeError, TypeError)):
        memory.swap(object())
    held = memory.pool.allocate(1, "global")
    with pytest.raises(PoolConfigurationError, match="outside of this memory"):
        memory.swap(probe(one))
    memory.pool.free(held)
    after = memory.pool.snapshot()
    assert (after.cached, after.free) == (before.cached, before.free)
    assert turn(memory, one, PROMPT) == len(PROMPT) - 1


def test_a_thousand_swaps_leave_the_bytes_where_they_began() -> None:
    specs = [
        spec_of(name) for name in ("gemma-3-12b", "gpt-oss-20b", "llama-3.1-8b", "qwen2.5-14b")
    ]
    assert all(name in preset_names() for name in ("gemma-3-12b", "qwen2.5-14b"))
    memory = CacheManager(specs[0], BlockPool(specs[0], total_memory=16 << 30))
    for number in range(1000):
        spec = specs[number % len(specs)]
        memory.swap(spec)
        lease = memory.admit("a", range(300))
        lease.release()
    snapshot = memory.pool.snapshot()
    assert (snapshot.total, snapshot.free) == (16 << 30, 16 << 30)
    assert memory.stats()["running"] == 0
    memory.pool.check()


def test_leases_of_dead_owners_expire_and_are_counted(models: tuple[Any, Any]) -> None:
    one, _ = models
    now = 0.0

    class Clock:
        def monotonic(self) -> float:
            return now

    spec = probe(one)
    peak = spec.live_peak_bytes(len(PROMPT))
    pool = BlockPool(spec, total_memory=peak + peak // 2)
    memory = CacheManager(spec, pool, clock=Clock(), lease_timeout=60)
    dead = memory.admit("dead", PROMPT)
    now += 59
    with pytest.raises(PoolExhaustedError):
        memory.admit("b", PROMPT)
    assert dead.grow(len(PROMPT)), "it is alive"
    now += 59
    with pytest.raises(PoolExhaustedError):
        memory.admit("b", PROMPT)
    now += 2
    with memory.admit("b", PROMPT):
        assert dead.has_ended
    assert memory.stats()["failures"] == {"lease_expired": 1}
    assert pool.snapshot().live == 0
    dead.release()
    pool.check()


def test_idle_memory_flows_to_the_model_that_is_busy(models: tuple[Any, Any]) -> None:
    one, other = models
    budget = MemoryBudget(8 << 20)
    idle = manager(one, budget=budget)
    agents = [random_tokens(600, seed=n) for n in range(40)]
    for n, tokens in enumerate(agents):
        turn(idle, one, tokens, f"a{n}")
    full = idle.pool.snapshot().cached
    assert full > 7 << 20
    busy = manager(other, budget=budget, terms={"minimum": 1 << 20})
    for n, tokens in enumerate(agents[:20]):
        turn(busy, other, tokens, f"a{n}")
    assert idle.pool.snapshot().cached < full
    assert len(idle.pool.contents) == idle.stats()["blocks"], "tensors went with their blocks"
    assert busy.pool.snapshot().cached > 0
    assert turn(busy, other, [*agents[19], 1]) == 600
    budget.resize(4 << 20)
    assert budget.used + budget.cached <= 4 << 20
    assert len(busy.pool.contents) == busy.stats()["blocks"]
    for memory in (idle, busy):
        memory.pool.check()
