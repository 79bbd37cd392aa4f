"""A SQLite file as a store opens it, and what SQLite's errors mean for it."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store import schema
from semantic.adapters.store.locks import ForkedLock
from semantic.adapters.store.patience import READ_SECONDS
from semantic.domain.errors import CachePersistenceError

__all__ = [
    "CatalogueBusyError",
    "CatalogueDamagedError",
    "begins",
    "connected",
    "errno_of",
    "files_of",
    "has_no_index",
    "is_busy",
    "is_refusal",
    "numbers_of",
    "truncates",
]

_WAL_PAGES = 512
"""Pages of 8 KB after which the log is written back."""

_WAL_BYTES = 4 << 20
"""What of the log's file is kept once that is done."""

_REFUSALS = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_ABORT,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_TOOBIG,
}
"""What the system refuses, or others. All else says that the file is not what was written."""

_REPEATED = {sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE}
"""A row that is there already was written twice by this program: nothing is wrong with the file."""

_ERRNOS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}

_CREATING = ForkedLock()
"""Between making the file and closing it, no other thread may have SQLite open it."""

_ENDINGS = ("", "-shm", "-wal")


class CatalogueBusyError(CachePersistenceError):
    """Another process uses the catalogue, or another thread, and this one waits no longer."""


class CatalogueDamagedError(CachePersistenceError):
    """The catalogue is damaged, of another version or gone: it has to be made again."""


def files_of(path: Path) -> tuple[Path, ...]:
    """The file, the index of its log, and the log."""
    return tuple(path.with_name(path.name + ending) for ending in _ENDINGS)


def is_refusal(error: sqlite3.DatabaseError, path: Path | None) -> bool:
    """Whether the system or other processes refuse; else the file is not what was written."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_READONLY and path is not None:
        # A damaged header may say so of a file that may be written.
        return not _may_be_written(path) or not os.access(path.parent, os.W_OK)
    return code is not None and (code & 0xFF in _REFUSALS or code in _REPEATED)


def errno_of(error: sqlite3.DatabaseError) -> int | None:
    """What the system has said of a full disk or one that fails; None where it was not asked."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else _ERRNOS.get(code & 0xFF)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether other processes refuse, for now."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def has_no_index(error: sqlite3.Error) -> bool:
    """Whether the disk has no room for the index of the log, which all processes share."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHMSIZE


def connected(path: Path | None, *, is_made: bool, is_alone: bool = False) -> sqlite3.Connection:
    """A connection to a catalogue of this version.

    Others are not waited for. Who opens a file alone has locked out others, before it has the file,
    and would do so while it waits: two of them would keep each other waiting.

    Args:
        path: The file; None keeps it in memory.
        is_made: Whether it is made where it is missing; else nothing of it is changed.
        is_alone: Whether nobody else has it open: then SQLite keeps the index of the log in memory.

    Raises:
        CatalogueDamagedError: It is missing, or of another version.
        sqlite3.DatabaseError: SQLite refuses, or the file is damaged.
        CachePersistenceError: The system refuses.
    """
    with _CREATING:
        if path is not None:
            _create(path, is_made=is_made)
        connection = sqlite3.connect(
            path or ":memory:",
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if is_alone:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            _prepare(connection, is_made=is_made)
            _wait(connection, READ_SECONDS)
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            raise
    return connection


def numbers_of(path: Path) -> dict[str, int]:
    """The numbers that a damaged catalogue keeps, as far as they can be read.

    Nobody may have it open.
    """
    numbers: dict[str, int] = {}
    with contextlib.suppress(sqlite3.Error):
        # Without a log, SQLite would make one to read the file.
        how = "mode=ro" if any(file.exists() for file in files_of(path)[1:]) else "immutable=1"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
        with contextlib.closing(connection):
            # Where pages contradict each other, rows may never end.
            for name, value in connection.execute("SELECT name, value FROM counts LIMIT 100"):
                if isinstance(name, str) and isinstance(value, int):
                    numbers[name] = value
    return numbers


def begins(connection: sqlite3.Connection, *, is_last: bool) -> bool:
    """Begin to write; False while another process does, unless that is the last attempt.

    Raises:
        sqlite3.DatabaseError: SQLite refuses.
    """
    try:
        with _at_once(connection):
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if is_last or not is_busy(error):
            raise
        return False
    return True


def truncates(connection: sqlite3.Connection) -> bool:
    """Write the log back and empty it; False while others use it.

    Raises:
        sqlite3.DatabaseError: SQLite refuses.
    """
    try:
        with _at_once(connection):
            row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return False
    return bool(row[0] == 0)


@contextmanager
def _at_once(connection: sqlite3.Connection) -> Iterator[None]:
    """Within, others are not waited for: whoever asks has locked out all other threads."""
    _wait(connection, 0)
    try:
        yield
    finally:
        _wait(connection, READ_SECONDS)


def _wait(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")


def _create(path: Path, *, is_made: bool) -> None:
    """Make the file for its owner alone: SQLite gives the files beside it the same mode."""
    if is_made:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if path.is_file() and path.stat().st_mode & 0o077:
                path.chmod(0o600)
        except OSError as error:
            raise CachePersistenceError(f"{path}: {error.strerror}", errno=error.errno) from None
    elif not path.exists():
        raise CatalogueDamagedError("there is no catalogue")
    if not _may_be_written(path):
        # SQLite would read it, and make a log that nobody can write later.
        why = os.strerror(errno.EACCES)
        raise CachePersistenceError(f"{path}: {why}", errno=errno.EACCES)


def _prepare(connection: sqlite3.Connection, *, is_made: bool) -> None:
    # Tokens of a block take 2 KB: pages of 4 KB would be half empty.
    run = connection.execute
    run("PRAGMA page_size = 8192")
    if is_made:
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        run(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    run("PRAGMA synchronous = NORMAL")
    run("PRAGMA secure_delete = ON")
    if run("PRAGMA user_version").fetchone()[0] == 0 and is_made:
        run("BEGIN IMMEDIATE")
        if run("PRAGMA user_version").fetchone()[0] == 0:  # nobody was faster
            for statement in schema.statements():
                run(statement)
        run("COMMIT")
    version = run("PRAGMA user_version").fetchone()[0]
    if version != schema.VERSION:
        raise CatalogueDamagedError(f"it is of version {version}, not {schema.VERSION}")


def _may_be_written(path: Path) -> bool:
    return not any(map(_is_kept_from_us, files_of(path)))


def _is_kept_from_us(file: Path) -> bool:
    """Whether it is there and may not be written: others may remove and make it meanwhile."""
    while (before := _identity(file)) is not None and not os.access(file, os.W_OK):
        if _identity(file) == before:
            return True
    return False


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
