"""Checked by mypy, never run: what a caller of the pool may and may not write."""

from typing import assert_type

from semantic.domain.entities import AgentBlocks, KVBlock
from semantic.domain.native import GroupSnapshot, Pool, PoolSnapshot
from semantic.domain.services import BlockPool, MemoryBudget
from semantic.domain.value_objects import ModelCacheSpec


def accounting(spec: ModelCacheSpec) -> None:
    pool = BlockPool(spec, 8 << 30)
    assert_type(pool, BlockPool)
    assert_type(BlockPool(spec, total_blocks=1000), BlockPool)
    assert_type(BlockPool(spec, budget=MemoryBudget(64 << 30), minimum=0), BlockPool)
    as_native: Pool = pool
    assert_type(as_native.allocate(10), list[int])
    assert_type(pool.spec, ModelCacheSpec)

    assert_type(pool.allocate(10, "global", agent_id="a1"), list[int])
    assert_type(pool.allocate(10, layer_type="global"), list[int])
    assert_type(pool.allocate_tokens("a1", n_tokens=4096), AgentBlocks)
    assert_type(pool.allocate_tokens("a1", 1).blocks["global"], tuple[KVBlock, ...])
    assert_type(pool.free_agent("a1"), int)
    pool.free((1, 2))
    pool.free(range(3))

    pool.charge("live", 1)
    pool.publish(pool.stage("global", 2), leases=1)
    assert_type(pool.drain_evicted(), list[int])

    assert_type(pool.max_batch_size(n_tokens=4096), int)
    assert_type(pool.snapshot(), PoolSnapshot)
    assert_type(pool.snapshot().groups, tuple[GroupSnapshot, ...])


def refused(pool: BlockPool, spec: ModelCacheSpec) -> None:
    pool.allocate("10")  # type: ignore[arg-type]
    pool.free({1, 2})  # type: ignore[arg-type]
    pool.charge("cached", 1)  # type: ignore[arg-type]
    pool.snapshot().held = 0  # type: ignore[misc]
    BlockPool(spec, budget=1 << 30)  # type: ignore[arg-type]
    BlockPool(spec, 1 << 30, 1000)  # type: ignore[call-arg]
