"""A store that cannot be written, a snapshot or a backup, as one that can be looked at."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.entry import CATALOGUE

__all__ = ["readable"]

_COPIED = (CATALOGUE, f"{CATALOGUE}-wal", "sealed", "limit")


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """A folder to look at: this one, or another one with the same blocks where it is read-only.

    Whoever looks enters the folder and locks its catalogue, for which both have to be written. The
    blocks stay where they are.

    Args:
        path: The store's folder.

    Raises:
        OSError: The system refuses.
    """
    if os.access(path, os.W_OK) or not (path / "blocks").is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="semantic-view-") as room:
        view = Path(room)
        (view / "blocks").symlink_to(path / "blocks", target_is_directory=True)
        for name in _COPIED:
            if (path / name).exists():
                shutil.copyfile(path / name, view / name)
        yield view
