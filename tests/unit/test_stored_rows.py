"""How a stored hit is read: many blocks at once, without a pause, and no further than is of use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, cast

import pytest

from semantic import BlockPool, ModelCacheSpec
from semantic.application.sealed_blocks import SealedBlocks
from semantic.application.stored_rows import StoredBlockGoneError, StoredRows
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.identity import Namespace
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, StoredNode
from semantic.domain.stored_hit import StoredHit, stored_hit
from tests.stored_blocks import GROUP, ROOT, blocks_of, sequence
from tests.token_rows import window

N_BLOCKS = 40
SPEC = ModelCacheSpec((GROUP,))
TOKENS = sequence(1, N_BLOCKS)
BLOCKS = blocks_of(TOKENS)


class Memory:
    """Makes blocks of plain bytes."""

    def fresh(
        self, tensors: Sequence[TensorBytes]
    ) -> tuple[dict[str, object], list[tuple[TensorBytes, memoryview]]]:
        memory = [(tensor, memoryview(bytearray(tensor.file_bytes))) for tensor in tensors]
        return {tensor.name: view for tensor, view in memory}, memory


class Store:
    """Reads blocks, the first one as slowly as it is told to."""

    def __init__(self, first: Any) -> None:
        self.begun: list[int] = []
        self.has_begun = [threading.Event() for _ in BLOCKS]
        self._first = first

    def read(self, name: BlockName, tokens: TokenIds, memory: Any) -> bool:
        number = name.lo // 256
        self.begun.append(number)
        self.has_begun[number].set()
        return bool(self._first(self)) if number == 0 else True


@pytest.fixture
def readers() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def rows_of(store: Store, readers: Executor) -> StoredRows:
    nodes = [StoredNode(b.name.key, b.parent, b.tokens, (b.name,)) for b in BLOCKS]
    read = tuple(
        (block.name, node, (block.name.lo, block.name.hi))
        for block, node in zip(BLOCKS, nodes, strict=True)
    )
    hit = StoredHit(len(TOKENS), (("global", read),))
    return StoredRows(SPEC, cast(Any, store), cast(Any, Memory()), hit, readers)


def publish(rows: StoredRows) -> Any:
    sealed = SealedBlocks(SPEC, BlockPool(SPEC, total_blocks=N_BLOCKS), Namespace("model"))
    return sealed.publish(TokenIds(TOKENS), rows, "a", "user").report


def test_the_last_blocks_are_read_while_an_early_one_is_waited_for(readers: Executor) -> None:
    store = Store(lambda store: store.has_begun[-1].wait(30))
    assert publish(rows_of(store, readers)).published_tokens == len(TOKENS)
    assert sorted(store.begun) == list(range(N_BLOCKS))


def test_what_has_not_begun_when_a_block_is_missing_is_not_read(readers: Executor) -> None:
    class Slow(Store):
        def read(self, name: BlockName, tokens: TokenIds, memory: Any) -> bool:
            is_read = super().read(name, tokens, memory)
            if name.lo:
                time.sleep(0.2)  # two at once: most have not begun when the first is missing
            return is_read

    store = Slow(lambda _: False)
    with pytest.raises(StoredBlockGoneError):
        publish(rows_of(store, readers))
    assert 1 <= len(store.begun) < N_BLOCKS


def test_a_token_block_is_read_from_one_stored_block(readers: Executor) -> None:
    # Two agents ended in the same token block, at 400 and at 500 tokens, with the rows that a
    # window of 120 needs there. What a hit at 450 needs lies in both, and in neither alone.
    spec = ModelCacheSpec((window(120, 0),))
    name = spec.groups[0].name
    tokens = sequence(1, 2)

    def node(end: int) -> StoredNode:
        keys = TokenIds(tokens[:end]).keys(ROOT)
        block = BlockName(keys[1], name, end - 119, end)
        return StoredNode(keys[1], keys[0], TokenIds(tokens[256:end]), (block,))

    prompt = TokenIds([*tokens[:450], *range(50)])
    hit = stored_hit(spec.groups, [[], [node(400), node(500)]], prompt, len(prompt) - 1)
    assert hit.n_tokens == 400
    rows = StoredRows(spec, cast(Any, Store(lambda _: True)), cast(Any, Memory()), hit, readers)
    sealed = SealedBlocks(spec, BlockPool(spec, total_blocks=8), Namespace("model"))
    report = sealed.publish(prompt[: hit.n_tokens], rows, "a", "user").report
    assert report.published_tokens == 400
