"""Cache classes that no tiny configuration brings by itself, and the drop-in over all kinds."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ConcatenateKVCache, KVCache, make_prompt_cache

from semantic import CacheManager
from semantic.adapters.mlx.layout import plain_entries
from semantic.domain.errors import IncompatibleCacheError, UnsupportedCacheError
from semantic.domain.services import BlockPool
from semantic.mlx import MlxMaterialiser, probe, spec_of_caches
from semantic.mlx_lm import PromptCache
from semantic.testing.architectures import architecture_model
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import distance, feed, fresh_caches, greedy, random_tokens, require

TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def runnable():
    with cpu_stand_ins():
        yield


def model_named(name):
    require(name)
    return architecture_model(name)


def turn_over(spec, tokens, caches):
    """Commit `caches` and restore them for a longer prompt."""
    manager = CacheManager(spec, BlockPool(spec, total_memory=1 << 30))
    with manager.admit("a", tokens) as lease:
        report = lease.commit(tokens, caches)
        assert report.published_tokens == len(tokens), report
    with manager.admit("b", [*tokens, 1]) as lease:
        assert lease.cached_tokens == len(tokens)
        return lease.materialise()


def empty_caches(kind, model):
    if kind == "kept_front":
        return make_prompt_cache(model, max_kv_size=40)
    return [ConcatenateKVCache() for _ in model.layers]


@pytest.mark.parametrize("kind", ["kept_front", "concatenated"])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 38, 39, 40, 41, 44, 90, 256, 300, 513])
def test_a_ring_with_a_kept_front_and_a_cache_without_slack(kind, n):
    model = model_named("qwen3")  # has no make_cache of its own
    tokens = random_tokens(n + 9)
    caches = empty_caches(kind, model)
    feed(model, tokens[:n], caches)
    spec = spec_of_caches(caches)
    (group,) = spec.groups
    assert (group.keep, group.growth) == ((4, "steps") if kind == "kept_front" else (0, "exact"))
    restored = turn_over(spec, tokens[:n], caches)
    assert [type(c) for c in restored] == [type(c) for c in caches]
    assert sum(c.nbytes for c in restored) == spec.live_bytes(n) == sum(c.nbytes for c in caches)
    for step in (1, 8):  # the second goes on from the first's caches
        logits = feed(model, tokens[n : n + step], restored)
        assert distance(logits, feed(model, tokens[n : n + step], caches)) < TOLERANCE
    assert greedy(model, logits, restored, 64) == greedy(model, logits, caches, 64)


def test_a_kept_front_is_needed_and_a_foreign_one_shows():
    """The front must be the prompt's own: rows of another do not do."""
    model = model_named("qwen3")
    tokens, other = random_tokens(90), random_tokens(90, seed=5)
    caches, foreign = (make_prompt_cache(model, max_kv_size=40) for _ in range(2))
    feed(model, tokens, caches)
    feed(model, other, foreign)
    wrong = turn_over(spec_of_caches(caches), tokens, caches)
    for cache, source in zip(wrong, foreign, strict=True):
        cache.keys[:, :, :4] = source.keys[:, :, :4]
        cache.values[:, :, :4] = source.values[:, :, :4]
    assert distance(feed(model, [3], wrong), feed(model, [3], caches)) > 10 * TOLERANCE


HYBRIDS = ("baichuan_m1", "deepseek_v41", "falcon_h1", "llama4", "longcat_flash_ngram", "mamba2")


@pytest.mark.parametrize("name", HYBRIDS)
def test_the_drop_in_keeps_every_kind_of_cache(name):
    model = model_named(name)
    cache = PromptCache()
    tokens = random_tokens(400)
    for n in (300, 2, 301, 64):
        caches = fresh_caches(model)
        feed(model, tokens[:n], caches)
        cache.insert_cache("model", tokens[:n], caches)
        found, rest = cache.fetch_nearest_cache("model", tokens[: n + 3])
        assert len(rest) == 3, cache.stats()
        expected = fresh_caches(model)
        feed(model, tokens[:n], expected)
        logits = feed(model, rest, found)
        assert distance(logits, feed(model, rest, expected)) < TOLERANCE
    assert not cache.stats()["failures"]


def test_a_compressed_cache_too_short_to_be_known_is_a_counted_miss():
    model = model_named("deepseek_v41")
    caches = fresh_caches(model)
    feed(model, [1, 2], caches)
    cache = PromptCache()
    cache.insert_cache("model", [1, 2], caches)
    assert cache.stats()["failures"] == {"incompatible": 1}
    declared = PromptCache(spec_of=lambda key: probe(model))
    declared.insert_cache("model", [1, 2], caches)
    assert not declared.stats()["failures"]
    assert declared.fetch_nearest_cache("model", [1, 2, 3])[1] == [3]


def test_a_state_is_hit_at_its_checkpoints_only():
    model = model_named("mamba2")
    tokens = random_tokens(700)
    cache = PromptCache()
    for n in (256, 600):
        caches = fresh_caches(model)
        feed(model, tokens[:n], caches)
        cache.insert_cache("model", tokens[:n], caches)
    hits = {n: n - len(cache.fetch_nearest_cache("model", tokens[:n])[1]) for n in (256, 257, 700)}
    assert hits == {256: 0, 257: 256, 700: 600}
    assert 599 - len(cache.fetch_nearest_cache("model", tokens[:599])[1]) == 256


class OddCache(KVCache):
    """A subclass may keep its rows anywhere: it is a stranger."""


def test_strangers_are_refused_wherever_they_are():
    from mlx_lm.models.cache import CacheList

    for caches in ([OddCache()], [CacheList(KVCache(), OddCache())]):
        with pytest.raises(UnsupportedCacheError, match="OddCache is not supported"):
            spec_of_caches(caches)


def test_caches_of_another_structure_are_refused():
    models = [model_named(name) for name in ("deepseek_v32", "llama", "falcon_h1")]
    lists = []
    for model in models:
        caches = fresh_caches(model)
        feed(model, random_tokens(20), caches)
        lists.append(caches)
    for model, own in zip(models, lists, strict=True):
        spec = probe(model)
        for caches in (*lists, fresh_caches(model), own[:-1]):
            if caches is not own:
                with pytest.raises(IncompatibleCacheError):
                    MlxMaterialiser().open(spec, caches, 20)


def test_layers_that_disagree_on_their_length_are_refused_beside_a_state():
    model = model_named("jamba")
    caches = fresh_caches(model)
    feed(model, random_tokens(20), caches)
    next(c for c in caches if isinstance(c, KVCache)).offset -= 1
    spec = probe(model)
    with pytest.raises(IncompatibleCacheError):
        MlxMaterialiser().open(spec, caches, 20)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba2", "llama4"])
def test_plain_lists_need_no_entries(name):
    spec = probe(model_named(name))
    assert spec.entries == ()
    assert [leaf for entry in plain_entries(spec) for leaf in entry.leaves] == [
        *range(spec.n_layers)
    ]


@pytest.mark.parametrize("name", ["mamba2", "deepseek_v41"])
def test_blocks_have_memory_of_their_own(name):
    """A restored cache's writes, and the capture's source, leave the stored blocks alone."""
    model = model_named(name)
    tokens = random_tokens(300)
    caches = fresh_caches(model)
    feed(model, tokens, caches)
    spec = probe(model)
    live = MlxMaterialiser().open(spec, caches, 300)
    blocks = [
        (live.capture(g.name, [(max(lo, (hi - 1) // 256 * 256), hi)])[0], g)
        for g in spec.groups
        for lo, hi in g.spans_needed(300)[-1:]
    ]
    before = [{k: mx.array(v) for k, v in block.items()} for block, _ in blocks]
    mx.eval(before)
    feed(model, random_tokens(40, seed=3), caches)
    for (block, group), copy in zip(blocks, before, strict=True):
        assert all(mx.array_equal(block[k], copy[k]) for k in copy), group.name
        assert sum(v.nbytes for v in block.values()) == group.bytes_per_block
