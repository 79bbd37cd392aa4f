"""Programs over several models under one budget: swaps, resizes, pressure, and owners that die.

What a restore hands out spells the request's own prefix; after every step the books of all pools
agree with the budget, and the tensors with the blocks.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic import (
    BlockPool,
    CacheManager,
    MemoryBudget,
    Namespace,
    PoolConfigurationError,
    PoolExhaustedError,
    PressureGuard,
)
from semantic.application.lease import Lease
from semantic.application.pressure import PressureLevel
from semantic.domain.admission_line import Ticket
from tests.stateful.test_many_agents import AGENTS, SEGMENTS, Clock, Rows, spelled
from tests.token_rows import SPECS, read_positions

FULL = bool(os.environ.get("SEMANTIC_TEST_FULL"))
NAMES = ("global", "two_windows", "state", "chunk_300")
MODELS = st.sampled_from(NAMES)
WHICH = st.integers(0, 2)
BLOCK = max(group.bytes_per_block for name in NAMES for group in SPECS[name].groups)
MOST = 60
TIMEOUT = 300.0


class OneBudget(RuleBasedStateMachine):
    """Three memories whose models change."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.budget = MemoryBudget(MOST * BLOCK)
        self.level: PressureLevel = "none"
        self.guard = PressureGuard(
            self.budget, lambda: self.level, floor_bytes=4 * BLOCK, clock=self.clock
        )
        terms = ({}, {"minimum": 3 * BLOCK}, {"maximum": 20 * BLOCK})
        self.memories = [self.memory(NAMES[n], **terms[n]) for n in range(3)]
        self.running: list[tuple[int, Any, list[int]]] = []
        self.lost: list[Any] = []
        self.held: list[tuple[int, list[int]]] = []
        self.n_holders = 0
        self.waiting: list[tuple[int, Ticket]] = []

    def memory(self, model: str, **terms: Any) -> CacheManager:
        return CacheManager(
            SPECS[model],
            BlockPool(SPECS[model], budget=self.budget, **terms),
            materialiser=Rows(),
            clock=self.clock,
            namespace=Namespace(model),
            lease_timeout=TIMEOUT,
        )

    @rule(which=WHICH, agent=AGENTS, parts=SEGMENTS)
    def admit(self, which: int, agent: str, parts: Any) -> None:
        memory, tokens = self.memories[which], spelled(parts)
        ahead = sum(t.needed_bytes for n, t in self.waiting if n == which or not t.is_own_affair)
        try:
            lease = memory.admit(agent, tokens)
        except PoolExhaustedError as error:
            self.check_refusal(memory.pool, error, ahead)
            return
        assert not ahead, "it has overtaken somebody"
        self.running.append((which, lease, tokens))
        restored = lease.materialise()
        assert (restored is None) == (lease.cached_tokens == 0)
        for name, spans in () if restored is None else restored[0].spans:
            read = [p for span in spans for p in range(span.lo, span.hi)]
            assert read == read_positions(memory.spec.group(name), lease.cached_tokens)
            for span in spans:
                row = restored[1][span.block_id]
                assert list(row["prefix"][: span.hi]) == tokens[: span.hi]

    def check_refusal(self, pool: BlockPool, error: PoolExhaustedError, ahead: int) -> None:
        assert error.bytes_ahead == ahead
        if ahead:
            short = error.bytes_requested + ahead - pool.available_memory()
            assert error.bytes_short == max(0, short)
        else:
            self.check_short(error)
            assert error.can_ever_fit == (error.bytes_requested <= pool.most_memory())

    def check_short(self, error: PoolExhaustedError) -> None:
        assert error.bytes_short > 0

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99), more=st.sampled_from([0, 200]), well=st.booleans())
    def end(self, index: int, more: int, well: bool) -> None:
        _, lease, tokens = self.running.pop(index % len(self.running))
        longer = [*tokens, *range(5000, 5000 + more)]
        if lease.has_expired:  # it was silent for too long
            before = self.budget.used, self.budget.cached
            assert not lease.grow(len(longer))
            assert lease.commit(longer, [longer]).reason == "expired"
            assert (self.budget.used, self.budget.cached) == before
        elif not lease.has_ended:  # as a drain ends it
            lease.commit(longer, [longer])
        if well:
            lease.release()
        else:
            lease.abort()

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99))
    def its_owner_dies(self, index: int) -> None:
        self.lost.append(self.running.pop(index % len(self.running))[1])

    @rule(seconds=st.sampled_from([1.0, 61.0, TIMEOUT + 1]))
    def time_passes(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule(which=WHICH)
    def leases_expire(self, which: int) -> None:
        before = len(self.memories[which]._gate)
        gone = self.memories[which].expire_leases()
        assert len(self.memories[which]._gate) == before - gone

    @rule(which=WHICH, n=st.integers(1, 20), by_tokens=st.booleans())
    def allocate(self, which: int, n: int, by_tokens: bool) -> None:
        """Somebody takes blocks from the pool itself: what others have cached gives way."""
        pool = self.memories[which].pool
        self.n_holders += 1
        agent = f"h{self.n_holders}"
        fits = pool.max_batch_size(256 * n) > 0 if by_tokens else pool.available_blocks() >= n
        used = self.budget.used
        try:
            if by_tokens:
                ids = list(pool.allocate_tokens(agent, 256 * n).block_ids)
            else:
                ids = pool.allocate(n, "global", agent)
        except PoolExhaustedError as error:
            self.check_short(error)
            assert not fits
            assert self.budget.used == used
        else:
            assert fits
            self.held.append((which, ids))

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 99))
    def free(self, index: int) -> None:
        which, ids = self.held.pop(index % len(self.held))
        self.memories[which].pool.free(ids)

    @rule(which=WHICH, blocks=st.integers(1, 20), is_own_affair=st.booleans())
    def somebody_waits(self, which: int, blocks: int, is_own_affair: bool) -> None:
        ticket = Ticket(self.memories[which]._gate, blocks * BLOCK, is_own_affair=is_own_affair)
        with self.budget.line.changed:
            self.budget.line.join(ticket)
        self.waiting.append((which, ticket))

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 99))
    def somebody_waits_no_more(self, index: int) -> None:
        _, ticket = self.waiting.pop(index % len(self.waiting))
        with self.budget.line.changed:
            self.budget.line.leave(ticket)

    @rule(
        which=WHICH,
        model=MODELS,
        drain=st.sampled_from([None, Lease.release, Lease.abort]),
        is_loaded=st.booleans(),
    )
    def swap(self, which: int, model: str, drain: Any, is_loaded: bool) -> None:
        memory = self.memories[which]
        cached = memory.pool.snapshot().cached
        spec = memory.spec
        self.memories[which].expire_leases()
        runs = len(memory._gate) > 0 and drain is None
        holds = any(n == which for n, _ in self.held)
        next_model = SPECS[model]
        how: Any = {"load": lambda: next_model} if is_loaded else {"model": next_model}
        try:
            memory.swap(**how, namespace=Namespace(model), drain=drain)
        except PoolConfigurationError:
            assert runs or holds or self.budget.total < 20 * BLOCK
            assert memory.spec == spec
            assert not runs or memory.pool.snapshot().cached <= cached
        else:
            assert not runs
            assert not holds
            assert len(memory._gate) == 0
            assert memory.spec == memory.pool.spec == SPECS[model]
            assert memory.pool.snapshot().cached == 0

    @rule(blocks=st.integers(1, MOST))
    def resize(self, blocks: int) -> None:
        before, used = self.budget.total, self.budget.used
        try:
            self.budget.resize(blocks * BLOCK)
        except PoolExhaustedError as error:
            self.check_short(error)
            assert self.budget.total == before
        except PoolConfigurationError:
            assert blocks <= 3
            assert self.budget.total == before
        else:
            assert self.budget.total == blocks * BLOCK
        assert self.budget.used == used

    @rule(level=st.sampled_from(["none", "some", "severe"]), times=st.integers(1, 4))
    def pressure(self, level: PressureLevel, times: int) -> None:
        self.level = level
        before = self.budget.total
        for _ in range(times):
            self.clock.seconds += 1
            self.guard.step()
        assert level == "none" or self.budget.total <= before

    @invariant()
    def the_books_agree(self) -> None:
        budget = self.budget
        assert budget.used + budget.cached + budget.free == budget.total <= MOST * BLOCK
        taken = 0
        for memory in self.memories:
            pool = memory.pool
            pool.check()
            assert pool.used_memory() + pool.available_memory() == pool.total_memory()
            assert pool.total_memory() <= pool.most_memory()
            snapshot = memory.pool.snapshot()
            taken += snapshot.held + snapshot.live + snapshot.staging + snapshot.cached
            sealed = sum(group.leased_blocks + group.cached_blocks for group in snapshot.groups)
            assert sealed == len(memory.pool.contents), "tensors go with their blocks"
            in_blocks = sum(
                (g.held_blocks + g.staged_blocks + g.leased_blocks + g.cached_blocks)
                * len(memory.spec.group(g.name).tensors)
                for g in snapshot.groups
            )
            running = sum(lease.live_arrays for lease in memory._gate._leases)
            assert snapshot.arrays_used == in_blocks + running
        assert taken == budget.used + budget.cached
        assert self.memories[2].pool.snapshot().cached <= 20 * BLOCK

    def teardown(self) -> None:
        while self.waiting:
            self.somebody_waits_no_more(index=0)
        while self.held:
            self.free(index=0)
        self.clock.seconds += TIMEOUT + 1
        for memory in self.memories:
            memory.expire_leases()
            assert len(memory._gate) == 0
            memory.clear()
        assert all(lease.has_ended for lease in self.lost)
        assert self.budget.free == self.budget.total


def test_programs() -> None:
    case = OneBudget.TestCase
    case.settings = settings(max_examples=1000 if FULL else 40, stateful_step_count=40)
    case("runTest").runTest()


def test_a_swap_drops_what_another_namespace_of_the_pool_had_cached() -> None:
    spec = SPECS["global"]
    pool = BlockPool(spec, total_memory=40 * BLOCK)
    mine, theirs = (
        CacheManager(spec, pool, materialiser=Rows(), namespace=Namespace(name))
        for name in ("mine", "theirs")
    )
    tokens = list(range(600))
    for memory in (mine, theirs):
        with memory.admit("a", tokens) as lease:
            lease.commit(tokens, [tokens])
    mine.swap(SPECS["state"], namespace=Namespace("next"))
    assert not pool.contents
    with pytest.raises(PoolConfigurationError, match="reconfigured"):
        theirs.admit("a", tokens)
    pool.check()
