"""Who uses a store: a locked file for each process, which the system unlocks however it ends.

Files come and go by other hands, too: cleaners of what is old, or somebody who removes the folder.
So whoever begins something that ends with its process enters again where its file is not there.

A process that is stopped, and not ended, keeps its locks: nobody waits for one without a limit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.locks import Lock, ThreadLock
from semantic.adapters.store.owner_names import is_owner, new_owner
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
    """The processes that use a store; this one as soon as it has entered.

    Args:
        folder: Where their files are.

    Attributes:
        name: The name of this one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = new_owner()
        self._file = folder / self.name
        self._entering = ThreadLock(str(folder))
        self._lock: Lock | None = None
        self._has_left = self._has_told = False

    @property
    def is_ours(self) -> bool:
        """Whether it is this process that entered, and not one that has forked it."""
        return self._entering.is_ours

    def enter(self) -> None:
        """Count as one that runs, also where somebody has removed the file meanwhile.

        Raises:
            CachePersistenceError: In a forked child: its parent's name is not its own.
            OSError: The system refuses.
        """
        with self._entering:
            if self._has_left:
                return
            before = self._lock
            if before is None or not before.is_of(self._file):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._lock = _locked(self._file)
                if before is not None:
                    before.close()
            elif before is not None:
                with contextlib.suppress(OSError):  # nobody cleans what cannot be changed
                    before.touch()

    def running(self) -> list[str]:
        """The names of those that run; what others have left behind is removed."""
        running = [self.name]
        for path in self._folder.iterdir():
            if path.name != self.name and is_owner(path.name) and not _has_ended(path):
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
        if not self.is_ours:
            return
        with self._entering:
            self._has_left = True
            if self._lock is not None and self._lock.is_ours:
                with contextlib.suppress(OSError):  # nobody has it locked: others will remove it
                    self._file.unlink(missing_ok=True)
                self._lock.close()


def _locked(file: Path) -> Lock:
    """The file of this process, locked before it has its name.

    Who asks whether a process runs locks its file for a moment, unless that is locked, and may be
    stopped then. So this one has a name that nobody will miss until it is locked.
    """
    while True:
        new = file.with_name(new_owner())
        lock = Lock(new, os.O_CREAT | os.O_RDWR)
        try:
            if lock.take_alone() and lock.has_name:
                new.replace(file)
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()  # somebody took it for a dead one's before it was locked


def _has_ended(path: Path) -> bool:
    """Whether a process does not run any more; its file is removed then.

    It is removed while it is locked here: who has just made it sees that, and makes another one.
    A file that may not be opened is another user's, say root's: nobody can tell whether that one
    runs, and nothing of it is touched.
    """
    try:
        lock = Lock(path, os.O_RDWR)
    except (FileNotFoundError, IsADirectoryError):
        return True
    except PermissionError:
        return False
    try:
        has_ended = lock.take_alone()
        if has_ended:
            path.unlink(missing_ok=True)
        return has_ended
    finally:
        lock.close()
