"""Who uses a store: a locked file for each process, which the system unlocks however it ends."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

__all__ = ["Owners"]


class Owners:
    """The processes that use a store, this one among them.

    Args:
        folder: Where their files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.name = secrets.token_hex(8)
        """The name of this one."""
        self._file = os.open(folder / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def running(self) -> list[str]:
        """The names of those that run; what others have left behind is removed."""
        running = []
        for path in self._folder.iterdir():
            if path.name == self.name or _is_locked(path):
                running.append(path.name)
            else:
                path.unlink(missing_ok=True)
        return running

    def close(self) -> None:
        """Stop counting as one that runs. Idempotent."""
        if self._file >= 0:
            (self._folder / self.name).unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


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
