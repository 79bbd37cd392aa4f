"""One SQLite file that processes share, in transactions, from any thread."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from semantic.adapters.store import schema
from semantic.domain.errors import CachePersistenceError

__all__ = ["CatalogueDamagedError", "Database", "in_parts"]

_BUSY_SECONDS = 30.0
_MANY = 500
"""Names in one statement: SQLite takes at least 999 values."""

_T = TypeVar("_T")


class CatalogueDamagedError(Exception):
    """The file is no catalogue, or one of another version: it is to be made again."""


class Database:
    """A catalogue's SQLite file.

    Args:
        path: Where it is; None keeps it in memory.

    Raises:
        CatalogueDamagedError: The file is no catalogue of this version.
        CachePersistenceError: The system refuses; so for all methods.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = "the catalogue in memory" if path is None else str(path)
        self._lock = threading.Lock()
        if path is not None:
            # SQLite gives the files beside it the same permissions.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._connection = sqlite3.connect(
            path or ":memory:",
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            with self._refusals():
                # Tokens of a block take 2 KB: pages of 4 KB would be half empty.
                self._connection.execute("PRAGMA page_size = 8192")
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.execute("PRAGMA secure_delete = ON")
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise CatalogueDamagedError(str(error)) from error
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        with self.transaction() as run:
            (version,) = run.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in schema.statements():
                    run.execute(statement)
            elif version != schema.VERSION:
                raise CatalogueDamagedError(f"version {version}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """All that is run within, or nothing of it."""
        with self._lock, self._refusals():
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                # What has failed may have been rolled back already.
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    def read(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """The rows of one question."""
        with self._lock, self._refusals():
            return self._connection.execute(statement, values).fetchall()

    def truncate(self) -> None:
        """Let nothing of what was deleted be found in the files any more."""
        with self._lock, self._refusals():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What SQLite refuses is the store's refusal: a full disk, a folder that went away."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CachePersistenceError(f"{self._name}: {error}") from error

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._connection.close()


def in_parts(values: Iterable[_T]) -> Iterator[list[_T]]:
    """The different ones of these, as many at a time as one statement takes."""
    every = list(dict.fromkeys(values))
    for at in range(0, len(every), _MANY):
        yield every[at : at + _MANY]
