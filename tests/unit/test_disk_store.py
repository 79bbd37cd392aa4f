"""The store on disk: limits, several processes, and what killed ones leave behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from semantic import CachePersistenceError, DiskStore, Namespace, PoolConfigurationError
from semantic.adapters.store.catalogue import Catalogue, Room
from semantic.domain.native import TokenIds
from semantic.domain.stored import NewBlock
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, read, sequence


def there(store: DiskStore, blocks: Sequence[NewBlock]) -> list[bool]:
    return [read(store, block) for block in blocks]


def disk_bytes(path: Path) -> int:
    n_bytes = 0
    for part in ("blocks", "tmp", "aside"):
        for file in (path / part).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # another process removes some
                n_bytes += file.stat().st_size if file.is_file() else 0
    return n_bytes


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def test_what_is_put_is_read_again_by_this_store_and_the_next(tmp_path: Path) -> None:
    blocks = blocks_of(sequence(1, 3))
    store = opened(tmp_path)
    assert store.put(blocks, "a") == 3
    assert store.put(blocks, "b") == 0
    assert there(store, blocks) == [True] * 3
    store.close()
    store.close()
    store = opened(tmp_path)
    assert there(store, blocks) == [True] * 3
    assert found(store, sequence(1, 3)) == 3
    assert store.stats()["blocks"] == 3
    store.close()


def test_b31_the_limit_holds_and_tails_go_before_heads(tmp_path: Path) -> None:
    limit = 7 * (BLOCK_BYTES + 8192)
    store = opened(tmp_path, max_bytes=limit)
    first, second, third = (sequence(n, 3) for n in (1, 2, 3))
    store.put(blocks_of(first), "a")
    store.put(blocks_of(second), "b")
    store.used(ROOT, TokenIds(first).keys(ROOT), "a")
    store.put(blocks_of(third), "c")
    assert disk_bytes(tmp_path) <= store.stats()["bytes"] <= limit
    assert found(store, first) == 3
    assert found(store, third) == 3
    assert 0 < found(store, second) < 3
    assert there(store, blocks_of(second))[: found(store, second)] == [True] * found(store, second)
    store.close()


def test_b31_more_than_the_limit_is_refused_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=BLOCK_BYTES)
    with pytest.raises(CachePersistenceError, match="more than may be stored"):
        store.put(blocks_of(sequence(1, 3)), "a")
    assert (store.stats()["blocks"], store.stats()["bytes"]) == (0, 0)
    assert disk_bytes(tmp_path) == 0
    store.close()


def test_b30_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path) -> None:
    store = opened(tmp_path, free_floor_bytes=1 << 60)
    with pytest.raises(CachePersistenceError, match="would leave less than"):
        store.put(blocks_of(sequence(1, 1)), "a")
    store.close()


def test_b30_what_the_system_refuses_leaves_nothing_reserved(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / "tmp").rmdir()
    with pytest.raises(CachePersistenceError):
        store.put(blocks_of(sequence(1, 2)), "a")
    assert store.stats()["bytes"] == 0
    (tmp_path / "tmp").mkdir()
    assert store.put(blocks_of(sequence(1, 2)), "a") == 2
    store.close()


def test_limits_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolConfigurationError):
        DiskStore(tmp_path, 0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CachePersistenceError):
        DiskStore(tmp_path / "file")
    (tmp_path / "catalogue.sqlite3").mkdir()
    with pytest.raises(CachePersistenceError):
        DiskStore(tmp_path)


def test_b28_a_lost_or_damaged_catalogue_is_made_again_from_the_blocks(tmp_path: Path) -> None:
    tokens = sequence(1, 3)
    store = opened(tmp_path)
    store.put(blocks_of(tokens), "a")
    store.close()
    catalogue = tmp_path / "catalogue.sqlite3"
    whole = catalogue.read_bytes()
    for damaged in (b"", b"no database at all" * 100, whole[:4096], None):
        if damaged is None:
            catalogue.unlink()
        else:
            catalogue.write_bytes(damaged)
        store = opened(tmp_path)
        assert found(store, tokens) == 3
        assert there(store, blocks_of(tokens)) == [True] * 3
        aside = store.bytes_aside(1 << 30)
        assert store.stats()["bytes"] == disk_bytes(tmp_path) - aside
        store.close()


def test_b28_a_catalogue_of_another_version_is_made_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put(blocks_of(sequence(1, 1)), "a")
    store.close()
    with sqlite3.connect(tmp_path / "catalogue.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = opened(tmp_path)
    assert found(store, sequence(1, 1)) == 1
    store.close()


def test_files_and_catalogue_agree_after_opening(tmp_path: Path) -> None:
    tokens = sequence(1, 3)
    store = opened(tmp_path)
    store.put(blocks_of(tokens), "a")
    store.close()
    first, second, third = (block.name for block in blocks_of(tokens))
    path = tmp_path / "blocks"
    (path / str(third)[:2] / f"{third}.safetensors").unlink()
    stranger = path / str(first)[:2] / "not a block.safetensors"
    stranger.write_bytes(b"?")
    wrong = path / str(second)[:2] / f"{second.key.hex()}-global-0-999.safetensors"
    wrong.write_bytes((path / str(second)[:2] / f"{second}.safetensors").read_bytes())
    (tmp_path / "tmp" / "0123456789abcdef-1").write_bytes(b"half")
    store = opened(tmp_path)
    assert found(store, tokens) == 2
    assert stranger.exists()
    assert not wrong.exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(list((tmp_path / "aside").iterdir())) == 1
    store.close()


def test_b31_what_was_set_aside_counts_and_does_not_pile_up(tmp_path: Path) -> None:
    limit = 24 * (BLOCK_BYTES + 8192)
    store = opened(tmp_path, max_bytes=limit)
    for seed in range(8):
        block = blocks_of(sequence(seed, 1))[0]
        store.put([block], "a")
        path = tmp_path / "blocks" / str(block.name)[:2] / f"{block.name}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert not read(store, block)
        assert not read(store, block)
    store.put(blocks_of(sequence(9, 5)), "a")
    assert len(list((tmp_path / "aside").iterdir())) < 3
    store.put(blocks_of(sequence(10, 18)), "a")
    assert disk_bytes(tmp_path) <= limit
    store.close()


def test_forgetting_an_agent_removes_what_only_it_has_used(tmp_path: Path) -> None:
    store = opened(tmp_path)
    mine, ours = sequence(1, 2), sequence(2, 2)
    store.put(blocks_of(mine), "a")
    store.put(blocks_of(ours), "a")
    store.used(ROOT, TokenIds(ours).keys(ROOT), "b")
    assert store.forget(Namespace("other").root, "a") == 0
    assert store.forget(ROOT, "a") == 2
    assert (found(store, mine), found(store, ours)) == (0, 2)
    assert not any(there(store, blocks_of(mine)))
    assert store.forget(ROOT, "b") == 2
    assert disk_bytes(tmp_path) == 0
    store.close()


def step_killed(path: str, step: int) -> None:
    """Put blocks, and die at the so many-th line that runs meanwhile."""
    store = opened(Path(path), max_bytes=4 * (BLOCK_BYTES + 8192))
    steps = 0

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        if "semantic/adapters/store" in frame.f_code.co_filename and event == "line":
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return count

    sys.settrace(count)
    store.put(blocks_of(sequence(2, 2)), "b")
    sys.settrace(None)
    os._exit(0)


@pytest.mark.parametrize("step", [*range(1, 120, 17), *range(120, 400, 41)])
def test_b27_killed_at_any_line_what_was_there_is_there(step: int, tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put(blocks_of(sequence(1, 2)), "a")
    store.used(ROOT, TokenIds(sequence(1, 2)).keys(ROOT), "a")
    store.close()
    process = multiprocessing.get_context("fork").Process(
        target=step_killed, args=(str(tmp_path), step)
    )
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    store = opened(tmp_path)
    assert there(store, blocks_of(sequence(1, 2))) == [True, True]
    n = found(store, sequence(2, 2))
    assert there(store, blocks_of(sequence(2, 2)))[:n] == [True] * n
    assert process.exitcode or n == 2
    assert store.stats()["bytes"] == disk_bytes(tmp_path)
    assert list((tmp_path / "aside").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    store.put(blocks_of(sequence(2, 2)), "b")
    assert there(store, blocks_of(sequence(2, 2))) == [True, True]
    store.close()


def test_the_catalogue_counts_what_comes_and_goes(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c.sqlite3", "me")
    blocks = blocks_of(sequence(1, 2))
    assert catalogue.reserve([(block, 100) for block in blocks], Room(150), "a", 0) == ([], 50)
    new, short = catalogue.reserve([(block, 100) for block in blocks], Room(200), "a", 0)
    assert (new, short) == (blocks, 0)
    assert catalogue.reserve([(block, 100) for block in blocks], Room(200), "a", 0) == ([], 0)
    assert catalogue.totals() == (0, 200)
    assert catalogue.choose(1) == []
    catalogue.arrived([(block, 90) for block in blocks], "a", 0)
    assert catalogue.totals() == (2, 180)
    tail = str(blocks[1].name)
    assert catalogue.choose(1) == [tail]
    assert catalogue.on_their_way() == [(tail, "leaving", "me")]
    catalogue.left([tail])
    assert catalogue.totals() == (1, 90)
    catalogue.close()
