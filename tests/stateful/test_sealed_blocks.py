"""Programs of publish, hit, release and evict against an oracle that knows only token lists."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic.application.sealed_blocks import SealedBlocks
from semantic.domain.identity import Namespace
from semantic.domain.native import TokenIds
from semantic.domain.reports import HitPlan
from semantic.domain.services import BlockPool
from tests.token_rows import SPECS, TokenRows, read_positions

# Few segments, so that sequences share prefixes and part ways inside blocks and at their borders.
segments = st.lists(
    st.tuples(st.sampled_from([3, 97, 156, 256, 300]), st.integers(0, 2)), min_size=1, max_size=5
)


def spelled(parts: Sequence[tuple[int, int]]) -> list[int]:
    return [kind * 1000 + i for length, kind in parts for i in range(length)]


def block_ids(plan: HitPlan) -> set[int]:
    return {span.block_id for _, spans in plan.spans for span in spans}


class SealedBlocksMachine(RuleBasedStateMachine):
    spec = SPECS["global"]
    budget_blocks = 40

    def __init__(self) -> None:
        super().__init__()
        block_bytes = max(group.bytes_per_block for group in self.spec.groups)
        self.pool = BlockPool(self.spec, total_memory=self.budget_blocks * block_bytes)
        self.sealed = SealedBlocks(self.spec, self.pool, Namespace("machine"))
        self.holds = []
        self.ends: set[tuple[int, ...]] = set()

    @rule(parts=segments, overshoot=st.sampled_from([0, 1, 300]))
    def publish(self, parts, overshoot):
        tokens = spelled(parts)
        live = TokenRows(self.spec, tokens, overshoot)
        report = self.sealed.publish(TokenIds(tokens), live, "agent", "user").report
        assert report.reason in ("published", "already_cached", "budget", "incomplete_window")
        if report.reason in ("published", "already_cached"):
            assert report.published_tokens == len(tokens)
            assert self.sealed.plan(TokenIds([*tokens, -1])).n_tokens == len(tokens)

    @precondition(lambda self: not self.holds)
    @rule(parts=segments)
    def what_fits_is_published(self, parts):
        tokens = spelled(parts)
        if self.spec.cached_bytes(len(tokens)) <= self.pool.total_memory():
            live = TokenRows(self.spec, tokens, 0)
            report = self.sealed.publish(TokenIds(tokens), live, "agent", "user").report
            assert report.published_tokens == len(tokens)

    @precondition(lambda self: not self.holds)
    @rule()
    def everything_can_be_evicted(self):
        self.sealed.evict_bytes(self.pool.total_memory())
        assert self.pool.snapshot().cached == 0

    @rule(parts=segments, cut=st.integers(0, 3))
    def hit(self, parts, cut):
        """Ask for the sequence and more, for itself, or for all but its last tokens."""
        tokens = spelled(parts)
        tokens = tokens[: len(tokens) - cut + 1] if cut else [*tokens, -1]
        hold = self.sealed.hold(TokenIds(tokens))
        self.check_rows(hold, tokens)
        self.check_length(hold.n_tokens, tokens)
        self.sealed.enter(hold, "agent")
        self.holds.append((hold, tokens))

    @precondition(lambda self: len(self.sealed))
    @rule(index=st.integers(0, 1000))
    def hit_just_before_a_published_end(self, index):
        """One token less than the window was captured for: its first row is missing."""
        ends = self.sealed.sequences()
        tokens = self.tokens_of(ends[index % len(ends)])
        hold = self.sealed.hold(TokenIds(tokens))
        self.check_rows(hold, tokens)
        self.check_length(hold.n_tokens, tokens)
        self.sealed.release(hold)

    @precondition(lambda self: self.holds)
    @rule(index=st.integers(0, 1000))
    def release(self, index):
        hold, tokens = self.holds.pop(index % len(self.holds))
        self.check_rows(hold, tokens)  # what a lease holds never changes
        self.sealed.release(hold)

    @rule(blocks=st.integers(1, 10))
    def evict(self, blocks):
        # b11, b12: what is held is never a victim. Where a longer sequence has replaced the last
        # block of a hit, what is found now is another block, which nobody holds.
        whole = [
            (hold, tokens) for hold, tokens in self.holds if self.is_what_is_found(hold, tokens)
        ]
        self.sealed.evict_bytes(blocks * self.spec.groups[0].bytes_per_block)
        for hold, tokens in whole:
            assert self.sealed.plan(TokenIds(tokens)).n_tokens >= hold.n_tokens

    def is_what_is_found(self, hold, tokens):
        plan = self.sealed.plan(TokenIds(tokens))
        return plan.n_tokens >= hold.n_tokens and block_ids(plan) <= block_ids(hold.plan)

    @rule(blocks=st.integers(1, 10))
    def somebody_allocates(self, blocks):
        """The pool evicts by itself; the index has to follow."""
        group = self.spec.groups[0].name
        if blocks <= self.pool.available_blocks(group):
            self.pool.free(self.pool.allocate(blocks, group))

    def check_rows(self, hold, tokens):
        end = hold.n_tokens
        assert end < len(tokens)
        for name, spans in hold.plan.spans:
            group = self.spec.group(name)
            read = [p for span in spans for p in range(span.lo, span.hi)]
            assert read == (read_positions(group, end) if end else [])
            for span in spans:
                row = hold.data[span.block_id]
                assert row["lo"] <= span.lo < span.hi <= row["hi"]
                assert list(row["prefix"][: span.hi]) == tokens[: span.hi]
                if group.layer_type == "state":
                    assert row["hi"] == end  # a state serves the one position it was taken at

    def check_length(self, found, tokens):
        """At least the longest published end that is a prefix; without windows, all in common."""
        ends = [tuple(self.tokens_of(c)) for c in self.sealed.sequences()]
        whole = [len(e) for e in ends if len(e) < len(tokens) and tuple(tokens[: len(e)]) == e]
        assert found >= max(whole, default=0)
        if not any(group.is_bounded for group in self.spec.groups):
            shared = max((common(e, tokens) for e in ends), default=0)
            assert found == min(shared, len(tokens) - 1)

    def tokens_of(self, end):
        return self.sealed.index.tokens_of(end.handle)

    @invariant()
    def every_cached_byte_can_be_found(self):
        self.pool.check()
        snapshot = self.pool.snapshot()
        findable = sum(self.sealed.bytes_by_kind().values())
        assert snapshot.live == snapshot.staging == 0
        assert findable <= snapshot.cached + snapshot.held
        sealed = sum(group.leased_blocks + group.cached_blocks for group in snapshot.groups)
        assert len(self.pool.contents) == sealed
        if not self.holds:
            assert snapshot.held == 0
            assert snapshot.cached == findable

    def teardown(self):
        for hold, _ in self.holds:
            self.sealed.release(hold)
        self.sealed.clear()
        snapshot = self.pool.snapshot()
        assert snapshot.free == snapshot.total


def common(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("budget_blocks", [6, 40])
def test_programs(spec, budget_blocks):
    machine = type(
        "Machine", (SealedBlocksMachine,), {"spec": SPECS[spec], "budget_blocks": budget_blocks}
    )
    case = machine.TestCase
    case.settings = settings(
        settings.default,
        max_examples=max(40, settings.default.max_examples // 4),
        stateful_step_count=30,
    )
    # What must hold is asserted by the machine's rules and invariants.
    case("runTest").runTest()
