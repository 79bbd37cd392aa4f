"""A request costs one native call per step, and an interrupt right after one loses nothing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from semantic import (
    BlockPool,
    CacheManager,
    EvictionPolicy,
    MemoryBudget,
    Namespace,
    PoolExhaustedError,
)
from semantic.domain.native import Draft, Hold, Pool, PrefixIndex
from semantic.domain.native import MemoryBudget as NativeBudget
from tests.stateful.test_many_agents import Clock, Rows
from tests.token_rows import SPECS, TokenRows

SPEC = SPECS["window_256"]
A = list(range(4 * 256))
PROMPT = [*A, 1]
_NATIVE = (PrefixIndex, Hold, Draft, Pool, NativeBudget)


@contextmanager
def profiled(on_native: Callable[[str, str], None]) -> Iterator[None]:
    """`on_native(event, "Class.method")` before and after each native call of this thread."""

    def profile(frame: FrameType, event: str, function: Any) -> None:
        whose = getattr(function, "__self__", None)
        for owner in (kind for kind in _NATIVE if isinstance(whose, kind)):
            on_native(event, f"{owner.__name__}.{function.__name__}")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def calls(work: Callable[[], object]) -> list[str]:
    """The native calls of `work`, in order."""
    made: list[str] = []
    with profiled(lambda event, name: made.append(name) if event == "c_call" else None):
        work()
    return made


def interrupted_after(step: str, work: Callable[[], object]) -> BaseException:
    """Run `work`, with Ctrl-C as soon as a native call has returned.

    Returns:
        What it raised: who keeps that keeps every local variable on the way.
    """

    def interrupt(event: str, name: str) -> None:
        if event == "c_return" and name == step:
            sys.setprofile(None)
            raise KeyboardInterrupt

    with profiled(interrupt), pytest.raises(KeyboardInterrupt) as raised:
        work()
    return raised.value


def memory_of(**options: Any) -> CacheManager:
    budget = MemoryBudget(24 * SPEC.live_peak_bytes(256))
    pool = BlockPool(SPEC, budget=budget)
    memory = CacheManager(SPEC, pool, materialiser=Rows(), namespace=Namespace("steps"), **options)
    turn(memory, "a", A)
    return memory


def turn(memory: CacheManager, agent: str, tokens: list[int]) -> None:
    with memory.admit(agent, tokens) as lease:
        assert lease.commit(tokens, [tokens]).reason == "published"


def fill(memory: CacheManager, n_tokens: int = 0) -> None:
    """Leave no more free bytes than a prompt of so many tokens needs."""
    snapshot = memory.pool.snapshot()
    memory.pool.charge("live", snapshot.free - SPEC.live_peak_bytes(max(1, n_tokens)))


def agrees(memory: CacheManager) -> bool:
    """Whether the tensors that are kept are just those of the blocks that are there."""
    memory.pool.check()
    groups = memory.pool.snapshot().groups
    sealed = sum(group.cached_blocks + group.leased_blocks for group in groups)
    return len(memory.pool.contents) == sealed


@pytest.mark.parametrize("time_to_live", [None, 1e6])
def test_a_turn_makes_one_native_call_per_step(time_to_live: float | None) -> None:
    clock = Clock()
    clock.seconds = 1e7
    memory = memory_of(policy=EvictionPolicy("lru", time_to_live), clock=clock)
    leases: list[Any] = []
    assert calls(lambda: leases.append(memory.admit("a", PROMPT))) == [
        "PrefixIndex.hold",
        "Hold.enter",
    ]
    (lease,) = leases
    assert lease.cached_tokens == len(A)
    assert calls(lambda: lease.grow(len(PROMPT) + 500)) == ["Hold.grow"]
    longer = [*PROMPT, *range(300)]
    assert calls(lambda: lease.commit(longer, [longer])) == ["PrefixIndex.draft", "Draft.publish"]
    assert calls(lease.release) == ["PrefixIndex.settle", "Hold.release"]


def test_what_has_to_go_for_an_admission_goes_in_the_same_call() -> None:
    memory = memory_of()
    other = list(range(10_000, 10_000 + 6 * 256))
    fill(memory)
    n_kept = len(memory.pool.contents)
    made = calls(lambda: memory.admit("b", other[:512]).release())
    assert made == ["PrefixIndex.hold", "Hold.enter", "Hold.release"]
    assert len(memory.pool.contents) < n_kept
    assert agrees(memory)


@pytest.mark.parametrize("step", ["PrefixIndex.hold", "Hold.enter"])
def test_an_admission_that_is_interrupted_has_charged_nothing(step: str) -> None:
    memory = memory_of()
    fill(memory, 512)
    before = memory.pool.snapshot()
    error = interrupted_after(step, lambda: memory.admit("b", PROMPT))
    after = memory.pool.snapshot()
    assert (after.live, after.held) == (before.live, before.held)
    assert agrees(memory)
    del error
    memory.admit("b", PROMPT).release()


@pytest.mark.parametrize(
    "step", ["PrefixIndex.draft", "Draft.publish", "PrefixIndex.settle", "Hold.release"]
)
def test_a_turn_that_is_interrupted_leaves_nothing_behind(step: str) -> None:
    memory = memory_of()
    longer = [*PROMPT, *range(700)]
    interrupted_after(step, lambda: turn(memory, "a", longer))
    snapshot = memory.pool.snapshot()
    assert (snapshot.live, snapshot.held, snapshot.staging) == (0, 0, 0)
    assert memory.stats()["running"] == 0
    assert agrees(memory)
    with memory.admit("a", [*longer, 1]) as lease:
        assert lease.materialise() is not None
    assert not memory.stats()["failures"]


def test_a_capture_that_is_interrupted_leaves_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of()
    capture = TokenRows.capture

    def interrupted(rows: TokenRows, group: str, spans: Any) -> Any:
        if group == "global":  # the window's blocks are captured before
            raise KeyboardInterrupt
        return capture(rows, group, spans)

    monkeypatch.setattr(TokenRows, "capture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        turn(memory, "a", [*PROMPT, *range(700)])
    assert memory.pool.snapshot().staging == 0
    assert agrees(memory)


def test_a_growth_that_is_interrupted_is_given_back_with_the_lease() -> None:
    memory = memory_of()
    lease = memory.admit("a", PROMPT)
    interrupted_after("Hold.grow", lambda: lease.grow(len(PROMPT) + 500))
    assert memory.pool.snapshot().live == lease.live_bytes
    lease.release()
    assert memory.pool.used_memory() == 0


def test_blocks_that_went_while_telling_failed_are_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = memory_of()
    turn(memory, "b", list(range(-4 * 256, 0)))
    on_gone = BlockPool.on_gone

    def interrupted(pool: BlockPool, block_ids: list[int]) -> None:
        monkeypatch.setattr(BlockPool, "on_gone", on_gone)
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockPool, "on_gone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory._memory.sealed.evict_bytes(1)
    assert not agrees(memory), "nobody has heard of them"
    memory._memory.sealed.evict_bytes(1)
    assert agrees(memory)


def test_tensors_go_with_their_blocks_when_their_memory_is_no_more() -> None:
    memory = memory_of()
    pool = memory.pool
    assert pool.contents
    del memory
    gc.collect()
    pool.free(pool.allocate(1))
    assert not pool.contents


def test_an_admission_that_is_refused_changes_nothing() -> None:
    memory = memory_of()
    memory.pool.charge("live", memory.pool.available_memory() - 1)
    before = memory.pool.snapshot().as_dict(), dict(memory.pool.contents)
    with pytest.raises(PoolExhaustedError):
        memory.admit("b", PROMPT, max_new_tokens=10_000)
    assert (memory.pool.snapshot().as_dict(), memory.pool.contents) == before
