"""What others have laid into a store's folder: nobody touches it, and it stops nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from semantic import DiskStore
from semantic.adapters.store.upkeep import collect, verify
from tests.stored_blocks import BLOCK_BYTES, blocks_of, found, read, sequence, turn

OWNER = "0123456789abcdef"
NAME = str(blocks_of(sequence(9, 1))[0].name)
STRANGERS = (
    "letter",
    "tmp/thesis.tex",
    "tmp/photos/a.jpg",
    "tmp/dead-1",
    f"tmp/{OWNER}",
    f"tmp/{OWNER}-",
    f"tmp/{OWNER}-draft",
    f"tmp/{OWNER}0-1",
    f"tmp/{OWNER.upper()}-1",
    f"tmp/{OWNER}-draft1/a",
    f"tmp/my-{OWNER}-work1/a",
    "owners/people.csv",
    f"owners/{OWNER}.txt",
    f"owners/{OWNER[1:]}",
    f"owners/{OWNER[1:]}f/a",
    "aside/for-later",
    f"aside/{NAME}",
    f"aside/{NAME}.{OWNER}",
    f"aside/{NAME}.bak-1",
    f"aside/more.{OWNER}-1",
    "aside/catalogue.sqlite3.bak",
    "aside/catalogue.sqlite3-journal.12-1",
)
LEFT = (
    f"tmp/{OWNER}-0",
    f"tmp/{OWNER}-work3/blocks/ab/x",
    f"owners/{OWNER}",
    f"aside/{NAME}.{OWNER}-17",
    "aside/catalogue.sqlite3.4321-0",
    "aside/catalogue.sqlite3-wal.4321-1",
    "aside/catalogue.sqlite3-shm.4321-0",
)


def lay(folder: Path, names: tuple[str, ...]) -> None:
    folder.chmod(0o700)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1000)


def there(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (folder / name).is_file()]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    lay(tmp_path, (*STRANGERS, *LEFT))
    opened = DiskStore(tmp_path, free_floor_bytes=0)
    yield opened
    opened.close()


def test_a_store_in_a_private_folder_leaves_what_others_have_there(
    store: DiskStore, tmp_path: Path
) -> None:
    assert store.unread == {}
    assert there(tmp_path, STRANGERS) == list(STRANGERS)
    assert store.running() == [store.running()[0]]
    turn(store, sequence(1, 2), "a")
    assert store.bytes_aside(1 << 30) == 4000
    collect(store)
    store.scrub()
    verify(store, repair=True)
    assert there(tmp_path, STRANGERS) == list(STRANGERS)
    assert found(store, sequence(1, 2)) == 2


def test_what_a_store_has_left_there_goes(store: DiskStore, tmp_path: Path) -> None:
    assert there(tmp_path, LEFT) == [name for name in LEFT if name.startswith("aside")]
    assert not (tmp_path / f"tmp/{OWNER}-work3").exists()
    assert store.clear_aside() == 4000
    assert there(tmp_path, LEFT) == []


def test_what_is_set_aside_gets_a_name_that_is_removed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 2), "a")
    store.reject(str(blocks_of(sequence(1, 2))[1].name), "for a test")
    store.close()
    (tmp_path / "catalogue.sqlite3").write_bytes(b"damaged" * 1000)
    store = DiskStore(tmp_path, free_floor_bytes=0)
    aside = tmp_path / "aside"
    assert len(list(aside.iterdir())) >= 2
    assert store.clear_aside() > BLOCK_BYTES
    assert list(aside.iterdir()) == []
    store.close()


# What is no regular file -----------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, bytes(range(32))], ids=["plain", "sealed"])
def test_a_pipe_with_a_blocks_name_stops_nothing(key: bytes | None, tmp_path: Path) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0, key=key)
    turn(store, sequence(1, 2), "a")
    store.close()
    pipe = tmp_path / "blocks" / NAME[:2] / f"{NAME}.safetensors"
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    done: list[object] = []

    def use() -> None:
        store = DiskStore(tmp_path, free_floor_bytes=0, key=key)
        done.append(store.unread)
        done.append([file.stays for file in verify(store, repair=True)])
        done.append(all(read(store, block) for block in blocks_of(sequence(1, 2))))
        store.close()

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for somebody who writes"
    unread, *rest = done
    assert isinstance(unread, dict)
    assert list(unread) == [NAME]
    assert unread[NAME].endswith("it is no regular file")
    assert rest == [[True], True]
    assert pipe.is_fifo()
