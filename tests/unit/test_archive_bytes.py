"""Any bytes as an archive of a store, and any words as what a block file says of its block."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic import CacheCorruptionError, CachePersistenceError, DiskStore
from semantic.adapters.store.archive import export_blocks, import_blocks
from semantic.adapters.store.block_file import described, written
from semantic.adapters.store.listing import Listing
from semantic.adapters.store.upkeep import verify
from semantic.domain.native import BlockFolder
from tests.stored_blocks import blocks_of, found, read, sequence, turn

MANIFEST = "manifest.json"
SEEDS = ((1, 2), (2, 1))


class Place:
    """An archive, the folder that it lies in, and a store that takes what is whole of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive = path / "kv.tar"
        source = self.opened("source")
        for seed, n_blocks in SEEDS:
            turn(source, sequence(seed, n_blocks), f"agent {seed}")
        export_blocks(source, Listing(source.catalogue, source.veil).blocks(), self.archive)
        source.close()
        shutil.rmtree(path / "source")
        self.bytes = self.archive.read_bytes()

    def opened(self, name: str) -> DiskStore:
        return DiskStore(self.path / name, free_floor_bytes=0)

    def imported(self, archive: bytes) -> int | None:
        """Import it into a new store; how many blocks are there now, None where it is refused."""
        self.archive.write_bytes(archive)
        store = self.opened("target")
        try:
            done = import_blocks(store, self.archive)
        except (CacheCorruptionError, CachePersistenceError):
            done = None
        blocks = 0
        for seed, n_blocks in SEEDS:
            tokens = sequence(seed, n_blocks)
            whole = blocks_of(tokens)[: found(store, tokens)]
            assert all(read(store, block) for block in whole)
            blocks += len(whole)
        assert verify(store) == []
        assert done is None or blocks <= done.blocks <= 3
        store.close()
        assert not list(self.path.glob("target/.import-*"))
        shutil.rmtree(self.path / "target")
        assert list(self.path.iterdir()) == [self.archive]
        return None if done is None else blocks


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as path:
        yield Place(Path(path))


def tar_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def members_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_the_archive_as_it_is_is_taken(place: Place) -> None:
    assert place.imported(place.bytes) == 3
    assert place.imported(tar_of(members_of(place.bytes))) == 3


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["write", "insert", "remove", "cut"]),
        # Most of an archive is payload: its fronts are what is parsed.
        st.one_of(st.floats(0, 1), st.integers(0, 600), st.integers(-2600, -1)),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, noise in changes:
        size = max(1, len(data))
        at = int(where * (size - 1)) if isinstance(where, float) else where % size
        kept = {"write": at + len(noise), "insert": at, "remove": at + 8 * len(noise)}
        data = (
            data[:at] if how == "cut" else data[:at] + noise * (how != "remove") + data[kept[how] :]
        )
    return data


@settings(max_examples=40)
@given(changes=CHANGES)
def test_any_change_of_an_archive_costs_no_more_than_its_blocks(
    place: Place, changes: list[tuple[str, float, bytes]]
) -> None:
    place.imported(changed(place.bytes, changes))


@settings(max_examples=20)
@given(changes=CHANGES, data=st.data())
def test_any_change_of_one_member_costs_no_more_than_that(
    place: Place, changes: list[tuple[str, float, bytes]], data: st.DataObject
) -> None:
    members = members_of(place.bytes)
    name = data.draw(st.sampled_from(sorted(members)))
    members[name] = changed(members[name], changes)
    found = place.imported(tar_of(members))
    if name != MANIFEST:
        assert found is not None
        assert found >= 1


WORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(said=st.data())
def test_any_words_as_a_manifest_are_refused_or_name_blocks(
    place: Place, said: st.DataObject
) -> None:
    members = members_of(place.bytes)
    manifest: Any = json.loads(members[MANIFEST])
    # Somewhere in the manifest, something else.
    part: Any = manifest
    while True:
        key = said.draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
        if not isinstance(part[key], dict | list) or not part[key] or said.draw(st.booleans()):
            break
        part = part[key]
    part[key] = said.draw(WORDS | st.sampled_from(["../../x", "ab", manifest["blocks"][0]["name"]]))
    members[MANIFEST] = json.dumps(manifest).encode()
    place.imported(tar_of(members))


NUMBERS = st.sampled_from(
    ["", "-1", "0", "256", "1_0", " 7", "\u0663", "1e3", "9" * 30, "9" * 5000, str(2**63), "x"]
)
FIELDS: dict[str, st.SearchStrategy[str]] = {
    "tokens": st.sampled_from(["", ",", "1,,2", "1", "1,2,", str(2**63), str(-(2**63) - 1)])
    | st.lists(NUMBERS, max_size=3).map(",".join),
    "key": st.sampled_from(["", "ab", "zz", "ab" * 32, " ab" * 32]) | st.text(max_size=70),
    "parent": st.sampled_from(["", "ab", "ab" * 31, "ab" * 33]) | st.text(max_size=70),
    "namespace": st.sampled_from(["", "ab", "zz"]) | st.text(max_size=70),
    "layer_group": st.text(max_size=20),
    "layer_type": st.text(max_size=20),
    "is_bounded": st.text(max_size=6),
    "lo": NUMBERS,
    "hi": NUMBERS,
}


SAID = st.lists(
    st.sampled_from(sorted(FIELDS)).flatmap(
        lambda name: st.tuples(st.just(name), FIELDS[name] | st.none())
    ),
    max_size=2,
)


@settings(max_examples=120)
@given(said=SAID)
def test_any_words_of_a_block_file_are_a_block_with_that_key_or_none(
    said: list[tuple[str, str | None]],
) -> None:
    (block,) = blocks_of(sequence(1, 1))
    name, plain, tensors = written("ab-block", block)
    changes: dict[str, str | None] = {**plain, **dict(said)}
    metadata = {name: text for name, text in changes.items() if text is not None}
    with tempfile.TemporaryDirectory() as path:
        folder = BlockFolder(path, "test")
        folder.write([(name, metadata, tensors)])
        opened = folder.open(name)
        assert opened is not None
        read_again = described(opened)
    if read_again is None:
        assert said
        return
    assert read_again.tokens.keys(read_again.parent) == [read_again.name.key]
    assert 0 <= read_again.name.lo < read_again.name.hi < 1 << 63
    assert len(read_again.tokens) <= 256
    assert metadata["key"] == read_again.name.key.hex()
