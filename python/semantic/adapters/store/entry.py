"""Entering a store's folder: who is there first says with which key it is sealed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.owners import FolderBusyError, Owners
from semantic.adapters.store.sealing import check_key, check_unsealed, check_unused, mark_sealed
from semantic.adapters.store.veil import Veil
from semantic.domain.native import BlockFolder

__all__ = ["CATALOGUE", "alone_or_known", "entered"]

CATALOGUE = "catalogue.sqlite3"
"""The catalogue's file in the folder."""


@contextmanager
def alone_or_known(path: Path, owners: Owners) -> Iterator[bool]:
    """Whether no other process puts the folder right meanwhile.

    Args:
        path: The folder.
        owners: Who runs in it.

    Raises:
        FolderBusyError: Another process does, and nobody has been here before.
    """
    with contextlib.ExitStack() as inside:
        try:
            inside.enter_context(owners.alone())
        except FolderBusyError:
            if not (path / CATALOGUE).exists():
                raise
            yield False
        else:
            yield True


def entered(
    path: Path,
    owners: Owners,
    veil: Veil,
    damaged: Callable[[], None],
    *,
    is_made: bool,
    is_alone: bool,
) -> tuple[BlockFolder, Catalogue]:
    """Enter the folder and open what is in it.

    One process at a time does it where none has before: so all agree on the key. It is written down
    before there is a catalogue, for then nobody waits for this process any more.

    Args:
        path: The folder.
        owners: Who runs in it.
        veil: What the disk sees of names and values.
        damaged: Called when the catalogue turns out to be damaged.
        is_made: Whether what is missing is made.
        is_alone: Whether no other process puts the folder right meanwhile.

    Raises:
        PoolConfigurationError: Another key than the folder's, or one for a folder that is used
            without.
        CachePersistenceError: The catalogue cannot be opened.
        OSError: The system refuses.
    """
    owners.enter()
    is_unsealed = check_key(path, veil, is_marked=is_made and is_alone)
    if is_unsealed:
        check_unused(path, len(owners.running()) - 1)
    folder = BlockFolder(path, owners.name, veil.secret)
    if is_unsealed and is_made and is_alone and not (path / CATALOGUE).exists():
        mark_sealed(path, veil)
        is_unsealed = False
    catalogue = Catalogue(path / CATALOGUE, owners.name, veil, is_made=is_made, damaged=damaged)
    if is_unsealed:
        try:
            check_unsealed(path, veil, catalogue.database)
            check_unused(path, len(owners.running()) - 1)  # some may have come since
            if is_made and is_alone:
                mark_sealed(path, veil)
        except BaseException:
            catalogue.close()
            raise
    return folder, catalogue
