"""Programs of many agents in two namespaces of one pool, through the public surface alone.

Budgets are so small that exhaustion is usual, keys collide in one of the namespaces, and somebody
allocates from the pool beside. What a restore hands out spells the request's own prefix, or it is
wrong KV, whatever the index believes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semantic import (
    AgentNotFoundError,
    BlockPool,
    CacheManager,
    CheckpointPolicy,
    EvictionPolicy,
    Namespace,
    PoolExhaustedError,
)
from semantic.domain.reports import HitPlan
from tests.event_picture import EventPicture
from tests.token_rows import SPECS, TokenRows, read_positions

FULL = bool(os.environ.get("SEMANTIC_TEST_FULL"))
AGENTS = st.sampled_from(["a", "b", "c"])
SEGMENTS = st.lists(
    st.tuples(st.sampled_from([1, 97, 256, 300]), st.integers(0, 1)), min_size=1, max_size=4
)


def spelled(parts: Sequence[tuple[int, int]]) -> list[int]:
    return [kind * 1000 + i for length, kind in parts for i in range(length)]


class Clock:
    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


class Rows:
    """Opens caches that are token lists, and restores them as the plan and what it reads."""

    def open(self, spec: Any, caches: list[Any], n_tokens: int) -> TokenRows:
        return TokenRows(spec, caches[0], 0)

    def restore(self, spec: Any, plan: HitPlan, data: Any) -> list[Any]:
        return [plan, data]

    def extract(self, batch_caches: Any, row: int) -> Any:
        raise NotImplementedError


class Member:
    """One manager, and the picture of it that its events draw."""

    def __init__(self, pool: BlockPool, salt: str, clock: Clock, **options: Any) -> None:
        self.picture = EventPicture()
        self.memory = CacheManager(
            pool.spec,
            pool,
            namespace=Namespace("model", salt=salt),
            materialiser=Rows(),
            clock=clock,
            on_event=self.picture,
            checkpoints=CheckpointPolicy(least_tokens=16),
            **options,
        )


class ManyAgents(RuleBasedStateMachine):
    spec = SPECS["global"]
    order: Any = "lru"
    blocks = 14

    def __init__(self) -> None:
        super().__init__()
        block = max(group.bytes_per_block for group in self.spec.groups)
        self.pool = BlockPool(self.spec, total_memory=self.blocks * block)
        self.clock = Clock()
        policy = EvictionPolicy(self.order, time_to_live=500)
        self.members = [
            Member(self.pool, "one", self.clock, policy=policy),
            Member(self.pool, "two", self.clock, key_bytes=0),
        ]
        self.running: list[tuple[Member, Any, list[int]]] = []

    @rule(which=st.integers(0, 1), agent=AGENTS, parts=SEGMENTS, new=st.sampled_from([0, 1, 300]))
    def admit(self, which, agent, parts, new):
        member, tokens = self.members[which], spelled(parts)
        used = self.pool.used_memory()
        try:
            lease = member.memory.admit(agent, tokens, max_new_tokens=new)
        except PoolExhaustedError as error:
            self.check_refused(error, used)
            return
        assert lease.cached_tokens < len(tokens)
        self.running.append((member, lease, tokens))
        self.check_restored(lease, tokens)

    def check_refused(self, error: PoolExhaustedError, used: int) -> None:
        assert error.bytes_short > 0
        assert self.pool.used_memory() == used

    def check_restored(self, lease: Any, tokens: list[int]) -> None:
        restored = lease.materialise()
        assert (restored is None) == (lease.cached_tokens == 0)
        if restored is None:
            return
        plan, data = restored
        for name, spans in plan.spans:
            read = [p for span in spans for p in range(span.lo, span.hi)]
            assert read == read_positions(self.spec.group(name), plan.n_tokens)
            for span in spans:
                row = data[span.block_id]
                assert row["lo"] <= span.lo < span.hi <= row["hi"]
                assert list(row["prefix"][: span.hi]) == tokens[: span.hi]

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99), more=st.sampled_from([0, 1, 200]), early=st.booleans())
    def publish(self, index, more, early):
        _, lease, tokens = self.running[index % len(self.running)]
        if early:
            for stop in lease.stops:
                lease.checkpoint(tokens[:stop], [tokens[:stop]])
        longer = [*tokens, *range(5000, 5000 + more)]
        report = lease.commit(longer, [longer])
        assert report.reason in ("published", "already_cached", "budget", "declined")
        assert 0 <= report.published_tokens <= len(longer)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99), n_tokens=st.integers(1, 2000))
    def grow(self, index, n_tokens):
        self.running[index % len(self.running)][1].grow(n_tokens)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99), well=st.booleans(), twice=st.booleans())
    def end(self, index, well, twice):
        _, lease, _ = self.running.pop(index % len(self.running))
        for _ in range(1 + twice):
            if well:
                lease.release()
            else:
                lease.abort()

    @rule(which=st.integers(0, 1), agent=AGENTS, word=st.sampled_from(["waiting", "ended"]))
    def hint(self, which, agent, word):
        self.members[which].memory.hint(agent, word)

    @rule(which=st.integers(0, 1), agent=AGENTS, word=st.sampled_from(["low", "normal", "high"]))
    def prioritise(self, which, agent, word):
        self.members[which].memory.prioritise(agent, word)

    @rule(which=st.integers(0, 1), agent=AGENTS, on=st.booleans())
    def pin(self, which, agent, on):
        memory = self.members[which].memory
        (memory.pin if on else memory.unpin)(agent)

    @rule(which=st.integers(0, 1), agent=AGENTS)
    def forget(self, which, agent):
        with suppress(AgentNotFoundError):
            assert self.members[which].memory.forget(agent) > 0

    @rule(which=st.integers(0, 1))
    def clear(self, which):
        self.members[which].memory.clear()

    @rule(seconds=st.sampled_from([0.5, 40.0, 600.0]))
    def time_passes(self, seconds):
        self.clock.seconds += seconds

    @rule(blocks=st.integers(1, 8), group=st.integers(0, 9))
    def somebody_allocates(self, blocks, group):
        name = self.spec.groups[group % len(self.spec.groups)].name
        if blocks <= self.pool.available_blocks(name):
            self.pool.free(self.pool.allocate(blocks, name))

    @invariant()
    def the_books_agree(self):
        self.pool.check()
        snapshot = self.pool.snapshot()
        classes = ("free", "held", "live", "staging", "cached")
        assert sum(getattr(snapshot, name) for name in classes) == snapshot.total
        assert snapshot.staging == 0
        findable = 0
        for member in self.members:  # b26
            stats = member.memory.stats()
            assert stats["blocks"] == len(member.picture.found)
            assert not member.picture.wrong
            findable += len(member.picture.found)
        sealed = sum(group.leased_blocks + group.cached_blocks for group in snapshot.groups)
        assert findable <= sealed == len(self.pool.contents)

    def teardown(self):
        for _, lease, _ in self.running:
            lease.release()
        for member in self.members:
            for agent in "abc":
                member.memory.unpin(agent)
            member.memory.clear()
            assert not member.picture.found
        snapshot = self.pool.snapshot()
        assert snapshot.free == snapshot.total
        assert not self.pool.contents


@pytest.mark.parametrize("order", ["lru", "resident", "scan_resistant"])
@pytest.mark.parametrize("spec", ["global", "two_windows", "kept_front", "state", "chunk_300"])
def test_programs(spec: str, order: str) -> None:
    machine = type("Machine", (ManyAgents,), {"spec": SPECS[spec], "order": order})
    case = machine.TestCase
    case.settings = settings(max_examples=1000 if FULL else 25, stateful_step_count=30)
    case("runTest").runTest()
