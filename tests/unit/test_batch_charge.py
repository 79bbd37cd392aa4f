"""What a batch is charged: the longest row for every row, hits spared, shorter steps when short."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from semantic import BlockPool, CacheManager, PoolExhaustedError
from semantic.application.batch_charge import BatchCharge
from semantic.domain.native import TokenIds
from semantic.mlx import probe
from tests.conftest import feed, fresh_caches, random_tokens

TOKENS = random_tokens(900)


class Memory:
    """A memory of one model, and the charge of its batch."""

    def __init__(self, model, total_memory, step=256):
        self.model, self.spec = model, probe(model)
        self.pool = BlockPool(self.spec, total_memory=total_memory)
        self.manager = CacheManager(self.spec, self.pool)
        self.charge = BatchCharge(self.manager._memory, step)

    def keep(self, tokens):
        caches = fresh_caches(self.model)
        feed(self.model, tokens, caches)
        with self.manager.admit("a", tokens) as lease:
            lease.commit(tokens, caches)

    def peak(self, *ends, step=256):
        return self.spec.live_batch_peak_bytes(ends, step)


@pytest.fixture
def llama(model_of):
    return Memory(model_of("llama"), 1 << 26)


def test_every_row_is_charged_as_the_longest(llama):
    rows = [llama.charge.add(TokenIds(TOKENS[:n]), 10) for n in (100, 700, 300)]
    assert llama.charge.live_bytes == llama.pool.snapshot().live == llama.peak(711, 711, 711)
    arrays = llama.pool.snapshot().arrays_used
    assert arrays > 3 * llama.spec.live_arrays
    llama.charge.end(rows[1])
    assert llama.pool.snapshot().live == llama.peak(111, 311)
    assert llama.pool.snapshot().arrays_used == arrays - llama.spec.live_arrays
    llama.charge.end(rows[1])
    llama.charge.clear()
    assert len(llama.charge) == llama.pool.used_memory() == 0
    assert llama.pool.snapshot().arrays_used == 0
    llama.pool.check()


def test_a_row_that_does_not_fit_changes_nothing(model_of):
    memory = Memory(model_of("llama"), 1 << 30)
    two = memory.peak(311, 311)
    memory = Memory(model_of("llama"), two)
    rows = [memory.charge.add(TokenIds(TOKENS[:300]), 10) for _ in range(2)]
    for tokens in (TOKENS[:1], TOKENS[:600]):
        with pytest.raises(PoolExhaustedError):
            memory.charge.add(TokenIds(tokens), 1)
        assert memory.pool.snapshot().live == memory.charge.live_bytes == two
        assert len(memory.charge) == 2
    memory.charge.end(rows[0])
    memory.charge.add(TokenIds(TOKENS[:1]), 1)


def test_a_hit_is_held_until_it_is_restored_and_its_copy_is_staging(llama):
    llama.keep(TOKENS[:600])
    cached = llama.pool.snapshot().cached
    row = llama.charge.add(TokenIds(TOKENS), 10)
    snapshot = llama.pool.snapshot()
    assert snapshot.staging == llama.spec.live_bytes(600)
    assert (snapshot.held, snapshot.cached) == (cached, 0)
    llama.charge.restored(row)
    assert llama.pool.snapshot().cached == cached
    llama.charge.settled(row)
    llama.charge.settled(row)
    assert llama.pool.snapshot().staging == 0
    llama.charge.end(row)
    assert llama.pool.used_memory() == 0


def test_a_hit_that_leaves_too_little_is_given_up(model_of):
    probe_ = Memory(model_of("llama"), 1 << 30)
    memory = Memory(model_of("llama"), probe_.peak(711))
    memory.keep(TOKENS[:300])
    row = memory.charge.add(TokenIds(TOKENS[:700]), 10)
    assert row.hold.n_tokens == row.staging_bytes == 0
    assert memory.pool.snapshot().cached == 0


def test_what_is_cached_gives_way_and_what_runs_does_not(model_of):
    probe_ = Memory(model_of("llama"), 1 << 30)
    memory = Memory(model_of("llama"), probe_.peak(711, 711))
    memory.keep(TOKENS[:600])
    other = random_tokens(700, seed=5)
    memory.charge.add(TokenIds(other), 10)
    memory.charge.add(TokenIds(other[::-1]), 10)
    assert memory.pool.snapshot().cached == 0
    with pytest.raises(PoolExhaustedError):
        memory.charge.add(TokenIds(other[:5]), 10)
    memory.pool.check()


def test_shorter_prefill_steps_are_tried_where_a_row_is_alone(model_of):
    gemma = model_of("gemma3_text", sliding_window=100)
    large = Memory(gemma, 1 << 30, step=2048)
    at_512 = large.peak(911, step=512)
    assert large.peak(911, step=2048) > at_512
    memory = Memory(gemma, at_512, step=2048)
    row = memory.charge.add(TokenIds(TOKENS), 10)
    assert memory.charge.prefill_step == 512
    assert memory.charge.live_bytes == at_512
    with pytest.raises(PoolExhaustedError):
        memory.charge.add(TokenIds(TOKENS), 10)
    memory.charge.end(row)
    memory.charge.add(TokenIds(TOKENS[:50]), 10)
    assert memory.charge.prefill_step == 2048


def test_the_longest_end_is_the_last_that_fits(llama):
    limit = llama.peak(1234)
    longest = llama.charge.longest_end(limit)
    assert llama.peak(longest) <= limit < llama.peak(longest + 1)
    assert llama.charge.longest_end(1) == 0


def test_copies_are_charged_until_they_are_dropped(llama):
    total = llama.pool.total_memory()
    assert llama.charge.copy(total - 10)
    assert not llama.charge.copy(11)
    assert llama.charge.copy(10)
    assert llama.pool.snapshot().staging == total
    llama.charge.drop_copies()
    assert llama.pool.snapshot().staging == 0


def test_what_waits_to_be_stored_is_given_up_only_where_nobody_ends(model_of):
    two = Memory(model_of("llama"), 1 << 30).peak(311, 311)
    memory = Memory(model_of("llama"), two)
    given_up = []
    writer = SimpleNamespace(let_go=lambda: given_up.append(True))
    resources = replace(memory.manager._memory, tier=SimpleNamespace(writer=writer))
    charge = BatchCharge(resources, 256)
    row = charge.add(TokenIds(TOKENS[:300]), 10)
    with pytest.raises(PoolExhaustedError):
        charge.add(TokenIds(TOKENS), 10)
    assert not given_up
    charge.end(row)
    with pytest.raises(PoolExhaustedError):
        charge.add(TokenIds(TOKENS), 10)
    assert given_up == [True]
