"""Plain LRU and the bound: by hand, and against simulators that look at every block."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic.cli.simulate.baselines import offline_bound, plain_lru
from semantic.cli.simulate.schedule import as_recorded
from semantic.cli.simulate.segments import cut
from semantic.cli.simulate.workload import Workload
from tests.traces import trace_of

WORDS = st.lists(st.text("AB", max_size=6), min_size=1, max_size=14)


def segments_of(words, block_tokens=256, unit_tokens=256):
    trace = trace_of(words, block_tokens)
    return cut(Workload(trace, as_recorded(trace, 1 << 30)), unit_tokens)


def nothing():
    pass


# Four blocks fit. LRU throws out A, the head of the longer prompt, then X, the head of the other,
# and never hits. The bound throws out Y, which is used last, keeps all of ABC (one token is left to
# compute) and finds X.
STORY = ["ABC", "XY", "ABC", "XY"]


def test_the_story_by_hand():
    segments = segments_of(STORY)
    assert plain_lru(segments, 4, nothing) == (0, 3, 4)
    assert offline_bound(segments, 4, nothing) == (767 + 256, 2, 4)


def test_with_room_for_all_both_hit_what_was_seen():
    segments = segments_of(STORY)
    for simulate in (plain_lru, offline_bound):
        assert simulate(segments, 5, nothing) == (767 + 511, 0, 5)


def test_of_a_prompt_beyond_the_capacity_the_front_stays():
    segments = segments_of(["ABCDEF", "ABCDEF", "AB"])
    for simulate in (plain_lru, offline_bound):
        assert simulate(segments, 4, nothing).cached_tokens == 1024 + 511


def test_nothing_fits():
    for simulate in (plain_lru, offline_bound):
        assert simulate(segments_of(STORY), 0, nothing)[::2] == (0, 0)


def test_blocks_of_another_size():
    # Words of 64-token letters: blocks of 256 are ABCD and ABCE, so nothing whole is shared but
    # the last prompt's front; letter by letter it is three and five.
    words = ["ABCD", "ABCEF", "ABCEFG"]
    assert plain_lru(segments_of(words, 64, 256), 9, nothing).cached_tokens == 256
    assert offline_bound(segments_of(words, 64, 64), 99, nothing).cached_tokens == 8 * 64
    # A letter of 512 tokens is two blocks of 256.
    assert segments_of(["AB", "AC"], 512, 256).lengths == [2, 2, 2]


def test_progress_is_told_for_each_request():
    for simulate in (plain_lru, offline_bound):
        steps = []
        simulate(segments_of(STORY), 4, lambda steps=steps: steps.append(1))
        assert len(steps) == 4


@given(WORDS)
def test_segments_are_cut_where_prompts_part(words):
    segments = segments_of(words)
    for word, path in zip(words, segments.paths, strict=True):
        assert sum(segments.lengths[s] for s in path) == len(word)
        assert path == sorted(path)
    assert sum(segments.lengths) == len({w[:n] for w in words for n in range(1, len(w) + 1)})


def blocks_of(word):
    return [word[:n] for n in range(1, len(word) + 1)]


def hit_tokens(word, there):
    blocks = blocks_of(word)
    hit = next((n for n, block in enumerate(blocks) if block not in there), len(blocks))
    return min(hit * 256, max(0, len(word) * 256 - 1))


def naive_lru(words, capacity):
    there, cached, evicted = OrderedDict(), 0, 0
    for word in words:
        cached += hit_tokens(word, there)
        front, rest = blocks_of(word)[:capacity], blocks_of(word)[capacity:]
        evicted += sum(there.pop(block, "") is None for block in rest)
        for block in front:
            there[block] = None
            there.move_to_end(block)
        while len(there) > capacity:
            there.popitem(last=False)
            evicted += 1
    return cached, evicted


def naive_bound(words, capacity):
    there, cached, evicted = set(), 0, 0
    for number, word in enumerate(words):
        cached += hit_tokens(word, there)
        there |= set(blocks_of(word))

        def next_use(block, later=words[number + 1 :]):
            uses = (n for n, w in enumerate(later) if w.startswith(block))
            return next(uses, len(later))

        while len(there) > capacity:
            there.remove(max(there, key=lambda block: (next_use(block), len(block))))
            evicted += 1
    return cached, evicted


@given(WORDS, st.integers(0, 9))
def test_plain_lru_equals_a_simulator_of_single_blocks(words, capacity):
    assert plain_lru(segments_of(words), capacity, nothing)[:2] == naive_lru(words, capacity)


@given(WORDS, st.integers(0, 9))
def test_the_bound_equals_a_simulator_of_single_blocks(words, capacity):
    assert offline_bound(segments_of(words), capacity, nothing)[:2] == naive_bound(words, capacity)


def best_by_trying(words, capacity):
    """The most that any choice of kept prefixes can hit."""
    best = {frozenset(): 0}
    for word in words:
        after = {}
        for there, cached in best.items():
            cached += hit_tokens(word, there)
            for kept in _prefix_closed(there | set(blocks_of(word)), capacity):
                after[kept] = max(after.get(kept, 0), cached)
        best = after
    return max(best.values())


def _prefix_closed(blocks, capacity):
    found = {frozenset()}
    for block in sorted(blocks, key=len):
        found |= {k | {block} for k in found if len(block) == 1 or block[:-1] in k}
    return [kept for kept in found if len(kept) <= capacity]


@pytest.mark.parametrize("capacity", [1, 2, 3])
@given(words=st.lists(st.text("AB", max_size=3), min_size=1, max_size=5))
def test_nothing_passes_the_bound(words, capacity):
    # One token is left to compute of each prompt, which can only be won by hitting others less.
    bound = offline_bound(segments_of(words), capacity, nothing).cached_tokens
    assert best_by_trying(words, capacity) <= bound + len(words)
    assert plain_lru(segments_of(words), capacity, nothing).cached_tokens <= bound + len(words)
