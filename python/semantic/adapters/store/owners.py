"""Who uses a store: a locked file for each process, which the system unlocks however it ends."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Owners"]


class Owners:
    """The processes that use a store, this one among them.

    Args:
        folder: Where their files are.

    Attributes:
        name: The name of this one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.name, self._file = _entered(folder)

    def running(self) -> list[str]:
        """The names of those that run; what others have left behind is removed."""
        running = []
        for path in self._folder.iterdir():
            if path.name == self.name or _is_locked(path):
                running.append(path.name)
            else:
                path.unlink(missing_ok=True)
        return running

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process is in here."""
        file = os.open(self._folder.parent / "recovery.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def close(self) -> None:
        """Stop counting as one that runs. Idempotent."""
        if self._file >= 0:
            (self._folder / self.name).unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _entered(folder: Path) -> tuple[str, int]:
    """A new name and its locked file."""
    while True:
        name = secrets.token_hex(8)
        file = os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return name, file
        os.close(file)  # somebody took it for a dead one's before it was locked


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)
