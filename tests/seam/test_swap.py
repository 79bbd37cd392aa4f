"""Models that take turns in one memory, and memories that take turns under one budget."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest

from semantic import (
    BlockPool,
    CacheManager,
    CachePersistenceError,
    MemoryBudget,
    MemoryStore,
    Namespace,
    PoolConfigurationError,
    PoolExhaustedError,
    UnsupportedCacheError,
)
from semantic.cli.plan_models import preset_names, spec_of
from semantic.mlx import probe
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import feed, fresh_caches, random_tokens
from tests.token_rows import TokenRows

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


def test_a_model_is_loaded_once_the_other_ones_cache_is_released(models: tuple[Any, Any]) -> None:
    one, other = models
    budget = MemoryBudget(1 << 26)
    memory = manager(one, budget=budget)
    beside = CacheManager(memory.spec, memory.pool, namespace=Namespace("beside"))
    for each in (memory, beside):
        turn(each, one, PROMPT)
    lease = memory.admit("a", [*PROMPT, 1])
    seen: list[Any] = []

    def load() -> Any:
        seen.append((budget.free, len(memory.pool.contents), lease.has_ended))
        with pytest.raises(PoolExhaustedError, match="being swapped"):
            memory.admit("b", PROMPT)
        return other

    memory.swap(load=load, drain=lambda running: running.release())
    assert seen == [(budget.total, 0, True)]
    assert memory.spec == memory.pool.spec == probe(other)
    assert turn(memory, other, PROMPT) == 0
    memory.swap(load=lambda: probe(one))
    assert memory.spec == probe(one)
    for arguments in ({}, {"model": one, "load": load}):
        with pytest.raises(PoolConfigurationError, match="swap needs a model"):
            memory.swap(**arguments)


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("on purpose")


KEEPS_ITS_CACHE: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "drain": (RuntimeError, {"drain": fail}),
    "leases": (PoolConfigurationError, {}),
    "held": (PoolConfigurationError, {}),
    "flush": (CachePersistenceError, {}),
    "model": (PoolConfigurationError, {"model": spec_of("llama-3.1-8b")}),
}
LOSES_ITS_CACHE: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "load": (RuntimeError, {"load": fail}),
    "probe": (UnsupportedCacheError, {"load": object}),
    "refused": (PoolConfigurationError, {"load": lambda: spec_of("llama-3.1-8b")}),
    "reconfigure": (RuntimeError, {}),
    "after": (RuntimeError, {}),
}


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
@pytest.mark.parametrize("step", [*KEEPS_ITS_CACHE, *LOSES_ITS_CACHE])
def test_a_swap_that_fails_serves_the_old_model_on(
    models: tuple[Any, Any], step: str, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = models
    store = MemoryStore(1 << 24) if stored else None
    memory = manager(one, 1 << 24, store=store, namespace=Namespace("one"))
    turn(memory, one, PROMPT)
    assert memory.flush(30)
    running = memory.admit("a", random_tokens(9)) if step in ("drain", "leases") else None
    held = memory.pool.allocate(1) if step == "held" else []
    error, arguments = {**KEEPS_ITS_CACHE, **LOSES_ITS_CACHE}[step]
    before = memory.pool.snapshot()
    with monkeypatch.context() as patched:
        if step == "flush":
            patched.setattr(memory, "flush", lambda timeout: False)
        if step == "reconfigure":
            patched.setattr(BlockPool, "reconfigure", fail)
        if step == "after":
            make = memory._sealed_and_tier
            made: list[Any] = []

            def once(*given: Any) -> Any:
                made.append(given)
                return make(*given) if len(made) > 1 else fail()

            patched.setattr(memory, "_sealed_and_tier", once)
        given: dict[str, Any] = arguments if "load" in arguments else {"model": other, **arguments}
        with pytest.raises(error):
            memory.swap(**given, namespace=Namespace("other"))
    after = memory.pool.snapshot()
    assert memory.spec == memory.pool.spec == probe(one)
    assert after.total == before.total == after.free + after.used + after.cached
    assert after.used == before.used
    assert len(memory.pool.contents) == sum(g.cached_blocks for g in after.groups)
    if step in KEEPS_ITS_CACHE:
        assert after == before
    if running is not None:
        assert not running.has_ended
        running.release()
    memory.pool.free(held)
    found = turn(memory, one, [*PROMPT, 1])
    assert found == (len(PROMPT) if step in KEEPS_ITS_CACHE or stored else 0)
    assert memory.flush(30)
    memory.swap(other, namespace=Namespace("other"))
    assert turn(memory, other, PROMPT) == 0
    memory.pool.check()
    memory.close(10)


class Rows:
    """Opens caches that are lists of tokens."""

    def open(self, spec: Any, caches: Any, n_tokens: int) -> TokenRows:
        return TokenRows(spec, caches[0], 0)

    def restore(self, spec: Any, plan: Any, data: Any) -> Any:
        return [plan, data]

    def extract(self, batch_caches: Any, row: int) -> Any:
        raise NotImplementedError  # no test here has a batch


def test_a_thousand_swaps_leave_the_bytes_where_they_began() -> None:
    specs = [
        spec_of(name) for name in ("gemma-3-12b", "gpt-oss-20b", "llama-3.1-8b", "qwen2.5-14b")
    ]
    assert all(name in preset_names() for name in ("gemma-3-12b", "qwen2.5-14b"))
    memory = CacheManager(specs[0], BlockPool(specs[0], total_memory=16 << 30), materialiser=Rows())
    tokens = list(range(300))
    for number in range(1000):
        spec = specs[number % len(specs)]
        memory.swap(spec)
        with memory.admit("a", tokens) as lease:
            assert memory.pool.snapshot().arrays_used == lease.live_arrays == spec.live_arrays
            assert lease.commit(tokens, [tokens]).published_tokens == len(tokens)
    memory.swap(specs[0])
    snapshot = memory.pool.snapshot()
    assert (snapshot.total, snapshot.free) == (16 << 30, 16 << 30)
    assert (snapshot.arrays_used, memory.stats()["running"]) == (0, 0)
    assert not memory.pool.contents
    memory.pool.check()


def test_swaps_leave_mlx_with_the_bytes_that_it_had(model_of: Any) -> None:
    """Small models of the four missions' families, with turns between the swaps."""
    with cpu_stand_ins():
        models = [model_of(name) for name in ("gemma3_text", "gpt_oss", "llama", "qwen2")]
        memory = manager(models[0])
        total = memory.pool.total_memory()

        def rounds(n: int) -> int:
            for number in range(n):
                model = models[number % len(models)]
                memory.swap(load=lambda model=model: model)
                turn(memory, model, PROMPT)
                assert turn(memory, model, [*PROMPT, 1]) == len(PROMPT)
            memory.swap(models[0])
            gc.collect()
            mx.synchronize()
            return mx.get_active_memory()

        begun = rounds(4)
        assert rounds(20) == begun
    assert not memory.pool.contents
    snapshot = memory.pool.snapshot()
    assert (snapshot.free, snapshot.total) == (total, total)
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
