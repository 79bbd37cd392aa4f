"""A folder that nobody but its owner can look into."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from semantic.domain.errors import CachePersistenceError

__all__ = ["make_private", "sync_folder"]

_OTHERS = 0o077
_PARTS = ("blocks", "catalogue.sqlite3")


def make_private(path: Path) -> None:
    """Make a folder for its owner alone, or make one so that is there.

    What has other things in it is left as it is: nobody wants their home locked for a store.

    Raises:
        CachePersistenceError: It is another user's, or holds something else and is open to others.
        OSError: The system refuses.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in made:
        with contextlib.suppress(PermissionError):  # one may add to what one may not read
            sync_folder(folder.parent)
    status = path.stat()
    if not status.st_mode & _OTHERS:
        return
    mode = oct(status.st_mode & 0o777)[2:]
    if status.st_uid != os.geteuid():
        raise CachePersistenceError(f"{path} is another user's, and open to others ({mode})")
    is_store = any((path / part).exists() for part in _PARTS)
    if not is_store and any(path.iterdir()):
        raise CachePersistenceError(
            f"{path} is open to others ({mode}) and holds other things: give a store a folder of"
            " its own"
        )
    path.chmod(0o700)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder would survive a power cut.

    Raises:
        OSError: The system refuses.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
