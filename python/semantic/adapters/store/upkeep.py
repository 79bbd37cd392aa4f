"""Looking after a store: is every file what its name says, and does anything lie about?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from semantic.adapters.store.block_file import described
from semantic.adapters.store.block_files import block_files
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.disk import DiskStore
from semantic.adapters.store.listing import Listing
from semantic.adapters.store.soundness import Soundness
from semantic.domain.errors import (
    BlockValidationError,
    CacheCorruptionError,
    CachePersistenceError,
)

__all__ = ["BadFile", "Collected", "collect", "verify"]


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that is not what it should be.

    Args:
        file: The name of its block, without the ending; or that of the catalogue.
        why: What is wrong with it.
        stays: Whether it is left as it is: what cannot be read today may be read tomorrow, and
            what is no block may be somebody's.
    """

    file: str
    why: str
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed.

    Args:
        unreachable: Blocks that nothing could hit any more.
        old: Blocks that nobody had used for too long.
        evicted: Blocks that were too many.
        aside_bytes: Bytes of what had been set aside.
        freed_bytes: Bytes that are free again, those included.
    """

    unreachable: int
    old: int
    evicted: int
    aside_bytes: int
    freed_bytes: int


Progress = Callable[[Sequence[str]], Iterable[str]]
"""Shows how far a walk over files has come."""

PartProgress = Callable[[Sequence[Sequence[str]]], Iterable[Sequence[str]]]
"""Shows how far a removal of so many files at a time has come."""

_PIECE_BYTES = 64 << 20


def verify(store: DiskStore, *, repair: bool = False, progress: Progress = iter) -> list[BadFile]:
    """Read every file, and compare it with its name, its checksums and the catalogue.

    Whatever cannot be read or is no block is named, and the next one is looked at.

    Args:
        store: The store.
        repair: Put what is bad aside, and make files and catalogue agree.
        progress: Shows how far it has come.

    Returns:
        What is bad, or was.
    """
    soundness = Soundness(store.catalogue, store.veil)
    bad = _bad_catalogue(store, soundness)
    if bad and repair:
        store.recover()
    is_sound = not store.catalogue.database.is_damaged
    known = store.catalogue.files() if is_sound else set()
    there = block_files(store.path)
    bad += [BadFile(f"blocks/{fan}", why, stays=True) for fan, why in there.unread.items()]
    bad += [BadFile(name, "it is no block", stays=True) for name in there.strangers]
    files = sorted({*(file for file in known if file[:2] not in there.unread), *there.files})
    for file in progress(files):
        try:
            why = _fault(store, file, soundness, is_known=None if not is_sound else file in known)
        except CachePersistenceError as error:
            bad.append(BadFile(file, str(error), stays=True))
            continue
        if why is not None:
            bad.append(BadFile(file, why))
            if repair and file in known:
                _mend(store, file, why)
    if repair:
        store.recover(is_thorough=True)
    return bad


def _bad_catalogue(store: DiskStore, soundness: Soundness) -> list[BadFile]:
    database = store.catalogue.database
    name = database.files()[0].name
    with contextlib.suppress(CatalogueDamagedError):
        fault = soundness.fault()
        if fault:
            database.condemn(fault)
        elif not soundness.is_sum_right():
            return [BadFile(name, "it counts other bytes than its blocks have")]
    return [BadFile(name, database.fault)] if database.is_damaged else []


def _mend(store: DiskStore, file: str, why: str) -> None:
    if why == _WRONG_ROW:
        store.enter(file)
    else:
        store.reject(file, f"{file}: {why}")


_WRONG_ROW = "the catalogue says something else of it"


def _fault(
    store: DiskStore, file: str, soundness: Soundness, *, is_known: bool | None
) -> str | None:
    """What is wrong with a file.

    Args:
        store: Where it is.
        file: Its name.
        soundness: Knows the catalogue.
        is_known: Whether the catalogue knows it; None: nobody can tell.
    """
    try:
        opened = store.folder.open(file)
        if opened is None:
            is_missing = is_known and _is_so(store, file, "here", is_there=False)
            return "its file is missing" if is_missing else None
        opened.verify()
        block = described(opened)
    except (CacheCorruptionError, BlockValidationError) as error:
        return str(error)
    if block is None or store.file_of(block.name) != file:
        return "it holds another block than its name says"
    if is_known is None:
        return None
    if not is_known and _is_so(store, file, None, is_there=True):
        return "the catalogue does not know it"
    if not soundness.agrees(file, block, opened.n_bytes):
        return _WRONG_ROW
    return None


def _is_so(store: DiskStore, file: str, state: str | None, *, is_there: bool) -> bool:
    """Whether a file's row is in this state, None without one, and the file is there, or is not.

    Other processes may have removed both since they were looked at, or written both.
    """
    return store.catalogue.beside(file, store.lies) == (state, is_there)


def collect(
    store: DiskStore,
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
    progress: PartProgress = iter,
) -> Collected:
    """Remove what is of no use, and what is too much or too old.

    Args:
        store: The store.
        max_bytes: What blocks may take; None: what they take.
        older_than: Seconds without use after which blocks go; None: none do.
        progress: Shows how far it has come.
    """
    aside = store.clear_aside()
    before = store.stats()["bytes"]
    store.put_right()
    unreachable = store.remove(Listing(store.catalogue, store.veil).unreachable(), progress)
    old = 0 if older_than is None else store.forget_older(older_than, progress)
    evicted = 0
    if max_bytes is not None:
        # Piece by piece, so that it can be seen how far it has come.
        too_much = max(0, store.stats()["bytes"] - max_bytes)
        for _ in progress([()] * -(-too_much // _PIECE_BYTES)):
            left = store.stats()["bytes"] - max_bytes
            evicted += store.shrink(min(left, _PIECE_BYTES)) if left > 0 else 0
        evicted += store.shrink(store.stats()["bytes"] - max_bytes)
    if unreachable or old or evicted:
        store.catalogue.database.truncate()
    freed = before - store.stats()["bytes"] + aside
    return Collected(unreachable, old, evicted, aside, freed)
