"""Every store does the same: what stays, what goes first, and what is not written at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from semantic import (
    CachePersistenceError,
    DiskStore,
    EvictionPolicy,
    MemoryStore,
    Namespace,
    PoolConfigurationError,
    TokenTensor,
)
from semantic.adapters.store.catalogued import CataloguedStore
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, NewBlock
from tests.stored_blocks import (
    BLOCK_BYTES,
    GROUP,
    ROOT,
    blocks_of,
    content,
    found,
    read,
    sequence,
    turn,
)

FILE_BYTES = BLOCK_BYTES + 3500
"""About: a header takes 3,072 to 4,096 bytes, and is reserved with some thousand more."""
SLACK = 16_000
KEY = bytes(range(32))
DAY = 86_400


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self) -> None:
        self.now = 10.0 * DAY

    def __call__(self) -> float:
        return self.now


class Stores:
    """Makes stores of one kind, and closes them."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.clock = Clock()
        self._open: list[CataloguedStore] = []

    def __call__(self, n_files: int = 1000, **options: Any) -> CataloguedStore:
        store: CataloguedStore
        max_bytes = n_files * FILE_BYTES + SLACK
        if self.kind == "memory":
            store = MemoryStore(n_files * BLOCK_BYTES, **options)
            store._now = self.clock
        else:
            key = KEY if self.kind == "sealed" else None
            options = {"free_floor_bytes": 0, "now": self.clock, "key": key, **options}
            store = DiskStore(self.path, max_bytes, **options)
        self._open.append(store)
        return store

    def close(self) -> None:
        for store in self._open:
            store.close()


@pytest.fixture(params=["memory", "disk", "sealed"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(request.param, tmp_path)
    yield stores
    stores.close()


def whole(store: CataloguedStore, tokens: Sequence[int], root: bytes = ROOT) -> int:
    """Blocks of a sequence that are found, from the first on: each is read and compared."""
    n = found(store, tokens, root)
    assert all(read(store, block) for block in blocks_of(tokens, root)[:n])
    return n


def test_what_is_put_is_found_with_its_tokens(stores: Stores) -> None:
    store = stores()
    tokens = sequence(1, 3)
    assert turn(store, tokens, "a") == 3
    assert turn(store, tokens, "b") == 0
    assert whole(store, tokens) == 3
    keys = TokenIds(tokens).keys(ROOT)
    path = store.path_of(ROOT, keys)
    assert [[node.tokens for node in nodes] for nodes in path[:3]] == [
        [TokenIds(tokens[at : at + 256])] for at in (0, 256, 512)
    ]
    assert [node.parent for nodes in path for node in nodes] == [ROOT, *keys[:2]]
    assert whole(store, tokens, Namespace("other").root) == 0
    assert store.stats()["blocks"] == 3


@pytest.mark.parametrize(
    "tensor",
    [
        TokenTensor("keys", 2, 16, "float32"),
        TokenTensor("keys", 4, 4, "float32"),
        TokenTensor("keys", 2, 8, "uint32"),
        TokenTensor("values", 2, 8, "float32"),
    ],
)
def test_what_has_other_tensors_is_a_miss_and_stays(stores: Stores, tensor: TokenTensor) -> None:
    store = stores()
    turn(store, sequence(1, 1), "a")
    (block,) = blocks_of(sequence(1, 1))
    (wanted,) = tensors_of_block(replace(GROUP, tensors=(tensor,)), 0, 256)
    memory = memoryview(bytearray(prod(wanted.memory_shape) * 4))
    assert not store.read(block.name, block.tokens, [(wanted, memory)])
    assert bytes(memory) == bytes(len(memory))
    assert whole(store, sequence(1, 1)) == 1


def test_the_least_recently_used_goes_first_and_tails_before_heads(stores: Stores) -> None:
    store = stores(7)
    first, second, third = (sequence(n, 3) for n in (1, 2, 3))
    turn(store, first, "a")
    turn(store, second, "b")
    turn(store, first, "a")
    turn(store, third, "c")
    assert (whole(store, first), whole(store, second), whole(store, third)) == (3, 1, 3)
    assert store.stats()["bytes"] <= store.stats()["max_bytes"]


def test_what_an_ended_agent_has_used_goes_before_what_is_older(stores: Stores) -> None:
    store = stores(6)
    older, ended = sequence(1, 3), sequence(2, 3)
    turn(store, older, "a")
    turn(store, ended, "b")
    store.regard(ROOT, "b", hint="ended")
    turn(store, sequence(3, 2), "c")
    assert (whole(store, older), whole(store, ended)) == (3, 1)
    store.regard(ROOT, "b", hint="active")
    turn(store, sequence(4, 1), "c")
    assert (whole(store, older), whole(store, ended)) == (2, 1)


def test_a_block_stands_as_its_best_user_does(stores: Stores) -> None:
    store = stores(6)
    shared = sequence(1, 2)
    turn(store, shared, "a")
    turn(store, [*shared, *sequence(2, 1)], "a")
    turn(store, shared, "b")
    store.regard(ROOT, "b", priority="high")
    store.regard(ROOT, "a", priority="low")
    turn(store, sequence(3, 3), "c")
    turn(store, sequence(4, 3), "c")
    assert whole(store, [*shared, *sequence(2, 1)]) == 2
    other = Namespace("other").root
    store.regard(other, "b", hint="ended")
    turn(store, sequence(5, 3), "c")
    assert whole(store, shared) == 2


def test_what_is_pinned_never_goes(stores: Stores) -> None:
    store = stores(4)
    pinned = sequence(1, 3)
    turn(store, pinned, "a")
    store.regard(ROOT, "a", is_pinned=True)
    turn(store, sequence(2, 1), "b")
    turn(store, sequence(3, 1), "b")
    assert whole(store, pinned) == 3
    with pytest.raises(CachePersistenceError, match="more than may be stored"):
        turn(store, sequence(4, 2), "b")
    store.regard(ROOT, "a", is_pinned=False)
    turn(store, sequence(4, 2), "b")
    assert whole(store, pinned) == 2


def test_what_was_asked_for_once_goes_first_where_scans_are_resisted(stores: Stores) -> None:
    store = stores(6, policy=EvictionPolicy("scan_resistant"))
    again, once = sequence(1, 3), sequence(2, 3)
    turn(store, again, "a")
    turn(store, again, "a")
    turn(store, once, "b")
    turn(store, sequence(3, 2), "c")
    assert (whole(store, again), whole(store, once)) == (3, 1)


def test_what_nobody_uses_goes_when_its_time_is_over(stores: Stores) -> None:
    store = stores(policy=EvictionPolicy(time_to_live=100))
    old, young = sequence(1, 2), sequence(2, 2)
    turn(store, old, "a")
    stores.clock.now += 90
    turn(store, young, "b")
    turn(store, old[:256], "a")
    stores.clock.now += 50
    turn(store, sequence(3, 1), "c")
    assert (whole(store, old), whole(store, young)) == (1, 2)
    # A clock that jumps back takes nothing away.
    stores.clock.now -= 10 * DAY
    turn(store, sequence(4, 1), "c")
    assert (whole(store, old), whole(store, young)) == (1, 2)


def test_a_block_that_is_not_used_again_is_not_written(stores: Stores) -> None:
    store = stores(min_reuse=2)
    first = sequence(1, 2)
    assert turn(store, first, "a") == 0
    assert turn(store, sequence(2, 2), "b") == 0
    assert turn(store, [*first, *sequence(3, 1)], "a") == 2
    assert whole(store, first) == 2
    # What ends within a token block was a part of as many turns as the full one before it.
    keys = TokenIds([*first, 7]).keys(ROOT)
    (tensor,) = tensors_of_block(GROUP, 512, 513)
    memory = [(tensor, memoryview(bytes(BLOCK_BYTES)))]
    name = BlockName(keys[2], "global", 512, 513)
    end = NewBlock(name, keys[1], ROOT, TokenIds([7]), "global", False, memory)
    assert store.put([end], "a") == 1


def test_a_block_that_is_put_twice_at_once_is_stored_once(stores: Stores) -> None:
    store = stores()
    tokens = sequence(1, 2)
    assert store.put(blocks_of(tokens) * 2, "a") == 2
    assert whole(store, tokens) == 2
    assert store.stats()["blocks"] == 2


def test_forgetting_an_agent_leaves_what_others_use(stores: Stores) -> None:
    store = stores()
    mine, ours = sequence(1, 2), sequence(2, 2)
    turn(store, mine, "a")
    turn(store, ours, "a")
    turn(store, ours, "b")
    assert store.forget(Namespace("other").root, "a") == 0
    assert store.forget(ROOT, "a") == 2
    assert (whole(store, mine), whole(store, ours)) == (0, 2)
    assert store.forget(ROOT, "b") == 2
    assert store.stats()["bytes"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"min_reuse": 0}, {"min_reuse": 1.5}, {"policy": EvictionPolicy("resident")}],
    ids=["no reuse", "half a turn", "resident"],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any], stores: Stores) -> None:
    with pytest.raises(PoolConfigurationError):
        stores(**wrong)


def test_no_more_is_written_than_a_day_allows(tmp_path: Path) -> None:
    clock = Clock()
    options: dict[str, Any] = {"free_floor_bytes": 0, "now": clock}
    store = DiskStore(tmp_path, daily_write_bytes=3 * FILE_BYTES + SLACK + 5000, **options)
    turn(store, sequence(1, 3), "a")
    with pytest.raises(CachePersistenceError, match="bytes a day"):
        turn(store, sequence(2, 1), "a")
    assert turn(store, sequence(1, 3), "a") == 0
    store.close()
    store = DiskStore(tmp_path, daily_write_bytes=3 * FILE_BYTES + SLACK + 5000, **options)
    with pytest.raises(CachePersistenceError):
        turn(store, sequence(2, 1), "a")
    for jump in (DAY, -5 * DAY):
        clock.now += jump
        assert turn(store, sequence(3 + jump // DAY % 7, 1), "a") == 1
    store.close()


def test_a_pin_ends_with_its_process(tmp_path: Path) -> None:
    options: dict[str, Any] = {"free_floor_bytes": 0}
    store = DiskStore(tmp_path, 3 * FILE_BYTES + SLACK, **options)
    turn(store, sequence(1, 3), "a")
    store.regard(ROOT, "a", is_pinned=True)
    other = DiskStore(tmp_path, 3 * FILE_BYTES + SLACK, **options)
    with pytest.raises(CachePersistenceError):
        turn(other, sequence(2, 1), "b")
    other.close()
    store.close()
    store = DiskStore(tmp_path, 3 * FILE_BYTES + SLACK, **options)
    assert turn(store, sequence(2, 1), "b") == 1
    store.close()


def test_a_sealed_folder_shows_nothing_and_opens_with_its_key_alone(tmp_path: Path) -> None:
    agent, tokens = "an agent of that name", [123_456_789_012] * 256
    store = DiskStore(tmp_path, key=KEY, free_floor_bytes=0)
    turn(store, tokens, agent)
    secrets = [
        agent.encode(),
        b"123456789012",
        TokenIds(tokens).tobytes()[:16],
        ROOT,
        ROOT.hex().encode(),
        TokenIds(tokens).keys(ROOT)[0],
        TokenIds(tokens).keys(ROOT)[0].hex().encode(),
        content(TokenIds(tokens).keys(ROOT)[0])[:64],
    ]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        bytes_of = path.read_bytes()
        assert not [
            secret for secret in secrets if secret in bytes_of or secret in str(path).encode()
        ]
    store.close()
    for key, why in ((None, "needs its key"), (bytes(32), "another key")):
        with pytest.raises(PoolConfigurationError, match=why):
            DiskStore(tmp_path, key=key)
    for wrong in (b"short", "a" * 32):
        with pytest.raises(PoolConfigurationError):
            DiskStore(tmp_path, key=wrong)  # type: ignore[arg-type]
    (tmp_path / "catalogue.sqlite3").unlink()
    store = DiskStore(tmp_path, key=KEY, free_floor_bytes=0)
    assert whole(store, tokens) == 1
    store.close()


def test_a_folder_that_is_not_sealed_takes_no_key(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, free_floor_bytes=0)
    turn(store, sequence(1, 1), "a")
    store.close()
    with pytest.raises(PoolConfigurationError, match="not sealed"):
        DiskStore(tmp_path, key=KEY)
    assert list((tmp_path / "aside").iterdir()) == []
