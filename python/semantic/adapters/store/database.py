"""One SQLite file that processes share, in transactions, from any thread.

The file may be damaged, and is made again then, under the same name. SQLite forbids to move a file
that anybody has open: so whoever has it open holds a lock together with the others, whoever meets
damage leaves a mark beside the file and closes it, and so does whoever sees the mark. Who gets the
lock alone makes the file again.

Nobody but SQLite opens the file: the system's locks on it belong to the process, and closing any
other handle of it would drop them all.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from semantic.adapters.store.damage_mark import DamageMark
from semantic.adapters.store.locks import Lock, ThreadLock
from semantic.adapters.store.patience import BUSY_SECONDS, READ_SECONDS, Patience, pause
from semantic.adapters.store.sqlite_file import (
    CatalogueBusyError,
    CatalogueDamagedError,
    begins,
    connected,
    errno_of,
    files_of,
    has_no_index,
    is_busy,
    is_refusal,
    numbers_of,
    truncates,
)
from semantic.domain.errors import CachePersistenceError

__all__ = ["CatalogueBusyError", "CatalogueDamagedError", "Database", "in_parts", "whole"]

_log = logging.getLogger("semantic")

_MANY = 500
"""Names in one statement: SQLite takes at least 999 values."""

_RETRY_SECONDS = 0.003
"""How often is tried to write what another process keeps from being written."""

_T = TypeVar("_T")


class Database:
    """A catalogue's SQLite file.

    Args:
        path: Where it is; None keeps it in memory.
        is_made: Whether it may be made where it is missing, and marked where it is damaged; else
            nothing of it is changed.
        damaged: Told of damage when it is met; it must not wait.

    Attributes:
        is_made: As above; it may change.

    Raises:
        CatalogueBusyError: Others keep this one waiting for too long; so for all methods.
        CatalogueDamagedError: The file is damaged, or is being made again; for all methods, never
            here.
        CachePersistenceError: The system refuses; so for all methods.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        is_made: bool = True,
        damaged: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._name = "the catalogue in memory" if path is None else str(path)
        self._mark = DamageMark(path)
        self.is_made = is_made
        self._told = damaged
        self._lock = ThreadLock(self._name)
        self._writing = ThreadLock(self._name)
        self._patience = Patience()
        self._is_closed = False
        self._is_alone = False
        self._unparted = 0
        self._maker: int | None = None
        self._then: Callable[[], None] | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._occupied: Lock | None = None
        with contextlib.suppress(CatalogueDamagedError), self._settled(BUSY_SECONDS):
            pass

    # Asking ------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """All that is run within, or nothing of it.

        While another process writes, this waits, and what other threads ask is answered.
        """
        with self._turn(), self._begun() as connection, self._refusals():
            cursor = connection.cursor()
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                # What has failed may have been rolled back already.
                if connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()  # an open one would keep a closed file open

    def hurried(self) -> contextlib.AbstractContextManager[None]:
        """Within, this thread waits as long as a lookup for others, in all, also to write."""
        return self._patience.ending(READ_SECONDS)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The turn of those threads that write."""
        if not self._writing.take(self._patience.left_seconds):
            raise CatalogueBusyError(f"{self._name}: another thread writes")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _begun(self) -> Iterator[sqlite3.Connection]:
        """The connection, locked, with a transaction that has begun."""
        until = self._patience.until(BUSY_SECONDS)
        while True:
            with self._settled(until - time.monotonic()) as connection:
                with self._refusals():
                    is_begun = begins(connection, is_last=time.monotonic() >= until)
                if is_begun:
                    yield connection
                    return
            time.sleep(_RETRY_SECONDS)

    def read(
        self, statement: str, values: Sequence[object] = (), types: Sequence[type] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of one question, each of whose values has its type."""
        with (
            self._settled(READ_SECONDS) as connection,
            self._refusals(),
            contextlib.closing(connection.cursor()) as cursor,
        ):
            rows = cursor.execute(statement, values).fetchall()
            for kind, values in zip(types, zip(*rows, strict=True), strict=False):
                if set(map(type, values)) != {kind}:
                    raise CatalogueDamagedError("a row of other values")
            return rows

    def truncate(self) -> bool:
        """Let nothing of what was deleted be found in the files; whether others let it be so.

        Never waits for them: what other threads ask meanwhile would wait too.
        """
        try:
            with self._settled(0) as connection, self._refusals():
                return truncates(connection)
        except CatalogueBusyError:
            return False

    @property
    def disk_bytes(self) -> int:
        """What its files take on the disk."""
        n_bytes = 0
        for file in self.files():
            with contextlib.suppress(FileNotFoundError):
                n_bytes += file.stat().st_size
        return n_bytes

    def files(self) -> tuple[Path, ...]:
        """The file, the index of its log, and the log."""
        return () if self._path is None else files_of(self._path)

    # Damage ------------------------------------------------------------------------------------

    @property
    def is_damaged(self) -> bool:
        """Whether it is known to be damaged."""
        return self._mark.is_damaged

    @property
    def fault(self) -> str:
        """What is wrong with it, as far as this process knows."""
        return self._mark.fault

    def condemn(self, why: str) -> CatalogueDamagedError:
        """The file is not what was written; it is used no more. The error that says so."""
        with self._lock:
            return self._condemned(why)

    @contextmanager
    def unparted(self) -> Iterator[None]:
        """What is asked within belongs together: nobody makes the file again in between."""
        with self._lock:
            self._unparted += 1
        try:
            yield
        finally:
            with self._lock:
                self._unparted -= 1
                if self._is_closed:
                    self._end()
                elif self._maker is None and self.is_damaged:
                    self._let_go()

    @contextmanager
    def made_again(self, aside: Callable[[Path], Path]) -> Iterator[dict[str, int]]:
        """Within, the file is new and empty, and this thread alone uses it.

        Should this end with an error, or not at all, the file still has to be made again.

        Args:
            aside: Where the old files go.

        Yields:
            What could be read of the numbers that the old one kept.

        Raises:
            CatalogueDamagedError: Others still have it open.
        """
        with self._lock:
            numbers = self._become_maker(aside)
        try:
            yield numbers
            with self._lock, self._refusals():
                self._mark.remove()
        except BaseException:
            with self._lock:
                self._maker = None
                self._let_go()
            raise
        with self._lock:
            assert self._occupied is not None
            self._maker = None
            self._occupied.take_shared()

    def _become_maker(self, aside: Callable[[Path], Path]) -> dict[str, int]:
        assert self._path is not None
        self._check_use()
        self._let_go()
        with self._refusals():
            lock = Lock(self._path.parent)
        try:
            # Not while others have it open, nor while this process does what must not be parted.
            if not lock.take_alone():
                raise CatalogueDamagedError(f"{self._name} is damaged, and still in use")
            if self.is_made:
                self._mark.leave("it is being made again")
            numbers = numbers_of(self._path)
            # The log first: it must not be taken for that of the new file.
            for file in reversed(self.files()):
                with self._refusals(), contextlib.suppress(FileNotFoundError):
                    file.rename(aside(file))
            self._connection = self._connected()
        except BaseException:
            lock.close()
            raise
        self._occupied, self._maker = lock, threading.get_ident()
        return numbers

    @contextmanager
    def _settled(self, seconds: float) -> Iterator[sqlite3.Connection]:
        """The connection, unless the file is damaged; this thread has the lock.

        Where the disk is too full for what processes share of a catalogue, it is open for this one
        alone, and only within.

        Args:
            seconds: How long is waited for whoever has it alone: other threads are answered
                meanwhile, and other processes do not wait for this one.
        """
        until = self._patience.until(seconds)
        while True:
            with self._lock:
                connection = self._opened(is_last=time.monotonic() >= until)
                if connection is not None:
                    try:
                        yield connection
                    finally:
                        if self._is_alone:
                            self._disconnect()
                    return
            pause()

    def _opened(self, *, is_last: bool) -> sqlite3.Connection | None:
        """The connection; None while others have the file, unless that is the last attempt."""
        try:
            return self._open()
        except CatalogueBusyError:
            if is_last:
                raise
        return None

    def _open(self) -> sqlite3.Connection:
        self._check_use()
        if self._path is not None and self._maker != threading.get_ident():
            if self._maker is not None:
                raise CatalogueDamagedError(f"{self._name} is being made again")
            if self.is_damaged:
                if self.is_made:
                    self._mark.tell()
                self._let_go()
                raise self._unusable()
            if self._occupied is None:
                self._occupy()
            elif self._connection is not None and self._identity != _identity(self._path):
                raise self._condemned("somebody has removed or replaced it")
        if self._connection is None:
            self._connection = self._connected()
        return self._connection

    def _check_use(self) -> None:
        if self._is_closed:
            raise CachePersistenceError(f"{self._name} is closed")

    def _occupy(self) -> None:
        assert self._path is not None
        with self._refusals():
            lock = Lock(self._path.parent)
        try:
            if not lock.take_shared() or self.is_damaged:
                raise CatalogueDamagedError(f"{self._name} is being made again")
            self._connection = self._connected()
        except BaseException:
            lock.close()
            raise
        self._occupied = lock

    def _let_go(self) -> None:
        """Close the file, unless something goes on that must not be parted."""
        if self._unparted:
            return
        self._disconnect()
        if self._occupied is not None:
            self._occupied.close()
            self._occupied = None

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _condemned(self, why: str) -> CatalogueDamagedError:
        self._mark.blame(why)
        if self.is_made:
            self._mark.leave(why)
        if self._maker is None:
            self._let_go()
        return self._unusable()

    def _unusable(self) -> CatalogueDamagedError:
        if self._told is not None:
            self._told()
        return CatalogueDamagedError(
            f"{self._name}: {self.fault}; it is made again from the blocks by"
            " `semantic store verify --repair`, or when a server opens the store"
        )

    def _connected(self) -> sqlite3.Connection:
        with self._refusals():
            try:
                connection = connected(self._path, is_made=self.is_made)
                self._is_alone = False
            except sqlite3.OperationalError as error:
                if not has_no_index(error):
                    raise
                if not self._is_alone:
                    _log.warning("%s: the disk is full: it is open for one at a time", self._name)
                self._is_alone = True
                connection = connected(self._path, is_made=self.is_made, is_alone=True)
        self._identity = None if self._path is None else _identity(self._path)
        return connection

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What SQLite refuses is the store's refusal: a full disk, a damaged file."""
        try:
            yield
        except CatalogueDamagedError as error:
            raise self._condemned(str(error)) from error
        except OSError as error:
            raise CachePersistenceError(
                f"{self._name}: {error.strerror}", errno=error.errno
            ) from error
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise CatalogueBusyError(f"{self._name}: {error}") from error
            if is_refusal(error, self._path):
                raise CachePersistenceError(
                    f"{self._name}: {error}", errno=errno_of(error)
                ) from error
            raise self._condemned(str(error)) from error

    def close(self, then: Callable[[], None] | None = None) -> None:
        """Answer nothing more, and close the file. Idempotent; a child leaves that to its parent.

        Args:
            then: Called once nothing goes on any more that must not be parted.
        """
        if self._lock.is_ours:
            with self._lock:
                self._is_closed = True
                self._then = then or self._then
                self._end()

    def _end(self) -> None:
        self._let_go()
        if not self._unparted and self._then is not None:
            self._then()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def in_parts(values: Iterable[_T]) -> Iterator[list[_T]]:
    """The different ones of these, as many at a time as one statement takes."""
    every = list(dict.fromkeys(values))
    for at in range(0, len(every), _MANY):
        yield every[at : at + _MANY]


def whole(value: object) -> int:
    """A number of a row.

    Raises:
        CatalogueDamagedError: It is none.
    """
    if not isinstance(value, int):
        raise CatalogueDamagedError(f"{value!r} is no number")
    return value
