"""Processes on one folder: they write, read, evict, collect and verify, and some are killed."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from semantic import DiskStore
from semantic.adapters.store.block_file import described
from semantic.adapters.store.recovery import Recovery
from semantic.adapters.store.soundness import Soundness
from semantic.adapters.store.upkeep import verify
from semantic.domain.native import BlockFile
from semantic.domain.stored import NewBlock
from tests.store_hammer import LIMIT, hammered, lying_at_once
from tests.stored_blocks import blocks_of, found, read, sequence, turn


@pytest.mark.parametrize(
    ("n_processes", "seconds"), [(3, 4.0), pytest.param(8, 120.0, marks=pytest.mark.slow)]
)
def test_b29_processes_share_a_folder_and_some_are_killed(
    n_processes: int, seconds: float, tmp_path: Path
) -> None:
    seen = hammered(tmp_path, n_processes, seconds)
    assert seen.exits == [0] * (n_processes - 1)
    assert seen.killed
    for what in ("turns", "written", "read", "kept", "forgotten", "collected", "verified"):
        assert seen.done[what], what
    # B31, on the disk itself; and the watch has seen a folder that is in use.
    assert LIMIT // 4 < seen.most_bytes <= LIMIT
    assert seen.looks > 20
    # Whoever opens it next finds no trace of the dead, and nothing but whole blocks.
    path = tmp_path / "store"
    store = DiskStore(path, LIMIT, free_floor_bytes=0)
    assert list((path / "tmp").iterdir()) == []
    assert len(list((path / "owners").iterdir())) == 1
    assert store.stats()["bytes"] == lying_at_once(path)
    assert verify(store) == []
    for seed in range(5):
        n = found(store, sequence(seed, 5))
        assert all(read(store, block) for block in blocks_of(sequence(seed, 5))[:n])
    assert list((path / "aside").iterdir()) == []
    store.close()


def test_what_lies_in_a_folder_is_counted_wherever_it_lies(tmp_path: Path) -> None:
    sizes = {"blocks/ab/ab1.safetensors": 7, "tmp/owner-1": 11, "aside/x": 13, ".import-y/z": 17}
    for name in (*sizes, "catalogue.sqlite3-wal", "owners/o"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(sizes.get(name, 1000)))
    assert lying_at_once(tmp_path) == sum(sizes.values())


def test_what_goes_while_it_is_verified_is_not_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (DiskStore(tmp_path, free_floor_bytes=0) for _ in range(2))
    other.put(blocks_of(sequence(1, 2)), "a")
    first, second = (str(block.name) for block in blocks_of(sequence(1, 2)))
    known = store.catalogue.files()
    # One comes and goes again while it is read; the other comes and stays.
    monkeypatch.setattr(store.catalogue, "files", lambda: known - {first, second})

    def described_and_gone(file: BlockFile) -> NewBlock | None:
        block = described(file)
        if block is not None and str(block.name) == second:
            other.remove([second])
        return block

    monkeypatch.setattr("semantic.adapters.store.upkeep.described", described_and_gone)
    assert verify(store) == []
    assert (found(store, sequence(1, 2)), other.stats()["blocks"]) == (1, 1)
    store.close()
    other.close()


def test_what_others_write_meanwhile_is_no_wrong_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (DiskStore(tmp_path, free_floor_bytes=0) for _ in range(2))
    read_rows = store.catalogue.database.read
    seeds = iter(range(1, 100))

    def read_and_written(*arguments: Any) -> Any:
        rows = read_rows(*arguments)
        turn(other, sequence(next(seeds), 1), "a")
        return rows

    monkeypatch.setattr(store.catalogue.database, "read", read_and_written)
    assert Soundness(store.catalogue, store.veil).is_sum_right()
    assert next(seeds) > 1
    store.close()
    other.close()


def test_a_file_that_goes_and_comes_again_keeps_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (DiskStore(tmp_path, free_floor_bytes=0) for _ in range(2))
    tokens = sequence(1, 2)
    turn(other, tokens, "a")
    # The count is wrong, and while it is made right another process evicts and writes.
    monkeypatch.setattr(Soundness, "is_sum_right", lambda _: False)
    count_again = Soundness.count_again

    def written_again(self: Soundness, sizes: dict[str, int]) -> None:
        turn(other, tokens, "a")
        count_again(self, sizes)

    monkeypatch.setattr(Soundness, "count_again", written_again)
    size = Recovery._size

    def gone(self: Recovery, file: str) -> int:
        other.remove([file])
        return size(self, file)

    monkeypatch.setattr(Recovery, "_size", gone)
    store.recover()
    monkeypatch.undo()
    assert store.stats()["blocks"] == 2
    assert store.stats()["bytes"] == lying_at_once(tmp_path)
    assert verify(store) == []
    store.close()
    other.close()


def test_what_is_asked_does_not_wait_for_what_is_written(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 1), "a")
    another = sqlite3.connect(tmp_path / "catalogue.sqlite3", isolation_level=None)
    another.execute("BEGIN IMMEDIATE")
    writer = threading.Thread(target=turn, args=(store, sequence(2, 1), "a"))
    writer.start()
    time.sleep(0.1)
    start = time.monotonic()
    assert (found(store, sequence(1, 1)), store.stats()["blocks"]) == (1, 1)
    assert read(store, blocks_of(sequence(1, 1))[0])
    assert time.monotonic() - start < 5
    assert writer.is_alive()
    another.execute("ROLLBACK")
    another.close()
    writer.join(30)
    assert found(store, sequence(2, 1)) == 1
    store.close()
