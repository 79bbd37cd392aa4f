"""A catalogue that is damaged anywhere: nothing wrong is served, and no whole block is lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store import soundness
from semantic.adapters.store.database import CatalogueDamagedError, Database
from semantic.adapters.store.upkeep import verify
from semantic.cli import store as command
from semantic.domain.native import TokenIds
from tests.stored_blocks import ROOT, blocks_of, found, read, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

SEEDS = range(6)
PAGE_BYTES = 8192
KEY = bytes(range(32))


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def whole(store: DiskStore, seed: int) -> int:
    """Blocks of a sequence that are found, from the first on; each is read and compared."""
    tokens = sequence(seed, 2)
    n = found(store, tokens)
    assert all(read(store, block) for block in blocks_of(tokens)[:n])
    return n


def everything(store: DiskStore) -> list[int]:
    return [whole(store, seed) for seed in SEEDS]


def filled(path: Path, **options: Any) -> bytes:
    """A store of some conversations; its catalogue."""
    store = opened(path, **options)
    for seed in SEEDS:
        turn(store, sequence(seed, 2), f"agent-{seed}")
    store.close()
    assert [file.name for file in path.glob("catalogue*")] == ["catalogue.sqlite3"]
    return (path / "catalogue.sqlite3").read_bytes()


def put_back(path: Path, content: bytes) -> None:
    for file in path.glob("catalogue*"):
        file.unlink()
    (path / "catalogue.sqlite3").write_bytes(content)


def check_whole(path: Path, **options: Any) -> None:
    """All is served after opening, new blocks are taken, and nothing is bad."""
    store = opened(path, **options)
    try:
        assert everything(store) == [2] * len(SEEDS)
        new = sequence(100, 1)
        assert turn(store, new, "new") == 1
        assert found(store, new) == 1
        store.remove([store.file_of(blocks_of(new)[0].name)])
        assert store.stats()["blocks"] == 2 * len(SEEDS)
        assert verify(store) == []
        store.clear_aside()
    finally:
        store.close()


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_any_page_may_be_lost(key: bytes | None, tmp_path: Path) -> None:
    catalogue = filled(tmp_path, key=key)
    noise = random.Random(1)
    for at in range(0, len(catalogue), PAGE_BYTES):
        page = noise.randbytes(PAGE_BYTES)
        put_back(tmp_path, catalogue[:at] + page + catalogue[at + PAGE_BYTES :])
        check_whole(tmp_path, key=key)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_any_bit_may_have_changed(key: bytes | None, tmp_path: Path) -> None:
    catalogue = filled(tmp_path, key=key)
    noise = random.Random(2)
    places = [noise.randrange(len(catalogue)) for _ in range(10)]
    if key is None:
        # The header of the file and of each page are where a bit means most.
        places += [noise.randrange(100) for _ in range(10)]
        places += [at + noise.randrange(40) for at in range(0, len(catalogue), PAGE_BYTES)]
    for at in places:
        changed = bytearray(catalogue)
        changed[at] ^= 1 << noise.randrange(8)
        put_back(tmp_path, bytes(changed))
        check_whole(tmp_path, key=key)


def test_any_end_may_be_missing(tmp_path: Path) -> None:
    catalogue = filled(tmp_path)
    for n_bytes in (
        0,
        1,
        99,
        100,
        512,
        PAGE_BYTES,
        40_000,
        len(catalogue) // 2,
        len(catalogue) - 1,
    ):
        put_back(tmp_path, catalogue[:n_bytes])
        check_whole(tmp_path)


@contextlib.contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    """Rows that are changed behind the store's back."""
    connection = sqlite3.connect(path / "catalogue.sqlite3")
    with connection:
        yield connection
    connection.close()


def flipped(value: bytes, at: int = 8) -> bytes:
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


def change_tokens(connection: sqlite3.Connection, key: bytes) -> None:
    ((tokens,),) = connection.execute("SELECT tokens FROM nodes WHERE key = ?", (key,))
    connection.execute("UPDATE nodes SET tokens = ? WHERE key = ?", (flipped(tokens), key))


def change(text: str) -> Callable[[sqlite3.Connection, bytes], None]:
    return lambda connection, key: connection.execute(text, (key,)) and None


ROWS: dict[str, Callable[[sqlite3.Connection, bytes], None]] = {
    "tokens": change_tokens,
    "fewer tokens": change("UPDATE nodes SET tokens = x'0011', n_tokens = 1 WHERE key = ?"),
    "parent": change("UPDATE nodes SET parent = x'00' WHERE key = ?"),
    "lost node": change("DELETE FROM nodes WHERE key = ?"),
    "positions": change("UPDATE blocks SET hi = hi + 1 WHERE key = ?"),
    "group": change("UPDATE blocks SET layer_group = 'globap' WHERE key = ?"),
    "key": change("UPDATE blocks SET key = x'00' WHERE key = ?"),
}
AT_VERIFY: dict[str, Callable[[sqlite3.Connection, bytes], None]] = {
    "namespace": change("UPDATE nodes SET namespace = x'00' WHERE key = ?"),
    "bounded": change("UPDATE blocks SET is_bounded = 1 WHERE key = ?"),
    "bytes": change("UPDATE blocks SET bytes = bytes + 1 WHERE key = ?"),
}


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("row", [*ROWS, *AT_VERIFY])
def test_verify_finds_rows_that_cannot_be_right_and_mends_them(
    row: str, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:  # too large to be checked whenever it is opened
        monkeypatch.setattr(soundness, "_FULL_CHECK_BYTES", 0)
    filled(tmp_path)
    block = blocks_of(sequence(3, 2))[1]
    with changed(tmp_path) as connection:
        {**ROWS, **AT_VERIFY}[row](connection, block.name.key)
    store = opened(tmp_path, repair=False)
    bad = [file.file for file in verify(store)]
    assert str(block.name) in bad
    assert [file.file for file in verify(store)] == bad, "nothing was changed"
    assert str(block.name) in [file.file for file in verify(store, repair=True)]
    assert verify(store) == []
    assert everything(store) == [2] * len(SEEDS)
    assert store.stats()["bytes"] == sum(
        file.stat().st_size for file in (tmp_path / "blocks").rglob("*.safetensors")
    )
    store.close()


@pytest.mark.parametrize("row", ROWS)
def test_opening_mends_rows_that_cannot_be_right(row: str, tmp_path: Path) -> None:
    filled(tmp_path)
    with changed(tmp_path) as connection:
        ROWS[row](connection, blocks_of(sequence(3, 2))[1].name.key)
    check_whole(tmp_path)


def test_opening_counts_the_bytes_again(tmp_path: Path) -> None:
    filled(tmp_path)
    with changed(tmp_path) as connection:
        connection.execute("UPDATE counts SET value = value - 70000 WHERE name = 'bytes'")
    store = opened(tmp_path)
    n_bytes = sum(file.stat().st_size for file in (tmp_path / "blocks").rglob("*.safetensors"))
    assert store.stats()["bytes"] == n_bytes
    store.close()


@pytest.mark.parametrize("row", ["tokens", "fewer tokens", "positions", "group"])
def test_what_is_put_again_repairs_its_row(row: str, tmp_path: Path) -> None:
    """Of a store that is too large to be checked when it is opened, or was damaged since."""
    filled(tmp_path)
    store = opened(tmp_path)
    tokens = sequence(3, 2)
    with changed(tmp_path) as connection:
        ROWS[row](connection, blocks_of(tokens)[1].name.key)
    path = store.path_of(ROOT, TokenIds(tokens).keys(ROOT))
    known = [block for nodes in path for node in nodes for block in node.blocks]
    assert blocks_of(tokens)[1].name not in known, "what is damaged is a miss"
    tokens[257] ^= 1
    assert found(store, tokens) == 1, "nor is it what it looks like now"
    tokens[257] ^= 1
    assert store.put(blocks_of(tokens), "a") == 0
    assert whole(store, 3) == 2
    assert verify(store) == []
    store.close()


def overwrite(path: Path) -> None:
    """Damage a catalogue from another process: SQLite's locks belong to this one."""
    code = (
        "import os, sys; file = os.open(sys.argv[1], os.O_RDWR)\n"
        "for at in range(8192, os.fstat(file).st_size, 8192): os.pwrite(file, b'?' * 8192, at)"
    )
    subprocess.run([sys.executable, "-c", code, str(path / "catalogue.sqlite3")], check=True)


def forget_pages(store: DiskStore) -> None:
    """Have SQLite read pages again: it keeps those that it has read."""
    connection = store.catalogue.database._connection
    assert connection is not None
    connection.execute("PRAGMA shrink_memory")


def test_damage_that_is_met_later_is_a_miss_until_the_catalogue_is_made_again(
    tmp_path: Path,
) -> None:
    filled(tmp_path)
    store = opened(tmp_path)
    overwrite(tmp_path)
    forget_pages(store)
    with pytest.raises(CachePersistenceError):
        everything(store)
    assert store.is_whole(20)
    assert everything(store) == [2] * len(SEEDS)
    assert turn(store, sequence(50, 1), "a") == 1
    assert list((tmp_path / "aside").iterdir())
    store.close()
    store = opened(tmp_path)
    assert everything(store) == [2] * len(SEEDS)
    assert verify(store) == []
    store.close()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_catalogue_that_somebody_takes_away_is_made_again(how: str, tmp_path: Path) -> None:
    catalogue = filled(tmp_path)
    stores = opened(tmp_path), opened(tmp_path)
    (tmp_path / "catalogue.sqlite3").unlink()
    if how == "replaced":
        (tmp_path / "catalogue.sqlite3").write_bytes(catalogue)
    for store in stores:
        with pytest.raises(CatalogueDamagedError):
            turn(store, sequence(50, 1), "a")
    assert all(store.is_whole(20) for store in stores)
    assert turn(stores[0], sequence(50, 1), "a") == 1
    for store in stores:
        assert everything(store) == [2] * len(SEEDS)
        assert found(store, sequence(50, 1)) == 1
    for store in stores:
        store.close()


def test_nobody_makes_a_catalogue_again_that_others_have_open(tmp_path: Path) -> None:
    filled(tmp_path)
    first, second = opened(tmp_path), opened(tmp_path)
    first.catalogue.database.condemn("a page is damaged")
    with pytest.raises(CatalogueDamagedError):
        turn(first, sequence(50, 1), "a")
    assert not first.is_whole(1.0), "the second one has the file open"
    third = opened(tmp_path)
    assert not third.is_whole(0.0)
    assert third.stats()["blocks"] == 0
    with pytest.raises(CatalogueDamagedError):
        everything(second)
    stores = first, second, third
    assert all(store.is_whole(20) for store in stores)
    for store in stores:
        assert everything(store) == [2] * len(SEEDS)
    assert turn(first, sequence(50, 1), "a") == 1
    assert [found(store, sequence(50, 1)) for store in stores] == [1, 1, 1]
    for store in stores:
        store.close()


def work(path: str, signs: str, seed: int) -> None:
    """Write, read, use and forget, as one of several processes; a refusal is a miss."""
    store = opened(Path(path))
    turns = 0
    while not (Path(signs) / "stop").exists():
        turns += 1
        tokens = sequence((seed + turns) % 5, 1 + turns % 4)
        try:
            store.put(blocks_of(tokens), f"agent-{seed}")
            assert sum(read(store, block) for block in blocks_of(tokens)) >= 0
            store.used(ROOT, TokenIds(tokens).keys(ROOT), f"agent-{seed}")
            if turns % 9 == 0:
                store.forget(ROOT, f"agent-{seed}")
            (Path(signs) / f"works-{seed}").touch()
        except CachePersistenceError:
            (Path(signs) / f"missed-{seed}").touch()
    assert store.is_whole(30)
    store.close()
    os._exit(0)


def spoil_pages(path: Path, noise: random.Random) -> None:
    with contextlib.suppress(FileNotFoundError):  # it is being made again
        file = os.open(path / "catalogue.sqlite3", os.O_RDWR)
        for at in range(PAGE_BYTES, os.fstat(file).st_size, PAGE_BYTES):
            os.pwrite(file, noise.randbytes(PAGE_BYTES), at)
        os.close(file)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_catalogue_may_be_damaged_while_processes_share_it(rounds: int, tmp_path: Path) -> None:
    folder, signs = tmp_path / "store", tmp_path / "signs"
    signs.mkdir()
    opened(folder).close()
    spawn = multiprocessing.get_context("spawn")
    arguments = [(str(folder), str(signs), seed) for seed in range(3)]
    processes = [spawn.Process(target=work, args=given) for given in arguments]
    for process in processes:
        process.start()
    noise = random.Random(3)
    end = time.monotonic() + 120
    for _ in range(rounds):
        for sign in ("works", "missed"):
            for file in signs.iterdir():
                file.unlink()
            while len(list(signs.glob(f"{sign}-*"))) < len(processes):
                assert time.monotonic() < end
                if sign == "missed":
                    spoil_pages(folder, noise)
                time.sleep(0.3)
    (signs / "stop").touch()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = opened(folder)
    assert verify(store) == []
    assert len(store.running()) == 1
    files = list((folder / "blocks").rglob("*.safetensors"))
    assert store.stats()["bytes"] == sum(file.stat().st_size for file in files)
    for tokens in (sequence(seed, 4) for seed in range(5)):
        blocks = blocks_of(tokens)[: found(store, tokens)]
        assert all(read(store, block) for block in blocks)
    store.close()


def test_what_is_being_written_is_not_parted(tmp_path: Path) -> None:
    store = opened(tmp_path)
    write, seen = store._write, []

    def damaged_meanwhile(blocks: Any) -> list[int]:
        store.catalogue.database.condemn("a page is damaged")
        assert not store.is_whole(1.0), "these blocks are in no catalogue yet"
        seen.append(len(blocks))
        return write(blocks)

    store._write = damaged_meanwhile  # type: ignore[method-assign]
    with pytest.raises(CachePersistenceError):
        store.put(blocks_of(sequence(1, 2)), "a")
    assert seen == [2]
    assert store.is_whole(20)
    store._write = write  # type: ignore[method-assign]
    assert store.put(blocks_of(sequence(1, 2)), "a") == 0, "the files are the truth"
    assert whole(store, 1) == 2
    assert verify(store) == []
    store.close()


def test_a_row_that_is_written_twice_is_no_damage(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.catalogue.reserve_bytes("mine", 1, 10) == 0
    with pytest.raises(CachePersistenceError, match="UNIQUE"):
        store.catalogue.reserve_bytes("mine", 1, 10)
    assert not store.catalogue.database.is_damaged
    store.close()


def test_a_closed_or_forked_catalogue_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "c.sqlite3")
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: 1)
        with pytest.raises(CachePersistenceError, match="forked"):
            database.read("SELECT 1")
        database.close()
    assert database.read("SELECT 1") == [(1,)]
    database.close()
    database.close()
    with pytest.raises(CachePersistenceError, match="closed"):
        database.read("SELECT 1")


def contents(path: Path) -> dict[str, bytes]:
    """All files but those that say who looks."""
    files = [file for file in path.rglob("*") if file.is_file()]
    named = {str(file.relative_to(path)): file for file in files}
    return {
        name: file.read_bytes()
        for name, file in named.items()
        if not name.startswith(("owners", "catalogue.sqlite3-"))
    }


def spoilt(path: Path, how: str) -> None:
    catalogue = path / "catalogue.sqlite3"
    if how == "another version":
        with changed(path) as connection:
            connection.execute("PRAGMA user_version = 1")
    elif how == "damaged":
        catalogue.write_bytes(b"no database at all" * 1000)
    elif how == "empty":
        catalogue.write_bytes(b"")
    else:
        catalogue.unlink()


@pytest.mark.parametrize("how", ["another version", "damaged", "empty", "missing"])
def test_who_only_looks_changes_nothing(how: str, tmp_path: Path) -> None:
    filled(tmp_path)
    spoilt(tmp_path, how)
    before = contents(tmp_path)
    key = blocks_of(sequence(1, 1))[0].name.key.hex()[:12]
    for words in (["ls"], ["ls", "--blocks"], ["stats"], ["show", key], ["export", "x.tar"]):
        done = CliRunner().invoke(APP, ["store", *words, "--store", str(tmp_path)])
        assert done.exit_code == 2, (words, done.output)
        assert "verify --repair" in done.stderr
        assert "Traceback" not in done.output
        assert contents(tmp_path) == before
    forget = ["forget", "--older-than", "1h", "--dry-run"]
    assert CliRunner().invoke(APP, ["store", *forget, "--store", str(tmp_path)]).exit_code == 2
    done = CliRunner().invoke(APP, ["store", "verify", "--store", str(tmp_path)])
    assert done.exit_code == 1
    assert "catalogue.sqlite3" in done.stdout
    assert done.stdout.count("\n") == 2, "the blocks are whole, whatever the catalogue is"
    assert contents(tmp_path) == before
    done = CliRunner().invoke(APP, ["store", "verify", "--repair", "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    store = opened(tmp_path, repair=False)
    assert everything(store) == [2] * len(SEEDS)
    store.close()


def test_a_catalogue_that_is_not_taken_up_again_is_kept_to_be_looked_at(tmp_path: Path) -> None:
    filled(tmp_path)
    spoilt(tmp_path, "another version")
    before = contents(tmp_path)["catalogue.sqlite3"]
    store = opened(tmp_path)
    (aside,) = (tmp_path / "aside").iterdir()
    assert aside.read_bytes() == before
    store.close()


def test_a_maker_that_is_killed_leaves_the_work_to_the_next(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "catalogue.sqlite3-damaged").touch()
    code = (
        "import os; from pathlib import Path; from semantic import DiskStore\n"
        "from semantic.adapters.store import catalogue\n"
        "catalogue.Catalogue.adopt = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"DiskStore(Path({str(tmp_path)!r}), free_floor_bytes=0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    looked = opened(tmp_path, repair=False)
    with pytest.raises(CatalogueDamagedError):
        everything(looked)
    looked.close()
    check_whole(tmp_path)
    assert not (tmp_path / "catalogue.sqlite3-damaged").exists()
