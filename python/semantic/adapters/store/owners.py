"""Who uses a store: a locked file for each process, which the system unlocks however it ends.

Files come and go by other hands, too: cleaners of what is old, or somebody who removes the folder.
So whoever begins something that ends with its process enters again where its file is not there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.locks import Lock, ThreadLock
from semantic.adapters.store.owner_names import is_owner, new_owner

__all__ = ["Owners"]


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
        self._has_left = False

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
        if not self.is_ours:
            return
        with self._entering:
            self._has_left = True
            if self._lock is not None and self._lock.is_ours:
                with contextlib.suppress(OSError):  # nobody has it locked: others will remove it
                    self._file.unlink(missing_ok=True)
                self._lock.close()


def _locked(file: Path) -> Lock:
    """The file of this process, locked."""
    while True:
        lock = Lock(file, os.O_CREAT | os.O_RDWR)
        lock.wait_alone()
        if lock.has_name:
            return lock
        lock.close()  # somebody took it for a dead one's before it was locked


def _has_ended(path: Path) -> bool:
    """Whether a process does not run any more; its file is removed then.

    It is removed while it is locked here: who has just made it, and waits for the lock, sees that.
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
