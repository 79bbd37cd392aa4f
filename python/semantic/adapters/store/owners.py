"""Who uses a store: a locked file for each process, which the system unlocks however it ends.

A process that is stopped, and not ended, keeps its locks: nobody waits for one without a limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.locks import Lock
from semantic.domain.errors import CachePersistenceError

__all__ = ["FolderBusyError", "Owners"]

_log = logging.getLogger("semantic")

_PATIENCE_SECONDS = 5.0
"""How long another process may be alone in the folder before it is done without."""

_TELL_SECONDS = 1.0
"""After so long it is said for whom one waits."""

_RETRY_SECONDS = 0.01


class FolderBusyError(CachePersistenceError):
    """Another process puts the folder right, and takes long, or is stopped."""


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
        self._has_told = False

    def running(self) -> list[str]:
        """The names of those that run; what others have left behind is removed."""
        running = []
        for path in self._folder.iterdir():
            if path.name == self.name or not _removed(path):
                running.append(path.name)
        return running

    @contextmanager
    def alone(
        self, seconds: float | None = None, is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """While no other process is in here.

        Args:
            seconds: How long to wait for another one at the most; None: for some seconds.
            is_over: Ends the wait before.

        Raises:
            FolderBusyError: Another process is in here.
        """
        lock = Lock(self._folder.parent / "recovery.lock", os.O_CREAT | os.O_RDWR)
        try:
            self._wait_alone(lock, _PATIENCE_SECONDS if seconds is None else seconds, is_over)
            self._has_told = False
            yield
        finally:
            lock.close()

    def _wait_alone(self, lock: Lock, seconds: float, is_over: Callable[[], bool]) -> None:
        folder = self._folder.parent
        start = time.monotonic()
        while not lock.take_alone():
            waited = time.monotonic() - start
            if waited >= seconds or is_over():
                raise FolderBusyError(
                    f"{folder}: another process puts it right, or was stopped while it did"
                )
            if waited >= _TELL_SECONDS and not self._has_told:
                _log.warning("%s: waiting for another process that puts it right", folder)
                self._has_told = True
            time.sleep(_RETRY_SECONDS)

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
