"""How blocks stand among their users, kept in step use by use, beside the rule that says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic import MemoryStore
from semantic.adapters.store.schema import NORMAL
from semantic.domain.policy import Hint, Priority
from tests.stored_blocks import ROOT, blocks_of, sequence, turn

PROMPT = sequence(1, 4)
Step = Callable[[MemoryStore], object]


def takes_turn(agent_id: str, n_blocks: int) -> Step:
    return lambda store: turn(store, PROMPT[: 256 * n_blocks], agent_id)


def hinted(agent_id: str, hint: Hint) -> Step:
    return lambda store: store.regard(ROOT, agent_id, hint=hint)


def prioritised(agent_id: str, priority: Priority) -> Step:
    return lambda store: store.regard(ROOT, agent_id, priority=priority)


def pinned(agent_id: str, is_pinned: bool) -> Step:
    return lambda store: store.regard(ROOT, agent_id, is_pinned=is_pinned)


def forgotten(agent_id: str) -> Step:
    return lambda store: store.forget(ROOT, agent_id)


AGENT = st.sampled_from("abc")
STEPS = st.one_of(
    st.builds(takes_turn, AGENT, st.integers(1, 4)),
    st.builds(hinted, AGENT, st.sampled_from(get_args(Hint))),
    st.builds(prioritised, AGENT, st.sampled_from(get_args(Priority))),
    st.builds(pinned, AGENT, st.booleans()),
    st.builds(forgotten, AGENT),
)


def wrong(store: MemoryStore) -> list[tuple[int, int]]:
    """How blocks stand, and how the best of their users does, where they disagree."""
    rows = store.catalogue.database.read(
        f"SELECT b.standing, coalesce(s.standing, {NORMAL}) FROM blocks b"
        " LEFT JOIN standings s ON s.key = b.key",
        (),
        (int, int),
    )
    return [(is_so, should) for is_so, should in rows if is_so != should]


@given(st.lists(STEPS, max_size=25))
def test_a_block_stands_as_the_best_of_its_users(steps: list[Step]) -> None:
    store = MemoryStore(1 << 30)
    for step in steps:
        step(store)
        assert wrong(store) == []
    store.close()


def test_a_block_that_comes_late_stands_as_the_others_of_its_tokens() -> None:
    store = MemoryStore(1 << 30)
    (block, *_) = blocks_of(PROMPT)
    store.regard(ROOT, "a", priority="high")
    store.put([block], "a")
    name = replace(block.name, group="sliding_window")
    store.put([replace(block, name=name, layer_type="sliding_window", is_bounded=True)], "b")
    assert wrong(store) == []
    store.close()


@pytest.mark.parametrize("n_users", [20, 400])
def test_a_use_asks_no_other_user_how_it_stands(n_users: int) -> None:
    store = MemoryStore(1 << 30)
    for n in range(n_users):
        turn(store, PROMPT, f"agent {n}")
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    database = store.catalogue.database
    with database.transaction() as run:
        run.connection.set_progress_handler(count, 10)
    turn(store, PROMPT, "one more")
    with database.transaction() as run:
        run.connection.set_progress_handler(None, 0)
    store.close()
    assert 0 < steps < 400
