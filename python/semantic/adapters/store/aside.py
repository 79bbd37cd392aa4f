"""What was set aside: blocks that are damaged, and catalogues that were made again.

It is kept for a while, to be looked at. What else lies in that folder is somebody's own.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from semantic.domain.stored import BlockName

__all__ = ["Aside"]

_CATALOGUE = re.compile(r"catalogue\.sqlite3(-shm|-wal)?\.[0-9]+-[0-9]+")
_BLOCK = re.compile(r"(.+)\.[0-9a-f]{16}-[0-9]+")
"""As `Folder::set_aside` names it in `rust/store/src/folder.rs`."""


class Aside:
    """The folder of what was set aside.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, file: Path) -> Path:
        """Where a file of a catalogue goes."""
        number = len(list(self._path.glob(f"{file.name}.*")))
        return self._path / f"{file.name}.{os.getpid()}-{number}"

    def n_bytes(self, most: int) -> int:
        """The bytes of all of it, of which so many are kept; the oldest goes first.

        Raises:
            OSError: The system refuses.
        """
        found = []
        for file in self._path.iterdir():
            if not _is_ours(file.name):
                continue
            with contextlib.suppress(FileNotFoundError):  # another process may be faster
                status = file.lstat()
                found.append((status.st_mtime, status.st_size, file))
        n_bytes = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if n_bytes <= most:
                break
            file.unlink(missing_ok=True)
            n_bytes -= size
        return n_bytes


def _is_ours(name: str) -> bool:
    block = _BLOCK.fullmatch(name)
    if block is not None and BlockName.parse(block[1]) is not None:
        return True
    return _CATALOGUE.fullmatch(name) is not None
