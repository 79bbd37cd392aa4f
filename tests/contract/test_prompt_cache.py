"""The drop-in: LRUPromptCache's surface, other promises."""

from __future__ import annotations

import inspect
import random

import pytest
from mlx_lm.models.cache import ArraysCache, LRUPromptCache

from semantic import DiskStore, MemoryBudget, Namespace
from semantic.adapters.mlx_lm.request_queue import NOT_COPIED
from semantic.adapters.store.listing import Listing
from semantic.application.sealed_blocks import SealedBlocks
from semantic.mlx import probe
from semantic.mlx_lm import PromptCache
from tests.conftest import distance, feed, fresh_caches, greedy, random_tokens

TOKENS = random_tokens(900)
KEY = ("model", None, None)


def filled(model, tokens):
    caches = fresh_caches(model)
    feed(model, tokens, caches)
    return caches


def remember(cache, model, tokens, key=KEY, kind="assistant"):
    cache.insert_cache(key, tokens, filled(model, tokens), cache_type=kind)


def cached(cache, tokens, key=KEY):
    return len(tokens) - len(cache.fetch_nearest_cache(key, tokens)[1])


@pytest.fixture
def llama(model_of):
    return model_of("llama")


@pytest.fixture
def gemma(model_of):
    return model_of("gemma3_text", sliding_window=300)


def test_the_surface_is_that_of_the_stock_cache():
    """Every public name, with every parameter of the same name, kind and default; ours may add."""
    stock = {n: m for n, m in vars(LRUPromptCache).items() if not n.startswith("_")}
    methods = {n: m for n, m in stock.items() if inspect.isfunction(m)} | {
        "__init__": LRUPromptCache.__init__,
        "__len__": LRUPromptCache.__len__,
    }
    for name, method in methods.items():
        ours = inspect.signature(getattr(PromptCache, name)).parameters
        for parameter in inspect.signature(method).parameters.values():
            assert ours[parameter.name].kind == parameter.kind, (name, parameter)
            assert ours[parameter.name].default == parameter.default, (name, parameter)
    assert isinstance(PromptCache.nbytes, property)
    assert set(PromptCache().stats_by_type()) == set(LRUPromptCache().stats_by_type())
    assert all(hasattr(PromptCache(), name) for name in ("max_size", "max_bytes"))


def test_a_miss_returns_all_tokens(llama):
    cache = PromptCache()
    assert cache.fetch_nearest_cache(KEY, TOKENS) == (None, TOKENS)
    assert cache.fetch_nearest_cache(KEY, []) == (None, [])
    remember(cache, llama, TOKENS)
    for tokens in ([], TOKENS[:1], [-5, 6]):
        assert cache.fetch_nearest_cache(KEY, tokens) == (None, tokens)
    assert cache.fetch_nearest_cache("other", TOKENS) == (None, TOKENS)


def test_an_exact_hit_leaves_one_token(llama, gemma):
    """Stock returns [] here, and a generation thread that gets no token to compute dies."""
    cache = PromptCache()
    remember(cache, llama, TOKENS)
    assert cached(cache, TOKENS) == 899
    remember(cache, gemma, TOKENS[:200], key="g")
    assert cached(cache, TOKENS[:200], key="g") == 199


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_conversations_continue_as_if_recomputed(request, name):
    """Random turns of agents who share a prompt, under a budget that evicts now and then."""
    model = request.getfixturevalue(name)
    spec = probe(model)
    rng = random.Random(3)
    system = TOKENS[:500]
    limit = 2 * spec.cached_bytes(900)
    cache = PromptCache(max_size=1000, max_bytes=limit)
    conversations = {agent: list(system) for agent in range(4)}
    hits = 0
    for _ in range(24):
        agent = rng.randrange(4)
        tokens = conversations[agent]
        tokens += random_tokens(rng.choice([1, 40, 130]), seed=rng.randrange(10**6))
        caches, rest = cache.fetch_nearest_cache(KEY, tokens)
        assert rest
        hits += len(tokens) - len(rest)
        if caches is None:
            caches = fresh_caches(model)
            feed(model, system, caches)
            cache.insert_cache(KEY, system, caches, cache_type="system")
            rest = tokens[500:]
        logits = feed(model, rest, caches, step=256)
        fresh = fresh_caches(model)
        expected = feed(model, tokens, fresh)
        assert distance(logits, expected) < 1e-4
        answer = greedy(model, logits, caches, 8)
        assert answer == greedy(model, expected, fresh, 8)
        tokens += answer
        cache.insert_cache(KEY, tokens, caches)
        assert cache.nbytes <= limit
        if len(tokens) > 850:
            conversations[agent] = list(system)
    assert hits > 24 * 300
    assert set(cache.stats()["failures"]) <= {"budget"}
    assert cache.stats()["failures"].get("budget", 0) <= 4


def test_agents_share_a_system_prompt_that_ends_inside_a_block(gemma):
    cache = PromptCache()
    system = TOKENS[:420]
    remember(cache, gemma, system, kind="system")
    before = cache.nbytes
    for seed in range(3):
        prompt = system + random_tokens(30, seed=seed)
        assert cached(cache, prompt) == 420
        remember(cache, gemma, prompt)
    assert cached(cache, [*system, -1]) == 420
    assert cache.nbytes < before + 3 * probe(gemma).cached_bytes(450)


def test_the_budget_holds_at_every_insert(llama):
    block = probe(llama).bytes_per_block("global")
    for blocks in (0, 1, 3, 5):
        cache = PromptCache(max_bytes=blocks * block + 1)
        for seed in range(5):
            remember(cache, llama, random_tokens(600, seed=seed))
            assert cache.nbytes <= blocks * block
        assert cache.nbytes == min(blocks, 5) * block
    # The tail goes before the head: what is left is a prefix.
    assert cached(cache, random_tokens(600, seed=4)) == 599
    assert cached(cache, random_tokens(600, seed=3)) == 512


def test_sequences_are_limited_too(llama):
    cache = PromptCache(max_size=2)
    for seed in range(4):
        remember(cache, llama, random_tokens(100, seed=seed))
        assert len(cache) <= 2
    assert cached(cache, random_tokens(100, seed=3)) == 99
    assert cached(cache, random_tokens(100, seed=0)) == 0


def test_trim_to(llama):
    cache = PromptCache()
    for seed in range(4):
        remember(cache, llama, random_tokens(600, seed=seed), kind=("user", "system")[seed % 2])
    block = probe(llama).bytes_per_block("global")
    assert (len(cache), cache.nbytes) == (4, 12 * block)
    assert cache.stats_by_type() == {
        "assistant": {"n_sequences": 0, "n_bytes": 0},
        "user": {"n_sequences": 2, "n_bytes": 6 * block},
        "system": {"n_sequences": 2, "n_bytes": 6 * block},
    }
    cache.trim_to(n_sequences=3)
    assert (len(cache), cache.nbytes) == (3, 9 * block)
    assert cached(cache, random_tokens(600, seed=0)) == 0
    cache.trim_to(n_bytes=4 * block)
    assert cache.nbytes == 4 * block
    cache.trim_to(n_bytes=-5)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_a_hit_counts_as_use(llama):
    block = probe(llama).bytes_per_block("global")
    cache = PromptCache(max_bytes=4 * block)
    first, second, third = (random_tokens(512, seed=s) for s in range(3))
    remember(cache, llama, first)
    remember(cache, llama, second)
    cached(cache, [*first, 1])
    remember(cache, llama, third)
    assert cached(cache, [*first, 1]) == 512
    assert cached(cache, [*second, 1]) == 0


def test_what_was_fetched_belongs_to_the_caller(llama):
    cache = PromptCache()
    remember(cache, llama, TOKENS[:300])
    expected = feed(llama, TOKENS[:310], fresh_caches(llama))
    for _ in range(3):
        caches, rest = cache.fetch_nearest_cache(KEY, TOKENS[:310])
        assert distance(feed(llama, rest, caches), expected) < 1e-4


def test_models_evict_each_other_under_one_budget(llama, gemma):
    both = MemoryBudget(probe(gemma).cached_bytes(600) + 1)
    cache = PromptCache(budget=both)
    remember(cache, llama, TOKENS[:600], key="llama")
    for seed in range(4):
        remember(cache, gemma, random_tokens(600, seed=seed), key="gemma")
        assert cache.nbytes <= both.total
    assert cached(cache, [*random_tokens(600, seed=3), 1], key="gemma") == 600
    assert cached(cache, [*TOKENS[:600], 1], key="llama") == 0
    assert cache.stats()["bytes"]["total"] == both.total


def test_layouts_under_one_key_never_mix(llama, gemma):
    """A list of target and draft caches is its own namespace."""
    cache = PromptCache()
    remember(cache, llama, TOKENS[:300])
    both = filled(llama, TOKENS[:500]) + filled(gemma, TOKENS[:500])
    cache.insert_cache(KEY, TOKENS[:500], both)
    caches, rest = cache.fetch_nearest_cache(KEY, TOKENS)
    assert (len(caches), len(rest)) == (len(both), 400)
    assert len(cache) == 2


def test_declared_geometry_is_used(llama):
    asked = []
    cache = PromptCache(spec_of=lambda key: asked.append(key) or probe(llama))
    remember(cache, llama, TOKENS[:300])
    assert cached(cache, TOKENS) == 300
    assert asked == [KEY]


def test_negative_ids_are_kept_apart(llama):
    cache = PromptCache()
    remember(cache, llama, TOKENS[:100])
    caches = filled(llama, TOKENS[:100])
    image = [-1 - (1 << 59), *TOKENS[1:100]]
    assert cached(cache, image) == 0
    cache.insert_cache(KEY, image, caches)
    assert cached(cache, [*image, 3]) == 100
    assert cached(cache, [image[0] + (1 << 32), *image[1:]]) == 0


def test_longer_token_lists_than_caches_publish_what_is_there(llama):
    cache = PromptCache()
    cache.insert_cache(KEY, TOKENS[:101], filled(llama, TOKENS[:100]))
    assert cached(cache, TOKENS) == 100


@pytest.mark.parametrize(
    ("caches", "reason"),
    [
        ([], "incompatible"),
        ([ArraysCache(2)], "incompatible"),
        ([object()], "unsupported"),
        (None, "incompatible"),
    ],
)
def test_what_cannot_be_kept_is_a_counted_miss(caches, reason):
    seen = []
    cache = PromptCache(on_failure=lambda *failure: seen.append(failure[0]))
    cache.insert_cache(KEY, TOKENS, caches)
    assert cache.fetch_nearest_cache(KEY, TOKENS) == (None, TOKENS)
    assert cache.stats()["failures"] == {reason: 1}
    assert seen == [reason]


def test_nothing_is_raised_into_a_generation_thread(llama, monkeypatch):
    from semantic.adapters.mlx.capture import MlxLiveCaches
    from semantic.mlx import MlxMaterialiser

    def fail(*_, **__):
        raise RuntimeError("device lost")

    cache = PromptCache(on_failure=fail)
    remember(cache, llama, TOKENS[:300])
    monkeypatch.setattr(MlxMaterialiser, "restore", fail)
    assert cache.fetch_nearest_cache(KEY, TOKENS) == (None, TOKENS)
    monkeypatch.setattr(MlxLiveCaches, "capture", fail)
    remember(cache, llama, random_tokens(300, seed=5))
    assert cache.fetch_nearest_cache(KEY, ["x", None]) == (None, ["x", None])
    cache.insert_cache(KEY, ["x"], filled(llama, TOKENS[:1]))
    cache.insert_cache(KEY, [1 << 70], filled(llama, TOKENS[:1]))
    assert sum(cache.stats()["failures"].values()) == 5
    assert cache.stats()["bytes"]["held"] == 0


def stored_cache(path, llama, **options):
    """A cache as after a restart: it knows the geometry, and nothing else but its store."""
    store = DiskStore(path, free_floor_bytes=0)
    return PromptCache(store=store, spec_of=lambda key: probe(llama), **options)


def test_what_is_stored_is_found_by_the_next_cache(llama, tmp_path):
    options = {"namespace_of": lambda key, spec: Namespace(str(key))}
    cache = stored_cache(tmp_path, llama, **options)
    remember(cache, llama, TOKENS)
    assert cache.writer.close(60)
    assert cache.stats()["store"]["blocks"] == 4
    cache = stored_cache(tmp_path, llama, **options)
    restored, rest = cache.fetch_nearest_cache(KEY, [*TOKENS, 7])
    assert rest == [7]
    expected = feed(llama, [7], filled(llama, TOKENS))
    assert distance(feed(llama, rest, restored), expected) <= 1e-4
    assert cached(cache, TOKENS, key=("other", None, None)) == 0
    assert cache.stats()["store"]["loaded_tokens"] == len(TOKENS)
    assert cache.stats()["failures"] == {}


def test_a_key_that_names_no_model_is_kept_in_memory_only(llama, tmp_path):
    cache = stored_cache(tmp_path, llama)
    remember(cache, llama, TOKENS)
    assert cached(cache, TOKENS) == len(TOKENS) - 1
    assert cache.writer.close(60)
    assert cache.stats()["store"]["blocks"] == 0
    assert set(cache.stats()["failures"]) == {"store_namespace"}


def test_what_cannot_be_read_and_is_said_to_be_there_is_tried_once(llama, tmp_path, monkeypatch):
    options = {"namespace_of": lambda key, spec: Namespace(str(key))}
    cache = stored_cache(tmp_path, llama, **options)
    remember(cache, llama, TOKENS)
    assert cache.writer.close(60)
    cache = stored_cache(tmp_path, llama, **options)
    read = []
    monkeypatch.setattr(DiskStore, "_read", lambda self, file, *_: bool(read.append(file)))
    assert cached(cache, TOKENS) == 0
    assert 0 < len(read) == len(set(read)), "some more may be asked for before one fails"
    assert cache.stats()["failures"] == {"store_gone": 1}


def test_who_hits_within_anothers_block_does_not_keep_it(llama, tmp_path):
    """Privacy: what one agent alone has said goes with that agent, whoever begins alike."""
    options = {"namespace_of": lambda key, spec: Namespace(str(key))}
    cache = stored_cache(tmp_path, llama, **options)
    cache.agent_of = lambda caches: "a"
    remember(cache, llama, TOKENS)
    assert cache.writer.close(60)
    cache = stored_cache(tmp_path, llama, **options)
    cache.agent_of = lambda caches: "b"
    branch = [*TOKENS[:600], *random_tokens(300, seed=2)]
    assert cached(cache, branch) == 600
    remember(cache, llama, branch)
    assert cache.writer.close(60)
    store = DiskStore(tmp_path, free_floor_bytes=0)
    users = {row.lo: [] for row in Listing(store.catalogue, store.veil).blocks()}
    for row in Listing(store.catalogue, store.veil).blocks():
        users[row.lo].append(row.agents)
    shared, alone = ("a", "b"), [("a",), ("b",)]
    assert {lo: sorted(agents) for lo, agents in users.items()} == {
        0: [shared],
        256: [shared],
        512: alone,
        768: alone,
    }
    store.close()


def test_what_agents_store_is_theirs_and_shared_all_the_same(llama, tmp_path):
    options = {"namespace_of": lambda key, spec: Namespace(str(key))}
    cache = stored_cache(tmp_path, llama, **options)
    said = {"who": "a"}
    cache.agent_of = lambda caches: said["who"]
    remember(cache, llama, TOKENS)
    said["who"] = "b"
    branch = [*TOKENS[:600], *random_tokens(300, seed=2)]
    assert cached(cache, branch) == 600
    remember(cache, llama, branch)
    assert cache.writer.close(60)
    (member,) = cache._each_member()
    assert {end.agents for end in member.sealed.sequences()} == {frozenset("a"), frozenset("b")}
    assert member.tier.forget("a") == 2  # the third block, where they part, and the last one
    cache = stored_cache(tmp_path, llama, **options)
    assert cached(cache, [*branch, 7]) == len(branch)
    assert cached(cache, TOKENS) == 600


def test_an_agent_that_stays_away_may_be_let_go_whatever_its_turns_came_to(llama, monkeypatch):
    left = []
    depart, release = SealedBlocks.depart, SealedBlocks.release
    monkeypatch.setattr(
        SealedBlocks, "depart", lambda self, who: left.append(who) or depart(self, who)
    )
    monkeypatch.setattr(
        SealedBlocks,
        "release",
        lambda self, hold, who: left.append(who) or release(self, hold, who),
    )
    cache = PromptCache()
    cache.agent_of = lambda caches: "asks" if caches is None else "publishes"
    remember(cache, llama, TOKENS)
    assert left == ["publishes"]
    assert cached(cache, TOKENS) == 899
    assert left == ["publishes", "asks"]


def test_whose_a_request_is_may_be_unknown_without_harm(llama):
    cache = PromptCache()
    remember(cache, llama, TOKENS)
    cache.agent_of = lambda caches: 1 / 0
    remember(cache, llama, TOKENS[::-1])
    assert cached(cache, TOKENS) == 0
    assert cache.stats()["failures"] == {"failed": 2}


def test_b30_a_store_that_refuses_is_a_cache_without_one(llama, tmp_path):
    cache = stored_cache(tmp_path, llama, namespace_of=lambda key, spec: Namespace("x"))
    for part in ("tmp", "blocks"):
        (tmp_path / part).rmdir()
        (tmp_path / part).write_text("no folder")
    remember(cache, llama, TOKENS)
    assert cache.writer.close(60)
    assert cached(cache, TOKENS) == len(TOKENS) - 1
    assert cached(cache, random_tokens(400, seed=9)) == 0
    assert set(cache.stats()["failures"]) == {"store_write"}


def test_stats_add_up(llama):
    cache = PromptCache(max_bytes=1 << 30)
    remember(cache, llama, TOKENS[:512])
    for seed in range(2):
        remember(cache, llama, TOKENS[:512] + random_tokens(256, seed=seed))
    cached(cache, [*TOKENS[:512], 1])
    stats = cache.stats()
    block = probe(llama).bytes_per_block("global")
    assert stats["bytes"]["cached"] == cache.nbytes == 4 * block
    assert stats["unshared_bytes"] == 6 * block
    assert (stats["sequences"], stats["blocks"]) == (2, 4)
    assert sum(v for k, v in stats["bytes"].items() if k != "total") == stats["bytes"]["total"]
    assert (stats["requests"], stats["cached_tokens"]) == (1, 512)


def test_rows_that_a_batch_padded_are_never_taken_for_positions(model_of):
    """Right padding leaves rubbish at the front of an overshot ring that is extracted."""
    from mlx_lm.generate import BatchGenerator

    model = model_of("gemma3_text")
    spec = probe(model)
    prompts = [random_tokens(1400, seed=1), random_tokens(640, seed=2)]
    generator = BatchGenerator(model, max_tokens=2, prefill_step_size=512)
    segments = [[prompts[0][:1390], prompts[0][1390:]], [prompts[1][:600], prompts[1][600:]]]
    uids = generator.insert_segments(segments)
    saved = {}
    for _ in range(8):
        responses, _ = generator.next()
        ended = [r.uid for r in responses if r.end_of_segment and not r.end_of_prompt]
        for uid, (caches, tokens) in generator.extract_cache(ended).items():
            saved.setdefault((uid, len(tokens)), (caches, list(tokens)))
    assert len(saved) >= 3
    blocks = sum(group.bytes_per_block for group in spec.groups)
    for (uid, length), (caches, tokens) in saved.items():
        assert tokens == prompts[uids.index(uid)][:length]
        for limit in (1 << 40, 4 * blocks, 2 * blocks + 1, blocks + 1):
            cache = PromptCache(max_bytes=limit)
            cache.insert_cache(KEY, tokens, caches)
            for end in {c.n_tokens for m in cache._each_member() for c in m.sealed.sequences()}:
                prompt = [*tokens[:end], 5, 6]
                restored, rest = cache.fetch_nearest_cache(KEY, prompt)
                logits = feed(model, rest, restored)
                assert distance(logits, feed(model, prompt, fresh_caches(model))) < 1e-4


def test_the_row_that_a_restore_did_not_know_is_never_published(model_of):
    model = model_of("gemma3_text")
    cache = PromptCache()
    cache.insert_cache(KEY, TOKENS[:100], filled(model, TOKENS[:100]))
    restored, _ = cache.fetch_nearest_cache(KEY, TOKENS[:101])
    other = PromptCache()
    other.insert_cache(KEY, TOKENS[:99], restored)
    assert other.fetch_nearest_cache(KEY, TOKENS)[0] is None
    assert other.stats()["failures"] == {"incomplete_window": 1}


@pytest.mark.parametrize("blocks", [8, 12, 16])
def test_a_long_conversation_under_a_small_budget_keeps_publishing(gemma, blocks):
    """Its own old ends make room for its new one."""
    spec = probe(gemma)
    limit = blocks * max(group.bytes_per_block for group in spec.groups)
    cache = PromptCache(max_size=1000, max_bytes=limit)
    tokens, caches = TOKENS[:140], None
    for turn in range(5):
        tokens = TOKENS[: 140 + 130 * turn]
        caches, rest = cache.fetch_nearest_cache(KEY, tokens)
        assert (caches is None) == (turn == 0)
        caches = caches or fresh_caches(gemma)
        feed(gemma, rest, caches)
        cache.insert_cache(KEY, tokens, caches)
        assert cache.nbytes <= limit
    assert cached(cache, [*tokens, -1]) == len(tokens)
    assert cache.stats()["failures"] == {}


def test_trim_to_nothing_leaves_nothing(model_of):
    """An end whose window another end shares frees no byte by itself: go on."""
    model = model_of("gemma3_text", sliding_window=700)
    cache = PromptCache()
    for length in (512, 640, 768):
        remember(cache, model, TOKENS[:length], kind="system")
    cache.trim_to(n_bytes=0)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_layers_of_a_draft_that_lag_behind_are_cut(llama):
    """Speculative decoding leaves the draft's caches a token apart from the target's."""
    caches = filled(llama, TOKENS[:310])
    for cache in caches[1:]:
        cache.trim(1)
    memory = PromptCache()
    memory.insert_cache(KEY, TOKENS[:310], caches)
    restored, rest = memory.fetch_nearest_cache(KEY, TOKENS[:320])
    assert len(rest) == 11
    logits = feed(llama, rest, restored)
    assert distance(logits, feed(llama, TOKENS[:320], fresh_caches(llama))) < 1e-4


def test_a_trim_that_fails_is_counted(llama, monkeypatch):
    cache = PromptCache()
    remember(cache, llama, TOKENS[:300])
    monkeypatch.setattr(PromptCache, "_trim_sequences", lambda *_: 1 / 0)
    cache.trim_to(n_sequences=0)
    assert cache.stats()["failures"] == {"trim": 1}


def test_a_prefix_that_there_was_no_room_to_copy_is_no_failure_of_its_own():
    cache = PromptCache()
    cache.insert_cache("a model", [1, 2, 3], NOT_COPIED)
    assert len(cache) == 0
    assert cache.stats()["failures"] == {}
