"""What two processes on one folder do to each other, step by step: what is counted stays true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from semantic import CachePersistenceError, DiskStore, EvictionPolicy
from semantic.adapters.store import disk, recovery, upkeep
from semantic.adapters.store.block_files import FANS, BlockFiles
from semantic.adapters.store.catalogue import Room
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.limits import Limits
from semantic.adapters.store.locks import Lock
from semantic.adapters.store.owners import Owners
from semantic.adapters.store.upkeep import verify
from semantic.domain.native import BlockFile
from tests.store_hammer import lying_at_once
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, read, sequence, turn

FILE_BYTES = BLOCK_BYTES + 8192
LIMIT = 6 * FILE_BYTES - 8192
"""Six blocks fit, and seven do not."""
TOKENS = sequence(1, 1)
(BLOCK,) = blocks_of(TOKENS)
FILE = str(BLOCK.name)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[DiskStore, DiskStore]]:
    """Two that share a folder."""
    stores = [DiskStore(tmp_path, LIMIT, free_floor_bytes=0) for _ in range(2)]
    yield stores[0], stores[1]
    for store in stores:
        store.close()


def before(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, step: Any) -> None:
    """Take a step each time right before this is called."""
    done = getattr(owner, name)

    def stepped(*arguments: Any, **options: Any) -> Any:
        step()
        return done(*arguments, **options)

    monkeypatch.setattr(owner, name, stepped)


def fill(store: DiskStore) -> None:
    """Have as much stored as may be."""
    for seed in range(10, 30):
        turn(store, sequence(seed, 1), "b")


def before_listing(monkeypatch: pytest.MonkeyPatch, step: Callable[[], object]) -> None:
    """Take a step after the rows are read and before the folder of the block is."""
    listed = recovery.block_files

    def stepped(path: Path, fans: Sequence[str] = FANS) -> BlockFiles:
        if FILE[:2] in fans:
            step()
        return listed(path, fans)

    monkeypatch.setattr(recovery, "block_files", stepped)


def test_a_block_that_comes_and_goes_while_the_folder_is_compared_is_not_entered(
    both: tuple[DiskStore, DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    before_listing(monkeypatch, lambda: turn(other, TOKENS, "a"))

    def gone_and_another_in_its_place() -> None:
        other.remove([FILE])
        fill(other)

    before(monkeypatch, store.catalogue, "adopt", gone_and_another_in_its_place)
    seen: list[int] = []
    before(monkeypatch, store, "expire", lambda: seen.append(store.stats()["bytes"]))
    store.recover()
    assert LIMIT - FILE_BYTES < max(seen) <= LIMIT
    assert store.stats()["bytes"] == lying_at_once(tmp_path)
    assert verify(store) == []


def test_a_block_that_another_is_writing_again_is_left_to_it(
    both: tuple[DiskStore, DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    before_listing(monkeypatch, lambda: turn(other, TOKENS, "a"))

    def gone_and_coming_again() -> None:
        other.remove([FILE])
        assert other.catalogue.reserve([(BLOCK, FILE_BYTES)], Room(LIMIT), "a", 0)[0]

    before(monkeypatch, store.catalogue, "adopt", gone_and_coming_again)
    store.recover()
    ((file, state, _),) = store.catalogue.on_their_way()
    assert (file, state, store.stats()["bytes"]) == (FILE, "coming", FILE_BYTES)


def test_a_block_that_comes_again_while_the_folder_is_compared_stays(
    both: tuple[DiskStore, DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    turn(other, TOKENS, "a")
    before_listing(monkeypatch, lambda: other.remove([FILE]))
    before(monkeypatch, store.catalogue, "adopt", lambda: turn(other, TOKENS, "a"))
    store.recover()
    assert read(other, BLOCK)
    assert verify(store) == []


def test_a_block_that_goes_and_comes_again_while_it_is_verified_is_not_missing(
    both: tuple[DiskStore, DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    turn(other, TOKENS, "a")
    before(monkeypatch, upkeep, "block_files", lambda: other.remove([FILE]))
    folder = store.folder

    class ComesAfterwards:
        def open(self, file: str) -> BlockFile | None:
            opened = folder.open(file)
            monkeypatch.setattr(store, "folder", folder)
            turn(other, TOKENS, "a")
            return opened

    monkeypatch.setattr(store, "folder", ComesAfterwards())
    assert verify(store) == []
    assert read(other, BLOCK)


def test_what_is_not_reserved_any_more_does_not_arrive(
    both: tuple[DiskStore, DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both

    def lost() -> None:
        with other.catalogue.database.transaction() as run:
            run.execute("DELETE FROM blocks WHERE file = ?", (FILE,))

    before(monkeypatch, store.catalogue, "arrived", lost)
    with pytest.raises(CachePersistenceError, match="not reserved any more"):
        store.put([BLOCK], "a")
    # Whose file that is, nobody knows here: whoever makes files and rows agree finds it.
    other.recover()
    assert store.stats()["bytes"] == lying_at_once(tmp_path) > 0
    assert read(store, BLOCK)


def test_who_has_just_begun_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = Owners(tmp_path / "owners")
    owners.enter()
    begun = tmp_path / "owners" / "0123456789abcdef"
    begun.touch()  # by somebody who has not locked it yet
    late = Lock(begun)
    seen: list[bool] = []

    def locks_it_now() -> None:
        seen.append(late.take_alone() and late.has_name)

    before(monkeypatch, Path, "unlink", locks_it_now)
    assert owners.running() == [owners.name]
    monkeypatch.undo()
    assert seen == [False]
    assert late.take_alone()
    assert not late.has_name
    late.close()
    owners.close()


def test_a_block_that_comes_again_after_it_was_not_found_stays(
    both: tuple[DiskStore, DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    turn(other, TOKENS, "a")
    other.folder.remove(FILE)
    before(
        monkeypatch,
        store.catalogue,
        "leave_missing",
        lambda: (other.remove([FILE]), turn(other, TOKENS, "a")),
    )
    assert not read(store, BLOCK)
    assert read(other, BLOCK)
    assert verify(store) == []


def test_what_is_set_aside_while_room_is_reserved_counts(
    both: tuple[DiskStore, DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    fill(store)
    last = blocks_of(sequence(29, 1))[0]
    path = tmp_path / "blocks" / str(last.name)[:2] / f"{last.name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(disk, "_ASIDE_PART", 1)
    before(monkeypatch, store.catalogue, "reserve", lambda: read(other, last))
    lay: list[int] = []
    before(monkeypatch, store.catalogue, "arrived", lambda: lay.append(lying_at_once(tmp_path)))
    turn(store, TOKENS, "a")
    assert list((tmp_path / "aside").iterdir())
    assert max(lay) <= LIMIT
    assert read(store, BLOCK)


def test_what_was_reserved_is_given_back_where_there_is_no_room(
    both: tuple[DiskStore, DiskStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    fill(store)
    other.regard(ROOT, "b", is_pinned=True)
    other.remove([str(blocks_of(sequence(29, 1))[0].name)])
    monkeypatch.setattr(disk, "_ASIDE_PART", 1)
    aside = tmp_path / "aside" / f"{BLOCK.name}.{'ab' * 8}-0"
    before(monkeypatch, store.catalogue, "reserve", lambda: aside.write_bytes(bytes(FILE_BYTES)))
    with pytest.raises(CachePersistenceError, match="more than may be stored"):
        store.put([BLOCK], "a")
    assert store.catalogue.on_their_way() == []
    assert lying_at_once(tmp_path) <= LIMIT


def test_nobody_makes_the_catalogue_again_while_room_is_made_for_what_is_borrowed(
    both: tuple[DiskStore, DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    store._repairs = other._repairs = False  # nothing goes on behind this
    turn(store, TOKENS, "a")
    store._removals.keep(dict.fromkeys(store.catalogue.leave([FILE]), ""))
    seen: list[str] = []

    def made_again() -> None:
        other.catalogue.database.condemn("it was damaged")
        with pytest.raises(CatalogueDamagedError):
            store.catalogue.totals()  # as another thread may
        with pytest.raises(CatalogueDamagedError) as refusal:
            other.recover()
        seen.append(str(refusal.value))

    before(monkeypatch, store, "_remove_file", made_again)
    with pytest.raises(CatalogueDamagedError), store.borrowed(LIMIT):
        pass
    assert ["still in use" in why for why in seen] == [True]


def test_what_fits_is_left_in_peace_when_a_store_recovers(
    both: tuple[DiskStore, DiskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = both
    turn(other, TOKENS, "a")
    chosen: list[object] = []
    before(monkeypatch, store.catalogue, "choose", lambda: chosen.append(1))
    store.recover()
    assert chosen == [], "it would be a transaction that writes nothing"
    store.limits = Limits(BLOCK_BYTES, None, 1, EvictionPolicy())
    store.recover()
    assert chosen == [1]
    assert store.stats()["blocks"] == 0
