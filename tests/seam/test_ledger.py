"""What the ledger says is what MLX has: through whole conversations, at rest and while they run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache

from semantic import BlockPool, CacheManager, CheckpointPolicy, MemoryStore, Namespace
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.tiny_models import tiny_model
from tests.conftest import feed, fresh_caches, greedy, random_tokens, require

MODELS = ["llama", "gemma3_text", "qwen3_next", "deepseek_v3", "llama4", "gpt_oss"]
SLACK_BYTES = 1 << 14
"""A state may be a view: `mx.contiguous` lets one share a buffer that is so much larger."""
SYSTEM = random_tokens(300, seed=1)


@pytest.fixture(scope="module", autouse=True)
def runnable() -> Iterator[None]:
    # A buffer that MLX reuses may be larger than what was asked for, up to twice: the smaller the
    # tensors, the more that is. Without its pool every byte is one that somebody asked for.
    limit = mx.set_cache_limit(0)
    with cpu_stand_ins():
        yield
    mx.set_cache_limit(limit)


def active() -> int:
    gc.collect()
    mx.synchronize()
    return mx.get_active_memory()


def n_arrays(memory: CacheManager) -> int:
    return sum(len(data) for data in memory.pool.contents.values())


@pytest.mark.parametrize(
    ("name", "budget_blocks"),
    [(name, 400) for name in MODELS]
    + [("llama", 12), ("qwen3_next", 12)]
    + [
        pytest.param(name, 12, marks=pytest.mark.slow)
        for name in MODELS[1:]
        if name != "qwen3_next"
    ],
)
def test_the_ledger_agrees_with_mlx(name: str, budget_blocks: int) -> None:
    require(name)
    step = recipe_of(name).longest_call_tokens or 2048
    agree_through_conversations(architecture_model(name), step, budget_blocks)


MID_SIZE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-6,
    "vocab_size": 1000,
}
"""24 KiB a token: a block is 6 MiB, a conversation takes tens of megabytes."""


def test_the_ledger_agrees_with_mlx_at_a_mid_size() -> None:
    agree_through_conversations(tiny_model(MID_SIZE), 256, 30)


def agree_through_conversations(model: Any, step: int, budget_blocks: int) -> None:
    """Three agents, four turns each: the ledger is MLX's active memory, byte for byte."""
    spec = probe(model)
    largest = max(spec.bytes_per_block(group.name) for group in spec.groups)
    need = spec.live_peak_bytes(1200, step) + 12 * sum(
        spec.bytes_per_block(group.name) for group in spec.groups
    )
    pool = BlockPool(spec, total_memory=max(need, budget_blocks * largest))
    memory = CacheManager(spec, pool, checkpoints=CheckpointPolicy(least_tokens=16))
    talks = {agent: [*SYSTEM] for agent in ("a", "b", "c")}
    greedy(model, feed(model, SYSTEM[:40], caches := fresh_caches(model), step), caches, 1)
    del caches
    base = active()
    for turn in range(4):
        for number, (agent, talk) in enumerate(talks.items()):
            talk += random_tokens(50 + 30 * number, seed=10 * turn + number)
            with memory.admit(agent, talk, max_new_tokens=4, prefill_step=step) as lease:
                caches = lease.materialise() or fresh_caches(model)
                start = lease.cached_tokens
                for stop in lease.stops:
                    feed(model, talk[start:stop], caches, step)
                    lease.checkpoint(talk[:stop], caches)
                    start = stop
                logits = feed(model, talk[start:], caches, step)
                talk += greedy(model, logits, caches, 4)
                del logits
                lease.commit(talk, caches)
                mx.eval([entry.state for entry in caches if not entry.empty()])
                snapshot = pool.snapshot()
                running = active() - base - snapshot.cached - snapshot.held
                slack = SLACK_BYTES * sum(isinstance(c, ArraysCache) for c in caches)
                assert sum(cache.nbytes for cache in caches) <= lease.live_bytes
                assert 0 <= running - sum(cache.nbytes for cache in caches) <= slack
                del caches
            snapshot = pool.snapshot()
            assert snapshot.live == snapshot.staging == snapshot.held == 0
            assert active() - base == snapshot.cached, (turn, agent)
            assert sum(g.cached_blocks for g in snapshot.groups) == len(pool.contents)
            assert n_arrays(memory) == snapshot.arrays_used
    memory.clear()
    assert not pool.contents
    assert active() == base
    pool.check()


def test_what_a_store_holds_in_memory_is_counted_by_it() -> None:
    model: Any = architecture_model("llama")
    spec = probe(model)
    store = MemoryStore(1 << 26)
    memory = CacheManager(
        spec, BlockPool(spec, total_memory=1 << 26), store=store, namespace=Namespace("m")
    )
    with memory.admit("a", SYSTEM) as lease:
        caches = fresh_caches(model)
        feed(model, SYSTEM, caches)
        lease.commit(SYSTEM, caches)
    assert memory.flush(30)
    assert store.stats()["bytes"] == memory.pool.snapshot().cached
    memory.close(10)
