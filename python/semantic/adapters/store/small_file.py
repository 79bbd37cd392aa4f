"""Small files beside the blocks, of a line: which key seals the folder, how much it may take."""

from __future__ import annotations

import os
from pathlib import Path

from semantic.adapters.store.private_folder import sync_folder

__all__ = ["write_small"]


def write_small(file: Path, line: str) -> None:
    """Let a file have this line; a power cut leaves what it had before, or this.

    Raises:
        OSError: The system refuses.
    """
    new = file.with_suffix(".new")
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as written:
        written.write(f"{line}\n")
        written.flush()
        os.fsync(written.fileno())
    new.replace(file)
    sync_folder(file.parent)
