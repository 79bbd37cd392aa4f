"""Token ids as they come: lists, arrays, numpy, and what is none."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic import BlockArgumentTypeError, BlockValidationError
from semantic.domain.native import TokenIds
from semantic.testing.reference_keys import pack

IDS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 1 << 18), max_size=40)


@given(IDS)
def test_ids_are_taken_over_as_they_are(ids: list[int]) -> None:
    tokens = TokenIds(ids)
    assert [tokens[n] for n in range(len(ids))] == ids
    assert len(tokens) == len(ids)
    assert tokens.tobytes() == pack(ids).tobytes()
    for same in (tuple(ids), array("q", ids), np.array(ids, dtype=np.int64), iter(ids), tokens):
        assert TokenIds(same) == tokens
        assert hash(TokenIds(ids)) == hash(tokens)


@given(IDS, st.integers(-50, 50), st.integers(-50, 50), st.sampled_from([1, 2, -1, -3]))
def test_slices_are_those_of_a_list(ids: list[int], start: int, stop: int, step: int) -> None:
    assert TokenIds(ids)[start:stop:step] == TokenIds(ids[start:stop:step])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint32", "int16", "uint16", "uint8", "int8"])
def test_arrays_of_any_integers(dtype: str) -> None:
    ids = np.arange(100).astype(dtype)
    assert TokenIds(ids) == TokenIds(list(range(100)))
    assert TokenIds(ids[::3]) == TokenIds(list(range(0, 100, 3)))
    assert TokenIds(memoryview(ids)) == TokenIds(list(range(100)))


@pytest.mark.parametrize("kind", ["i8", "i4", "u4", "i2", "u2"])
def test_the_byte_order_of_an_array_does_not_matter(kind: str) -> None:
    ids = np.array([3, 1, 256, 7])
    for order in "<>=":
        assert TokenIds(ids.astype(f"{order}{kind}")).tolist() == [3, 1, 256, 7]
        assert TokenIds(ids.astype(f"{order}{kind}")[::2]).tolist() == [3, 256]
    assert TokenIds(np.array([-1, 1 << 40], dtype=">i8")).tolist() == [-1, 1 << 40]
    assert len(TokenIds(np.array([], dtype=kind))) == 0


def test_ids_below_zero_and_beyond_32_bits_are_never_narrowed() -> None:
    for odd in (-1, 1 << 32, (1 << 63) - 1, -(1 << 63)):
        assert TokenIds([1, odd, 3])[1] == odd
        assert TokenIds([1, odd & 0xFFFFFFFF, 3]) != TokenIds([1, odd, 3])


@pytest.mark.parametrize(
    "tokens",
    [
        None,
        7,
        1.5,
        "12",
        b"12",
        bytearray(b"12"),
        [1.0],
        ["1"],
        [None],
        [[1]],
        np.zeros((2, 2), int),
        np.array([1.5]),
        pytest.param(object(), id="an object"),
        {1: 2}.items(),
    ],
    ids=repr,
)
def test_what_is_no_sequence_of_integers_is_a_type_error(tokens: Any) -> None:
    with pytest.raises(BlockArgumentTypeError, match="tokens must be integers"):
        TokenIds(tokens)


@pytest.mark.parametrize("tokens", [[1 << 63], [0, -(1 << 63) - 1], (1 << 200,)], ids=repr)
def test_an_id_beyond_64_bits_is_named(tokens: Any) -> None:
    with pytest.raises(BlockValidationError, match="does not fit into 64 signed bits"):
        TokenIds(tokens)


def test_what_an_iterable_raises_is_its_own() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        TokenIds(broken())


def test_a_list_that_changes_while_it_is_read_does_no_harm() -> None:
    class Nosy:
        def __index__(self) -> int:
            tokens.clear()
            return 3

    tokens: list[Any] = [random.getrandbits(40) for _ in range(100)]
    tokens.insert(50, Nosy())
    assert len(TokenIds(tokens)) in (51, 101)
    assert tokens == []


def test_places_and_words() -> None:
    tokens = TokenIds([5, 6, 7, 8, 9])
    assert (tokens[-1], [tokens[:2][n] for n in range(2)]) == (9, [5, 6])
    assert "n=5" in repr(tokens)
    assert not TokenIds([])
    for place in (5, -6):
        with pytest.raises(IndexError):
            tokens[place]
    assert tokens != [5, 6, 7, 8, 9]
