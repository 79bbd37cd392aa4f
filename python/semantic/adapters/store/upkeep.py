"""Looking after a store: is every file what its name says, and does anything lie about?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from semantic.adapters.store.block_file import described
from semantic.adapters.store.disk import DiskStore
from semantic.adapters.store.listing import Listing
from semantic.domain.errors import CacheCorruptionError

__all__ = ["BadFile", "Collected", "collect", "verify"]


@dataclass(frozen=True, slots=True)
class BadFile:
    """A block that is not what it should be.

    Args:
        file: The name of its file, without the ending.
        why: What is wrong with it.
    """

    file: str
    why: str


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


def verify(store: DiskStore, *, repair: bool = False, progress: Progress = iter) -> list[BadFile]:
    """Read every block and compare it with its checksums, its name and the catalogue.

    Other processes may use the store meanwhile.

    Args:
        store: The store.
        repair: Put what is bad aside, and make files and catalogue agree.
        progress: Shows how far it has come.

    Returns:
        What is bad, or was.
    """
    bad = []
    known = store.catalogue.files()
    files = sorted({*known, *store.folder.names()})
    for file in progress(files):
        why = _fault(store, file, is_known=file in known)
        if why is not None:
            bad.append(BadFile(file, why))
            if repair and file in known:
                store.reject(file, f"{file}: {why}")
    if repair:
        store.recover()
    return bad


def _fault(store: DiskStore, file: str, *, is_known: bool) -> str | None:
    try:
        opened = store.folder.open(file)
        if opened is None:
            # Another process may have removed it since; then the catalogue has no row either.
            is_missing = is_known and file in store.catalogue.files()
            return "its file is missing" if is_missing else None
        opened.verify()
        block = described(opened)
    except CacheCorruptionError as error:
        return str(error)
    if block is None or store.file_of(block.name) != file:
        return "it holds another block than its name says"
    if not is_known and not store.catalogue.has(file):
        return "the catalogue does not know it"
    return None


def collect(
    store: DiskStore, *, max_bytes: int | None = None, older_than: float | None = None
) -> Collected:
    """Remove what is of no use, and what is too much or too old.

    Args:
        store: The store.
        max_bytes: What blocks may take; None: what they take.
        older_than: Seconds without use after which blocks go; None: none do.
    """
    aside = store.clear_aside()
    before = store.stats()["bytes"]
    store.recover()
    unreachable = store.remove(Listing(store.catalogue, store.veil).unreachable())
    old = 0 if older_than is None else store.forget_older(older_than)
    evicted = 0 if max_bytes is None else store.shrink(store.stats()["bytes"] - max_bytes)
    freed = before - store.stats()["bytes"] + aside
    return Collected(unreachable, old, evicted, aside, freed)
