"""The replay through the library: by hand, and against a tail-first LRU of single blocks."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic import PoolConfigurationError
from semantic.application.cache_manager import CacheManager
from semantic.cli.simulate.baselines import offline_bound
from semantic.cli.simulate.replay import replay
from semantic.cli.simulate.schedule import as_recorded
from semantic.cli.simulate.segments import cut
from semantic.cli.simulate.study import BOUND, OURS, PLAIN_LRU, runs
from semantic.cli.simulate.weightless import WeightlessCaches
from semantic.cli.simulate.workload import Workload
from semantic.domain.layer_group import LayerGroup, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.specs import dense_spec, hybrid_spec, windowed_spec
from tests.traces import trace_of
from tests.unit.test_cli_simulate_baselines import STORY, WORDS, blocks_of, hit_tokens

BLOCK_BYTES = 2048


def nothing():
    pass


def workload_of(words, block_tokens=256, **facts):
    trace = trace_of(words, block_tokens, **facts)
    return Workload(trace, as_recorded(trace, 1 << 20))


def test_the_story_by_hand():
    # Tails go first: C for XY, then Y for C, then C for Y. AB and X are hit.
    outcome = replay(workload_of(STORY), dense_spec(), 4 * BLOCK_BYTES, "lru", nothing)
    assert outcome.cached_tokens == (2 + 1) * 256
    assert outcome.evicted_blocks == 3
    assert outcome.peak_bytes == 4 * BLOCK_BYTES
    assert outcome.failures == {}
    assert 0 < outcome.timing.mean_seconds <= outcome.timing.p99_seconds


def test_a_block_that_is_shared_in_part_is_used_in_part():
    words = ["ABCDEF", "ABCDEFG", "ABCDX"]  # letters of 64 tokens
    outcome = replay(workload_of(words, 64), dense_spec(), 9 * BLOCK_BYTES, "lru", nothing)
    assert outcome.cached_tokens == 6 * 64 + 4 * 64


def test_prompts_without_a_full_block_are_passed_over():
    outcome = replay(workload_of(["", "A", ""]), dense_spec(), 4 * BLOCK_BYTES, "lru", nothing)
    assert (outcome.cached_tokens, outcome.peak_bytes) == (0, BLOCK_BYTES)


def test_a_prompt_beyond_the_memory_is_cut_and_counted():
    words = ["ABCDEF", "ABCDEF"]
    outcome = replay(workload_of(words), dense_spec(), 4 * BLOCK_BYTES, "lru", nothing)
    assert outcome.cached_tokens == 4 * 256
    assert outcome.failures == {"budget": 2}


def test_a_window_is_hit_where_a_prompt_ended_only():
    words = ["ABC", "ABCD", "ABX"]
    outcome = replay(workload_of(words), windowed_spec(512), 1 << 20, "lru", nothing)
    assert outcome.cached_tokens == 3 * 256
    outcome = replay(workload_of(words), hybrid_spec(), 1 << 20, "lru", nothing)
    assert outcome.cached_tokens == 3 * 256


def test_where_a_prompt_leaves_another_the_next_one_is_restored():
    words = ["ABC", "ABX", "ABY"]
    for spec in (windowed_spec(512), hybrid_spec()):
        outcome = replay(workload_of(words), spec, 1 << 20, "lru", nothing)
        assert outcome.cached_tokens == 2 * 256


def test_what_rings_chunks_and_states_keep():
    kept = WeightlessCaches(windowed_spec(512), 700).known_spans
    assert (kept("global"), kept("sliding_window")) == (((0, 700),), ((188, 700),))
    assert WeightlessCaches(windowed_spec(512), 512).known_spans("sliding_window") == ((0, 512),)
    kept = WeightlessCaches(hybrid_spec(), 1100).known_spans
    assert (kept("chunked"), kept("state")) == (((1024, 1100),), ((1099, 1100),))
    tensor = TokenTensor("keys", 1, 2, "bfloat16")
    group = LayerGroup("ring", "sliding_window", (0,), (tensor,), window=512, keep=4)
    assert WeightlessCaches(ModelCacheSpec((group,)), 700).known_spans("ring") == (
        (0, 4),
        (192, 700),
    )


def naive_tail_first(words, capacity):
    there, cached = OrderedDict(), 0
    for word in words:
        cached += hit_tokens(word, there)
        front, rest = blocks_of(word)[:capacity], blocks_of(word)[capacity:]
        for block in rest:
            there.pop(block, None)
        for block in reversed(front):
            there[block] = None
            there.move_to_end(block)
        while len(there) > capacity:
            there.popitem(last=False)
    return cached


@given(WORDS, st.integers(1, 9))
def test_without_windows_the_library_is_a_tail_first_lru(words, capacity):
    memory_bytes = capacity * BLOCK_BYTES
    outcome = replay(workload_of(words), dense_spec(), memory_bytes, "lru", nothing)
    assert outcome.cached_tokens == naive_tail_first(words, capacity)
    assert outcome.peak_bytes <= memory_bytes


@given(WORDS, st.integers(1, 5))
def test_what_partial_blocks_win_does_not_pass_the_bound(words, capacity):
    workload = workload_of(words, 64)
    outcome = replay(workload, dense_spec(), capacity * BLOCK_BYTES, "lru", nothing)
    bound = offline_bound(cut(workload, 64), 4 * capacity, nothing)
    assert outcome.cached_tokens <= bound.cached_tokens + len(words)


def test_agents_wait_and_sessions_end(monkeypatch):
    told = []
    monkeypatch.setattr(CacheManager, "hint", lambda _, agent, state: told.append((agent, state)))
    facts = {"session": [0, 0, 1, 0], "agent": [0, 1, 0, 0], "waits": [True, True, True, False]}
    workload = workload_of(["A", "AB", "X", "ABC"], **facts)
    replay(workload, dense_spec(), 1 << 20, "lru", nothing)
    ends = [("s0.0", "ended"), ("s0.1", "ended")]
    # A sub-agent that is done has ended, and so has everybody at the session's last request.
    assert told == [("s0.0", "waiting"), ("s0.1", "ended"), ("s1.0", "ended"), *ends]
    told.clear()
    replay(workload, dense_spec(), 1 << 20, "lru", nothing, hints=False)
    assert told == []


def test_what_has_ended_goes_first():
    """C is the oldest when Y needs the room; but B's session is over, and C's is not."""
    facts = {"session": [0, 1, 2, 3, 0]}
    words = ["C", "B", "X", "Y", "CD"]
    for hints, cached_tokens in ((True, 256), (False, 0)):
        outcome = replay(
            workload_of(words, **facts), dense_spec(), 3 * BLOCK_BYTES, "lru", nothing, hints=hints
        )
        assert outcome.cached_tokens == cached_tokens


@pytest.mark.parametrize("order", ["lru", "resident", "scan_resistant"])
def test_every_policy_keeps_to_the_memory(order):
    outcome = replay(workload_of(STORY), dense_spec(), 4 * BLOCK_BYTES, order, nothing)
    assert 0 < outcome.peak_bytes <= 4 * BLOCK_BYTES


def test_a_study_is_each_size_with_each_cache():
    planned = list(runs(workload_of(STORY), dense_spec(), {"8k": 8192, "1M": 1 << 20}, ["lru"]))
    assert [(run.memory, run.cache) for run in planned] == [
        (memory, cache) for memory in ("8k", "1M") for cache in (f"{OURS}, lru", PLAIN_LRU, BOUND)
    ]
    outcomes = [run.measure(nothing) for run in planned]
    assert [outcome.cached_tokens for outcome in outcomes[:3]] == [768, 0, 767 + 256]
    assert [outcome.peak_bytes for outcome in outcomes[:3]] == [8192] * 3
    assert [outcome.cached_tokens for outcome in outcomes[3:]] == [767 + 511] * 3


def test_the_baselines_count_unbounded_layers_alone():
    (_, lru, _) = runs(workload_of(STORY), windowed_spec(512), {"m": 5 * 2048}, ["lru"])
    assert lru.measure(nothing).peak_bytes == 5 * BLOCK_BYTES
    state = LayerGroup("state", "state", (0,), hybrid_spec().groups[2].tensors)
    states = ModelCacheSpec((state,))
    (only,) = runs(workload_of(STORY), states, {"m": 1 << 20}, ["resident"])
    assert only.cache == f"{OURS}, resident"


def test_a_memory_below_one_block_is_refused():
    with pytest.raises(PoolConfigurationError, match=r"tiny is below one block .* 6,144 bytes"):
        runs(workload_of(STORY), windowed_spec(512), {"m": 1 << 20, "tiny": 6143}, ["lru"])
