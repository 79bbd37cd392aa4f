"""With the memory and without it, every generated token is the same.

Agents share a system prompt, branch off each other's conversations, and come back in any order,
while a budget that holds a part of it only forces evictions. Each turn is generated twice: with
what the memory restores, and from scratch by mlx-lm alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from semantic import BlockPool, CacheManager, CheckpointPolicy, EvictionPolicy
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import feed, fresh_caches, greedy, random_tokens, require

SYSTEM = random_tokens(300, seed=1)
ANSWER_TOKENS = 6
MODELS = {
    "llama": "global",
    "gemma3_text": "sliding window",
    "qwen3_next": "SSM hybrid",
    "deepseek_v3": "MLA",
    "llama4": "chunked",
}


@pytest.fixture(scope="module", autouse=True)
def runnable() -> Iterator[None]:
    with cpu_stand_ins():
        yield


class Server:
    """One model, its memory, and the answers to what it is asked."""

    def __init__(self, name: str, order: Any) -> None:
        require(name)
        self.model = architecture_model(name)
        self.step = recipe_of(name).longest_call_tokens or 2048
        spec = probe(self.model)
        self.pool = BlockPool(spec, total_memory=self.budget(spec))
        self.memory = CacheManager(
            spec,
            self.pool,
            policy=EvictionPolicy(order),
            checkpoints=CheckpointPolicy(least_tokens=16),
        )
        self.restored = 0
        self.longest = 0

    def budget(self, spec: Any) -> int:
        """Room for the buffers of one turn, and beside them for little more than its blocks."""
        return spec.live_peak_bytes(800) + int(1.3 * spec.cached_bytes(800))

    def answer(self, agent: str, prompt: Sequence[int]) -> list[int]:
        """Greedy tokens, with the memory in use, and what the turn leaves in it."""
        lease = self.memory.admit(agent, prompt, max_new_tokens=ANSWER_TOKENS)
        with lease:
            caches = lease.materialise() or fresh_caches(self.model)
            start = lease.cached_tokens
            self.restored += start > 0
            for stop in lease.stops:
                feed(self.model, prompt[start:stop], caches, self.step)
                lease.checkpoint(prompt[:stop], caches)
                start = stop
            logits = feed(self.model, prompt[start:], caches, self.step)
            tokens = greedy(self.model, logits, caches, ANSWER_TOKENS)
            report = lease.commit([*prompt, *tokens], caches)
            assert report.reason in ("published", "already_cached", "budget", "declined")
        self.pool.check()
        return tokens

    def stock_answer(self, prompt: Sequence[int]) -> list[int]:
        """The same from mlx-lm alone."""
        caches = fresh_caches(self.model)
        logits = feed(self.model, prompt, caches, self.step)
        return greedy(self.model, logits, caches, ANSWER_TOKENS)


def cases() -> Iterator[Any]:
    for name, kind in MODELS.items():
        yield pytest.param(name, "lru", id=f"{kind}, lru")
        marks = () if kind == "global" else pytest.mark.slow
        yield pytest.param(name, "resident", id=f"{kind}, resident", marks=marks)


@pytest.mark.parametrize(("name", "order"), cases())
def test_every_token_is_the_same_with_branches_and_evictions(name: str, order: str) -> None:
    rng = random.Random(f"{name} {order}")
    server = Server(name, order)
    conversations = {"a0": list(SYSTEM)}
    for turn in range(14):
        agent = f"a{rng.randrange(4)}"
        if agent not in conversations:
            # It starts from what another one said, up to some token in the middle.
            other = conversations[rng.choice(sorted(conversations))]
            conversations[agent] = other[: rng.randrange(200, len(other) + 1)]
        conversation = conversations[agent]
        conversation += random_tokens(rng.choice([1, 30, 140]), seed=100 + turn)
        tokens = server.answer(agent, conversation)
        assert tokens == server.stock_answer(conversation)
        conversation += tokens
        if len(conversation) > 650:
            server.memory.hint(agent, "ended")
            conversations[agent] = list(SYSTEM)
    stats = server.memory.stats()
    assert server.restored >= 4
    assert stats["evicted_blocks"]
    assert not stats["failures"]
