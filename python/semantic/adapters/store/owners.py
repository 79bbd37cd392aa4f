"""Who uses a store: a locked file for each process, which the system unlocks however it ends."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.locks import Lock

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
        self.name, self._lock = _entered(folder)

    def running(self) -> list[str]:
        """The names of those that run; what others have left behind is removed."""
        running = []
        for path in self._folder.iterdir():
            if path.name == self.name or not _removed(path):
                running.append(path.name)
        return running

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process is in here."""
        lock = Lock(self._folder.parent / "recovery.lock", os.O_CREAT | os.O_RDWR)
        try:
            lock.wait_alone()
            yield
        finally:
            lock.close()

    def close(self) -> None:
        """Stop counting as one that runs. Idempotent; a child leaves its parent's name alone."""
        if self._lock.is_ours:
            with contextlib.suppress(OSError):  # nobody has it locked: others will remove it
                (self._folder / self.name).unlink(missing_ok=True)
        self._lock.close()


def _entered(folder: Path) -> tuple[str, Lock]:
    """A new name and its locked file."""
    while True:
        name = secrets.token_hex(8)
        lock = Lock(folder / name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        lock.wait_alone()
        if lock.has_name:
            return name, lock
        lock.close()  # somebody took it for a dead one's before it was locked


def _removed(path: Path) -> bool:
    """Remove the file of a process that does not run; whether it does not.

    It is removed while it is locked here: who has just made it, and waits for the lock, sees that.
    """
    try:
        lock = Lock(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        is_left = lock.take_alone()
        if is_left:
            path.unlink(missing_ok=True)
        return is_left
    finally:
        lock.close()
