"""Processes that live on where others were killed, and stores that share a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.upkeep import verify
from semantic.domain.native import TokenIds
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, read, sequence, turn

FOLDER = Path(__file__).parents[2]
FILE_BYTES = BLOCK_BYTES + 8192


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def whole(store: DiskStore, seed: int, n_blocks: int) -> int:
    tokens = sequence(seed, n_blocks)
    n = found(store, tokens)
    assert all(read(store, block) for block in blocks_of(tokens)[:n])
    return n


def started(path: Path, lines: str, **options: Any) -> subprocess.Popen[str]:
    """Another process that has the store open as `store`, and does this with it."""
    given = {"free_floor_bytes": 0, **options}
    code = (
        "import os, signal, sys, time\nfrom semantic import DiskStore\n"
        "from tests.stored_blocks import *\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"store = DiskStore({str(path)!r}, **{given!r})\n" + lines
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    )


def killed(path: Path, lines: str, **options: Any) -> None:
    process = started(path, lines, **options)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def said(path: Path, lines: str) -> str:
    process = started(path, lines, repair=False)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.strip()


def test_what_a_killed_one_had_reserved_is_written_by_a_survivor(tmp_path: Path) -> None:
    survivor = opened(tmp_path)
    killed(tmp_path, "store._write = die\nstore.put(blocks_of(sequence(1, 2)), 'x')")
    assert survivor.put(blocks_of(sequence(1, 2)), "a") == 2
    assert whole(survivor, 1, 2) == 2
    assert verify(survivor) == []
    survivor.close()


def test_what_a_killed_one_had_written_is_served_by_a_survivor(tmp_path: Path) -> None:
    survivor = opened(tmp_path)
    killed(tmp_path, "store.catalogue.arrived = die\nstore.put(blocks_of(sequence(1, 2)), 'x')")
    assert found(survivor, sequence(1, 2)) == 0
    assert survivor.put(blocks_of(sequence(1, 2)), "a") == 0
    assert whole(survivor, 1, 2) == 2
    assert survivor.catalogue.on_their_way() == []
    survivor.close()


def test_what_a_killed_one_was_removing_makes_room_for_a_survivor(tmp_path: Path) -> None:
    limit = 4 * FILE_BYTES
    survivor = opened(tmp_path, max_bytes=limit)
    turn(survivor, sequence(1, 3), "a")
    killed(tmp_path, "store._remove_file = die\nstore.shrink(1 << 30)", max_bytes=limit)
    assert found(survivor, sequence(1, 3)) == 0
    assert survivor.put(blocks_of(sequence(2, 3)), "a") == 3
    assert whole(survivor, 2, 3) == 3
    assert verify(survivor) == []
    survivor.close()


def test_what_a_killed_one_had_pinned_makes_room_for_a_survivor(tmp_path: Path) -> None:
    limit = 4 * FILE_BYTES
    survivor = opened(tmp_path, max_bytes=limit)
    lines = (
        "turn(store, sequence(1, 3), 'x')\nstore.regard(ROOT, 'x', is_pinned=True)\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    pinning = started(tmp_path, lines, max_bytes=limit)
    assert pinning.stdout is not None
    assert pinning.stdout.readline() == "ready\n"
    with pytest.raises(CachePersistenceError, match="more than may be stored"):
        survivor.put(blocks_of(sequence(2, 3)), "a")
    pinning.kill()
    pinning.communicate()
    assert survivor.put(blocks_of(sequence(2, 3)), "a") == 3
    survivor.close()


def test_a_child_of_a_killed_one_does_not_count_as_its_parent(tmp_path: Path) -> None:
    survivor = opened(tmp_path)
    lines = (
        "from semantic.adapters.store.catalogue import Room\n"
        "blocks = [(block, 100) for block in blocks_of(sequence(1, 2))]\n"
        "store.catalogue.reserve(blocks, Room(1 << 30), 'a', 0)\n"
        "child = os.fork()\n"
        "if child: time.sleep(60)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    parent = started(tmp_path, lines)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert len(survivor.running()) == 2
        assert survivor.put(blocks_of(sequence(1, 2)), "a") == 0, "the parent writes them"
        parent.kill()
        parent.wait()
        assert len(survivor.running()) == 1
        assert survivor.put(blocks_of(sequence(1, 2)), "a") == 2
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate()
    survivor.close()


def test_a_child_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 2), "a")
    child = os.fork()
    if not child:
        status = 1
        try:
            store.put(blocks_of(sequence(2, 1)), "b")
        except CachePersistenceError:
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(store.running()) == 1
    assert said(tmp_path, "print(len(store.running()))") == "2"
    assert turn(store, sequence(2, 1), "b") == 1
    assert whole(store, 1, 2) == 2
    store.close()


def test_stores_of_one_process_share_the_folder_with_other_processes(tmp_path: Path) -> None:
    first = opened(tmp_path)
    turn(first, sequence(1, 2), "a")
    second = opened(tmp_path)
    # Whoever is the last to close the catalogue removes its log. This one is not.
    assert said(tmp_path, "print(found(store, sequence(1, 2)))") == "2"
    assert (tmp_path / "catalogue.sqlite3-wal").exists()
    turn(first, sequence(2, 2), "a")
    lines = "print(found(store, sequence(2, 2)))\nstore.put(blocks_of(sequence(3, 2)), 'c')"
    assert said(tmp_path, lines) == "2"
    for store in (first, second):
        assert [whole(store, seed, 2) for seed in (1, 2, 3)] == [2, 2, 2]
    second.close()
    assert said(tmp_path, "print(found(store, sequence(3, 2)))") == "2"
    turn(first, sequence(4, 2), "a")
    first.close()
    store = opened(tmp_path)
    assert [whole(store, seed, 2) for seed in (1, 2, 3, 4)] == [2, 2, 2, 2]
    store.close()


def refused(*_: object, **__: object) -> Any:
    raise CachePersistenceError("database or disk is full", errno=28)


def test_a_disk_that_was_full_when_blocks_arrived_leaves_nothing_reserved(tmp_path: Path) -> None:
    store = opened(tmp_path)
    arrived, left = store.catalogue.arrived, store.catalogue.left
    store.catalogue.arrived = refused  # type: ignore[method-assign]
    store.catalogue.left = refused  # type: ignore[method-assign]
    for seed in (1, 2):
        with pytest.raises(CachePersistenceError):
            store.put(blocks_of(sequence(seed, 2)), "a")
    store.catalogue.arrived = arrived  # type: ignore[method-assign]
    store.catalogue.left = left  # type: ignore[method-assign]
    assert store.put(blocks_of(sequence(1, 2)), "a") == 2
    assert whole(store, 1, 2) == 2
    assert store.catalogue.on_their_way() == []
    assert len(list((tmp_path / "blocks").rglob("*.safetensors"))) == 2
    store.close()


def test_a_file_that_cannot_be_removed_stops_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 3), "a")
    stuck = str(blocks_of(sequence(1, 3))[1].name)
    remove = store._remove_file

    def remove_others(file: str) -> None:
        refused() if file == stuck else remove(file)

    store._remove_file = remove_others  # type: ignore[method-assign]
    assert store.forget(ROOT, "a") == 2
    assert found(store, sequence(1, 3)) == 0
    assert turn(store, sequence(2, 2), "b") == 2
    assert files(tmp_path) == sorted([stuck, *names(sequence(2, 2))])
    assert store.stats()["bytes"] > 3 * BLOCK_BYTES, "it still takes room"
    store._remove_file = remove  # type: ignore[method-assign]
    turn(store, sequence(3, 1), "b")
    assert files(tmp_path) == sorted(names(sequence(2, 2)) + names(sequence(3, 1)))
    store.close()


def names(tokens: Sequence[int]) -> list[str]:
    return [str(block.name) for block in blocks_of(tokens)]


def files(path: Path) -> list[str]:
    return sorted(file.stem for file in (path / "blocks").rglob("*.safetensors"))


def test_use_is_told_while_others_are_killed(tmp_path: Path) -> None:
    survivor = opened(tmp_path)
    turn(survivor, sequence(1, 2), "a")
    killed(tmp_path, "store.catalogue.database.transaction().__enter__()\ndie()")
    start = time.monotonic()
    survivor.used(ROOT, TokenIds(sequence(1, 2)).keys(ROOT), "b")
    assert time.monotonic() - start < 10
    survivor.close()


def coming_of_a_dead_one(path: Path) -> None:
    """What a power cut leaves that took the row which said that the block is here."""
    killed(path, "store.catalogue.arrived = die\nstore.put(blocks_of(sequence(1, 2)), 'x')")


def test_a_whole_block_stays_where_the_catalogue_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming_of_a_dead_one(tmp_path)
    monkeypatch.setattr(Catalogue, "adopt", refused)
    store = opened(tmp_path)
    assert found(store, sequence(1, 2)) == 0
    assert files(tmp_path) == sorted(names(sequence(1, 2)))
    assert store.stats()["bytes"] > 2 * BLOCK_BYTES, "it stays reserved"
    monkeypatch.undo()
    assert turn(store, sequence(2, 1), "b") == 1
    assert whole(store, 1, 2) == 2
    assert verify(store) == []
    store.close()


def test_a_whole_block_stays_where_the_store_is_closed_meanwhile(tmp_path: Path) -> None:
    coming_of_a_dead_one(tmp_path)
    store = opened(tmp_path, repair=False)
    store._recovery.is_over = True
    with pytest.raises(CachePersistenceError, match="closed meanwhile"):
        store.recover()
    store.close()
    store = opened(tmp_path)
    assert whole(store, 1, 2) == 2
    store.close()
