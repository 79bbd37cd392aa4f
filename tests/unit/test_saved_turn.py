"""A turn that is given to a store: what is written of it, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from semantic import CachePersistenceError, MemoryStore
from semantic.application.saved_turn import SavedSpan, SavedTurn
from semantic.domain.native import TokenIds
from semantic.domain.reports import RowSpan
from tests.stored_blocks import BLOCK_BYTES, GROUP, ROOT, blocks_of, found, sequence, turn


def saved(tokens: Sequence[int]) -> SavedTurn:
    """The whole blocks of a sequence, as a memory would give them."""
    spans = [
        SavedSpan("global", RowSpan(number, block.name.lo, block.name.hi), block.tensors)
        for number, block in enumerate(blocks_of(tokens))
    ]
    sealed: Any = SimpleNamespace(root=ROOT, release=lambda hold: None)
    spec: Any = SimpleNamespace(group=lambda name: GROUP)
    hold: Any = None
    return SavedTurn(spec, sealed, TokenIds(tokens), "a", hold, spans)


@pytest.mark.parametrize("is_used_refused", [False, True])
def test_what_was_reused_of_a_turn_that_is_refused_goes_last(
    is_used_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(2 * BLOCK_BYTES)
    turn(store, sequence(1, 1), "a")
    turn(store, sequence(2, 1), "b")

    def refused(*_: object) -> int:
        raise CachePersistenceError("No space left on device", errno=28)

    monkeypatch.setattr(store, "put", refused)
    if is_used_refused:
        monkeypatch.setattr(store, "used", refused)
    with pytest.raises(CachePersistenceError, match="No space"):
        saved([*sequence(1, 1), *sequence(3, 1)]).run(store)
    monkeypatch.undo()
    store.shrink(1)
    assert (found(store, sequence(1, 1)), found(store, sequence(2, 1))) == (
        (0, 1) if is_used_refused else (1, 0)
    )
    store.close()
