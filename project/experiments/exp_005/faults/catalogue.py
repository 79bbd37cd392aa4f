"""The catalogue's files, damaged while nobody has them open: every block is there all the same."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.stored_blocks import sequence, turn

from faults.oracle import Expected, Row, checked, opened

__all__ = ["catalogue_rows"]

_PAGE = 8192
_NOISE = random.Random(7)

Change = Callable[[Path], object]


class Catalogues:
    """A store of 24 blocks: closed, and as a killed process leaves it.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self._trial = folder / "trial"
        self.closed, self.killed = folder / "closed", folder / "killed"
        store = opened(self.closed)
        for seed in range(1, 9):
            turn(store, sequence(seed, 3), f"agent {seed}")
        shutil.copytree(self.closed, self.killed)
        store.close()
        self._expected = Expected(there=tuple((seed, 3) for seed in range(1, 9)))
        self.size = (self.closed / "catalogue.sqlite3").stat().st_size

    def attempt(self, row: Row, change: Change, when: str, source: Path | None = None) -> None:
        """Change the files, and open the store."""
        shutil.copytree(source or self.closed, self._trial)
        change(self._trial / "catalogue.sqlite3")
        row.tried += 1
        checked(self._trial, self._expected, row, when)
        shutil.rmtree(self._trial)


def catalogue_rows(folder: Path, n: int) -> Iterator[Row]:
    """Damage of every kind; `n` of those that are random."""
    stores = Catalogues(folder)
    yield _bytes(stores, n)
    yield _pages(stores, n)
    yield _lengths(stores)
    yield _log(stores, n)
    yield _versions(stores)


def _put(at: int, noise: bytes, beside: str = "") -> Change:
    def change(path: Path) -> None:
        with Path(f"{path}{beside}").open("r+b") as file:
            file.seek(at)
            file.write(noise)

    return change


def _cut(n_bytes: int, beside: str = "") -> Change:
    return lambda path: os.truncate(f"{path}{beside}", n_bytes)


def _bytes(stores: Catalogues, n: int) -> Row:
    row = Row("a damaged catalogue", "bytes changed", note="1 to 64 bytes anywhere")
    for _ in range(n):
        at, length = _NOISE.randrange(stores.size), _NOISE.choice((1, 4, 64))
        stores.attempt(row, _put(at, _NOISE.randbytes(length)), f"{length} bytes at {at}")
    return row


def _pages(stores: Catalogues, n: int) -> Row:
    row = Row("a damaged catalogue", "a page of zeros, or of noise")
    pages = range(0, stores.size, _PAGE)
    for at in pages if n > len(pages) else pages[::3]:
        for page in (bytes(_PAGE), _NOISE.randbytes(_PAGE)):
            stores.attempt(row, _put(at, page), f"the page at {at}")
    return row


def _lengths(stores: Catalogues) -> Row:
    row = Row("a damaged catalogue", "cut short")
    for length in (0, 1, 99, 100, *range(512, stores.size, _PAGE), stores.size - 1):
        stores.attempt(row, _cut(length), f"{length} bytes are left")
    return row


def _log(stores: Catalogues, n: int) -> Row:
    row = Row("a damaged catalogue", "its log", note="gone, cut short, noise")
    size = (stores.killed / "catalogue.sqlite3-wal").stat().st_size
    places = [_NOISE.randrange(size) for _ in range(n // 4)]
    changes = [
        lambda path: Path(f"{path}-wal").unlink(),
        lambda path: Path(f"{path}-shm").unlink(),
        _put(0, _NOISE.randbytes(32_768), "-shm"),
        *(_cut(length, "-wal") for length in range(0, size, size // 16)),
        *(_put(at, b"noise", "-wal") for at in places),
    ]
    for number, change in enumerate(changes):
        stores.attempt(row, change, f"change {number} of the log", stores.killed)
    return row


def _versions(stores: Catalogues) -> Row:
    row = Row("a damaged catalogue", "another version, or no database")

    def version(number: int) -> Change:
        def change(path: Path) -> None:
            connection = sqlite3.connect(path)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.close()

        return change

    for number in (-1, 1, 99):
        stores.attempt(row, version(number), f"version {number}")
    for text in (b"", b"no database", b"SQLite format 3\0", bytes(100_000)):
        stores.attempt(row, lambda path, text=text: path.write_bytes(text), repr(text[:20]))
    stores.attempt(row, Path.unlink, "gone")
    return row
