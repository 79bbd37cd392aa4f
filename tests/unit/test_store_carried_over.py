"""What block files cannot tell and a catalogue that is made again knows all the same."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store import archive
from semantic.adapters.store.kept_limit import keep_limit, kept_limit
from semantic.adapters.store.listing import Listing
from semantic.cli import store as command
from tests.stored_blocks import BLOCK_BYTES, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

DAY = 86_400
FILE_BYTES = BLOCK_BYTES + 8192
LIMIT = 6 * FILE_BYTES


def opened(path: Path, max_bytes: int = LIMIT, **options: Any) -> DiskStore:
    return DiskStore(path, max_bytes, free_floor_bytes=0, **options)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def limit_of(path: Path) -> int:
    return int(json.loads(run("stats", "--store", path, "--json").stdout)["max_bytes"])


def lying(path: Path) -> int:
    """Bytes of all files of a store, but for its catalogue."""
    files = [file for file in path.rglob("*") if file.is_file() and file.parent != path]
    return sum(file.stat().st_size for file in files)


def make_junk(path: Path) -> None:
    catalogue = path / "catalogue.sqlite3"
    catalogue.write_bytes(b"?" * catalogue.stat().st_size)


def lose(path: Path) -> None:
    (path / "catalogue.sqlite3").unlink()


def make_old(path: Path) -> None:
    """Of another version, so that it can be read; and nothing beside it says what the limit is."""
    with contextlib.closing(sqlite3.connect(path / "catalogue.sqlite3")) as catalogue:
        catalogue.execute("PRAGMA user_version = 99")
    (path / "limit").unlink()


ENDS = pytest.mark.parametrize("end", [make_junk, lose, make_old])


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """An archive of twenty blocks."""
    store = opened(tmp_path / "source", 1 << 30)
    for seed in range(20, 40):
        turn(store, sequence(seed, 1), "x")
    rows = Listing(store.catalogue, store.veil).blocks()
    archive.export_blocks(store, rows, tmp_path / "kv.tar")
    store.close()
    return tmp_path / "kv.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store that is full."""
    store = opened(tmp_path / "kv")
    for seed in range(4):
        turn(store, sequence(seed, 2), "a")
    store.close()
    return tmp_path / "kv"


@ENDS
def test_the_limit_is_known_to_a_catalogue_that_a_command_makes_again(
    end: Callable[[Path], None], folder: Path, carried: Path
) -> None:
    end(folder)
    assert run("verify", "--repair", "--store", folder).exit_code == 0
    assert limit_of(folder) == LIMIT
    assert lying(folder) <= LIMIT, "what was set aside counts"
    assert run("import", carried, "--store", folder, "--json").exit_code == 1
    assert lying(folder) <= LIMIT


@ENDS
def test_what_was_written_today_is_known_to_a_catalogue_that_is_made_again(
    end: Callable[[Path], None], tmp_path: Path
) -> None:
    now = 20_000.5 * DAY
    options: dict[str, Any] = {"now": lambda: now, "daily_write_bytes": 2 * FILE_BYTES}
    store = opened(tmp_path, **options)
    turn(store, sequence(1, 2), "a")
    store.close()
    end(tmp_path)
    store = opened(tmp_path, **options)
    with pytest.raises(CachePersistenceError, match="bytes a day"):
        turn(store, sequence(2, 1), "a")
    now += DAY
    assert turn(store, sequence(2, 2), "a") == 2
    store.close()


def test_what_was_written_today_and_has_gone_counts_where_it_can_be_read(tmp_path: Path) -> None:
    options: dict[str, Any] = {"now": lambda: 20_000.5 * DAY, "daily_write_bytes": 3 * FILE_BYTES}
    store = opened(tmp_path, 2 * FILE_BYTES, **options)
    for seed in range(3):
        turn(store, sequence(seed, 1), "a")
    store.close()
    make_old(tmp_path)
    store = opened(tmp_path, 2 * FILE_BYTES, **options)
    with pytest.raises(CachePersistenceError, match="bytes a day"):
        turn(store, sequence(4, 1), "a")
    store.close()


def test_what_was_written_before_today_does_not_count(tmp_path: Path) -> None:
    now = 20_000.5 * DAY
    options: dict[str, Any] = {"now": lambda: now, "daily_write_bytes": 2 * FILE_BYTES}
    store = opened(tmp_path, **options)
    turn(store, sequence(1, 2), "a")
    store.close()
    for file in (tmp_path / "blocks").rglob("*.safetensors"):
        os.utime(file, (now, now))
    make_junk(tmp_path)
    now += DAY
    store = opened(tmp_path, **options)
    assert turn(store, sequence(2, 2), "a") == 2
    store.close()


def test_the_limit_is_written_when_a_server_changes_it_and_by_nobody_else(folder: Path) -> None:
    file = folder / "limit"
    written = file.stat().st_ino, file.stat().st_mtime_ns
    opened(folder).close()
    for arguments in (("ls",), ("verify", "--repair"), ("gc", "--max", "1MB")):
        assert run(*arguments, "--store", folder).exit_code == 0
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == written
    assert (kept_limit(folder), limit_of(folder)) == (LIMIT, LIMIT)
    opened(folder, LIMIT // 2).close()
    assert (kept_limit(folder), limit_of(folder)) == (LIMIT // 2, LIMIT // 2)
    assert file.stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("text", [b"", b"\0" * 8, b"12x", b"-5", b"9" * 30, b"\xff", b"\n"])
def test_a_limit_that_cannot_be_read_is_not_known(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "limit").write_bytes(text)
    assert kept_limit(tmp_path) == 0
    keep_limit(tmp_path, 7)
    assert kept_limit(tmp_path) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["limit"]


def test_a_limit_that_cannot_be_written_stops_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("semantic.adapters.store.kept_limit.write_small", refused)
    store = opened(folder, LIMIT // 2)
    assert store.stats()["unread"] == 0
    assert "the limit could not be written" in caplog.text
    store.close()
    assert limit_of(folder) == LIMIT // 2


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_tilde_that_the_shell_has_left_is_the_home(
    by: str, folder: Path, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    options = ["--store=~/kv"]
    if by == "environment":
        monkeypatch.setenv("SEMANTIC_STORE", "~/kv")
        options = []
    for command_name in ("ls", "stats", "verify"):
        assert run(command_name, *options).exit_code == 0
    assert run("import", carried, *options).exit_code == 1
    assert limit_of(folder) == LIMIT
    assert lying(folder) <= LIMIT
    assert run("ls", "--store=~nobody-of-that-name/kv").exit_code == 2
