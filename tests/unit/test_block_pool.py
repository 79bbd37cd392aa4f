"""The block pool as a caller sees it: what agents take and give back."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from semantic.domain.entities import AgentBlocks
from semantic.domain.errors import (
    AgentNotFoundError,
    BlockOperationError,
    PoolExhaustedError,
)
from semantic.domain.services import BlockPool
from semantic.testing.specs import hybrid_spec, windowed_spec
from tests.pools import GLOBAL_BYTES, WINDOW_BYTES, cached, reading, refused


@pytest.fixture
def pool() -> BlockPool:
    """Ten rows: 60 KiB for global blocks of 2 KiB and window blocks of 4 KiB."""
    return BlockPool(windowed_spec(512), total_blocks=10)


def test_allocate_success(pool: BlockPool) -> None:
    ids = pool.allocate(10, "global", agent_id="a1")
    assert len(set(ids)) == 10
    assert all(type(i) is int and 0 < i < 2**63 for i in ids)
    assert pool.used_memory() == 10 * GLOBAL_BYTES
    assert pool.snapshot().agents == 1


def test_allocate_defaults_to_the_global_group_and_the_default_agent(pool: BlockPool) -> None:
    pool.allocate(2)
    assert pool.snapshot().held == 2 * GLOBAL_BYTES
    assert pool.free_agent("default") == 2


def test_allocate_pool_exhausted(pool: BlockPool) -> None:
    pool.allocate(28)
    error = refused(pool, PoolExhaustedError, pool.allocate, 3)
    assert error.bytes_requested == 3 * GLOBAL_BYTES
    assert error.bytes_available == 2 * GLOBAL_BYTES
    assert error.bytes_short == GLOBAL_BYTES
    assert pickle.loads(pickle.dumps(error)).bytes_short == GLOBAL_BYTES


def test_free_returns_blocks(pool: BlockPool) -> None:
    before = reading(pool)
    ids = pool.allocate(30)
    assert pool.available_memory() == 0
    pool.free(ids)
    after = reading(pool)
    assert after["free"] == before["free"]
    assert after["agents"] == 0
    assert len(pool.allocate(30)) == 30


def test_free_takes_any_sequence(pool: BlockPool) -> None:
    class Ids(Sequence[int]):
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, index: Any) -> Any:
            return self.ids[index]

    pool.free(tuple(pool.allocate(3)))
    pool.free(Ids(pool.allocate(3)))
    pool.free([])
    assert pool.used_memory() == 0


def test_free_agent_gives_back_what_it_allocated(pool: BlockPool) -> None:
    pool.allocate(3, agent_id="a1")
    pool.allocate(2, "sliding_window", agent_id="a1")
    pool.allocate(1, agent_id="a2")
    assert pool.free_agent("a1") == 5
    assert pool.used_memory() == GLOBAL_BYTES
    error = refused(pool, AgentNotFoundError, pool.free_agent, "a1")
    assert error.agent_id == "a1"
    assert isinstance(error, KeyError)


def test_an_agent_that_holds_nothing_is_forgotten(pool: BlockPool) -> None:
    pool.free(pool.allocate(1, agent_id="a1"))
    assert pool.snapshot().agents == 0
    refused(pool, AgentNotFoundError, pool.free_agent, "a1")


def test_budget_tracking(pool: BlockPool) -> None:
    total = 10 * (GLOBAL_BYTES + WINDOW_BYTES)
    assert (pool.total_memory(), pool.available_memory(), pool.used_memory()) == (total, total, 0)
    pool.allocate(3)
    pool.charge("live", 1000)
    pool.charge("staging", 10)
    sealed = cached(pool, 2)
    snapshot = pool.snapshot()
    assert snapshot.held == 3 * GLOBAL_BYTES
    assert (snapshot.live, snapshot.staging) == (1000, 10)
    assert snapshot.cached == 2 * GLOBAL_BYTES
    assert snapshot.used == pool.used_memory() == 3 * GLOBAL_BYTES + 1010
    assert snapshot.available == pool.available_memory() == total - snapshot.used
    pool.acquire(sealed)
    assert pool.snapshot().held == 5 * GLOBAL_BYTES
    pool.discharge("live", 1000)
    assert pool.snapshot().live == 0
    reading(pool)


def test_groups_share_the_bytes(pool: BlockPool) -> None:
    pool.allocate(2, "sliding_window")
    assert pool.available_blocks("global") == 30 - 4
    assert pool.available_blocks("sliding_window") == 15 - 2
    pool.allocate(26)
    assert pool.available_blocks() == 0
    refused(pool, PoolExhaustedError, pool.allocate, 1, "sliding_window", "another")


def test_a_group_is_named_by_type_or_by_its_own_name() -> None:
    pool = BlockPool(windowed_spec(512, 1024), total_blocks=10)
    assert len(pool.allocate(9, "sliding_window", "a1")) == 2
    assert len(pool.allocate(9, "sliding_window.1", "a1")) == 4
    held = [group.held_blocks for group in pool.snapshot().groups]
    assert held == [0, 2, 4]


@pytest.mark.parametrize(("window", "cap"), [(512, 2), (128, 1), (1024, 4), (513, 3)])
def test_a_window_caps_what_an_agent_holds(window: int, cap: int) -> None:
    pool = BlockPool(windowed_spec(window), total_blocks=50)
    assert len(pool.allocate(1, "sliding_window", "a1")) == 1
    assert len(pool.allocate(40, "sliding_window", "a1")) == cap - 1
    before = reading(pool)
    assert pool.allocate(40, "sliding_window", "a1") == []
    assert reading(pool) == before
    assert len(pool.allocate(40, "sliding_window", "a2")) == cap


def test_a_cap_counts_in_its_own_group_only(pool: BlockPool) -> None:
    pool.allocate(5, agent_id="a1")
    ids = pool.allocate(5, "sliding_window", "a1")
    pool.free(ids[:1])
    assert len(pool.allocate(5, "sliding_window", "a1")) == 1


def test_a_capped_request_for_more_than_any_memory_is_granted_up_to_the_cap(
    pool: BlockPool,
) -> None:
    assert len(pool.allocate(2**70, "sliding_window")) == 2


def test_a_state_is_one_checkpoint_per_agent() -> None:
    pool = BlockPool(hybrid_spec(), total_blocks=4)
    assert len(pool.allocate(3, "state", "a1")) == 1
    assert pool.allocate(3, "state", "a1") == []


def counts(blocks: AgentBlocks) -> dict[str, list[int]]:
    """The token counts of the blocks, by group."""
    return {name: [block.token_count for block in of] for name, of in blocks.blocks.items()}


def test_allocate_tokens_extends_every_group(pool: BlockPool) -> None:
    got = pool.allocate_tokens("a1", n_tokens=300)
    assert got.agent_id == "a1"
    assert got.total_tokens == 300
    assert counts(got) == {"global": [256, 44], "sliding_window": [256, 44]}
    more = pool.allocate_tokens("a1", 1000)
    assert counts(more) == {"global": [256, 256, 256, 232], "sliding_window": [256, 232]}
    assert more.blocks["global"][:2] == got.blocks["global"]
    assert pool.used_memory() == 4 * GLOBAL_BYTES + 2 * WINDOW_BYTES


def test_allocate_tokens_never_shrinks(pool: BlockPool) -> None:
    got = pool.allocate_tokens("a1", 1000)
    before = reading(pool)
    again = pool.allocate_tokens("a1", 10)
    assert (again, again.total_tokens, counts(again)) == (got, 1000, counts(got))
    assert reading(pool) == before


def test_allocate_tokens_replaces_what_was_freed(pool: BlockPool) -> None:
    got = pool.allocate_tokens("a1", 1000)
    gone = got.blocks["global"][1].block_id
    pool.free([gone])
    again = pool.allocate_tokens("a1", 1000)
    assert len(again.blocks["global"]) == 4
    assert gone not in again.block_ids


def test_allocate_tokens_is_all_or_nothing(pool: BlockPool) -> None:
    pool.allocate(25)
    error = refused(pool, PoolExhaustedError, pool.allocate_tokens, "a1", 1000)
    assert error.bytes_requested == 4 * GLOBAL_BYTES + 2 * WINDOW_BYTES
    assert error.bytes_available == 5 * GLOBAL_BYTES


def test_allocate_tokens_of_states_and_chunks() -> None:
    pool = BlockPool(hybrid_spec(), total_blocks=20)
    got = pool.allocate_tokens("a1", 1300)
    assert counts(got) == {
        "global": [256] * 5 + [20],
        "chunked": [256] * 3 + [20],
        "state": [0],
    }


def test_blocks_beyond_the_tokens_cover_none(pool: BlockPool) -> None:
    pool.allocate(3, agent_id="a1")
    pool.allocate(2, "sliding_window", "a1")
    got = pool.allocate_tokens("a1", 100)
    assert counts(got) == {"global": [100, 0, 0], "sliding_window": [100, 0]}


@pytest.mark.parametrize("n_tokens", [1, 256, 257, 1000, 4096])
def test_max_batch_size_is_what_a_loop_finds(n_tokens: int) -> None:
    pool = BlockPool(windowed_spec(512), total_blocks=23, arrays_max=100)
    cached(pool, 5)
    pool.allocate(3)
    predicted = pool.max_batch_size(n_tokens)
    for agent in range(predicted):
        assert pool.max_batch_size(n_tokens) == predicted - agent
        pool.allocate_tokens(f"a{agent}", n_tokens)
    assert pool.max_batch_size(n_tokens) == 0
    refused(pool, PoolExhaustedError, pool.allocate_tokens, "one more", n_tokens)


def test_max_batch_size_of_impossible_contexts(pool: BlockPool) -> None:
    assert pool.max_batch_size(10**6) == 0
    assert pool.max_batch_size(2**80) == 0
    refused(pool, BlockOperationError, pool.max_batch_size, 0)


def test_tokens_are_those_that_the_blocks_still_cover():
    pool = BlockPool(windowed_spec(512), total_memory=1 << 24)
    blocks = pool.allocate_tokens("a", 4096).blocks["global"]
    pool.free([block.block_id for block in blocks[1:]])
    again = pool.allocate_tokens("a", 256)
    assert again.total_tokens == 256
    assert [block.token_count for block in again.blocks["global"]] == [256]
    assert pool.allocate_tokens("a", 1000).total_tokens == 1000
