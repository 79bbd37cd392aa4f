"""The block pool under many threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from semantic.domain.errors import (
    BlockOperationError,
    PoolExhaustedError,
)
from semantic.domain.services import BlockPool, MemoryBudget
from semantic.testing.specs import windowed_spec
from tests.pools import GLOBAL_BYTES, WINDOW_BYTES, cached, reading


def test_concurrent_agent_creation_race() -> None:
    n_agents = 64
    pool = BlockPool(windowed_spec(512), total_blocks=1000)
    start = threading.Barrier(8)

    def create(first: int) -> list[int]:
        start.wait()
        ids: list[int] = []
        for agent in range(first, n_agents, 8):
            ids += pool.allocate(2, agent_id=f"a{agent}")
            ids += pool.allocate_tokens(f"a{agent}", 700).block_ids
            ids += pool.allocate(1, agent_id="shared by all")
        return ids

    with ThreadPoolExecutor(8) as threads:
        ids = [i for made in threads.map(create, range(8)) for i in made]
    pool.check()
    snapshot = pool.snapshot()
    assert snapshot.agents == n_agents + 1
    assert snapshot.held == n_agents * (3 * GLOBAL_BYTES + 2 * WINDOW_BYTES + GLOBAL_BYTES)
    # Two of an agent's ids are told twice: by `allocate`, and by `allocate_tokens` again.
    assert len(set(ids)) == len(ids) - 2 * n_agents == n_agents * 6
    assert pool.free_agent("shared by all") == n_agents


def test_threads_in_every_operation_leave_the_books_in_order() -> None:
    budget = MemoryBudget(9000 * GLOBAL_BYTES)
    pools = [BlockPool(windowed_spec(512), budget=budget) for _ in range(2)]

    def churn(thread: int) -> None:
        pool, agent = pools[thread % 2], f"a{thread}"
        for _ in range(40):
            ids = pool.allocate(5, agent_id=agent)
            sealed = cached(pool, 3)
            with suppress(BlockOperationError):  # another thread may have evicted them
                pool.acquire(sealed)
                pool.release(sealed)
            with suppress(PoolExhaustedError):  # only one such agent at a time fits
                pool.free(pool.allocate(5000, agent_id=agent))
            pool.check()
            pool.free(ids)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(churn, range(8)))
    for pool in pools:
        assert reading(pool)["held"] == 0
