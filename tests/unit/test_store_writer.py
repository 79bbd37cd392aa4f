"""The way into a store: bounded, in order, and in nobody's way, whatever the store does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from semantic import CachePersistenceError, DiskStore
from semantic.application.counters import Counters
from semantic.application.saved_turn import Told
from semantic.application.store_tier import StoreTier
from semantic.application.store_writer import StoreWriter
from tests.stored_blocks import blocks_of, sequence

ROOT = b"r" * 32


class Recorder:
    """A store that keeps what it is told, and holds its thread up for as long as it is closed."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_busy = threading.Event()
        self.error: Exception | None = None

    def put(self, what: str) -> None:
        self.is_busy.set()
        assert self.is_open.wait(30)
        if self.error is not None:
            raise self.error
        self.told.append(what)

    def regard(self, root: bytes, agent_id: str, **said: Any) -> None:
        self.told.append((agent_id, {name: value for name, value in said.items() if value}))

    def used(self, root: bytes, keys: tuple[bytes, ...], agent_id: str) -> None:
        self.told.append((agent_id, keys))

    def forget(self, root: bytes, agent_id: str) -> int:
        self.told.append(("forget", agent_id))
        return 1


class Turn:
    """A turn that says whether its blocks are still held."""

    holds_blocks = True

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.about = ROOT, name
        self.releases = 0
        self._error = error

    def join(self, later: object) -> bool:
        return False

    def run(self, store: Any) -> None:
        store.put(self.name)

    def release(self) -> None:
        self.releases += 1
        if self._error is not None:
            raise self._error


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Desk:
    """A writer, its store, its clock, and what it has counted."""

    def __init__(self) -> None:
        self.store = Recorder()
        self.clock = Clock()
        self.counters = Counters()
        self.writer = StoreWriter(cast(Any, self.store), self.counters, self.clock)

    def busy(self) -> Turn:
        """Hold the writer up with a turn that it has begun."""
        self.store.is_open.clear()
        turn = Turn("busy")
        self.writer.submit(turn)
        assert self.store.is_busy.wait(30)
        return turn

    def failures(self, reason: str) -> int:
        failures: Any = self.counters.as_dict()["failures"]
        return int(failures.get(reason, 0))


def tier_of(store: Any, writer: StoreWriter) -> StoreTier:
    memory = cast(Any, SimpleNamespace(root=ROOT))
    return StoreTier(cast(Any, None), memory, store, cast(Any, None), Counters(), writer)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.store.is_open.set()
    desk.writer.close(30)


def said(agent_id: str, **what: Any) -> Told:
    return Told(ROOT, agent_id, **what)


def seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def test_jobs_are_run_in_the_order_in_which_they_came(desk: Desk) -> None:
    desk.busy()
    turns = [Turn("one"), Turn("two")]
    desk.writer.submit(said("a", priority="low"))
    desk.writer.submit(said("b", used=[b"1"]))
    desk.writer.submit(turns[0])
    desk.writer.submit(said("a", priority="high"))
    desk.writer.submit(said("b", used=[b"2"]))
    desk.writer.submit(turns[1])
    assert desk.writer.waiting == 7
    desk.store.is_open.set()
    assert desk.writer.flush(30)
    assert desk.store.told == [
        "busy",
        ("a", {"priority": "low"}),
        ("b", (b"1",)),
        "one",
        ("a", {"priority": "high"}),
        ("b", (b"2",)),
        "two",
    ]
    assert [turn.releases for turn in turns] == [1, 1]
    assert desk.writer.waiting == 0


def test_words_about_one_agent_are_joined_and_what_was_said_last_counts(desk: Desk) -> None:
    desk.busy()
    desk.writer.submit(said("a", used=[b"1", b"2"], hint="active"))
    for _ in range(10_000):
        desk.writer.submit(said("a", priority="low"))
        desk.writer.submit(said("a", is_pinned=True, priority="high"))
    desk.writer.submit(said("b", hint="ended"))
    desk.writer.submit(said("a", used=[b"2", b"3"], hint="ended"))
    assert desk.writer.waiting == 3
    desk.store.is_open.set()
    assert desk.writer.flush(30)
    assert desk.store.told[1:] == [
        ("a", {"hint": "ended", "priority": "high", "is_pinned": True}),
        ("a", (b"1", b"2", b"3")),
        ("b", {"hint": "ended"}),
    ]
    assert desk.failures("store_behind") == 0


def test_a_word_that_is_being_said_is_not_joined(desk: Desk) -> None:
    class Slow(Told):
        def run(self, store: Any) -> None:
            super().run(store)
            store.put("slow")

    desk.store.is_open.clear()
    desk.writer.submit(Slow(ROOT, "a", priority="low"))
    assert desk.store.is_busy.wait(30)
    desk.writer.submit(said("a", priority="high"))
    desk.store.is_open.set()
    assert desk.writer.flush(30)
    assert desk.store.told == [("a", {"priority": "low"}), "slow", ("a", {"priority": "high"})]


def test_no_more_turns_and_words_wait_than_there_may(desk: Desk) -> None:
    desk.busy()
    turns = [Turn(str(n)) for n in range(100)]
    for turn in turns:
        desk.writer.submit(turn)
    assert desk.writer.waiting == 65
    assert [turn.releases for turn in turns] == [0] * 64 + [1] * 36
    assert desk.failures("store_behind") == 36
    for n in range(3000):
        desk.writer.submit(said(f"agent {n}", hint="ended"))
    assert desk.writer.waiting == 65 + 1024
    assert desk.failures("store_behind") == 36 + 3000 - 1024
    # Those whose word waits may still say more.
    desk.writer.submit(said("agent 7", hint="active"))
    assert desk.failures("store_behind") == 36 + 3000 - 1024
    desk.store.is_open.set()
    assert desk.writer.flush(30)
    assert [turn.releases for turn in turns] == [1] * 100
    assert ("agent 7", {"hint": "active"}) in desk.store.told


def test_turns_are_let_go_when_memory_is_short_and_words_are_not(desk: Desk) -> None:
    begun = desk.busy()
    assert not desk.writer.let_go()
    turns = [Turn("one"), Turn("two")]
    desk.writer.submit(turns[0])
    desk.writer.submit(said("a", priority="low"))
    desk.writer.submit(turns[1])
    assert desk.writer.let_go()
    assert [turn.releases for turn in turns] == [1, 1]
    assert begun.releases == 0
    assert desk.failures("store_behind") == 2
    desk.store.is_open.set()
    assert desk.writer.flush(30)
    assert desk.store.told == ["busy", ("a", {"priority": "low"})]
    assert (begun.releases, turns[0].releases) == (1, 1)


def test_after_the_system_has_refused_nothing_is_written_for_a_while(desk: Desk) -> None:
    desk.store.error = CachePersistenceError("full", errno=28)
    turns = [Turn("refused"), Turn("too early"), Turn("later")]
    desk.writer.submit(turns[0])
    assert desk.writer.flush(30)
    desk.store.error = None
    desk.clock.now += 9.9
    desk.writer.submit(turns[1])
    assert desk.writer.flush(30)
    assert desk.store.told == []
    desk.clock.now += 0.2
    desk.writer.submit(turns[2])
    assert desk.writer.flush(30)
    assert desk.store.told == ["later"]
    assert [turn.releases for turn in turns] == [1, 1, 1]
    assert desk.failures("store_write") == 2


def test_words_are_said_while_turns_are_not_written(desk: Desk) -> None:
    desk.store.error = CachePersistenceError("full", errno=28)
    desk.writer.submit(Turn("refused"))
    desk.writer.submit(said("a", is_pinned=True))
    desk.writer.submit(Turn("too early"))
    desk.writer.submit(said("b", used=[b"1"]))
    assert desk.writer.flush(30)
    assert desk.store.told == [("a", {"is_pinned": True}), ("b", (b"1",))]
    assert desk.failures("store_write") == 2


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_without_a_thread_to_write_with_nothing_waits_and_the_next_turn_asks_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise error

    turns = [Turn("refused"), Turn("written")]
    with monkeypatch.context() as refused:
        refused.setattr(threading.Thread, "start", refuse)
        desk.writer.submit(turns[0])
        desk.writer.submit(said("a", hint="ended"))
        assert desk.writer.flush(5)
        assert (desk.writer.waiting, turns[0].releases) == (0, 1)
    assert desk.failures("store_behind") == 2
    desk.writer.submit(turns[1])
    assert desk.writer.flush(30)
    assert (desk.store.told, turns[1].releases) == (["written"], 1)
    assert desk.writer.close(30)


@pytest.mark.parametrize("error", [CachePersistenceError("no room"), RuntimeError("a bug")])
def test_what_is_no_refusal_of_the_system_stops_nothing_else(desk: Desk, error: Exception) -> None:
    desk.store.error = error
    desk.writer.submit(Turn("refused"))
    assert desk.writer.flush(30)
    desk.store.error = None
    desk.writer.submit(Turn("next", RuntimeError("not let go")))
    desk.writer.submit(Turn("the one after"))
    assert desk.writer.flush(30)
    assert desk.store.told == ["next", "the one after"]
    assert (desk.failures("store_write"), desk.failures("store_release")) == (1, 1)


def test_closing_waits_no_longer_than_it_may(desk: Desk) -> None:
    begun = desk.busy()
    turns = [Turn("one"), Turn("two")]
    for turn in turns:
        desk.writer.submit(turn)
    assert not desk.writer.flush(0.05)
    done: list[bool] = []
    assert seconds(lambda: done.append(desk.writer.close(0.05))) < 5
    assert done == [False]
    assert [turn.releases for turn in turns] == [1, 1]
    late = Turn("late")
    desk.writer.submit(late)
    desk.writer.submit(said("a", hint="ended"))
    assert late.releases == 1
    assert begun.releases == 0, "what is being written keeps its blocks"
    assert desk.writer.waiting == 1
    desk.store.is_open.set()
    assert desk.writer.close(30)
    assert desk.writer.close(30)
    assert (begun.releases, desk.store.told) == (1, ["busy"])


def test_what_is_submitted_while_it_closes_does_not_keep_it_open(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Turn("late")
    begun = desk.busy()
    wait_for = threading.Condition.wait_for

    def closing(changed: threading.Condition, *arguments: Any, **options: Any) -> bool:
        if threading.current_thread() is closer:
            desk.writer.submit(late)
            desk.store.is_open.set()
        return wait_for(changed, *arguments, **options)

    monkeypatch.setattr(threading.Condition, "wait_for", closing)
    done: list[bool] = []
    closer = threading.Thread(target=lambda: done.append(desk.writer.close(30)))
    closer.start()
    closer.join(60)
    assert done == [True]
    assert (begun.releases, late.releases, desk.store.told) == (1, 1, ["busy"])


def test_closing_writes_what_waits(desk: Desk) -> None:
    for n in range(20):
        desk.writer.submit(Turn(str(n)))
    assert desk.writer.close(30)
    assert desk.store.told == [str(n) for n in range(20)]
    assert StoreWriter(cast(Any, desk.store), desk.counters).close(0)


def test_what_waits_of_a_forgotten_agent_is_not_written(desk: Desk) -> None:
    desk.busy()
    turns = [Turn("a"), Turn("b")]
    for turn in turns:
        desk.writer.submit(turn)
        desk.writer.submit(said(turn.name, hint="ended"))
    assert desk.writer.forget((ROOT, "a"), 0)
    assert [turn.releases for turn in turns] == [1, 0]
    desk.store.is_open.set()
    assert desk.writer.flush(30)
    assert desk.store.told == ["busy", "b", ("b", {"hint": "ended"})]
    assert desk.failures("store_behind") == 0


def test_forgetting_waits_for_a_turn_that_is_being_written_and_not_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semantic.application.store_tier._FORGET_SECONDS", 0.05)
    desk.busy()
    tier = tier_of(desk.store, desk.writer)
    with pytest.raises(CachePersistenceError, match="still being stored"):
        tier.forget("busy")
    assert tier.forget("b") == 1
    desk.store.is_open.set()
    monkeypatch.setattr("semantic.application.store_tier._FORGET_SECONDS", 30.0)
    assert tier.forget("busy") == 1
    assert desk.store.told == [("forget", "b"), "busy", ("forget", "busy")]


def test_an_agent_that_comes_back_to_another_process_has_not_ended(tmp_path: Path) -> None:
    here, there = (DiskStore(tmp_path, free_floor_bytes=0) for _ in range(2))
    here.put(blocks_of(sequence(1, 2), ROOT), "back")
    here.regard(ROOT, "back", hint="ended")
    writer = StoreWriter(there, Counters())
    tier = tier_of(there, writer)
    tier.admitted("back")
    tier.admitted("never stored")
    assert writer.close(30)
    named = here.catalogue.database.read("SELECT is_ended FROM agents")
    assert named == [(0,)], "who has not ended needs no row"
    here.close()
    there.close()
