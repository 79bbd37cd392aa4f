"""What holds for every pool and every request."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic.domain.errors import BlockOperationError, PoolExhaustedError
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.pool_machine import specs
from semantic.testing.specs import windowed_spec

examples = settings(max_examples=1000 if os.environ.get("SEMANTIC_TEST_FULL") else 300)

groups = st.sampled_from(["global", "sliding_window"])
agents = st.sampled_from(["a1", "a2", "a3"])
requests = st.lists(st.tuples(st.integers(0, 12), groups, agents), max_size=12)


def small_pool() -> BlockPool:
    """20 global blocks, or 10 of a window that two agents fill."""
    return BlockPool(windowed_spec(1024), total_memory=40 * 1024)


def serve(pool: BlockPool, wanted: Sequence[tuple[int, str, str]]) -> list[int]:
    """What the pool grants of the requests."""
    ids: list[int] = []
    for n, group, agent in wanted:
        with suppress(PoolExhaustedError):
            ids += pool.allocate(n, group, agent)
    return ids


@examples
@given(requests, st.data())
def test_used_and_available_are_the_total(
    wanted: list[tuple[int, str, str]], data: st.DataObject
) -> None:
    pool = small_pool()
    total = pool.total_memory()
    for request in wanted:
        ids = serve(pool, [request])
        assert pool.used_memory() + pool.available_memory() == total == pool.total_memory()
        if data.draw(st.booleans()):
            pool.free(ids)
            assert pool.used_memory() + pool.available_memory() == total == pool.total_memory()
    pool.check()


@examples
@given(requests, requests)
def test_allocate_then_free_restores(
    before: list[tuple[int, str, str]], wanted: list[tuple[int, str, str]]
) -> None:
    pool = small_pool()
    serve(pool, before)

    def blocks() -> list[tuple[int, ...]]:
        return [(g.held_blocks, g.cached_blocks) for g in pool.snapshot().groups]

    held, available = blocks(), pool.available_memory()
    pool.free(serve(pool, wanted))
    assert (blocks(), pool.available_memory()) == (held, available)
    pool.check()


@examples
@given(st.integers(1, 20), st.data())
def test_no_block_is_freed_twice(n: int, data: st.DataObject) -> None:
    pool = small_pool()
    ids = pool.allocate(n)
    first = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    pool.free(first)
    again = [*(i for i in ids if i not in first), data.draw(st.sampled_from(first))]
    available = pool.available_memory()
    with pytest.raises(BlockOperationError) as caught:
        pool.free(again)
    assert caught.value.block_id == again[-1]
    assert pool.available_memory() == available
    pool.check()


@examples
@given(st.lists(st.integers(1, 20), max_size=8))
def test_no_id_is_given_out_twice(sizes: list[int]) -> None:
    pool = small_pool()
    seen: set[int] = set()
    for n in sizes:
        ids = pool.allocate(n)
        assert len(ids) == n
        assert seen.isdisjoint(ids)
        seen.update(ids)
        pool.free(ids)


@examples
@given(specs(), st.integers(1, 40), st.integers(1, 3000), st.integers(2, 200))
def test_the_predictor_is_the_allocator(
    spec: ModelCacheSpec, n: int, n_tokens: int, arrays: int
) -> None:
    pool = BlockPool(spec, total_blocks=n, arrays_max=arrays)
    predicted = pool.max_batch_size(n_tokens)
    for agent in range(predicted):
        pool.allocate_tokens(f"a{agent}", n_tokens)
    with pytest.raises(PoolExhaustedError):
        pool.allocate_tokens("one more", n_tokens)
    pool.check()
