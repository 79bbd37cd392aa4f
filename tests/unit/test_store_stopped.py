"""A process that is stopped while it puts a folder right, and goes on among others."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from semantic import DiskStore
from semantic.adapters.store import owners
from semantic.adapters.store.catalogue import Room
from semantic.adapters.store.owner_names import workroom
from semantic.adapters.store.owners import Owners
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, sequence, turn

FILE_BYTES = BLOCK_BYTES + 8192
(BLOCK,) = blocks_of(sequence(2, 1))


def opened(path: Path) -> DiskStore:
    return DiskStore(path, free_floor_bytes=0)


class Comer:
    """Somebody who opens the store, pins, leaves a block half removed, and begins to write one."""

    def __init__(self, path: Path) -> None:
        self.store = store = opened(path)
        turn(store, sequence(3, 1), "c")
        store.regard(ROOT, "c", is_pinned=True)
        (self.leaving,) = store.catalogue.leave([str(blocks_of(sequence(3, 1))[0].name)])
        assert store.catalogue.reserve([(BLOCK, FILE_BYTES)], Room(1 << 30), "a", 0)[0]
        self.temporary = path / "tmp" / f"{store._owners.name}-7"
        self.temporary.touch()
        self.workroom = path / "tmp" / workroom(store._owners.name, 7)
        self.workroom.mkdir()

    def check(self) -> None:
        """Nothing of it was touched."""
        catalogue, name = self.store.catalogue, self.store._owners.name
        rows = {(self.leaving, "leaving", name), (str(BLOCK.name), "coming", name)}
        assert set(catalogue.on_their_way()) == rows
        assert catalogue.database.read("SELECT owner FROM pins") == [(name,)]
        assert self.temporary.exists()
        assert self.workroom.exists()
        self.store.close()


@pytest.mark.parametrize("number", range(3))
def test_who_has_come_since_it_was_asked_who_runs_is_not_taken_for_dead(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_PATIENCE_SECONDS", 0.0)
    running, numbers = Owners.running, itertools.count()
    stores: list[DiskStore] = []
    comers: list[Comer] = []

    def stopped_then(asking: Owners) -> list[str]:
        names = running(asking)
        for store in stores:
            # Within a transaction nobody else writes.
            is_within = store.catalogue.database._writing._lock.locked()
            if asking is store._owners and not is_within and next(numbers) == number:
                comers.append(Comer(tmp_path))
        return names

    monkeypatch.setattr(Owners, "running", stopped_then)
    store = opened(tmp_path)
    turn(store, sequence(1, 1), "a")
    stores.append(store)
    store.recover()
    (comer,) = comers
    comer.check()
    assert found(store, sequence(1, 1)) == 1
    store.close()
