"""What a store writes in a day: clocks that are set, limits that are set late, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store.daily import Daily
from semantic.cli import store as command
from semantic.cli.store import looking
from tests.stored_blocks import BLOCK_BYTES, sequence, turn

DAY = 86_400
MIDNIGHT = 20_000 * DAY
FILE_BYTES = BLOCK_BYTES + 8192
TWO = 2 * FILE_BYTES

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def opened(path: Path, clock: Clock, **options: Any) -> DiskStore:
    return DiskStore(path, free_floor_bytes=0, now=clock, **options)


def taken(store: DiskStore, seed: int, n_blocks: int = 1) -> int:
    """Blocks that the store takes of a new sequence; 0 when that is too much for the day."""
    try:
        return turn(store, sequence(seed, n_blocks), "a")
    except CachePersistenceError:
        return 0


def written_today(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> int:
    """What `semantic store stats` says."""
    monkeypatch.setattr(looking.time, "time", clock)
    done = CliRunner().invoke(APP, ["store", "stats", "--store", str(path), "--json"])
    return int(json.loads(done.stdout)["written_today_bytes"])


@pytest.mark.parametrize("back", [2, DAY // 2, 3 * DAY, 4000 * DAY])
def test_a_clock_that_goes_back_and_forth_begins_no_day_again(tmp_path: Path, back: int) -> None:
    clock = Clock(MIDNIGHT + 1)
    store = opened(tmp_path, clock, daily_write_bytes=TWO)
    assert taken(store, 0, 2) == 2
    for seed in range(1, 7):
        clock.now += back if seed % 2 == 0 else -back
        assert taken(store, seed) == 0
    store.close()


def test_a_day_begins_at_midnight_whatever_was_before(tmp_path: Path) -> None:
    clock = Clock(MIDNIGHT + 1)
    store = opened(tmp_path, clock, daily_write_bytes=TWO)
    days = []
    for seed, days_on in enumerate((0, 1, 4000, -4000, 1, 1, 3)):
        clock.now += days_on * DAY
        days.append(taken(store, seed, 2))
    # The day to which a clock that was years ahead is put back goes on with what was counted.
    assert days == [2, 2, 2, 0, 2, 2, 0]
    clock.now += DAY
    assert taken(store, 10, 2) == 2
    store.close()


@pytest.mark.parametrize(
    ("known", "today", "then"),
    [
        (Daily(0, 0, 0), 5, Daily(5, 5, 0)),
        (Daily(5, 5, 7), 5, Daily(5, 5, 7)),
        (Daily(5, 0, 7), 5, Daily(5, 5, 7)),
        (Daily(5, 5, 7), 4, Daily(5, 5, 7)),
        (Daily(5, 5, 7), 6, Daily(6, 6, 0)),
        (Daily(5, 5, 7), 8, Daily(8, 8, 0)),
        (Daily(8, 8, 7), 5, Daily(5, 8, 7)),
        (Daily(5, 8, 7), 6, Daily(6, 8, 0)),
        (Daily(5, 8, 7), 7, Daily(7, 8, 7)),
        (Daily(5, 8, 7), 8, Daily(8, 8, 7)),
        (Daily(5, 8, 7), 9, Daily(9, 9, 0)),
    ],
)
def test_when_a_day_begins(known: Daily, today: int, then: Daily) -> None:
    assert known.told(today * DAY) == known.told(today * DAY + DAY - 1) == then


def test_a_limit_that_is_set_later_counts_what_was_written_that_day(tmp_path: Path) -> None:
    clock = Clock(MIDNIGHT)
    store = opened(tmp_path, clock)
    assert taken(store, 1, 5) == 5
    clock.now += DAY
    assert taken(store, 2, 1) == 1
    store.close()
    store = opened(tmp_path, clock, daily_write_bytes=TWO)
    assert [taken(store, seed) for seed in (3, 4)] == [1, 0]
    store.close()


def test_what_was_written_today_is_said_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(MIDNIGHT)
    store = opened(tmp_path, clock)
    taken(store, 1, 5)
    assert 5 * BLOCK_BYTES < written_today(tmp_path, clock, monkeypatch) < 5 * FILE_BYTES
    clock.now += DAY
    assert written_today(tmp_path, clock, monkeypatch) == 0
    taken(store, 2, 1)
    assert BLOCK_BYTES < written_today(tmp_path, clock, monkeypatch) < FILE_BYTES
    clock.now -= 2
    assert BLOCK_BYTES < written_today(tmp_path, clock, monkeypatch) < FILE_BYTES
    store.close()
