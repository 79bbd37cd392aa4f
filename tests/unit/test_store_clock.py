"""What a store forgets with time, and what jumping clocks and lost catalogues do to that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from semantic import DiskStore, EvictionPolicy
from semantic.adapters.store.expiry import Seen
from semantic.cli import store as command
from semantic.domain.native import TokenIds
from tests.stored_blocks import ROOT, found, sequence, turn

DAY = 86_400
YEARS = 20 * 365 * DAY
NOW = 20_000 * DAY
MONTH = EvictionPolicy(time_to_live=30 * DAY)

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, "policy": MONTH, **options})


def age(path: Path, written_at: float) -> None:
    """Let all files have been written then."""
    for file in (path / "blocks").rglob("*.safetensors"):
        os.utime(file, (written_at, written_at))


def lose_catalogue(path: Path) -> None:
    for file in path.glob("catalogue*"):
        file.unlink()


def after_opening(path: Path, clock: Clock, seed: int = 1) -> int:
    store = opened(path, now=clock)
    n = found(store, sequence(seed, 2))
    store.close()
    return n


def test_a_lost_catalogue_leaves_blocks_as_old_as_their_files(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock)
    turn(store, sequence(1, 2), "a")
    store.close()
    lose_catalogue(tmp_path)
    age(tmp_path, NOW - 29 * DAY)
    assert after_opening(tmp_path, clock) == 2
    clock.now += 0.9 * DAY
    assert after_opening(tmp_path, clock) == 2
    clock.now += 0.9 * DAY
    assert after_opening(tmp_path, clock) == 0, "what nobody uses goes in the end"


def test_a_file_from_the_future_is_as_old_as_now(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock)
    turn(store, sequence(1, 2), "a")
    store.close()
    lose_catalogue(tmp_path)
    age(tmp_path, NOW + YEARS)
    assert after_opening(tmp_path, clock) == 2
    store = opened(tmp_path, now=clock)
    assert store.older_files(-1) != []
    store.close()


def test_forgetting_by_age_goes_by_the_files_when_the_catalogue_was_lost(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 2), "a")
    store.close()
    lose_catalogue(tmp_path)
    words = ["store", "forget", "--store", str(tmp_path), "--older-than"]
    assert CliRunner().invoke(APP, [*words, "1d"]).exit_code == 1
    assert len(list((tmp_path / "blocks").rglob("*.safetensors"))) == 2
    store = DiskStore(tmp_path, free_floor_bytes=0)
    assert len(store.older_files(-2)) == 2
    store.close()


def test_a_jump_of_years_and_back_takes_nothing_away(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock)
    turn(store, sequence(1, 2), "a")
    store.close()
    for jump in (YEARS, -YEARS, YEARS, 2 * YEARS):
        clock.now = NOW + jump
        # Openings in quick succession, as of a server that is restarted until it runs.
        assert [after_opening(tmp_path, clock) for _ in range(3)] == [2, 2, 2]
        clock.now += 0.9 * DAY
        assert after_opening(tmp_path, clock) == 2
        clock.now = NOW + 60
        assert after_opening(tmp_path, clock) == 2


def test_a_jump_while_a_server_runs_takes_nothing_away(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock)
    turn(store, sequence(1, 2), "a")
    clock.now += YEARS
    for seed in (2, 3):
        turn(store, sequence(seed, 1), "b")
        clock.now += 60
    clock.now -= YEARS
    turn(store, sequence(4, 1), "b")
    assert [found(store, sequence(seed, 1)) for seed in (1, 2, 3, 4)] == [1, 1, 1, 1]
    store.close()


def test_a_long_rest_is_believed_after_a_day(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock)
    turn(store, sequence(1, 2), "a")
    store.close()
    clock.now += 60 * DAY
    assert after_opening(tmp_path, clock) == 2
    clock.now += 1.1 * DAY
    assert after_opening(tmp_path, clock) == 0


def test_what_expires_while_the_clock_is_doubted_goes_by_the_time_before(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock)
    turn(store, sequence(1, 2), "a")
    for _ in range(29):
        clock.now += DAY
        turn(store, sequence(2, 2), "b")
    store.close()
    clock.now += YEARS
    assert after_opening(tmp_path, clock) == 2, "29 days old"
    clock.now -= YEARS
    clock.now += 0.6 * DAY
    assert after_opening(tmp_path, clock) == 2
    clock.now += 0.6 * DAY
    assert after_opening(tmp_path, clock) == 0
    assert after_opening(tmp_path, clock, 2) == 2


def asked(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """What `semantic store` does when the clock says that."""
    monkeypatch.setitem(DiskStore.__init__.__kwdefaults__, "now", clock)
    return CliRunner().invoke(APP, ["store", *words, "--store", str(path), "--older-than", "30d"])


@pytest.mark.parametrize("words", [("gc",), ("forget",), ("forget", "--dry-run")])
def test_a_clock_that_is_years_ahead_makes_nothing_old_for_commands(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock, policy=None)
    turn(store, sequence(1, 2), "a")
    store.close()
    clock.now += YEARS
    before = (tmp_path / "catalogue.sqlite3").read_bytes()
    done = asked(tmp_path, clock, monkeypatch, *words)
    assert "20 years ahead of the last use: nothing is taken as old for that" in done.stderr
    assert done.stderr.count("\n") == 1
    if "--dry-run" in words:
        assert (tmp_path / "catalogue.sqlite3").read_bytes() == before
    assert after_opening(tmp_path, clock) == 2
    clock.now = NOW + 60
    assert asked(tmp_path, clock, monkeypatch, *words).stderr == ""


def test_a_clock_that_stays_ahead_is_believed_by_commands_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock, policy=None)
    turn(store, sequence(1, 2), "a")
    store.close()
    clock.now += 60 * DAY
    assert "60 days ahead" in asked(tmp_path, clock, monkeypatch, "gc").stderr
    clock.now += 1.1 * DAY
    done = asked(tmp_path, clock, monkeypatch, "gc")
    assert (done.stderr, after_opening(tmp_path, clock)) == ("", 0)


def test_a_store_that_is_used_and_not_written_believes_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    store = opened(tmp_path, now=clock, policy=None)
    for seed in (1, 2):
        turn(store, sequence(seed, 2), "a")
    for _ in range(40):
        clock.now += 0.9 * DAY
        store.used(ROOT, TokenIds(sequence(2, 2)).keys(ROOT), "a")
    store.close()
    assert asked(tmp_path, clock, monkeypatch, "forget").stderr == ""
    assert after_opening(tmp_path, clock, 1) == 0
    assert after_opening(tmp_path, clock, 2) == 2


@pytest.mark.parametrize(
    ("seen", "now", "time", "then"),
    [
        (Seen(NOW, 0), NOW + 5, NOW + 5, Seen(NOW, 0)),
        (Seen(NOW, 0), NOW + 90, NOW + 90, Seen(NOW + 90, 0)),
        (Seen(NOW, 0), NOW - YEARS, NOW - YEARS, Seen(NOW - YEARS, 0)),
        (Seen(NOW, 0), NOW + DAY, NOW + DAY, Seen(NOW + DAY, 0)),
        (Seen(NOW, 0), NOW + DAY + 1, NOW, Seen(NOW, NOW + DAY + 1)),
        (Seen(NOW, NOW + YEARS), NOW + YEARS + 9, NOW, Seen(NOW, NOW + YEARS)),
        (Seen(NOW, NOW + YEARS), NOW + 9, NOW + 9, Seen(NOW + 9, 0)),
        (Seen(NOW, NOW + YEARS), NOW + 9 * DAY, NOW, Seen(NOW, NOW + 9 * DAY)),
        (Seen(NOW, NOW + 9 * DAY), NOW + YEARS, NOW, Seen(NOW, NOW + YEARS)),
        (Seen(NOW, NOW + YEARS), NOW + YEARS + DAY, NOW + YEARS + DAY, Seen(NOW + YEARS + DAY, 0)),
    ],
)
def test_which_time_is_believed(seen: Seen, now: int, time: int, then: Seen) -> None:
    assert seen.told(now) == (time, then)
