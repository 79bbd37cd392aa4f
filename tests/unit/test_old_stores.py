"""What earlier releases have stored is read: files that were made once and stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from semantic import DiskStore
from semantic.adapters.store.upkeep import verify
from tests.fixtures.make_store import KEY, STORED
from tests.stored_blocks import blocks_of, found, read, sequence

FOLDER = Path(__file__).parents[1] / "fixtures"
VERSIONS = sorted(path.name for path in FOLDER.glob("store-*"))


def test_there_is_a_store_of_each_version() -> None:
    assert VERSIONS == ["store-1"]


@pytest.mark.parametrize("kind", ["plain", "sealed"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_an_earlier_release_is_read(version: str, kind: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / version / kind, tmp_path / "kv")
    key = KEY if kind == "sealed" else None
    store = DiskStore(tmp_path / "kv", free_floor_bytes=0, key=key)
    assert verify(store) == []
    for seed, n_blocks in STORED.items():
        tokens = sequence(seed, n_blocks)
        assert found(store, tokens) == n_blocks
        assert all(read(store, block) for block in blocks_of(tokens))
    store.close()
