"""What lies in a store's folder of blocks: blocks by their names, strangers, and what hides."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semantic.domain.stored import BlockName

__all__ = ["ENDING", "FANS", "BlockFiles", "block_files"]

ENDING = ".safetensors"
"""Of files of blocks."""

FANS = tuple(f"{number:02x}" for number in range(256))
"""The folders that blocks lie in, by the first two digits of their names."""


@dataclass(frozen=True, slots=True)
class BlockFiles:
    """What lies in the folder of blocks.

    Args:
        files: The names of blocks, without the ending.
        strangers: Files that have the ending and no block's name, as they can be shown, each with
            its bytes.
        unread: Folders whose names cannot be read, each with the reason.
    """

    files: set[str] = field(default_factory=set)
    strangers: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def block_files(path: Path, fans: Sequence[str] = FANS) -> BlockFiles:
    """What lies in a store's folder of blocks; what cannot be read is left out and said.

    Args:
        path: The store's folder.
        fans: The folders in it that are looked at.
    """
    found = BlockFiles()
    for fan in fans:
        folder = path / "blocks" / fan
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            found.unread[fan] = error.strerror or str(error)
            continue
        for name in names:
            stem = name.removesuffix(ENDING)
            if stem == name:
                continue
            if BlockName.parse(stem) is not None and stem.startswith(fan):
                found.files.add(stem)
            else:
                found.strangers[f"blocks/{fan}/{_shown(name)}"] = _bytes(folder / name)
    return found


def _shown(name: str) -> str:
    """A name that can be printed: names need not be text, nor harmless to a terminal."""
    return name if name.isprintable() else ascii(name)


def _bytes(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.lstat().st_size
    return 0
