"""Block files that contradict themselves, with right checksums: refused by all who read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semantic import BlockValidationError, DiskStore
from semantic.adapters.store.block_file import written
from semantic.adapters.store.upkeep import verify
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.stored import BlockName, NewBlock
from tests.stored_blocks import BLOCK_BYTES, GROUP, ROOT, blocks_of, read, sequence, turn

FIRST, SECOND = blocks_of(sequence(1, 2))


def stored(path: Path, block: NewBlock, said: dict[str, str], shape: list[int]) -> DiskStore:
    """A store with a block of which its file says this."""
    store = DiskStore(path, free_floor_bytes=0)
    turn(store, sequence(1, 2), "a")
    name, metadata, ((tensor, dtype, _, memory, rows),) = written(store.file_of(block.name), block)
    tensors = [(tensor, dtype, shape, memory, rows)]
    store.folder.write([(name, {**metadata, **said}, tensors)])
    return store


SHAPE = [2, 2, 256, 8]


@pytest.mark.parametrize(
    ("block", "said", "shape"),
    [
        (FIRST, {"layer_type": "globale"}, SHAPE),
        (FIRST, {"layer_type": "Global"}, SHAPE),
        (FIRST, {"layer_type": "state"}, SHAPE),
        (FIRST, {"is_bounded": "True"}, SHAPE),
        (FIRST, {"is_bounded": ""}, SHAPE),
        (FIRST, {"namespace": ROOT.hex().upper()}, SHAPE),
        (FIRST, {"namespace": "ab"}, SHAPE),
        (FIRST, {"namespace": "ab" * 32}, SHAPE),
        (SECOND, {"namespace": "ab"}, SHAPE),
        (SECOND, {"namespace": SECOND.parent.hex()}, SHAPE),
        (SECOND, {"parent": SECOND.parent.hex().upper()}, SHAPE),
        (FIRST, {"lo": "00"}, SHAPE),
        (FIRST, {"hi": "257"}, SHAPE),
        (FIRST, {}, [2 * 2 * 256, 8]),
        (FIRST, {}, [1, 2, 2, 256, 8]),
    ],
)
def test_what_contradicts_itself_is_found_and_put_aside(
    block: NewBlock, said: dict[str, str], shape: list[int], tmp_path: Path
) -> None:
    store = stored(tmp_path, block, said, shape)
    (bad,) = verify(store)
    assert bad.file == str(block.name)
    assert bad.why == "it holds another block than its name says"
    verify(store, repair=True)
    assert verify(store) == []
    assert not read(store, block)
    assert len(list((tmp_path / "aside").iterdir())) == 1
    store.close()


def test_more_than_is_known_may_be_said(tmp_path: Path) -> None:
    store = stored(tmp_path, FIRST, {"written_by": "a later release"}, SHAPE)
    verify(store, repair=True)  # its size is another one
    assert verify(store) == []
    assert read(store, FIRST)
    store.close()


def test_a_tensor_of_other_bytes_than_its_shape_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BlockValidationError, match=r"is not F32 of \[2, 2, 256, 9\]"):
        stored(tmp_path, FIRST, {}, [2, 2, 256, 9])


def test_memory_of_another_size_is_refused_and_the_block_stays(tmp_path: Path) -> None:
    store = stored(tmp_path, FIRST, {}, SHAPE)
    (tensor,) = tensors_of_block(GROUP, 0, 256)
    for size in (BLOCK_BYTES - 1, BLOCK_BYTES + 1):
        memory = [(tensor, memoryview(bytearray(size)))]
        with pytest.raises(BlockValidationError, match="another size"):
            store.read(FIRST.name, FIRST.tokens, memory)
    assert read(store, FIRST)
    store.close()


@pytest.mark.parametrize("group", ["a-b", "a b", "", "\u00e9", "a/b", "..\n"])
def test_a_group_whose_name_no_file_can_have_is_refused_by_name(group: str, tmp_path: Path) -> None:
    name = BlockName(FIRST.name.key, group, 0, 256)
    fields: dict[str, Any] = {field: getattr(FIRST, field) for field in FIRST.__slots__}
    store = DiskStore(tmp_path, free_floor_bytes=0)
    with pytest.raises(BlockValidationError, match="cannot be stored"):
        store.put([NewBlock(**{**fields, "name": name})], "a")
    assert store.stats()["blocks"] == 0
    assert list(tmp_path.glob("blocks/*/*")) == []
    store.close()
