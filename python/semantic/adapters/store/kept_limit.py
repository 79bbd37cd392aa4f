"""The limit that the last server gave its store, in a small file beside the catalogue.

Block files do not tell it, so a catalogue that is made again has it from here. While the catalogue
is whole, it is what counts.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["keep_limit", "kept_limit"]

_NAME = "limit"
_MOST_BYTES = (1 << 63) - 1


def kept_limit(folder: Path) -> int:
    """Bytes; 0 where they are not known."""
    try:
        text = (folder / _NAME).read_bytes()[:32].strip()
    except OSError:
        return 0
    max_bytes = int(text) if text.isdigit() else 0
    return max_bytes if max_bytes <= _MOST_BYTES else 0


def keep_limit(folder: Path, max_bytes: int) -> None:
    """Let the file say so; a power cut leaves what it said before, or this.

    Raises:
        OSError: The system refuses.
    """
    if kept_limit(folder) == max_bytes:
        return
    file = folder / _NAME
    new = file.with_suffix(".new")
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as written:
        written.write(f"{max_bytes}\n")
        written.flush()
        os.fsync(written.fileno())
    new.replace(file)
    names = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)
