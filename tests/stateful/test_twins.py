"""One program, two implementations: the native index and the plain-Python one answer alike.

Several agents, of whom things are said, under every order of eviction. Compared after every step:
what a probe would hit, what is published, how many blocks and bytes that takes, every report and
every event. So each victim is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic.application.sealed_blocks import SealedBlocks
from semantic.domain.identity import Namespace
from semantic.domain.native import TokenIds
from semantic.domain.policy import EvictionOrder, EvictionPolicy
from semantic.domain.services import BlockPool
from semantic.testing.reference_pool import ReferencePool
from semantic.testing.reference_sealed import ReferenceSealedBlocks
from tests.event_picture import EventPicture
from tests.token_rows import SPECS, TokenRows

# Few segments, so that sequences share prefixes and part ways inside blocks and at their borders.
SEGMENTS = st.lists(
    st.tuples(st.sampled_from([3, 97, 156, 256, 300]), st.integers(0, 2)), min_size=1, max_size=5
)
LETTERS = st.sampled_from("abc")


class Clock:
    """A time for both; each step takes some, so that no two uses are of one time."""

    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


def spelled(parts: Sequence[tuple[int, int]]) -> list[int]:
    return [kind * 1000 + i for length, kind in parts for i in range(length)]


class Twins(RuleBasedStateMachine):
    spec = SPECS["global"]
    budget_blocks = 6
    order: EvictionOrder = "lru"
    time_to_live: float | None = None

    def __init__(self) -> None:
        super().__init__()
        block_bytes = max(group.bytes_per_block for group in self.spec.groups)
        total = self.budget_blocks * block_bytes
        pools: list[Any] = [BlockPool(self.spec, total), ReferencePool(self.spec, total)]
        self.pools = pools
        self.clock = Clock()
        options: Any = {
            "policy": EvictionPolicy(self.order, self.time_to_live),
            "clock": self.clock,
        }
        self.pictures = [EventPicture(), EventPicture()]
        self.twins: list[Any] = [
            SealedBlocks(
                self.spec, pools[0], Namespace("twins"), on_event=self.pictures[0], **options
            ),
            ReferenceSealedBlocks(
                self.spec, pools[1], Namespace("twins"), on_event=self.pictures[1], **options
            ),
        ]
        self.names = dict.fromkeys("abc", 0)
        self.holds: list[list[Any]] = []
        self.claims: list[tuple[str, list[int]]] = []
        self.probes: set[tuple[int, ...]] = set()

    def both(self, operation: str, *arguments: Any) -> Any:
        """What both answer to the same call, when they agree."""
        native, reference = (getattr(twin, operation)(*arguments) for twin in self.twins)
        assert native == reference, (operation, arguments, native, reference)
        return native

    def step(self, letter: str) -> str:
        """The agent of that letter, a moment later; who has ended comes under another name."""
        self.clock.seconds += 0.001
        return f"{letter}{self.names[letter]}"

    def leave(self, agent: str) -> None:
        """The agent's turn is over: it held nothing."""
        for twin in self.twins:
            twin.release(twin.hold(TokenIds([-1])), agent)

    def ask(self, agent: str, tokens: Sequence[int]) -> list[Any]:
        holds = [twin.hold(TokenIds(tokens)) for twin in self.twins]
        for twin, hold in zip(self.twins, holds, strict=True):
            twin.enter(hold, agent)
        return holds

    @rule(
        letter=LETTERS,
        parts=SEGMENTS,
        overshoot=st.sampled_from([0, 1, 300, 5000]),
        kind=st.sampled_from(["system", "user", "assistant"]),
    )
    def publish(self, letter, parts, overshoot, kind):
        agent, tokens = self.step(letter), spelled(parts)
        for twin, hold in zip(self.twins, self.ask(agent, tokens), strict=True):
            twin.release(hold)
        live = TokenRows(self.spec, tokens, overshoot)
        native, reference = (
            twin.publish(TokenIds(tokens), live, agent, kind) for twin in self.twins
        )
        assert native.report == reference.report, (native.report, reference.report)
        assert (native.end is None) == (reference.end is None)
        if native.end is not None:
            self.claims.append((agent, [native.end, reference.end]))
        self.probes.add(tuple(tokens))

    @precondition(lambda self: self.claims)
    @rule(index=st.integers(0, 99), is_kept=st.booleans())
    def a_turn_ends(self, index, is_kept):
        agent, claim = self.claims.pop(index % len(self.claims))
        for twin, end in zip(self.twins, claim, strict=True):
            (twin.settle if is_kept else twin.withdraw)(end, agent)

    @rule(
        letter=LETTERS, word=st.sampled_from(["active", "waiting", "ended"]), departs=st.booleans()
    )
    def hint(self, letter, word, departs):
        agent = self.step(letter)
        self.twins[0].index.hint(agent, word)
        self.twins[1].hint(agent, word)
        if departs:
            self.leave(agent)
        if word == "ended":
            self.names[letter] += 1

    @rule(letter=LETTERS, word=st.sampled_from(["low", "normal", "high"]))
    def prioritise(self, letter, word):
        agent = self.step(letter)
        self.twins[0].index.prioritise(agent, word)
        self.twins[1].prioritise(agent, word)

    @rule(letter=LETTERS)
    def depart(self, letter):
        self.leave(self.step(letter))

    @rule(seconds=st.sampled_from([1.0, 15.0, 90.0, 200.0]))
    def time_passes(self, seconds):
        self.clock.seconds += seconds

    @rule(letter=LETTERS, parts=SEGMENTS, is_used=st.booleans())
    def hold(self, letter, parts, is_used):
        agent, tokens = self.step(letter), TokenIds(spelled(parts))
        holds = [twin.hold(tokens) for twin in self.twins]
        native, reference = holds
        assert native.n_tokens == reference.n_tokens
        assert native.matched_tokens == reference.matched_tokens
        assert read_by(native) == read_by(reference)
        if is_used:
            for twin, hold in zip(self.twins, holds, strict=True):
                twin.enter(hold, agent)
        self.holds.append(holds)
        self.probes.add(tuple(spelled(parts)))

    @precondition(lambda self: self.holds)
    @rule(index=st.integers(0, 99))
    def release(self, index):
        holds = self.holds.pop(index % len(self.holds))
        for twin, hold in zip(self.twins, holds, strict=True):
            twin.release(hold)

    @rule(blocks=st.integers(1, 8))
    def evict(self, blocks):
        self.both("evict_bytes", blocks * self.spec.groups[0].bytes_per_block)

    @rule(blocks=st.integers(1, 8), which=st.integers(0, 9))
    def somebody_allocates(self, blocks, which):
        group = self.spec.groups[which % len(self.spec.groups)].name
        native, reference = (pool.available_blocks(group) for pool in self.pools)
        assert native == reference
        if blocks <= native:
            for pool in self.pools:
                pool.free(pool.allocate(blocks, group))

    @rule(letter=LETTERS)
    def forget(self, letter):
        self.both("forget", self.step(letter))

    @rule()
    def clear(self):
        for twin in self.twins:
            twin.clear()

    @invariant()
    def they_are_alike(self):
        for pool in self.pools:
            pool.check()
        readings = [_books(pool) for pool in self.pools]
        assert readings[0] == readings[1], readings
        native, reference = self.twins
        assert native.n_blocks == reference.n_blocks
        assert native.n_blocks == len(self.pictures[0].found)
        told, expected = drawn(self.pictures[0]), drawn(self.pictures[1])
        assert told == expected, (told, expected)
        assert native.bytes_by_kind() == reference.bytes_by_kind()
        assert native.evicted_blocks == reference.evicted_blocks
        assert published(native, native.index.tokens_of) == published(
            reference, reference.tokens_of
        )
        for probe in self.probes:
            for tokens in (TokenIds(probe), TokenIds([*probe, -1])):
                self.both("lengths", tokens)

    def teardown(self):
        for holds in self.holds:
            for twin, hold in zip(self.twins, holds, strict=True):
                twin.release(hold)
        self.they_are_alike()
        self.clear()
        for pool in self.pools:
            assert pool.snapshot().free == pool.total_memory()


def read_by(hold: Any) -> list[tuple[str, list[int]]]:
    """Which positions are read, by group; blocks may be cut elsewhere where two cover them."""
    return [
        (group, [position for span in spans for position in range(span.lo, span.hi)])
        for group, spans in hold.plan.spans
    ]


def _books(pool: Any) -> dict[str, int]:
    reading = pool.snapshot()
    classes = ("total", "free", "held", "live", "staging", "cached")
    return {name: getattr(reading, name) for name in classes}


def drawn(picture: EventPicture) -> list[tuple[object, ...]]:
    """What a picture shows, whatever the ids."""
    assert not picture.wrong
    found = picture.found.values()
    return sorted((event.group, event.lo, event.hi, event.key, event.parent) for event in found)


def published(twin: Any, tokens_of: Any) -> list[tuple[list[int], str]]:
    """What is published, whatever the order."""
    return sorted((tokens_of(end.handle), end.kind) for end in twin.sequences())


def run(max_examples: int, **options: object) -> None:
    case = type("Machine", (Twins,), options).TestCase
    case.settings = settings(settings.default, max_examples=max_examples, stateful_step_count=30)
    case("runTest").runTest()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("budget_blocks", [6, 20])
def test_twins_answer_alike(spec: str, budget_blocks: int) -> None:
    run(max(25, settings.default.max_examples // 4), spec=SPECS[spec], budget_blocks=budget_blocks)


@pytest.mark.parametrize("order", ["lru", "resident", "scan_resistant"])
@pytest.mark.parametrize("spec", ["global", "two_windows", "state"])
@pytest.mark.parametrize("time_to_live", [None, 100.0])
def test_twins_answer_alike_under_every_policy(
    spec: str, order: str, time_to_live: float | None
) -> None:
    run(
        max(10, settings.default.max_examples // 8),
        spec=SPECS[spec],
        budget_blocks=8,
        order=order,
        time_to_live=time_to_live,
    )
