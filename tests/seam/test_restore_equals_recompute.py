"""Restored caches continue as if every token had just been computed.

Tolerance 1e-4 of the logits' scale: the same tokens in other chunks agree to about 1e-6, one wrong
token shows 1e-2 and more (`test_the_comparison_can_fail`).
"""

from __future__ import annotations

import gc

import pytest

from semantic.domain.services import BlockPool
from semantic.mlx import MlxMaterialiser, probe
from tests.conftest import distance, feed, fresh_caches, greedy, random_tokens

TOLERANCE = 1e-4
LENGTHS = (1, 2, 39, 40, 41, 42, 255, 256, 257, 299, 300, 301, 511, 512, 513, 600, 769)
MODELS = [
    ("gemma3_text", {}),
    ("gemma3_text", {"sliding_window": 256}),
    # The offsets around a block boundary below have this window, too.
    pytest.param("gemma3_text", {"sliding_window": 300}, marks=pytest.mark.slow),
    pytest.param("gemma3_text", {"sliding_window": 512}, marks=pytest.mark.slow),
    ("gpt_oss", {}),
    ("llama", {}),
    ("llama_sliding", {}),
    ("qwen2", {}),
    ("qwen3", {}),
]


def restored(manager, tokens, n):
    lease = manager.admit("b", tokens)
    assert lease.cached_tokens == n
    caches = lease.materialise()
    lease.release()
    return caches


@pytest.fixture
def manager_of(model_of):
    from semantic import CacheManager

    def make(name, changes):
        model = model_of(name, **changes)
        spec = probe(model)
        return model, CacheManager(spec, BlockPool(spec, total_memory=1 << 30))

    return make


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_restored_equals_recomputed_at_every_kind_of_length(manager_of, name, changes):
    model, manager = manager_of(name, changes)
    tokens = random_tokens(max(LENGTHS) + 8)
    for n in LENGTHS:
        manager.clear()
        caches = fresh_caches(model)
        feed(model, tokens[:n], caches)
        with manager.admit("a", tokens[:n]) as lease:
            assert lease.commit(tokens[:n], caches).published_tokens == n
        for tail in (1, 8):
            after = tokens[: n + tail]
            caches = restored(manager, after, n)
            assert sum(c.nbytes for c in caches) == manager.spec.live_bytes(n)
            logits = feed(model, after[n:], caches)
            fresh = fresh_caches(model)
            expected = feed(model, after, fresh)
            assert distance(logits, expected) < TOLERANCE
        # The longer tail's caches go on for a while, past the ends of ring and block.
        assert greedy(model, logits, caches, 32) == greedy(model, expected, fresh, 32)


@pytest.mark.parametrize(
    ("name", "changes"), [("gemma3_text", {"sliding_window": 300}), ("llama", {})]
)
@pytest.mark.parametrize("step", [64, 256, 300])
def test_every_offset_around_a_block_boundary(manager_of, name, changes, step):
    model, manager = manager_of(name, changes)
    tokens = random_tokens(520)
    for n in range(508, 517):
        caches = fresh_caches(model)
        feed(model, tokens[:n], caches, step=step)
        with manager.admit("a", tokens[:n]) as lease:
            lease.commit(tokens[:n], caches)
        caches = restored(manager, tokens[: n + 2], n)
        logits = feed(model, tokens[n : n + 2], caches)
        assert distance(logits, feed(model, tokens[: n + 2], fresh_caches(model))) < TOLERANCE


def test_a_checkpoint_after_a_prefill_call_is_captured_from_the_overshot_ring(manager_of):
    model, manager = manager_of("gemma3_text", {"sliding_window": 300})
    import mlx.core as mx

    tokens = random_tokens(900)
    caches = fresh_caches(model)
    for at in range(0, 800, 200):
        model(mx.array([tokens[at : at + 200]]), cache=caches)
    with manager.admit("a", tokens) as lease:
        assert lease.checkpoint(tokens[:800], caches).published_tokens == 800
    caches = restored(manager, tokens, 800)
    logits = feed(model, tokens[800:], caches)
    assert distance(logits, feed(model, tokens, fresh_caches(model))) < TOLERANCE


def test_a_second_restore_and_a_branch_see_the_stored_blocks_unchanged(manager_of):
    model, manager = manager_of("gemma3_text", {})
    tokens = random_tokens(700)
    caches = fresh_caches(model)
    feed(model, tokens[:600], caches)
    with manager.admit("a", tokens[:600]) as lease:
        lease.commit(tokens[:600], caches)
    expected = feed(model, tokens, fresh_caches(model))
    branch = tokens[:600] + random_tokens(300, seed=9)
    feed(model, branch[600:], restored(manager, branch, 600))  # writes over its own copy
    for _ in range(2):
        logits = feed(model, tokens[600:], restored(manager, tokens, 600))
        assert distance(logits, expected) < TOLERANCE


def test_the_comparison_can_fail(manager_of):
    """A stale, a shifted and a foreign cache are far outside the tolerance."""
    model, _ = manager_of("gemma3_text", {})
    tokens, foreign = random_tokens(400), random_tokens(400, seed=5)
    expected = feed(model, tokens, fresh_caches(model))
    wrong_token = [*tokens[:380], (tokens[380] + 1) % 128, *tokens[381:]]
    shifted = tokens[1:391] + tokens[390:]
    for other in (foreign[:390] + tokens[390:], wrong_token, shifted):
        assert distance(feed(model, other, fresh_caches(model)), expected) > 10 * TOLERANCE


def test_stored_blocks_do_not_keep_the_live_buffers_alive(manager_of):
    """A view would keep its whole parent: the arrays of a block are its own."""
    import mlx.core as mx

    model, manager = manager_of("llama", {"num_hidden_layers": 1})
    tokens = random_tokens(2050)
    caches = fresh_caches(model)
    feed(model, tokens[:2049], caches)
    live = sum(c.nbytes for c in caches)
    with manager.admit("a", tokens[:2049]) as lease:
        lease.commit(tokens[:2049], caches)
    held = manager.pool.snapshot().cached
    gc.collect()  # what earlier tests left behind
    before = mx.get_active_memory()
    del caches
    assert before - mx.get_active_memory() >= live
    assert held == manager.spec.cached_bytes(2049)


def test_extracted_rows_of_a_batch_are_restored_too(manager_of):
    """What BatchGenerator hands out is captured like a single sequence."""
    from mlx_lm.generate import BatchGenerator

    model, manager = manager_of("gemma3_text", {})
    prompts = [random_tokens(n, seed=n) for n in (30, 300, 555)]
    generator = BatchGenerator(model, max_tokens=5)
    generator.insert(prompts)
    finished = {}
    while len(finished) < len(prompts):
        for response in generator.next_generated():
            if response.finish_reason is not None:
                finished[response.uid] = response
    for response in finished.values():
        tokens = list(response.all_tokens)
        with manager.admit("a", tokens) as lease:
            assert lease.commit(tokens, response.prompt_cache).published_tokens == len(tokens)
        after = [*tokens, 3, 5]
        logits = feed(model, after[len(tokens) :], restored(manager, after, len(tokens)))
        assert distance(logits, feed(model, after, fresh_caches(model))) < TOLERANCE


def test_the_materialiser_extracts_a_row(model_of):
    from mlx_lm.models.cache import BatchKVCache, KVCache

    model = model_of("llama")
    singles = []
    for n in (10, 20):
        caches = fresh_caches(model)
        feed(model, random_tokens(n, seed=n), caches)
        singles.append(caches)
    batch = [BatchKVCache.merge([a, b]) for a, b in zip(*singles, strict=True)]
    row = MlxMaterialiser().extract(batch, 0)
    assert all(isinstance(cache, KVCache) and cache.offset == 10 for cache in row)
