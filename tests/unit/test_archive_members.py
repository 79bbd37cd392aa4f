"""What an archive says of its blocks and is not so: no room is made for it, nor is it believed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store import archive
from semantic.adapters.store.archive import export_blocks, import_blocks
from semantic.adapters.store.block_file import written
from semantic.adapters.store.listing import Listing
from semantic.adapters.store.upkeep import verify
from semantic.domain.native import BlockFolder
from semantic.domain.stored import NewBlock
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, sequence, turn

FILE_BYTES = BLOCK_BYTES + 8192
OTHER = b"\7" * 32
ALICE = sequence(1, 3)
(WANTED,) = blocks_of(sequence(99, 1))
NAME = f"{WANTED.name}.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    """One that is full."""
    made = DiskStore(tmp_path / "kv", 20 * FILE_BYTES, free_floor_bytes=0)
    for seed in range(100, 130):
        turn(made, sequence(seed, 1), "a")
    yield made
    made.close()


def manifest(tar: tarfile.TarFile, names: Sequence[str], agent: str = "eve") -> None:
    said = [{"name": name, "agents": [agent]} for name in names]
    text = json.dumps({"format": "semantic-store-archive", "version": 1, "blocks": said}).encode()
    member = tarfile.TarInfo("manifest.json")
    member.size = len(text)
    tar.addfile(member, io.BytesIO(text))


def sparse(version: str) -> tarfile.TarInfo:
    """A member that says to be large, with 512 bytes in the archive."""
    n_bytes = str(9 * FILE_BYTES)
    headers = {
        "0.1": {"GNU.sparse.size": n_bytes, "GNU.sparse.map": "0,512"},
        "1.0": {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": NAME,
            "GNU.sparse.realsize": n_bytes,
        },
    }
    member = tarfile.TarInfo(NAME)
    member.size = 512
    member.pax_headers = headers[version]
    return member


@pytest.mark.parametrize("version", ["0.1", "1.0"])
def test_a_sparse_block_makes_no_room(version: str, store: DiskStore, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse(version), io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
        manifest(tar, [str(WANTED.name)])
    before = store.stats()
    ((name, why),) = import_blocks(store, tmp_path / "x.tar").bad
    assert (name, why) == (str(WANTED.name), "it is no file in the archive")
    assert store.stats() == before


def test_a_block_that_ends_behind_the_archive_makes_no_room(
    store: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo(NAME)
        member.size = 512
        tar.addfile(member, io.BytesIO(bytes(512)))
        manifest(tar, [str(WANTED.name)])
    getmember = tarfile.TarFile.getmember

    def grown(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
        member = getmember(tar, name)
        if name == NAME:
            member.size = 9 * FILE_BYTES
        return member

    monkeypatch.setattr(tarfile.TarFile, "getmember", grown)
    before = store.stats()
    ((_, why),) = import_blocks(store, tmp_path / "x.tar").bad
    assert why == "it is not entirely in the archive"
    assert store.stats() == before


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]
)
def test_what_is_no_file_is_left_out_and_the_rest_is_taken(
    kind: bytes, store: DiskStore, tmp_path: Path
) -> None:
    rows = Listing(store.catalogue, store.veil).blocks()[:3]
    export_blocks(store, rows, tmp_path / "good.tar")
    with tarfile.open(tmp_path / "good.tar") as good, tarfile.open(tmp_path / "x.tar", "w") as tar:
        odd = tarfile.TarInfo(NAME)
        odd.type, odd.linkname = kind, NAME  # a link to itself
        for member in good.getmembers()[:1]:
            tar.addfile(member, good.extractfile(member))
        tar.addfile(odd)
        for member in good.getmembers()[1:3]:
            tar.addfile(member, good.extractfile(member))
        manifest(tar, [rows[0].file, str(WANTED.name), rows[1].file, rows[2].file])
    other = DiskStore(tmp_path / "other", free_floor_bytes=0)
    done = import_blocks(other, tmp_path / "x.tar")
    assert done.blocks == 3
    assert done.bad == ((str(WANTED.name), "it is no file in the archive"),)
    other.close()


def lying(path: Path, blocks: Sequence[NewBlock], namespace: bytes = OTHER) -> Path:
    """An archive of blocks that say to be of another namespace than their keys begin with."""
    lies = [replace(block, namespace=namespace) for block in blocks]
    BlockFolder(path / "lies", "x").write([written(str(block.name), block) for block in lies])
    with tarfile.open(path / "lies.tar", "w") as tar:
        for file in (path / "lies" / "blocks").rglob("*.safetensors"):
            tar.add(file, file.name)
        manifest(tar, [str(block.name) for block in lies])
    return path / "lies.tar"


@pytest.fixture
def alices(tmp_path: Path) -> Iterator[DiskStore]:
    made = DiskStore(tmp_path / "alices", free_floor_bytes=0)
    yield made
    made.close()


def test_a_known_block_keeps_its_namespace(alices: DiskStore, tmp_path: Path) -> None:
    turn(alices, ALICE, "alice")
    lies = lying(tmp_path, blocks_of(ALICE)[1:])
    done = import_blocks(alices, lies)
    assert (done.blocks, done.known) == (0, 0)
    assert {why for _, why in done.bad} == {"what is stored of its prompt has another namespace"}
    assert len(done.bad) == 2
    assert verify(alices) == []
    assert alices.forget(ROOT, "alice") == 3
    assert found(alices, ALICE) == 0


def test_a_block_behind_a_known_one_is_of_its_namespace(alices: DiskStore, tmp_path: Path) -> None:
    turn(alices, ALICE[:512], "alice")
    ((_, why),) = import_blocks(alices, lying(tmp_path, blocks_of(ALICE)[2:])).bad
    assert why == "what is stored of its prompt has another namespace"


def test_a_block_that_becomes_known_meanwhile_keeps_its_namespace(
    alices: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = lying(tmp_path, blocks_of(ALICE)[1:2])
    belongs = archive._belongs

    def written_meanwhile(store: DiskStore, block: NewBlock) -> bool:
        does_belong = belongs(store, block)
        turn(store, ALICE, "alice")
        return does_belong

    monkeypatch.setattr(archive, "_belongs", written_meanwhile)
    assert import_blocks(alices, lies).known == 1
    assert alices.forget(ROOT, "alice") == 2, "eve says to use the other one, too"
    assert alices.forget(ROOT, "eve") + alices.forget(OTHER, "eve") == 1


def test_who_writes_a_block_again_that_was_said_to_be_elsewhere_has_it(
    alices: DiskStore, tmp_path: Path
) -> None:
    # Nothing is known of its prompt, so nothing tells that it is a lie, and nobody can find it.
    assert import_blocks(alices, lying(tmp_path, blocks_of(ALICE)[1:2])).blocks == 1
    assert found(alices, ALICE) == 0
    turn(alices, ALICE, "alice")
    assert found(alices, ALICE) == 3
    assert alices.forget(OTHER, "alice") == 0
    alices.catalogue.drop_agent("eve")
    assert alices.forget(ROOT, "alice") == 3


def test_an_import_that_ends_early_knows_whose_its_blocks_are(
    alices: DiskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DiskStore(tmp_path / "source", free_floor_bytes=0)
    for agent in ("alice", "bob"):
        turn(source, ALICE, agent)
    rows = sorted(Listing(source.catalogue, source.veil).blocks(), key=lambda row: row.lo)
    export_blocks(source, rows, tmp_path / "kv.tar")
    source.close()
    put = alices.put

    def refused(blocks: Sequence[NewBlock], agent_id: str) -> int:
        if blocks[0].name.lo == 512:
            raise CachePersistenceError("no space left")
        return put(blocks, agent_id)

    monkeypatch.setattr(alices, "put", refused)
    with pytest.raises(CachePersistenceError, match="no space left"):
        import_blocks(alices, tmp_path / "kv.tar")
    users = [row.agents for row in Listing(alices.catalogue, alices.veil).blocks()]
    assert users == [("alice", "bob")] * 2
