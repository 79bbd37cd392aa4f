"""Who goes first: tails, what has ended, what waits, priorities, pins, time to live, residents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from semantic import (
    BlockArgumentTypeError,
    BlockOperationError,
    BlockPool,
    BlockValidationError,
    CacheManager,
    EvictionPolicy,
    PoolConfigurationError,
    PoolExhaustedError,
)
from tests.token_rows import SPECS, TokenRows

N = 256


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


class Rows:
    """Opens and restores token rows."""

    def __init__(self) -> None:
        self.tokens: Sequence[int] = ()

    def open(self, spec: Any, caches: Any, n_tokens: int) -> TokenRows:
        return TokenRows(spec, self.tokens, 0)

    def restore(self, spec: Any, plan: Any, data: Any) -> list[Any]:
        return [plan, data]

    def extract(self, batch_caches: Any, row: int) -> Any:
        raise NotImplementedError


class Agents:
    """A memory of so many blocks, beside enough bytes for what runs."""

    def __init__(self, blocks: int, order: Any = "lru", spec: str = "global", **more: Any) -> None:
        self.spec = SPECS[spec]
        self.clock = Clock()
        self.rows = Rows()
        block = sum(group.bytes_per_block for group in self.spec.groups)
        self.live = self.spec.live_peak_bytes(4 * N)
        self.pool = BlockPool(self.spec, total_memory=blocks * block + self.live)
        self.pool.charge("live", self.live)
        self.memory = CacheManager(
            self.spec,
            self.pool,
            materialiser=self.rows,
            policy=EvictionPolicy(order, **more),
            clock=self.clock,
        )

    def turn(self, agent: str, tokens: Sequence[int], hint: Any = None, away: float = 1.0) -> Any:
        """One turn, the room for its buffers beside the blocks; then the agent is away."""
        self.pool.discharge("live", self.live)
        with self.memory.admit(agent, tokens) as lease:
            rest = self.live - lease.live_bytes
            self.pool.charge("live", rest)
            if hint is not None:
                self.memory.hint(agent, hint)
            self.rows.tokens = tokens
            report = lease.commit(tokens, [])
        self.pool.charge("live", self.live - rest)
        self.clock.seconds += away
        self.pool.check()
        return report

    def cached(self, tokens: Sequence[int]) -> int:
        hold = self.memory._memory.sealed.plan(_ids([*tokens, -1]))
        length: int = hold.n_tokens
        return length


def _ids(tokens: Sequence[int]) -> Any:
    from semantic.domain.native import TokenIds

    return TokenIds(tokens)


def blocks(n: int, kind: int) -> list[int]:
    return [kind * 100_000 + i for i in range(n * N)]


def test_tails_go_before_heads() -> None:
    agents = Agents(4)
    agents.turn("a", blocks(4, 1))
    agents.turn("b", blocks(2, 2))
    assert (agents.cached(blocks(4, 1)), agents.cached(blocks(2, 2))) == (2 * N, 2 * N)


def test_the_least_recently_used_agent_goes_first() -> None:
    agents = Agents(4)
    for kind, agent in enumerate("abc"):
        agents.turn(agent, blocks(1, kind))
    agents.turn("a", [*blocks(1, 0), *blocks(1, 7)])
    agents.turn("d", blocks(2, 9))
    assert [agents.cached(blocks(1, kind)) for kind in range(3)] == [N, 0, 0]


def test_what_has_ended_goes_before_what_is_older() -> None:
    agents = Agents(3)
    agents.turn("old", blocks(1, 1))
    agents.turn("ended", blocks(1, 2), hint="ended")
    agents.turn("young", blocks(1, 3))
    agents.turn("new", blocks(1, 4))
    assert [agents.cached(blocks(1, kind)) for kind in (1, 2, 3, 4)] == [N, 0, N, N]


def test_what_waits_counts_as_older_by_a_human_pause() -> None:
    for pause, survivors in ((99.0, [N, 0, N]), (101.0, [0, N, N])):
        agents = Agents(2)
        agents.turn("idle", blocks(1, 1), away=pause)
        agents.turn("waits", blocks(1, 2), hint="waiting")
        agents.turn("new", blocks(1, 3))
        assert [agents.cached(blocks(1, kind)) for kind in (1, 2, 3)] == survivors


def test_the_next_request_ends_a_hint() -> None:
    agents = Agents(2)
    agents.turn("a", blocks(1, 1), hint="ended")
    agents.turn("b", blocks(1, 2))
    agents.turn("a", blocks(1, 1))
    agents.turn("c", blocks(1, 3))
    assert [agents.cached(blocks(1, kind)) for kind in (1, 2, 3)] == [N, 0, N]


def test_what_agents_share_outlives_the_one_that_ended() -> None:
    agents = Agents(3)
    shared = blocks(1, 1)
    agents.turn("a", [*shared, *blocks(1, 2)])
    agents.turn("b", [*shared, *blocks(1, 3)], hint="ended")
    agents.turn("a", [*shared, *blocks(1, 2)])
    agents.turn("c", blocks(1, 4))
    assert agents.cached([*shared, *blocks(1, 2)]) == 2 * N
    assert agents.cached([*shared, *blocks(1, 3)]) == N


@pytest.mark.parametrize("spec", ["global", "window_100", "state"])
def test_what_agents_share_matters_as_much_as_to_the_one_who_cares_most(spec: str) -> None:
    def survivors(*said: tuple[str, Any, Any], older: Sequence[str] = ()) -> list[int]:
        agents = Agents(2, spec=spec)
        for agent, _, priority in said:
            agents.memory.prioritise(agent, priority)
        for agent in older:
            agents.turn(agent, blocks(1, 2))
        for agent, hint, _ in said:
            agents.turn(agent, blocks(1, 1), hint=hint)
        if not older:
            agents.turn("normal", blocks(1, 2))
        agents.turn("new", blocks(1, 3))
        return [agents.cached(blocks(1, kind)) for kind in (1, 2)]

    one, two = ("a", None, "normal"), ("b", None, "normal")
    assert survivors(one, two) == [0, N]
    assert survivors(("a", None, "high"), two) == survivors(one, ("b", None, "high")) == [N, 0]
    assert survivors(("a", "ended", "high"), two) == [0, N]
    assert survivors(one, two, older=["c"]) == [N, 0]
    assert survivors(("a", "ended", "normal"), two, older=["c"]) == [N, 0]
    ended = ("a", "ended", "normal"), ("b", "ended", "normal")
    assert survivors(*ended, older=["c"]) == [0, N]


def test_priorities_go_before_times() -> None:
    agents = Agents(3)
    agents.memory.prioritise("low", "low")
    agents.memory.prioritise("high", "high")
    for kind, agent in enumerate(("high", "normal", "low")):
        agents.turn(agent, blocks(1, kind))
    agents.turn("x", blocks(1, 7))
    assert [agents.cached(blocks(1, kind)) for kind in range(3)] == [N, N, 0]
    agents.turn("y", blocks(1, 8))
    assert [agents.cached(blocks(1, kind)) for kind in range(3)] == [N, 0, 0]


@pytest.mark.parametrize("spec", ["global", "window_100", "state", "chunk_300", "window_only"])
def test_a_pin_holds_what_an_agent_publishes_until_it_is_unpinned(spec: str) -> None:
    agents = Agents(5, spec=spec)
    pinned = [*blocks(1, 1), *blocks(1, 2)[:100]]
    agents.memory.pin("p")
    assert agents.pool.snapshot().held == 0
    agents.turn("p", pinned)
    held = agents.pool.snapshot().held
    assert held == agents.memory._memory.spec.cached_bytes(len(pinned))
    for kind in range(5, 12):
        agents.turn("x", blocks(2, kind))
    assert agents.cached(pinned) == len(pinned)
    assert agents.pool.snapshot().held == held
    agents.memory.unpin("p")
    assert agents.pool.snapshot().held == 0
    assert agents.cached(pinned) == len(pinned)
    agents.memory.clear()
    assert agents.pool.snapshot().cached == 0
    assert not agents.pool.contents


@pytest.mark.parametrize("spec", ["global", "window_100", "state", "chunk_300", "window_only"])
@pytest.mark.parametrize("how", ["forget", "clear", "abort"])
def test_what_is_forgotten_is_held_by_no_pin(spec: str, how: str) -> None:
    agents = Agents(8, spec=spec)
    memory, kept, lost = agents.memory, blocks(1, 1), [*blocks(1, 2), *blocks(1, 3)[:100]]
    memory.pin("p")
    memory.pin("q")
    agents.turn("q", kept)
    held = agents.pool.snapshot().held
    if how == "abort":
        agents.pool.discharge("live", agents.live)
        lease = memory.admit("p", lost)
        agents.rows.tokens = lost
        assert lease.commit(lost, []).reason == "published"
        assert agents.pool.snapshot().held > held
        lease.abort()
        agents.pool.charge("live", agents.live)
    else:
        agents.turn("p", lost)
        assert agents.pool.snapshot().held > held
        _ = memory.clear() if how == "clear" else memory.forget("p")  # type: ignore[func-returns-value]
    assert agents.cached(lost) == 0
    assert agents.cached(kept) == (0 if how == "clear" else len(kept))
    snapshot = agents.pool.snapshot()
    assert (snapshot.held, snapshot.cached) == (0 if how == "clear" else held, 0)
    assert len(agents.pool.contents) == memory.stats()["blocks"]
    agents.turn("p", lost)  # what it publishes next is pinned again
    assert agents.pool.snapshot().held > snapshot.held


def test_a_pinned_conversation_survives_what_would_evict_it() -> None:
    agents = Agents(3)
    agents.turn("p", blocks(1, 1))
    agents.memory.pin("p")
    agents.turn("p", blocks(1, 1) + blocks(1, 2))
    for kind in range(5, 9):
        agents.turn("x", blocks(1, kind))
    assert agents.cached(blocks(1, 1) + blocks(1, 2)) == 2 * N
    agents.memory.unpin("p")
    agents.turn("x", blocks(3, 9))
    assert agents.cached(blocks(1, 1)) == 0


def test_what_was_not_used_for_its_time_to_live_goes_though_there_is_room() -> None:
    for spec in ("global", "window_100", "state"):
        agents = Agents(10, spec=spec, time_to_live=60)
        agents.turn("a", blocks(2, 1), away=30)
        agents.turn("b", blocks(1, 2), away=31)
        agents.turn("b", [*blocks(1, 2), 5])
        assert agents.cached(blocks(2, 1)) == 0
        assert agents.cached(blocks(1, 2)) == N
        assert agents.cached([*blocks(1, 2), 5]) == N + 1


def quick_and_slow(agents: Agents) -> float:
    """Two agents come back every 4 seconds, three every 36; what of their tokens was cached."""
    quick, slow = [blocks(2, 1), blocks(2, 2)], [blocks(2, kind) for kind in (3, 4, 5)]
    cached = asked = 0
    for step in range(60):
        late = step % 6 == 5
        tokens = slow[step // 6 % 3] if late else quick[step % 2]
        cached += agents.cached(tokens)
        asked += len(tokens)
        agents.turn(f"a{tokens[0]}", tokens, away=2.0)
    return cached / asked


@pytest.mark.parametrize("spec", ["global", "window_100", "state", "chunk_300"])
def test_b13_what_is_refused_or_held_without_use_changes_no_order(spec: str) -> None:
    agents = Agents(12, spec=spec)
    kinds = [1, 2, 3, 4, 5]
    for kind in kinds:
        agents.turn(f"a{kind}", blocks(1, kind))
    sealed = agents.memory._memory.sealed
    hold = sealed.hold(_ids([*blocks(1, 1), 1]))
    assert hold.n_tokens == N
    while agents.cached(blocks(1, 2)):
        assert sealed.evict_bytes(1)  # passes over what is held
    sealed.release(hold)
    for kind in (1, 3, 1):
        with pytest.raises(PoolExhaustedError):
            agents.memory.admit("b", [*blocks(1, kind), 1], max_new_tokens=10**7)
    gone = [2]
    while sealed.evict_bytes(1):
        gone += [k for k in kinds if k not in gone and not agents.cached(blocks(1, k))]
    assert gone == [2, 1, 3, 4, 5]


def test_resident_keeps_who_comes_back_soon_where_lru_keeps_who_was_here_last() -> None:
    rates = {order: quick_and_slow(Agents(4, order)) for order in ("lru", "resident")}
    assert rates["resident"] > rates["lru"] + 0.1


def test_resident_declines_who_is_expected_later_than_all_others() -> None:
    agents = Agents(2, "resident")
    for _ in range(3):
        agents.turn("tool", blocks(2, 1), away=2)
    report = agents.turn("newcomer", blocks(2, 2))
    assert (report.published_tokens, report.reason) == (0, "declined")
    assert agents.cached(blocks(2, 1)) == 2 * N
    assert not agents.memory.stats()["failures"]
    agents.clock.seconds += 200  # nobody waits for a tool that long
    assert agents.turn("newcomer", blocks(2, 2)).reason == "published"


def test_resident_publishes_as_much_as_there_is_room_for() -> None:
    agents = Agents(3, "resident")
    for _ in range(3):
        agents.turn("tool", blocks(2, 1), away=2)
    report = agents.turn("newcomer", blocks(2, 2))
    assert (report.published_tokens, report.reason) == (N, "declined")
    assert agents.cached(blocks(2, 1)) == 2 * N


def test_scan_resistant_lets_go_first_of_what_was_asked_for_once() -> None:
    for order, survivors in (("lru", [0, N]), ("scan_resistant", [N, 0])):
        agents = Agents(2, order)
        agents.turn("twice", blocks(1, 1))
        agents.turn("twice", blocks(1, 1))
        agents.turn("once", blocks(1, 2))
        agents.turn("again", blocks(1, 3))
        assert [agents.cached(blocks(1, kind)) for kind in (1, 2)] == survivors


def test_words_that_nobody_knows_are_refused() -> None:
    agents = Agents(2)
    agents.memory.hint("nobody", "ended")
    with pytest.raises(BlockOperationError, match='unknown hint "gone"'):
        agents.memory.hint("a", "gone")  # type: ignore[arg-type]
    with pytest.raises(BlockOperationError, match='unknown priority "top"'):
        agents.memory.prioritise("a", "top")  # type: ignore[arg-type]
    for say in (
        lambda: agents.memory.pin(""),
        lambda: agents.memory.hint("", "ended"),
        lambda: agents.memory.prioritise("", "low"),
    ):
        with pytest.raises(BlockValidationError):
            say()
    with pytest.raises(BlockArgumentTypeError):
        agents.memory.hint("a", 5)  # type: ignore[arg-type]
    for key_bytes in (-1, 33, "x"):
        with pytest.raises(PoolConfigurationError):
            CacheManager(agents.spec, agents.pool, key_bytes=key_bytes)  # type: ignore[arg-type]
    with pytest.raises(PoolConfigurationError, match="unknown eviction order 'mru'"):
        EvictionPolicy("mru")  # type: ignore[arg-type]
    for time_to_live in (0, -1.0, float("inf"), float("nan"), 1e18, 1e300, 10**400, True, "60"):
        with pytest.raises(PoolConfigurationError, match="positive"):
            EvictionPolicy(time_to_live=time_to_live)  # type: ignore[arg-type]


def test_who_stays_away_for_an_hour_wants_no_more_what_others_want() -> None:
    """Else everybody who ever had a part of a shared prompt would be remembered as long as it."""
    agents = Agents(8)
    shared = blocks(1, 1)
    agents.memory.pin("pinned")
    for agent in ("gone", "pinned", "here"):
        agents.turn(agent, shared)
    agents.turn("gone, with more", [*shared, *blocks(1, 2)])
    sealed = agents.memory._memory.sealed

    def wanted() -> dict[str, int]:
        names = ("gone", "pinned", "here", "gone, with more")
        return {name: len(sealed.index.ends_of(name)) for name in names}

    assert wanted() == {"gone": 1, "pinned": 1, "here": 1, "gone, with more": 1}
    for away in (3590.0, 20.0):
        agents.clock.seconds += away
        before = wanted()
        for _ in range(1024):
            hold = sealed.hold(_ids([*shared, -1]))
            sealed.enter(hold, "here")
            sealed.release(hold)
        assert (wanted() == before) == (away == 3590.0)
    assert wanted() == {"gone": 0, "pinned": 1, "here": 1, "gone, with more": 1}
    assert agents.cached(shared) == len(shared)
    agents.pool.check()
