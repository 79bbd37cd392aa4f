"""What is forgotten is gone: from the files, from the catalogue and its log, after a power cut."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore, EvictionPolicy
from semantic.cli import store as command
from semantic.cli.store import changing
from semantic.domain.stored import NewBlock
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, read, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

FILE_BYTES = BLOCK_BYTES + 8192
SECRET = "an agent of that name"


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def traces(path: Path) -> list[str]:
    """The files that have the agent's name."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return [str(file.relative_to(path)) for file in files if SECRET.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    "words",
    [
        ("forget", "--namespace", ROOT.hex()[:8]),
        ("forget", "--agent", SECRET),
        ("forget", "--older-than", "1h"),
        ("gc", "--older-than", "1h"),
        ("gc", "--max", "1KB"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("is_used", [False, True], ids=["closed", "open"])
def test_nothing_is_left_of_a_name(words: Sequence[str], is_used: bool, tmp_path: Path) -> None:
    store = opened(tmp_path, now=lambda: time.time() - 7200)
    turn(store, sequence(1, 2), SECRET)
    store.close()
    server = opened(tmp_path) if is_used else None
    assert traces(tmp_path)
    assert run(*words, "--store", tmp_path).exit_code == 0
    assert traces(tmp_path) == []
    if server is not None:
        assert found(server, sequence(1, 2)) == 0
        server.close()
    assert traces(tmp_path) == []


def test_an_agent_whose_blocks_all_were_evicted_has_no_row(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=4 * FILE_BYTES)
    turn(store, sequence(1, 2), SECRET)
    turn(store, sequence(2, 2), "b")
    store.regard(ROOT, "b", priority="high")
    store.regard(ROOT, "c", priority="high")
    turn(store, sequence(3, 4), "d")
    assert found(store, sequence(1, 2)) == 0
    labels = store.catalogue.database.read("SELECT label FROM agents ORDER BY label")
    assert labels == [(b"b",), (b"c",), (b"d",)], "what was said of the others still holds"
    store.close()


def test_time_to_live_leaves_no_name(tmp_path: Path) -> None:
    now = 1e9
    store = opened(tmp_path, now=lambda: now, policy=EvictionPolicy(time_to_live=1000))
    turn(store, sequence(1, 2), SECRET)
    store.regard(ROOT, SECRET, priority="high")
    now += 2000
    turn(store, sequence(2, 1), "b")
    assert found(store, sequence(1, 2)) == 0
    assert traces(tmp_path) == []
    store.close()


def test_who_used_what_others_use_is_forgotten_too(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 2), SECRET)
    turn(store, sequence(1, 2), "b")
    done = run("forget", "--agent", SECRET, "--store", tmp_path)
    assert done.exit_code == 0
    assert "0 blocks, 0 B: forgotten; 2 stay, which others use, too" in done.stdout
    assert run("forget", "--agent", SECRET, "--store", tmp_path).exit_code == 1
    assert traces(tmp_path) == []
    assert found(store, sequence(1, 2)) == 2
    turn(store, sequence(2, 1), SECRET)
    turn(store, sequence(2, 1), "b")
    assert store.forget(ROOT, SECRET) == 0
    assert traces(tmp_path) == []
    store.close()


def test_a_block_stands_as_those_that_are_left_do(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 1), "a")
    turn(store, sequence(1, 1), "b")
    store.regard(ROOT, "a", is_pinned=True)
    store.forget(ROOT, "a")
    assert store.shrink(1) == 1
    store.close()


def closed_while_it_writes(path: Path) -> None:
    """What is left of a process that ends once a file has its name, and before its row says so."""
    store = opened(path)
    write = store._write

    def closed(blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        n_bytes = write(blocks)
        store.close()
        return n_bytes

    store._write = closed  # type: ignore[method-assign]
    with pytest.raises(CachePersistenceError, match="closed"):
        store.put(blocks_of(sequence(1, 2)), SECRET)
    looking = opened(path, repair=False)
    assert [state for _, state, _ in looking.catalogue.on_their_way()] == ["coming", "coming"]
    looking.close()


@pytest.mark.parametrize("is_open", [False, True], ids=["opened later", "open all the time"])
def test_what_a_dead_one_was_writing_is_forgotten_with_its_agent(
    is_open: bool, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    if not is_open:
        store.close()
    closed_while_it_writes(tmp_path)
    if not is_open:
        store = opened(tmp_path)
        assert found(store, sequence(1, 2)) == 2, "it was whole"
    assert store.forget(ROOT, SECRET) == 2
    assert list((tmp_path / "blocks").glob("*/*")) == []
    assert traces(tmp_path) == []
    store.close()


def test_what_does_not_come_is_nobodys(tmp_path: Path) -> None:
    store = opened(tmp_path)

    def refused(blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        raise CachePersistenceError("the disk is full")

    store._write = refused  # type: ignore[method-assign]
    with pytest.raises(CachePersistenceError, match="full"):
        store.put(blocks_of(sequence(1, 2)), SECRET)
    for table in ("blocks", "nodes", "users", "agents"):
        assert store.catalogue.database.read(f"SELECT * FROM {table}") == []
    store.close()


def test_what_an_agent_writes_while_it_is_forgotten_is_its_own(tmp_path: Path) -> None:
    store, other = opened(tmp_path), opened(tmp_path)
    write = store._write

    def meanwhile(blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        assert other.forget(ROOT, SECRET) == 0
        return write(blocks)

    store._write = meanwhile  # type: ignore[method-assign]
    assert store.put(blocks_of(sequence(1, 2)), SECRET) == 2
    assert other.forget(ROOT, SECRET) == 2
    store.close()
    other.close()


def test_what_was_set_aside_is_forgotten_with_any_agent(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 1), SECRET)
    (block,) = blocks_of(sequence(1, 1))
    path = tmp_path / "blocks" / str(block.name)[:2] / f"{block.name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert not read(store, block)
    assert list((tmp_path / "aside").iterdir())
    store.forget(ROOT, SECRET)
    assert list((tmp_path / "aside").iterdir()) == []
    store.close()


def test_a_log_that_others_use_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("semantic.adapters.store.catalogued._ATTEMPTS", 1)
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 1), "a")
    monkeypatch.setattr(store.catalogue.database, "truncate", lambda: False)
    for _ in range(3):
        assert store.forget(ROOT, "a") in (0, 1)
    assert [record.message.endswith("a log that others use") for record in caplog.records] == [True]
    store.close()


def test_a_removed_file_does_not_come_back_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 3), "a")
    names = [str(block.name) for block in blocks_of(sequence(1, 3))]
    synced: list[Path] = []
    sync = os.fsync

    folders = {name: tmp_path / "blocks" / name[:2] for name in names}

    def seen(file: int) -> None:
        inode = os.fstat(file).st_ino
        (folder,) = {path for path in folders.values() if path.stat().st_ino == inode}
        assert not [name for name in names if list(folder.glob(f"{name}*"))]
        rows = {file for file, _, _ in store.catalogue.on_their_way()}
        assert rows == set(names), "the rows stay until the folders are safe"
        synced.append(folder)
        sync(file)

    monkeypatch.setattr(os, "fsync", seen)
    assert store.forget(ROOT, "a") == 3
    assert set(synced) == set(folders.values())
    store.close()


@pytest.mark.parametrize("wrong", ["%", "_", "xyz", "0x1f", "' OR 1 --"])
def test_only_hexadecimal_digits_name_something(wrong: str, tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 2), "a")
    store.close()
    for words in (
        ("forget", "--namespace", wrong),
        ("forget", "--agent", "a", "--namespace", wrong),
        ("ls", "--namespace", wrong),
        ("show", wrong),
        ("export", tmp_path / "x.tar", "--namespace", wrong),
    ):
        assert run(*words, "--store", tmp_path).exit_code == 2, words
    store = opened(tmp_path)
    assert found(store, sequence(1, 2)) == 2
    assert store.forget_agent("a", wrong).blocks == 0, "nothing begins like that"
    assert found(store, sequence(1, 2)) == 2
    assert store.forget_agent("a").blocks == 2
    store.close()


def test_names_may_be_written_large(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 2), "a")
    store.close()
    large = ROOT.hex()[:8].upper()
    assert len(json.loads(run("ls", "--namespace", large, "--store", tmp_path, "--json").stdout))
    assert run("forget", "--namespace", large, "--store", tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("words", "bar"),
    [
        (("forget", "--agent", "a"), "forgetting"),
        (("gc", "--older-than", "1h"), "removing"),
        (("gc", "--max", "1KB"), "removing"),
    ],
    ids=" ".join,
)
def test_what_takes_long_shows_how_far_it_is(
    words: Sequence[str], bar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path, now=lambda: time.time() - 7200)
    turn(store, sequence(1, 2), "a")
    store.close()
    shown: list[tuple[str, int]] = []

    def progress(what: str) -> Any:
        def bar(items: Sequence[Any]) -> Iterable[Any]:
            shown.append((what, len(items)))
            return items

        return bar

    monkeypatch.setattr(changing, "progress", progress)
    assert run(*words, "--store", tmp_path).exit_code == 0
    assert (bar, 1) in shown
