"""What the block pool refuses, and what a refusal leaves: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from semantic.domain.errors import (
    BlockArgumentTypeError,
    BlockOperationError,
    PoolExhaustedError,
)
from semantic.domain.services import BlockPool
from semantic.testing.specs import windowed_spec
from tests.pools import GLOBAL_BYTES, refused


@pytest.fixture
def pool() -> BlockPool:
    """Ten rows: 60 KiB for global blocks of 2 KiB and window blocks of 4 KiB."""
    return BlockPool(windowed_spec(512), total_blocks=10)


def test_a_double_free_is_named(pool: BlockPool) -> None:
    ids = pool.allocate(3)
    error = refused(pool, BlockOperationError, pool.free, [*ids, ids[0]])
    assert error.block_id == ids[0]
    pool.free(ids)
    error = refused(pool, BlockOperationError, pool.free, ids)
    assert error.block_id == ids[0]
    assert "stale" in str(error)


def test_a_freed_id_stays_stale_when_its_place_is_used_again(pool: BlockPool) -> None:
    first = pool.allocate(1)
    pool.free(first)
    second = pool.allocate(1)
    assert first != second
    refused(pool, BlockOperationError, pool.free, first)
    pool.free(second)


def test_another_pools_id_is_foreign(pool: BlockPool) -> None:
    other = BlockPool(windowed_spec(512), total_blocks=10)
    ids, foreign = pool.allocate(2), other.allocate(2)
    error = refused(pool, BlockOperationError, pool.free, [*ids, foreign[1]])
    assert error.block_id == foreign[1]
    assert "another pool" in str(error)


@pytest.mark.parametrize("unknown", [0, 1, 12345, 2**62, 2**63, 2**64, -1, 10**30])
def test_an_unknown_id_at_the_end_of_a_list_frees_nothing(pool: BlockPool, unknown: int) -> None:
    ids = pool.allocate(2)
    error = refused(pool, BlockOperationError, pool.free, [*ids, unknown])
    assert error.block_id == unknown


def test_an_id_that_was_not_given_out_yet_is_unknown(pool: BlockPool) -> None:
    last = pool.allocate(2)[-1]
    assert "unknown" in str(refused(pool, BlockOperationError, pool.free, [last + 1]))


@pytest.mark.parametrize("bad", [True, 1.0, "1", None, b"1", [1]])
def test_a_count_of_the_wrong_type(pool: BlockPool, bad: object) -> None:
    refused(pool, BlockArgumentTypeError, pool.allocate, bad)
    refused(pool, BlockArgumentTypeError, pool.stage, "global", bad)
    refused(pool, BlockArgumentTypeError, pool.allocate_tokens, "a1", bad)
    refused(pool, BlockArgumentTypeError, pool.max_batch_size, bad)
    refused(pool, BlockArgumentTypeError, pool.charge, "live", bad)
    refused(pool, BlockArgumentTypeError, pool.free, [bad])


def test_a_wrong_type_names_its_argument_and_is_a_type_error(pool: BlockPool) -> None:
    error = refused(pool, BlockArgumentTypeError, pool.allocate, "3")
    assert isinstance(error, TypeError)
    assert isinstance(error, ValueError)
    assert "'n'" in "".join(error.__notes__)


def test_negative_counts(pool: BlockPool) -> None:
    refused(pool, BlockOperationError, pool.allocate, -1)
    refused(pool, BlockOperationError, pool.allocate_tokens, "a1", -1)
    refused(pool, BlockOperationError, pool.allocate_tokens, "a1", 0)
    refused(pool, BlockOperationError, pool.charge, "live", -1)
    refused(pool, BlockOperationError, pool.discharge, "live", -1)


@pytest.mark.parametrize("huge", [2**62, 2**63, 2**64 - 1, 2**64, 10**40])
def test_huge_counts_are_exhausted_with_numbers(pool: BlockPool, huge: int) -> None:
    for operation in (pool.allocate, lambda n: pool.stage("global", n)):
        error = refused(pool, PoolExhaustedError, operation, huge)
        assert error.bytes_available == pool.available_memory()
        assert error.bytes_short == error.bytes_requested - error.bytes_available > 2**61
    refused(pool, PoolExhaustedError, pool.charge, "live", huge)
    refused(pool, PoolExhaustedError, pool.allocate_tokens, "a1", huge)


@pytest.mark.parametrize("bad", [None, 3, b"a", True])
def test_names_of_the_wrong_type(pool: BlockPool, bad: object) -> None:
    refused(pool, BlockArgumentTypeError, pool.allocate, 1, bad)
    refused(pool, BlockArgumentTypeError, pool.allocate, 1, "global", bad)
    refused(pool, BlockArgumentTypeError, pool.free_agent, bad)
    refused(pool, BlockArgumentTypeError, pool.available_blocks, bad)


def test_names_that_mean_nothing(pool: BlockPool) -> None:
    refused(pool, BlockOperationError, pool.allocate, 1, "chunked")
    refused(pool, BlockOperationError, pool.allocate, 1, "")
    refused(pool, BlockOperationError, pool.allocate, 1, "global", "")
    refused(pool, BlockOperationError, pool.allocate_tokens, "", 1)
    refused(pool, BlockOperationError, pool.free_agent, "")
    refused(pool, BlockOperationError, pool.charge, "cached", 1)
    refused(pool, BlockArgumentTypeError, pool.allocate, 1, "global", "\ud800")


@pytest.mark.parametrize("bad", [None, 3, {1}, {1: 2}, iter([1]), "12"])
def test_ids_that_are_no_sequence_of_integers(pool: BlockPool, bad: object) -> None:
    refused(pool, BlockArgumentTypeError, pool.free, bad)


def test_a_sequence_that_lies_about_its_length(pool: BlockPool) -> None:
    class Liar(Sequence[int]):
        def __len__(self) -> int:
            return 2**62

        def __getitem__(self, index: Any) -> Any:
            raise IndexError

    pool.free(Liar())


def test_an_argument_that_raises_leaves_no_trace(pool: BlockPool) -> None:
    class Trap(Sequence[int]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: Any) -> Any:
            return pool.allocate(1)[0] if index == 0 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        pool.free(Trap())
    assert pool.snapshot().held == GLOBAL_BYTES
    pool.check()


def test_a_call_may_be_asked_back_by_what_it_runs():
    """A repr, a finaliser or a signal handler that reads the pool in the middle of a call."""
    pool = BlockPool(windowed_spec(512), total_memory=1 << 20)

    class Asking:
        def __repr__(self) -> str:
            return f"<{pool.spec.n_layers} layers>"

    with pytest.raises(BlockArgumentTypeError, match="layers"):
        pool.allocate_tokens("a", Asking())  # type: ignore[arg-type]
