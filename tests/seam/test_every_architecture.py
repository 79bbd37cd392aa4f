"""Restored caches of every architecture continue as if every token had just been computed.

The models are tiny, float32, and noisy in every weight, so that a wrong row shows
(`test_sensitivity`). Prompts end inside a token block, on its border, and on both sides of windows
and chunks, which are 32 positions here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator

from semantic import CacheManager
from semantic.domain.services import BlockPool
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model, architectures, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import distance, feed, fresh_caches, greedy, random_tokens, require

FULL = bool(os.environ.get("SEMANTIC_TEST_FULL"))
ONE_OF_EACH_KIND = (
    "afm7",
    "baichuan_m1",
    "bitnet",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v41",
    "falcon_h1",
    "gear",
    "gemma3n",
    "gpt_oss",
    "iquestloopcoder",
    "jamba",
    "lfm2",
    "llama4",
    "longcat_flash_ngram",
    "mamba2",
    "mimo_v2_flash",
    "minimax_m3_vl",
    "nemotron-nas",
    "nemotron_h",
    "openelm",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv7",
)
"""Every class of cache, every way of nesting, every kind of width and state."""

NAMES = sorted(architectures()) if FULL else ONE_OF_EACH_KIND
CUTS = (1, 20, 31, 32, 33, 64, 100, 255, 256, 257, 300, 513) if FULL else (20, 32, 64, 256, 300)
TAILS = (1, 8)


@pytest.fixture(scope="module", autouse=True)
def runnable():
    with cpu_stand_ins():
        yield


class Turns:
    """A model with a memory, and the turns of agents over it."""

    def __init__(self, name: str, *, batched: bool = False) -> None:
        require(name, batched=batched)
        self.recipe = recipe_of(name)
        self.model = architecture_model(name)
        spec = probe(self.model)
        self.manager = CacheManager(spec, BlockPool(spec, total_memory=1 << 30))

    def feed(self, tokens: Sequence[int], caches: list[Any]) -> mx.array:
        return feed(self.model, tokens, caches, self.recipe.longest_call_tokens or 2048)

    def computed(self, tokens: Sequence[int]) -> list[Any]:
        caches = fresh_caches(self.model)
        self.feed(tokens, caches)
        return caches

    def commit(self, tokens: Sequence[int], caches: list[Any], agent: str = "a") -> None:
        with self.manager.admit(agent, tokens) as lease:
            assert lease.commit(tokens, caches).published_tokens == len(tokens)

    def restored(self, tokens: Sequence[int], n: int) -> list[Any]:
        with self.manager.admit("b", tokens) as lease:
            assert lease.cached_tokens == n
            caches = lease.materialise()
        assert caches is not None
        return caches


def agree(turns: Turns, found: mx.array, expected: mx.array) -> bool:
    return distance(found, expected) < turns.recipe.tolerance


@pytest.mark.parametrize("name", NAMES)
def test_restored_equals_recomputed(name):
    turns = Turns(name)
    tokens = random_tokens(max(CUTS) + max(TAILS))
    for n in CUTS:
        turns.manager.clear()
        turns.commit(tokens[:n], turns.computed(tokens[:n]))
        for tail in TAILS:
            after = tokens[: n + tail]
            caches = turns.restored(after, n)
            assert sum(c.nbytes for c in caches) == turns.manager.spec.live_bytes(n)
            logits = turns.feed(after[n:], caches)
            fresh = turns.computed(after[:n])
            expected = turns.feed(after[n:], fresh)
            assert agree(turns, logits, expected), (n, tail, distance(logits, expected))
            if not turns.recipe.same_schedule:
                whole = turns.feed(after, fresh_caches(turns.model))
                assert agree(turns, logits, whole), (n, tail, distance(logits, whole))
        if FULL or n == CUTS[-1]:
            # The longer tail's caches go on for a while, past the ends of ring, chunk and block.
            answer = greedy(turns.model, logits, caches, 32)
            assert answer == greedy(turns.model, expected, fresh, 32)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_stay_as_they_are_when_agents_branch_off_them(name):
    turns = Turns(name)
    tokens = random_tokens(308)
    turns.commit(tokens[:300], turns.computed(tokens[:300]))
    expected = turns.feed(tokens[300:], turns.computed(tokens[:300]))
    branch = tokens[:300] + random_tokens(40, seed=9)
    branched = turns.restored(branch, 300)
    turns.feed(branch[300:], branched)  # writes over its own copy
    turns.commit(branch, branched, agent="c")
    for _ in range(2):
        assert agree(turns, turns.feed(tokens[300:], turns.restored(tokens, 300)), expected)
    longer = [*branch, 7]
    logits = turns.feed(longer[len(branch) :], turns.restored(longer, len(branch)))
    fresh = turns.computed(branch[:300])
    turns.feed(branch[300:], fresh)
    assert agree(turns, logits, turns.feed(longer[len(branch) :], fresh))


CANNOT_BATCH = {
    "deepseek_v41": "no merge",
    "deepseek_v41_text": "no merge",
    "gemma2": "broadcast_shapes",
    "gpt_bigcode": "Only length-1 arrays",
    "internlm2": "Only length-1 arrays",
    "internlm3": "Only length-1 arrays",
    "llama4": "no merge",
    "nemotron-nas": "NoneType",
    "phi3small": "broadcast_shapes",
}
"""mlx-lm itself cannot run these in a batch of unequal lengths, and what it says."""


def batch(turns: Turns, caches: list[list[Any]], tails: list[list[int]]) -> dict[int, list[Any]]:
    """What BatchGenerator answers to tails of unequal lengths over caches of unequal lengths."""
    if not all(hasattr(cache, "merge") for cache in caches[0]):
        raise ValueError("no merge")
    generator = BatchGenerator(turns.model, max_tokens=6)
    uids = generator.insert(tails, caches=caches)
    answers: dict[int, list[Any]] = {uid: [] for uid in uids}
    running = len(uids)
    while running:
        for response in generator.next_generated():
            answers[response.uid].append(response)
            running -= response.finish_reason is not None
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_in_a_batch_of_unequal_lengths(name):
    """Restored rows answer as computed ones do, and what the batch hands out can be kept."""
    turns = Turns(name, batched=True)
    lengths = (20, 290, 70)
    prompts = [random_tokens(n + 9, seed=n) for n in lengths]
    tails = [
        prompt[n : n + extra] for prompt, n, extra in zip(prompts, lengths, (1, 9, 4), strict=True)
    ]
    if turns.recipe.longest_call_tokens == 1:
        tails = [tail[:1] for tail in tails]
    computed = [turns.computed(p[:n]) for p, n in zip(prompts, lengths, strict=True)]
    for prompt, n, caches in zip(prompts, lengths, computed, strict=True):
        turns.commit(prompt[:n], caches)
    restored = [turns.restored(p, n) for p, n in zip(prompts, lengths, strict=True)]
    if name in CANNOT_BATCH:
        for caches in (computed, restored):
            with pytest.raises(Exception, match=CANNOT_BATCH[name]):
                batch(turns, caches, tails)
        return
    expected = batch(turns, computed, tails)
    for uid, answers in batch(turns, restored, tails).items():
        for ours, theirs in zip(answers, expected[uid], strict=True):
            assert ours.token == theirs.token
            assert agree(turns, ours.logprobs, theirs.logprobs)
        row = list(expected).index(uid)
        keep_what_the_batch_hands_out(turns, prompts[row][: lengths[row]], tails[row], answers)


def keep_what_the_batch_hands_out(turns, prompt, tail, answers):
    tokens = [*prompt, *tail, *(answer.token for answer in answers)]
    handed_out = answers[-1].prompt_cache
    turns.commit(tokens, handed_out, agent="d")
    caches = turns.restored([*tokens, 3, 5], len(tokens))
    logits = turns.feed([3, 5], caches)
    assert agree(turns, logits, turns.feed([3, 5], handed_out))
