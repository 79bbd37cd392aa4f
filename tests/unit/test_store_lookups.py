"""What the thread that generates asks a store: answered at once, whatever others do meanwhile."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from semantic import DiskStore, EvictionPolicy
from semantic.adapters.store import catalogued
from tests.stored_blocks import ROOT, found, sequence, turn

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
