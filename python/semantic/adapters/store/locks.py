"""Locks of a store: the system takes them back however a process ends.

A lock belongs to an open file, which a forked child would share: it would go on counting as its
parent after that was killed. So children close the locks of their parent at once. Those between
threads they inherit as they are, of threads that they do not have: so they are refused those of
what their parent has opened, and have the others anew.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from semantic.domain.errors import CachePersistenceError

__all__ = ["ForkedLock", "Lock", "ThreadLock"]

_OPEN: set[int] = set()


class Lock:
    """A file or a folder that is open to be locked, by this process and not by its children.

    Args:
        path: The file or folder.
        flags: How it is opened.

    Raises:
        OSError: The system refuses.
    """

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self._file = os.open(path, flags, 0o600)
        self._process = os.getpid()
        _OPEN.add(self._file)

    @property
    def is_ours(self) -> bool:
        """Whether it is open, and by this process."""
        return self._file >= 0 and self._process == os.getpid()

    @property
    def has_name(self) -> bool:
        """Whether nobody has removed the file."""
        return os.fstat(self._file).st_nlink > 0

    def is_of(self, path: Path) -> bool:
        """Whether this is the file that has the name now."""
        try:
            return os.path.samestat(os.fstat(self._file), path.lstat())
        except FileNotFoundError:
            return False

    def touch(self) -> None:
        """Let nobody take it for a file that is old."""
        os.utime(self._file)

    def take_alone(self) -> bool:
        """Take it alone, unless somebody else has it."""
        return self._take(fcntl.LOCK_EX)

    def take_shared(self) -> bool:
        """Take it with others, unless somebody has it alone."""
        return self._take(fcntl.LOCK_SH)

    def _take(self, how: int) -> bool:
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self.is_ours:
            _OPEN.discard(self._file)
            os.close(self._file)
        self._file = -1


class ThreadLock:
    """A lock between the threads of the process that made it.

    Args:
        name: What it locks, for the refusal.

    Raises:
        CachePersistenceError: It is a forked child that enters.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process made it."""
        return self._process == os.getpid()

    def take(self, seconds: float | None = None) -> bool:
        """Take it, unless another thread has it for so long; None: however long that is."""
        if not self.is_ours:
            raise CachePersistenceError(f"{self._name} was opened before this process was forked")
        return self._lock.acquire(timeout=-1 if seconds is None else max(0.0, seconds))

    def release(self) -> None:
        """Let the next thread take it."""
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *error: object) -> None:
        self.release()


class ForkedLock:
    """A lock between the threads of any process: a forked child has it anew, and free.

    For what belongs to no store: it is never given up.
    """

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _let_go_in_child() -> None:
    for file in _OPEN:
        os.close(file)
    _OPEN.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
