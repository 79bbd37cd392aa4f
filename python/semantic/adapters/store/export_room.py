"""Where an export lies until it has its name: a folder beside it, which no killed one leaves there.

Its blocks are not sealed, so whoever exports into the same folder next removes what is left. It is
ours to remove where it has such a name, belongs to this user, and nobody has it locked: an export
that runs does, and the system unlocks it however that ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.locks import Lock

__all__ = ["export_room", "remove_leftovers"]

_PREFIX = ".semantic-export-"
_NAME = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")


@contextmanager
def export_room(folder: Path) -> Iterator[Path]:
    """A folder within this one, which is removed at the end.

    Raises:
        OSError: The system refuses.
    """
    room, lock = _entered(folder)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        if lock is not None:
            lock.close()


def remove_leftovers(folder: Path) -> list[tuple[str, str]]:
    """Remove what killed exports have left here; names of what stays, and why."""
    left: list[tuple[str, str]] = []
    with contextlib.suppress(OSError):  # a folder may be written to and not listed
        for entry in os.scandir(folder):
            if _NAME.fullmatch(entry.name):
                try:
                    why = _why_kept(entry)
                except OSError as error:
                    why = str(error.strerror)
                if why:
                    left.append((entry.name, why))
    return left


def _why_kept(entry: os.DirEntry[str]) -> str:
    """Why an export's folder is kept; empty where it was removed, or its export runs."""
    if not entry.is_dir(follow_symlinks=False):
        return "it is no folder"
    if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
        return "it is another user's"
    try:
        lock = Lock(Path(entry.path))
    except FileNotFoundError:
        return ""  # its export has just ended
    try:
        if lock.take_alone():
            shutil.rmtree(entry.path)
    finally:
        lock.close()
    return ""


def _entered(folder: Path) -> tuple[Path, Lock | None]:
    """A new folder, and its lock where there are any."""
    while True:
        room = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        room.mkdir(mode=0o700)
        try:
            lock = Lock(room)
        except FileNotFoundError:
            continue  # somebody took it for a dead one's before it was locked
        try:
            is_taken = lock.take_alone() and room.is_dir()
        except OSError:
            # Nobody can lock it here, so nobody removes it.
            lock.close()
            return room, None
        if is_taken:
            return room, lock
        lock.close()
