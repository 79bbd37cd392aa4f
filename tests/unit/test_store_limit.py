"""What lies in a store's folder at every moment: blocks, what is on its way, and the catalogue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import DiskStore, EvictionPolicy, PoolConfigurationError
from semantic.adapters.store import archive, disk
from semantic.adapters.store.listing import Listing
from semantic.cli import store as command
from tests.stored_blocks import BLOCK_BYTES, blocks_of, found, read, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

ROOT_FOLDER = Path(__file__).parents[2]
FILE_BYTES = BLOCK_BYTES + 8192


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def lying(path: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def catalogue_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("catalogue*"))


def watched(store: DiskStore, look: Callable[[], None]) -> None:
    """Look while files have been written that no row says to be here."""
    write = store._write

    def write_and_look(blocks: Any) -> list[int]:
        sizes = write(blocks)
        look()
        return sizes

    store._write = write_and_look  # type: ignore[method-assign]


def test_b31_the_folder_keeps_to_its_limit_beside_the_catalogue(tmp_path: Path) -> None:
    limit = 9 * FILE_BYTES
    store = opened(tmp_path, max_bytes=limit)
    seen = []
    watched(store, lambda: seen.append(lying(tmp_path) - catalogue_bytes(tmp_path)))
    for seed in range(60):
        turn(store, sequence(seed, 2), f"agent-{seed % 5}")
        if seed % 10 == 0:
            block = blocks_of(sequence(seed, 2))[0]
            path = tmp_path / "blocks" / str(block.name)[:2] / f"{block.name}.safetensors"
            path.write_bytes(path.read_bytes()[:-1])
            assert not read(store, block)
        seen.append(lying(tmp_path) - catalogue_bytes(tmp_path))
        assert catalogue_bytes(tmp_path) <= disk.CATALOGUE_BYTES
    assert limit // 2 < max(seen) <= limit
    store.close()


def test_b31_what_the_catalogue_takes_beyond_its_share_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "CATALOGUE_BYTES", 0)
    limit = disk._LOG_BYTES + (3 << 20)
    store = opened(tmp_path, max_bytes=limit)
    seen = []
    watched(store, lambda: seen.append(lying(tmp_path)))
    for seed in range(130):
        turn(store, sequence(seed, 2), f"agent-{seed}")
        seen.append(lying(tmp_path))
    blocks = lying(tmp_path) - catalogue_bytes(tmp_path)
    assert max(seen) <= limit
    assert store.catalogue_bytes > disk._LOG_BYTES
    assert 0 < blocks <= limit - store.catalogue_bytes
    stats = json.loads(run("stats", "--store", tmp_path, "--json").stdout)
    assert stats["max_bytes"] == limit
    assert stats["catalogue_bytes"] == catalogue_bytes(tmp_path)
    store.close()


def test_b31_a_damaged_catalogue_that_is_kept_counts(tmp_path: Path) -> None:
    limit = 6 * FILE_BYTES
    store = opened(tmp_path, max_bytes=limit)
    for seed in range(4):
        turn(store, sequence(seed, 2), "a")
    store.close()
    catalogue = tmp_path / "catalogue.sqlite3"
    catalogue.write_bytes(b"?" * catalogue.stat().st_size)
    store = opened(tmp_path, max_bytes=limit)
    assert lying(tmp_path) - catalogue_bytes(tmp_path) <= limit
    assert store.stats()["blocks"] > 4, "a catalogue that was no use takes no block's place"
    store.close()


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """An archive of ten conversations of three blocks."""
    store = opened(tmp_path / "a")
    for seed in range(10):
        turn(store, sequence(seed, 3), f"agent-{seed}")
    rows = sorted(Listing(store.catalogue, store.veil).blocks(), key=lambda row: row.lo)
    archive.export_blocks(store, rows, tmp_path / "kv.tar")
    store.close()
    return tmp_path / "kv.tar"


def test_b31_an_import_keeps_to_the_limit_of_the_server_at_every_moment(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, limit = tmp_path / "b", 8 * FILE_BYTES
    server = opened(folder, max_bytes=limit)
    turn(server, sequence(50, 4), "mine")
    seen, loaded = [], archive._loaded

    def looked(*arguments: Any) -> Any:
        seen.append(lying(folder) - catalogue_bytes(folder))
        return loaded(*arguments)

    monkeypatch.setattr(archive, "_loaded", looked)
    done = run("import", carried, "--store", folder, "--json")
    said = json.loads(done.stdout)
    assert done.exit_code == 1
    assert len(seen) == said["blocks"] > 4
    assert max(seen) <= limit
    assert lying(folder) - catalogue_bytes(folder) <= limit
    assert said["blocks"] + len(said["bad"]) == 30
    assert {why for _, why in said["bad"]} == {"it is more than the store may take"}
    # What came in is there: it did not make room for what came after it.
    assert server.stats()["blocks"] >= said["blocks"]
    assert sum(found(server, sequence(seed, 3)) for seed in range(10)) == said["blocks"]
    assert list((folder / "tmp").iterdir()) == []
    server.close()


def test_b31_an_import_takes_the_limit_that_it_is_given(carried: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    done = run("import", carried, "--store", folder, "--max", 5 * FILE_BYTES, "--json")
    assert done.exit_code == 1
    assert 3 <= json.loads(done.stdout)["blocks"] <= 5
    assert lying(folder) - catalogue_bytes(folder) <= 5 * FILE_BYTES
    done = run("import", carried, "--store", folder, "--max", "1GB", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["blocks"] + json.loads(done.stdout)["known"] == 30


@pytest.mark.parametrize("floor", [(), ("--free", "2GiB")])
def test_an_import_leaves_free_what_a_server_does(
    floor: tuple[str, ...], carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "b"
    opened(folder).close()
    left = (2 << 30 if floor else 1 << 30) + 4 * FILE_BYTES
    statvfs = os.statvfs

    def little_left(path: Any) -> Any:
        found = list(statvfs(path))
        blocks = lying(folder / "blocks") + lying(folder / "tmp")
        found[1], found[4] = 1, left - blocks  # bytes in a fragment, and fragments for everybody
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", little_left)
    done = run("import", carried, "--store", folder, "--json", *floor)
    said = json.loads(done.stdout)
    assert (done.exit_code, said["blocks"], len(said["bad"])) == (1, 4, 26)
    assert all("would leave less than" in why for _, why in said["bad"])
    done = run("import", carried, "--store", folder, "--json", "--free", "1MB")
    assert (done.exit_code, json.loads(done.stdout)["blocks"]) == (0, 26)


def test_an_import_that_is_killed_leaves_nothing(carried: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    server = opened(folder)
    code = (
        "import os\nfrom pathlib import Path\nfrom semantic import DiskStore\n"
        "from semantic.adapters.store import archive\n"
        f"store = DiskStore(Path({str(folder)!r}), free_floor_bytes=0)\n"
        "archive._loaded = lambda *_: os.kill(os.getpid(), 9)\n"
        f"archive.import_blocks(store, Path({str(carried)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT_FOLDER, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((folder / "tmp").rglob("*.safetensors"))
    assert server.stats()["bytes"] > BLOCK_BYTES, "it counts while it lies there"
    # A server that goes on tidies up with its next turn, and so does whoever opens the store.
    turn(server, sequence(50, 1), "mine")
    assert list((folder / "tmp").iterdir()) == []
    assert server.stats()["blocks"] == 1
    assert server.stats()["bytes"] == lying(folder / "blocks")
    assert not list(folder.glob(".import*"))
    server.close()


# Numbers that are too large --------------------------------------------------------------------


def test_a_limit_that_the_catalogue_cannot_keep_is_refused(tmp_path: Path) -> None:
    most = (1 << 63) - 1
    with pytest.raises(PoolConfigurationError, match=f"max_bytes must be at most {most}"):
        opened(tmp_path / "kv", max_bytes=most + 1)
    assert not (tmp_path / "kv").exists()
    longest = EvictionPolicy(time_to_live=9.9e17)
    store = opened(tmp_path / "kv", max_bytes=most, policy=longest)
    assert turn(store, sequence(1, 1), "a") == 1
    assert (store.expire(), store.forget_older(1e300)) == (0, 0)
    store.close()


# What others lay into it -----------------------------------------------------------------------


def test_what_another_process_finds_to_be_no_block_counts_for_all(tmp_path: Path) -> None:
    limit = 6 * FILE_BYTES
    store = opened(tmp_path, max_bytes=limit)
    stranger = tmp_path / "blocks" / "ab" / "abfoo.safetensors"
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_bytes(bytes(3 * FILE_BYTES))
    assert run("gc", "--store", tmp_path).exit_code == 0
    for seed in range(20):
        turn(store, sequence(seed, 1), "a")
    assert FILE_BYTES < store.stats()["bytes"] <= 3 * FILE_BYTES
    stranger.unlink()
    assert run("verify", "--repair", "--store", tmp_path).exit_code == 0
    for seed in range(20):
        turn(store, sequence(seed, 1), "a")
    assert store.stats()["bytes"] > 4 * FILE_BYTES
    store.close()
