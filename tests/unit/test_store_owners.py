"""Who counts as running: whoever runs, whatever becomes of its file; a forked child never."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store import owners, sqlite_file
from semantic.adapters.store.locks import Lock
from semantic.domain.stored import NewBlock
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, sequence, turn

LIMIT = 6 * (BLOCK_BYTES + 8192)
OTHERS = "0123456789abcdef"


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, "max_bytes": LIMIT, **options})


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[DiskStore, DiskStore]]:
    """Two that share a folder, the file of the first of which is removed."""
    stores = opened(tmp_path), opened(tmp_path)
    turn(stores[0], sequence(1, 1), "a")
    (tmp_path / "owners" / stores[0]._owners.name).unlink()
    yield stores
    for store in stores:
        store.close()


def is_known(store: DiskStore, other: DiskStore) -> bool:
    return store._owners.name in other.running()


# Files that vanish -----------------------------------------------------------------------------


def test_who_writes_is_known_again(both: tuple[DiskStore, DiskStore]) -> None:
    store, other = both
    write = store._write

    def meanwhile(blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        turn(other, sequence(40, 1), "b")  # it finishes what dead ones have begun
        return write(blocks)

    store._write = meanwhile  # type: ignore[method-assign]
    assert not is_known(store, other)
    assert store.put(blocks_of(sequence(2, 1)), "a") == 1
    assert is_known(store, other)
    assert found(other, sequence(2, 1)) == 1


def test_who_pins_is_known_again(both: tuple[DiskStore, DiskStore]) -> None:
    store, other = both
    store.regard(ROOT, "a", is_pinned=True)
    assert is_known(store, other)
    for seed in range(10, 30):
        turn(other, sequence(seed, 1), "b")
    opened(other.path).close()
    assert found(store, sequence(1, 1)) == 1


def test_who_recovers_is_known_again(both: tuple[DiskStore, DiskStore]) -> None:
    store, other = both
    store.recover()
    assert is_known(store, other)


def test_who_borrows_is_known_again(both: tuple[DiskStore, DiskStore]) -> None:
    store, other = both
    with store.borrowed(1):
        assert is_known(store, other)
        assert not other._clear_the_way()
        assert len(other.catalogue.on_their_way()) == 1


def test_one_always_counts_itself(both: tuple[DiskStore, DiskStore]) -> None:
    store, _ = both
    assert is_known(store, store)


def test_a_folder_that_is_removed_and_made_again_knows_who_is_still_there(tmp_path: Path) -> None:
    store = opened(tmp_path / "kv")
    shutil.rmtree(tmp_path / "kv")
    with pytest.raises(CachePersistenceError):
        store.put(blocks_of(sequence(1, 1)), "a")
    other = opened(tmp_path / "kv")
    turn(other, sequence(2, 1), "b")
    with pytest.raises(CachePersistenceError):  # it finds that its catalogue is another's
        store.put(blocks_of(sequence(1, 1)), "a")
    assert is_known(store, other)
    store.close()
    assert not is_known(store, other)
    other.close()


def test_the_folder_of_the_files_is_made_again(both: tuple[DiskStore, DiskStore]) -> None:
    store, other = both
    shutil.rmtree(store.path / "owners")
    assert store.put(blocks_of(sequence(2, 1)), "a") == 1
    other.recover()
    assert is_known(store, other)
    assert is_known(other, store)


def test_another_file_of_the_name_is_not_taken_for_ones_own(
    both: tuple[DiskStore, DiskStore],
) -> None:
    store, other = both
    (store.path / "owners" / store._owners.name).touch()
    store.put(blocks_of(sequence(2, 1)), "a")
    assert is_known(store, other)


def test_the_file_of_one_who_writes_does_not_grow_old(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (file,) = (tmp_path / "owners").iterdir()
    os.utime(file, (0, 0))
    store.put(blocks_of(sequence(2, 1)), "a")
    assert file.stat().st_mtime > 0
    store.close()
    with pytest.raises(CachePersistenceError, match="closed"):
        store.put(blocks_of(sequence(3, 1)), "a")
    assert list((tmp_path / "owners").iterdir()) == []


# Files of others -------------------------------------------------------------------------------


def test_a_file_that_may_not_be_opened_stops_nothing_and_counts_as_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owners").mkdir()
    file = tmp_path / "owners" / OTHERS
    file.touch()

    def refused(path: Path, flags: int = os.O_RDONLY) -> Lock:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return Lock(path, flags)

    monkeypatch.setattr(owners, "Lock", refused)
    tmp_path.chmod(0o700)
    store = opened(tmp_path)
    assert OTHERS in store.running()
    assert turn(store, sequence(1, 1), "a") == 1
    store.close()
    assert file.exists()
    monkeypatch.undo()
    store = opened(tmp_path)
    assert not file.exists()
    store.close()


def test_nobody_waits_for_one_who_was_stopped_while_it_asked_who_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Lock] = []

    def asked_about(path: Path, flags: int = os.O_RDONLY) -> Lock:
        lock = Lock(path, flags)
        if path.parent.name == "owners" and not stopped:
            stopped.append(Lock(path, os.O_RDWR))
            assert stopped[0].take_alone()
        return lock

    monkeypatch.setattr(owners, "Lock", asked_about)
    store, other = opened(tmp_path), opened(tmp_path)
    assert len(stopped) == 1
    assert is_known(store, other)
    # It goes on, and removes what it has locked.
    left = set(other.running()) - {store._owners.name, other._owners.name}
    for name in left:
        (tmp_path / "owners" / name).unlink()
    stopped[0].close()
    assert sorted(store.running()) == sorted([store._owners.name, other._owners.name])
    assert is_known(store, other)
    for one in (store, other):
        one.close()
    assert list((tmp_path / "owners").iterdir()) == []


def test_a_file_that_was_never_named_is_a_dead_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, to: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(CachePersistenceError, match="No space"):
        opened(tmp_path)
    monkeypatch.undo()
    assert len(list((tmp_path / "owners").iterdir())) == 1
    store = opened(tmp_path)
    assert [file.name for file in (tmp_path / "owners").iterdir()] == store.running()
    store.close()


# Children --------------------------------------------------------------------------------------


def in_child(act: Callable[[], object]) -> str:
    """What becomes of this in a forked child, while another thread holds what it holds."""
    child = os.fork()
    if not child:
        signal.alarm(10)
        status = 2
        try:
            act()
            status = 0
        except CachePersistenceError as error:
            status = 1 if "forked" in str(error) else 2
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "hangs"
    return {0: "done", 1: "refused"}.get(os.waitstatus_to_exitcode(status), "other")


@pytest.mark.parametrize("holds", ["a transaction", "the turn of writers", "the mending"])
def test_a_child_is_refused_while_another_thread_has_the_lock(holds: str, tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 1), "a")
    database = store.catalogue.database
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        lock = {
            "a transaction": database.transaction(),
            "the turn of writers": database._writing,
            "the mending": store._mending._lock,
        }[holds]
        with lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        assert in_child(lambda: store.path_of(ROOT, [])) == "refused"
        assert in_child(lambda: store.put(blocks_of(sequence(2, 1)), "a")) == "refused"
        assert in_child(lambda: store.used(ROOT, [ROOT], "a")) == "refused"
        assert in_child(lambda: store.regard(ROOT, "a", is_pinned=True)) == "refused"
        assert in_child(store._mending.ask) == "refused"
        assert in_child(store.close) == "done"
    finally:
        done.set()
        thread.join()
    assert found(store, sequence(1, 1)) == 1
    store.close()


def test_a_child_opens_a_store_of_its_own_whatever_was_being_opened(tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with sqlite_file._CREATING:
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_child(lambda: opened(tmp_path).close()) == "done"
    finally:
        done.set()
        holder.join()
