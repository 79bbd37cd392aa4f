"""A store that is put right behind what goes on: nobody waits for it, and nothing ends it early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store import mending, owners
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.leaving import ANY, removed_later
from semantic.adapters.store.locks import Lock
from semantic.adapters.store.owners import FolderBusyError, Owners
from semantic.adapters.store.upkeep import verify
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, sequence, turn

KEY = bytes(range(32))
FILE_BYTES = BLOCK_BYTES + 8192


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def until(is_so: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(owners, "_TELL_SECONDS", 0.1)
    monkeypatch.setattr(mending, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(mending, "_LONGEST_PAUSE_SECONDS", 0.05)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While another process is alone in the folder, and does not go on."""
    lock = Lock(path / "recovery.lock")
    try:
        assert lock.take_alone()
        yield
    finally:
        lock.close()


def filled(path: Path, **options: Any) -> None:
    store = opened(path, **options)
    turn(store, sequence(1, 2), "a")
    store.close()


# What ends an attempt ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug"), OSError(5, "no disk")])
def test_an_attempt_that_fails_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    filled(tmp_path)
    store = opened(tmp_path)
    recover, refusals = store.recover, [error, error]

    def failing() -> None:
        if refusals:
            raise refusals.pop()
        recover()

    monkeypatch.setattr(store, "recover", failing)
    store.catalogue.database.condemn("a page is damaged")
    with pytest.raises(CatalogueDamagedError):
        found(store, sequence(1, 2))
    assert store.is_whole(30)
    assert (refusals, found(store, sequence(1, 2))) == ([], 2)
    store.close()


def test_damage_that_is_met_without_a_thread_is_mended_when_it_is_met_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    filled(tmp_path)
    store = opened(tmp_path)
    with monkeypatch.context() as refused:
        refused.setattr(threading.Thread, "start", refuse)
        store.catalogue.database.condemn("a page is damaged")
        with pytest.raises(CatalogueDamagedError):
            found(store, sequence(1, 2))
        assert not store.is_whole(0.1)
    with pytest.raises(CatalogueDamagedError):
        found(store, sequence(1, 2))
    assert store.is_whole(30)
    assert found(store, sequence(1, 2)) == 2
    store.close()


# Another process that is stopped while it recovers -----------------------------------------------


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_store_opens_while_another_process_is_stopped_and_is_put_right_after_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: bytes | None
) -> None:
    filled(tmp_path, key=key)
    gone = sorted(tmp_path.glob("blocks/*/*"))[0]
    gone.unlink()
    with alone(tmp_path):
        store = opened(tmp_path, key=key)
        assert "waiting for another process that puts it right" in caplog.text
        assert store.stats()["blocks"] == 2, "its row goes when the folder is put right"
        assert turn(store, sequence(2, 2), "b") == 2
        assert found(store, sequence(2, 2)) == 2
        time.sleep(0.5)
        assert store.stats()["blocks"] == 4
        assert caplog.text.count("waiting for another") == 1
        assert store.is_whole(30), "nobody waits where all can be used"
    until(lambda: store.stats()["blocks"] == 3)
    assert verify(store) == []
    store.close()


def test_who_only_looks_opens_it_too(tmp_path: Path) -> None:
    filled(tmp_path)
    with alone(tmp_path):
        store = opened(tmp_path, repair=False)
        assert found(store, sequence(1, 2)) == 2
        with pytest.raises(FolderBusyError, match="another process puts it right"):
            store.recover()
        store.close()


def test_a_new_folder_is_left_to_who_is_in_it(tmp_path: Path) -> None:
    """The first one says with which key it is sealed."""
    Owners(tmp_path / "owners").close()
    (tmp_path / "recovery.lock").touch()
    (tmp_path / "blocks").mkdir()
    with alone(tmp_path), pytest.raises(CachePersistenceError, match="another process"):
        opened(tmp_path, key=KEY)
    filled(tmp_path, key=KEY)


def test_a_store_closes_while_another_process_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    with alone(tmp_path):
        store = opened(tmp_path)
        monkeypatch.setattr(owners, "_PATIENCE_SECONDS", 3600)
        waits = threading.Event()
        sleep = time.sleep

        def slept(seconds: float) -> None:
            waits.set()
            sleep(seconds)

        monkeypatch.setattr(owners.time, "sleep", slept)
        assert waits.wait(30)
        start = time.monotonic()
        store.close()
        assert time.monotonic() - start < 5


def test_what_a_dead_one_has_left_keeps_nobody_from_writing_while_another_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semantic.adapters.store.disk._WRITER_SECONDS", 0.05)
    limit = 4 * FILE_BYTES - 8192
    store, dead = opened(tmp_path, max_bytes=limit), opened(tmp_path, max_bytes=limit)
    dead.put(blocks_of(sequence(1, 1)), "x")
    dead.regard(ROOT, "x", is_pinned=True)
    leaves = [dead.file_of(blocks_of(sequence(1, 1))[0].name)]
    dead.catalogue.leave(leaves, ANY, removed_later)
    dead._owners.close()
    with alone(tmp_path):
        assert turn(store, sequence(2, 2), "a") == 2
        with pytest.raises(CachePersistenceError, match="more than may be stored"):
            turn(store, sequence(3, 4), "b")
    assert turn(store, sequence(4, 1), "c") == 1
    assert store.catalogue.on_their_way() == []
    for other in (store, dead):
        other.close()
