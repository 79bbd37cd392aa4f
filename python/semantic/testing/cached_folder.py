"""Folders that are made once: built aside, moved into place whole, and trusted only when unhurt.

A manifest of sizes and digests is written last. A reader never sees half a folder, two builders at
once end with one result, and a folder whose files have changed is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["build_once", "recipe_key"]

_MANIFEST = "manifest.json"


def recipe_key(*ingredients: object) -> str:
    """Twelve hex digits that stand for everything a result is made of."""
    text = json.dumps(ingredients, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_once(parent: Path, name: str, build: Callable[[Path], None]) -> Path:
    """`parent/name`, built by `build(empty_folder)` unless it is there and unhurt.

    Raises:
        OSError: When the folder cannot be written.
    """
    target = parent / name
    if _is_unhurt(target):
        return target
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        build(fresh)
        (fresh / _MANIFEST).write_text(json.dumps(_digests(fresh), indent=1), encoding="utf-8")
        _move_into_place(fresh, target, aside=Path(scratch) / "damaged")
    return target


def _move_into_place(fresh: Path, target: Path, *, aside: Path) -> None:
    # Somebody else may have finished first: theirs is as good as ours.
    if _is_unhurt(target):
        return
    if target.is_symlink() or target.exists():
        os.rename(target, aside)
    try:
        os.rename(fresh, target)
    except OSError:
        if not _is_unhurt(target):
            raise


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != _MANIFEST
    }


def _is_unhurt(folder: Path) -> bool:
    try:
        promised = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(promised) and promised == _digests(folder)
    except (OSError, ValueError):
        return False
