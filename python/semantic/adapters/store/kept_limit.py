"""The limit that the last server gave its store, in a small file beside the catalogue.

Block files do not tell it, so a catalogue that is made again has it from here. While the catalogue
is whole, it is what counts.
"""

from __future__ import annotations

import logging
from pathlib import Path

from semantic.adapters.store.limits import MOST_BYTES
from semantic.adapters.store.small_file import write_small

__all__ = ["keep_limit", "kept_limit"]

_log = logging.getLogger("semantic")

_NAME = "limit"


def kept_limit(folder: Path) -> int:
    """Bytes; 0 where they are not known."""
    try:
        text = (folder / _NAME).read_bytes()[:32].strip()
    except OSError:
        return 0
    max_bytes = int(text) if text.isdigit() else 0
    return max_bytes if max_bytes <= MOST_BYTES else 0


def keep_limit(folder: Path, max_bytes: int) -> None:
    """Let the file say so; what the system refuses is said, for the catalogue has it, too."""
    if kept_limit(folder) == max_bytes:
        return
    try:
        write_small(folder / _NAME, str(max_bytes))
    except OSError as error:
        _log.warning("%s: the limit could not be written beside the catalogue: %s", folder, error)
