"""What the thread that generates asks a store: answered at once, whatever others do meanwhile."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from semantic import CachePersistenceError, DiskStore, EvictionPolicy
from semantic.adapters.store import catalogued, database
from semantic.adapters.store.upkeep import verify
from tests.stored_blocks import ROOT, blocks_of, found, read, sequence, turn

_LONG_SECONDS = 15.0
"""Half of what SQLite was let to wait for others."""


@contextmanager
def read_by_another(folder: Path) -> Iterator[None]:
    """While another process is in the middle of reading the catalogue."""
    connection = sqlite3.connect(folder / "catalogue.sqlite3", isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM blocks").fetchall()
    yield
    connection.close()


def opened_by_another(folder: Path) -> sqlite3.Connection:
    """What another process has open; it waits for nobody."""
    return sqlite3.connect(folder / "catalogue.sqlite3", timeout=0, isolation_level=None)


def alone_by_another(folder: Path) -> sqlite3.Connection:
    """What another process has open alone."""
    connection = opened_by_another(folder)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")
    return connection


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room for what processes share of a catalogue."""
    done = database.connected

    def connected(path: Path, *, is_made: bool, is_alone: bool = False) -> sqlite3.Connection:
        connection = done(path, is_made=is_made, is_alone=is_alone)
        if is_alone:
            return connection
        connection.close()
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr(database, "connected", connected)


@pytest.mark.parametrize("by", ["forgetting", "time to live"])
def test_a_log_that_another_reads_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    now = [1_000_000.0]
    policy = EvictionPolicy(time_to_live=3600.0)
    store = DiskStore(tmp_path, free_floor_bytes=0, policy=policy, now=lambda: now[0])
    turn(store, sequence(1, 1), "a")
    monkeypatch.setattr(catalogued, "_ATTEMPTS", 2)
    answers: list[int] = []
    # It sleeps between its attempts: then others are answered.
    monkeypatch.setattr(
        catalogued.time, "sleep", lambda _: answers.append(found(store, sequence(2, 1)))
    )
    start = time.monotonic()
    with read_by_another(tmp_path):
        now[0] += 3000
        turn(store, sequence(2, 1), "b")
        if by == "forgetting":
            store.forget(ROOT, "a")
        else:
            now[0] += 1000
            assert store.expire() == 1
        assert not store.catalogue.database.truncate()
    assert time.monotonic() - start < _LONG_SECONDS
    assert len(answers) >= 2
    assert set(answers) == {1}
    assert (found(store, sequence(1, 1)), store.catalogue.database.truncate()) == (0, True)
    assert not (tmp_path / "catalogue.sqlite3-wal").stat().st_size
    store.close()


def test_a_lookup_waits_a_moment_at_the_most_for_other_processes(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    for step in (lambda: None, lambda: turn(store, sequence(1, 1), "a"), store.scrub):
        step()
        ((milliseconds,),) = store.catalogue.database.read("PRAGMA busy_timeout")
        assert 0 < milliseconds <= 1000
    store.close()


# One at a time --------------------------------------------------------------------------------


ASKING: dict[str, Callable[[DiskStore], object]] = {
    "lookup": lambda store: found(store, sequence(1, 1)),
    "use": lambda store: turn(store, sequence(1, 1), "b"),
    "opening": lambda store: DiskStore(store.path, free_floor_bytes=0).close(),
}


@pytest.mark.parametrize("asked", ASKING)
def test_who_waits_for_one_that_is_alone_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 1), "a")
    fill_disk(monkeypatch)
    store.catalogue.database._disconnect()
    others = [alone_by_another(tmp_path)]
    seen: list[int] = []

    def step() -> None:
        others.pop().close()
        # Neither has this one locked the file for others, nor its own threads out.
        alone_by_another(tmp_path).close()
        seen.append(found(store, sequence(1, 1)))

    monkeypatch.setattr(database, "pause", step)
    ASKING[asked](store)
    assert seen == [1]
    store.close()


@pytest.mark.parametrize("is_full", [True, False])
def test_a_lookup_waits_a_moment_at_the_most_for_one_that_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 1), "a")
    if is_full:
        fill_disk(monkeypatch)
    store.catalogue.database._disconnect()
    start = time.monotonic()
    with closing(alone_by_another(tmp_path)):
        with pytest.raises(CachePersistenceError, match="locked"):
            found(store, sequence(1, 1))
        assert not store.catalogue.database.truncate()
    assert time.monotonic() - start < _LONG_SECONDS
    assert found(store, sequence(1, 1)) == 1
    store.close()


def test_a_log_that_another_removes_while_it_is_looked_at_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 1), "a")
    store.catalogue.database._disconnect()
    log = tmp_path / "catalogue.sqlite3-wal"
    log.touch()
    done = os.access

    def access(path: Path, mode: int) -> bool:
        if path == log:
            log.unlink(missing_ok=True)
        return done(path, mode)

    monkeypatch.setattr(os, "access", access)
    assert found(store, sequence(1, 1)) == 1
    store.close()


# Blocks that are found, and are none ----------------------------------------------------------


LOST: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "damaged": lambda file: file.write_bytes(bytes(100)),
}


@pytest.mark.parametrize("how", LOST)
def test_a_lost_block_waits_a_moment_at_the_most_for_who_writes(tmp_path: Path, how: str) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    blocks = blocks_of(sequence(1, 4))
    turn(store, sequence(1, 4), "a")
    for file in (tmp_path / "blocks").rglob("*.safetensors"):
        LOST[how](file)
    start = time.monotonic()
    with closing(opened_by_another(tmp_path)) as other, ThreadPoolExecutor(4) as readers:
        other.execute("BEGIN IMMEDIATE")
        assert list(readers.map(lambda block: read(store, block), blocks)) == [False] * 4
    assert time.monotonic() - start < _LONG_SECONDS
    # Nothing has changed, until somebody finds them again.
    assert (found(store, sequence(1, 4)), store.stuck) == (4, {})
    assert [read(store, block) for block in blocks] == [False] * 4
    assert found(store, sequence(1, 4)) == 0
    assert len(list((tmp_path / "aside").iterdir())) == (4 if how == "damaged" else 0)
    assert store.stats()["bytes"] == 0
    assert verify(store) == []
    store.close()


@pytest.mark.parametrize("how", LOST)
def test_a_lost_block_of_which_half_was_said_goes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    (block,) = blocks_of(sequence(1, 1))
    turn(store, sequence(1, 1), "a")
    for file in (tmp_path / "blocks").rglob("*.safetensors"):
        LOST[how](file)
    left = store.catalogue.left

    def kept_waiting(*arguments: Any, **options: Any) -> int:
        with closing(opened_by_another(tmp_path)) as other:
            other.execute("BEGIN IMMEDIATE")
            return left(*arguments, **options)

    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(store.catalogue, "left", kept_waiting)
        assert not read(store, block)
    assert time.monotonic() - start < _LONG_SECONDS
    assert (found(store, sequence(1, 1)), store.stats()["bytes"] > 0) == (0, True)
    turn(store, sequence(1, 1), "a")
    assert read(store, block)
    assert verify(store) == []
    store.close()
