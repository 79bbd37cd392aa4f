"""One agent's turn: admission, restore, commit, and every way in which it ends."""

from __future__ import annotations

import threading
import time

import pytest

from semantic import (
    AgentNotFoundError,
    BlockOperationError,
    BlockPool,
    BlockValidationError,
    CacheManager,
    Namespace,
    PoolConfigurationError,
    PoolExhaustedError,
    UnsupportedCacheError,
)
from semantic.application import cache_manager
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model
from tests.conftest import distance, feed, fresh_caches, random_tokens

TOKENS = random_tokens(700)


class Turns:
    """A manager and the model that its caches come from."""

    def __init__(self, model, total_memory=1 << 26, **options):
        self.model = model
        self.spec = probe(model)
        self.pool = BlockPool(self.spec, total_memory=total_memory)
        self.failures = []
        self.memory = CacheManager(
            self.spec,
            self.pool,
            on_failure=lambda reason, detail: self.failures.append(reason),
            **options,
        )

    def caches(self, tokens):
        caches = fresh_caches(self.model)
        feed(self.model, tokens, caches)
        return caches

    def turn(self, agent, tokens):
        with self.memory.admit(agent, tokens) as lease:
            return lease.commit(tokens, self.caches(tokens))

    def cached(self, tokens):
        with self.memory.admit("probe", tokens) as lease:
            return lease.cached_tokens


@pytest.fixture
def llama(model_of):
    return Turns(model_of("llama"))


@pytest.fixture
def gemma(model_of):
    return Turns(model_of("gemma3_text", sliding_window=300))


def test_a_turn_charges_its_live_peak_and_gives_it_back(gemma):
    lease = gemma.memory.admit("a", TOKENS, max_new_tokens=10)
    assert gemma.pool.snapshot().live == gemma.spec.live_peak_bytes(700, new_tokens=10)
    assert lease.cached_tokens == 0
    assert lease.materialise() is None
    assert lease.commit(TOKENS, gemma.caches(TOKENS)).reason == "published"
    lease.release()
    lease.release()
    assert gemma.pool.used_memory() == 0
    assert gemma.pool.snapshot().cached == sum(gemma.memory._memory.sealed.bytes_by_kind().values())
    assert gemma.pool.used_memory() + gemma.pool.available_memory() == gemma.pool.total_memory()


def test_b22_a_prompt_that_is_cached_completely_leaves_one_token(llama, gemma):
    for turns in (llama, gemma):
        turns.turn("a", TOKENS[:600])
    assert llama.cached(TOKENS[:600]) == 599
    # The ring at 600 has rows 301 to 599: a hit at 599 would need row 300, which has left.
    assert gemma.cached(TOKENS[:600]) == 0
    assert gemma.cached(TOKENS[:601]) == 600


def test_global_layers_hit_at_any_token(llama):
    llama.turn("a", TOKENS[:600])
    for common in (1, 255, 256, 257, 511, 599):
        diverging = TOKENS[:common] + random_tokens(50, seed=3, vocab=2)
        if diverging[common] == TOKENS[common]:
            diverging[common] ^= 1
        assert llama.cached(diverging) == common


def test_b18_a_window_serves_its_checkpoint_and_no_position_between(model_of):
    gemma = Turns(model_of("gemma3_text", sliding_window=100))
    prompt = TOKENS[:500]
    with gemma.memory.admit("a", TOKENS) as lease:
        assert lease.checkpoint(prompt, gemma.caches(prompt)).published_tokens == 500
        lease.commit(TOKENS, gemma.caches(TOKENS))
    assert gemma.cached([*prompt, -1]) == 500
    assert gemma.cached([*TOKENS[:650], -1]) == 500
    assert gemma.cached([*TOKENS, -1]) == 700
    assert gemma.cached([*TOKENS[:450], -1]) == 0


def test_two_windows_that_overlap_serve_every_length_between(gemma):
    """Rows 201 to 499 of one capture and 401 to 699 of the other leave no gap."""
    with gemma.memory.admit("a", TOKENS) as lease:
        lease.checkpoint(TOKENS[:500], gemma.caches(TOKENS[:500]))
        lease.commit(TOKENS, gemma.caches(TOKENS))
    for length in (500, 501, 555, 699):
        prompt = [*TOKENS[:length], 127 - TOKENS[length]]
        with gemma.memory.admit("b", prompt) as lease:
            assert lease.cached_tokens == length
            logits = feed(gemma.model, prompt[length:], lease.materialise())
        expected = feed(gemma.model, prompt, fresh_caches(gemma.model))
        assert distance(logits, expected) < 1e-4


def test_b06_a_block_is_found_under_its_own_prefix_only(llama):
    a, b, c = (random_tokens(256, seed=s) for s in (1, 2, 3))
    llama.turn("a", [*a, *b])
    assert llama.cached([*b, *c]) == 0
    assert llama.cached([*a, *b, *c]) == 512


def test_b10_identical_blocks_are_stored_once(llama):
    llama.turn("a", TOKENS)
    before = llama.pool.snapshot().cached
    assert llama.turn("b", TOKENS).reason == "already_cached"
    assert llama.pool.snapshot().cached == before
    llama.turn("b", [*TOKENS[:512], *random_tokens(100, seed=8)])
    assert llama.pool.snapshot().cached == before + llama.spec.bytes_per_block("global")


def test_a_partial_block_is_replaced_by_the_fuller_one(llama):
    block = llama.spec.bytes_per_block("global")
    for length in (10, 100, 256, 300):
        llama.turn("a", TOKENS[:length])
        assert llama.pool.snapshot().cached == block * -(-length // 256)
    assert llama.memory.stats()["sequences"] == 1


def test_b08_a_collision_is_a_miss(model_of):
    events = []
    turns = Turns(model_of("llama"), key_bytes=0, on_event=events.append)
    assert turns.turn("a", TOKENS[:256]).reason == "published"
    other = random_tokens(256, seed=4)
    assert turns.cached([*other, 1]) == 0
    assert turns.turn("b", other).reason == "published"
    assert turns.cached([*TOKENS[:256], 1]) == turns.cached([*other, 1]) == 256
    assert {event.key for event in events} == {bytes(32)}


def test_b11_a_held_hit_is_never_evicted(llama):
    llama.turn("a", TOKENS)
    held = llama.memory.admit("b", TOKENS)
    llama.memory.clear()
    assert llama.memory._memory.sealed.evict_bytes(1 << 40) == 0
    caches = held.materialise()
    logits = feed(llama.model, TOKENS[699:], caches)
    assert distance(logits, feed(llama.model, TOKENS, fresh_caches(llama.model))) < 1e-4
    held.release()
    assert llama.pool.snapshot().cached == llama.pool.snapshot().held == 0


def test_b13_a_failed_admission_changes_nothing(llama):
    llama.turn("a", TOKENS)
    before = llama.pool.snapshot().as_dict()
    with pytest.raises(PoolExhaustedError) as refusal:
        llama.memory.admit("b", TOKENS, max_new_tokens=10_000_000)
    assert refusal.value.bytes_short > 0
    assert llama.pool.snapshot().as_dict() == before
    assert llama.cached(TOKENS) == 699


def test_admission_evicts_what_nobody_holds(model_of):
    turns = Turns(
        model_of("llama"), total_memory=12 * probe(model_of("llama")).bytes_per_block("global")
    )
    for seed in range(3):
        turns.turn(f"a{seed}", random_tokens(700, seed=seed))
    lease = turns.memory.admit("big", random_tokens(2500, seed=9))
    assert turns.pool.snapshot().live == lease.live_bytes
    assert turns.pool.used_memory() + turns.pool.available_memory() == turns.pool.total_memory()
    lease.release()


def test_commit_publishes_the_longest_prefix_that_fits(model_of):
    model = model_of("llama")
    block = probe(model).bytes_per_block("global")
    turns = Turns(model, total_memory=5 * block)
    report = turns.turn("a", TOKENS)  # 3 blocks live, 2 left
    assert (report.published_tokens, report.reason) == (512, "budget")
    assert turns.cached(TOKENS) == 512
    assert turns.failures == ["budget"]


def test_commit_without_room_publishes_nothing_of_a_window(model_of):
    model = model_of("gemma3_text", sliding_window=300)
    spec = probe(model)
    turns = Turns(model, total_memory=spec.live_peak_bytes(700) + spec.bytes_per_block("global"))
    report = turns.turn("a", TOKENS)
    assert (report.published_tokens, report.reason) == (0, "budget")
    assert turns.pool.snapshot().cached == 0


@pytest.mark.parametrize("name", ["llama", "gemma"])
@pytest.mark.parametrize("agent", ["before", "a"])
def test_b23_abort_leaves_no_trace_at_any_point(request, name, agent):
    gemma = request.getfixturevalue(name)
    gemma.turn("before", TOKENS[:400])
    before = gemma.memory.stats()["bytes"]
    for steps in range(4):
        lease = gemma.memory.admit(agent, TOKENS)
        assert lease.cached_tokens == 400
        caches = lease.materialise() if steps >= 1 else None
        if steps >= 2:
            feed(gemma.model, TOKENS[400:], caches)
            lease.checkpoint(TOKENS, caches)
        if steps >= 3:
            lease.commit(TOKENS, caches)
        lease.abort()
        lease.abort()
        lease.release()
        assert gemma.memory.stats()["bytes"] == before, steps
    assert gemma.cached([*TOKENS[:400], 1]) == 400


@pytest.mark.parametrize("name", ["granitemoehybrid"])
def test_b19_a_checkpoint_is_given_out_as_it_was_stored_however_it_is_used(name):
    turns = Turns(architecture_model(name))
    with turns.memory.admit("a", TOKENS) as lease:
        caches = turns.caches(TOKENS)
        stored = states_of(caches)
        assert lease.commit(TOKENS, caches).reason == "published"
        feed(turns.model, TOKENS[:50], caches)  # the giver goes on, too
    assert stored
    for _ in range(2):
        with turns.memory.admit("b", [*TOKENS, 1]) as lease:
            assert lease.cached_tokens == len(TOKENS)
            taken = lease.materialise()
            assert states_of(taken) == stored
            feed(turns.model, random_tokens(20, seed=5), taken)
            assert states_of(taken) != stored


def states_of(caches):
    """The bytes of every state in these caches."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.cache import ArraysCache

    states = [cache.state for cache in caches if isinstance(cache, ArraysCache)]
    arrays = [array for _, array in tree_flatten(states) if array is not None]
    return [bytes(memoryview(mx.contiguous(array).view(mx.uint8))) for array in arrays]


def test_forget_spares_the_shorter_prefix_of_another_agent(llama):
    llama.turn("a", TOKENS[:600])
    llama.turn("b", TOKENS)
    assert llama.memory.forget("b") == 1
    assert llama.cached([*TOKENS[:600], -1]) == 600
    assert llama.memory.forget("a") == 1
    assert llama.pool.snapshot().free == llama.pool.total_memory()


def test_an_aborted_claim_on_anothers_end_is_withdrawn(llama):
    llama.turn("a", TOKENS)
    lease = llama.memory.admit("b", TOKENS)
    assert lease.commit(TOKENS, llama.caches(TOKENS)).reason == "already_cached"
    lease.abort()
    assert llama.memory.forget("a") == 1
    assert llama.pool.snapshot().free == llama.pool.total_memory()


def test_a_checkpoint_inside_a_block_is_found_beside_its_sibling(model_of):
    """Two agents share a prompt that ends inside a token block; the first one's block took it."""
    turns = Turns(model_of("gemma3_text", sliding_window=100))
    system, a, b = TOKENS[:300], TOKENS[:600], [*TOKENS[:300], *random_tokens(300, seed=77)]
    for tokens in (system, a, b):
        turns.turn("x", tokens)
    for sequence in (a, b):
        assert turns.cached([*sequence[:550], -1]) == 300


def test_an_agents_own_hit_never_prevents_its_admission(model_of):
    model = model_of("llama")
    block = probe(model).bytes_per_block("global")
    turns = Turns(model, total_memory=7 * block)
    turns.turn("a", TOKENS)
    lease = turns.memory.admit("a", random_tokens(700) + [1] * 800)
    assert lease.live_bytes == turns.spec.live_peak_bytes(1500)
    lease.release()


def test_a_failed_restore_charges_for_a_prefill_from_scratch(gemma, monkeypatch):
    from semantic.mlx import MlxMaterialiser

    gemma.turn("a", TOKENS[:600])
    monkeypatch.setattr(MlxMaterialiser, "restore", lambda *_: 1 / 0)
    with gemma.memory.admit("a", TOKENS) as lease:
        assert lease.cached_tokens == 600
        lease.materialise()
        assert lease.live_bytes == gemma.spec.live_peak_bytes(700)


def test_paths_of_any_length_can_be_forgotten(llama):
    """Somebody allocates what 1,100 blocks of one sequence fill: its tail goes."""
    from semantic.application.sealed_blocks import SealedBlocks
    from semantic.domain.native import TokenIds
    from tests.token_rows import SPECS, TokenRows

    spec = SPECS["global"]
    pool = BlockPool(spec, total_blocks=1100)
    sealed = SealedBlocks(spec, pool, Namespace("long"))
    tokens = list(range(1100 * 256))
    sealed.publish(TokenIds(tokens), TokenRows(spec, tokens, 0), "a", "user")
    pool.free(pool.allocate(7))
    assert sealed.plan(TokenIds([*tokens, -1])).n_tokens == 1093 * 256
    assert len(pool.contents) == 1093, "tensors go with their blocks"
    sealed.clear()
    assert not pool.contents
    assert pool.snapshot().free == pool.total_memory()


def test_a_budget_shortens_a_long_sequence_quickly():
    from semantic.application.sealed_blocks import SealedBlocks
    from semantic.domain.native import TokenIds
    from tests.token_rows import SPECS, TokenRows

    spec = SPECS["global"]
    sealed = SealedBlocks(spec, BlockPool(spec, total_blocks=100), Namespace("long"))
    tokens = list(range(500_000))
    start = time.perf_counter()
    report = sealed.publish(TokenIds(tokens), TokenRows(spec, tokens, 0), "a", "user").report
    assert report.published_tokens == 100 * 256
    assert time.perf_counter() - start < 10  # it took 49 s per million tokens once


def test_an_abort_spares_what_another_agent_published_too(llama):
    first = llama.memory.admit("a", TOKENS)
    first.commit(TOKENS, llama.caches(TOKENS))
    llama.turn("b", TOKENS)
    first.abort()
    assert llama.cached(TOKENS) == 699
    assert llama.memory.forget("b") == 1
    assert llama.pool.snapshot().free == llama.pool.total_memory()


@pytest.mark.parametrize("length", [1, 100, 255, 256, 257, 300, 301, 511, 512, 555, 556, 700])
def test_a_sequence_at_rest_costs_what_the_spec_says(llama, gemma, length):
    for turns in (llama, gemma):
        turns.turn("a", TOKENS[:length])
        assert turns.pool.snapshot().cached == turns.spec.cached_bytes(length)


def test_an_exception_aborts_the_turn(llama):
    def failing_turn():
        with llama.memory.admit("a", TOKENS) as lease:
            lease.checkpoint(TOKENS[:300], llama.caches(TOKENS[:300]))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        failing_turn()
    assert llama.pool.snapshot().free == llama.pool.total_memory()


def test_b24_a_sequence_that_fails_while_it_is_stored_is_visible_to_nobody(llama, monkeypatch):
    from semantic.adapters.mlx.capture import MlxLiveCaches

    def fail(*_):
        raise RuntimeError("device lost")

    with llama.memory.admit("a", TOKENS) as lease:
        caches = llama.caches(TOKENS)
        monkeypatch.setattr(MlxLiveCaches, "capture", fail)
        assert lease.commit(TOKENS, caches).reason == "failed"
    assert llama.pool.snapshot().free == llama.pool.total_memory()
    assert llama.cached(TOKENS) == 0
    assert llama.failures == ["failed"]


def test_a_restore_that_fails_is_a_miss(llama, monkeypatch):
    from semantic.mlx import MlxMaterialiser

    def fail(*_):
        raise RuntimeError("device lost")

    llama.turn("a", TOKENS)
    monkeypatch.setattr(MlxMaterialiser, "restore", fail)
    with llama.memory.admit("b", TOKENS) as lease:
        assert lease.cached_tokens == 699
        assert lease.materialise() is None
        assert lease.cached_tokens == 0
    assert llama.failures == ["restore"]
    assert llama.pool.used_memory() == 0


def test_commits_of_other_caches_are_refused_and_counted(llama, gemma):
    from mlx_lm.models.cache import ArraysCache, KVCache

    caches = llama.caches(TOKENS[:20])
    with llama.memory.admit("a", TOKENS) as lease:
        assert lease.commit(TOKENS[:21], caches).reason == "incompatible"
        assert lease.commit(TOKENS[:20], caches[:1]).reason == "incompatible"
        assert lease.commit(TOKENS[:20], gemma.caches(TOKENS[:20])).reason == "incompatible"
        assert lease.commit(TOKENS[:20], fresh_caches(llama.model)).reason == "incompatible"
        assert lease.commit(TOKENS[:20], []).reason == "incompatible"
        assert lease.commit(TOKENS[:20], [ArraysCache(2)] * 3).reason == "incompatible"
        assert lease.commit(TOKENS[:20], [KVCache(), object(), None]).reason == "unsupported"
        uneven = llama.caches(TOKENS[:20])
        uneven[1].trim(1)
        assert lease.commit(TOKENS[:20], uneven).reason == "incompatible"
    assert llama.pool.snapshot().free == llama.pool.total_memory()
    assert len(llama.failures) == 8


def test_a_ring_that_moved_on_cannot_publish_an_earlier_prefix(gemma):
    from semantic.application.publish import publish_caches
    from semantic.domain.native import TokenIds

    caches = gemma.caches(TOKENS)
    publication = publish_caches(
        gemma.memory._memory, TokenIds(TOKENS[:500]), caches, "a", "user", exact=False
    )
    assert publication.report.reason == "incomplete_window"
    assert gemma.pool.snapshot().free == gemma.pool.total_memory()


def test_grow_charges_for_decoding_and_says_no(llama):
    lease = llama.memory.admit("a", TOKENS)
    assert lease.grow(1000)
    assert llama.pool.snapshot().live == llama.spec.live_bytes(1000)
    assert lease.grow(800)
    assert llama.pool.snapshot().live == llama.spec.live_bytes(1000)
    assert not lease.grow(10_000_000)
    assert llama.pool.snapshot().live == llama.spec.live_bytes(1000)
    lease.release()
    with pytest.raises(BlockOperationError, match="has ended"):
        lease.grow(2000)
    with pytest.raises(BlockOperationError, match="has ended"):
        lease.materialise()
    with pytest.raises(BlockOperationError, match="has ended"):
        lease.commit(TOKENS, [])


def test_an_admission_waits_for_memory(model_of):
    model = model_of("llama")
    turns = Turns(model, total_memory=4 * probe(model).bytes_per_block("global"))
    first = turns.memory.admit("a", TOKENS)
    with pytest.raises(PoolExhaustedError):
        turns.memory.admit("b", TOKENS)
    start = time.monotonic()
    with pytest.raises(PoolExhaustedError):
        turns.memory.admit("b", TOKENS, wait=0.2)
    assert time.monotonic() - start >= 0.2
    threading.Timer(0.1, first.release).start()
    turns.memory.admit("b", TOKENS, wait=30).release()
    assert turns.pool.used_memory() == 0


@pytest.mark.parametrize("tokens", [[], (), iter([])])
def test_an_empty_prompt_is_an_error(llama, tokens):
    with pytest.raises(BlockValidationError, match="must not be empty"):
        llama.memory.admit("a", tokens)


@pytest.mark.parametrize("tokens", [["x"], [1.5], None, 7, [1 << 64], b"12345678", "12"])
def test_tokens_that_are_no_ids_are_an_error(llama, tokens):
    with pytest.raises(ValueError, match="token"):
        llama.memory.admit("a", tokens)


@pytest.mark.parametrize("agent", ["", None, 3])
def test_an_agent_needs_a_name(llama, agent):
    with pytest.raises(BlockValidationError, match="agent_id"):
        llama.memory.admit(agent, TOKENS)


def test_negative_token_ids_are_kept_apart(llama):
    llama.turn("a", TOKENS[:300])
    assert llama.cached([-1 - t for t in TOKENS[:300]]) == 0
    assert llama.cached([t - (1 << 32) for t in TOKENS[:300]]) == 0


def test_forget_and_clear(llama):
    llama.turn("a", TOKENS[:300])
    llama.turn("b", random_tokens(300, seed=7))
    assert llama.memory.forget("a") == 1
    assert llama.cached([*TOKENS[:300], 1]) == 0
    with pytest.raises(AgentNotFoundError):
        llama.memory.forget("a")
    llama.memory.clear()
    assert llama.pool.snapshot().free == llama.pool.total_memory()


def test_stats_add_up(llama):
    llama.turn("a", TOKENS[:600])
    llama.turn("b", TOKENS)
    stats = llama.memory.stats()
    assert (stats["requests"], stats["hits"], stats["cached_tokens"]) == (2, 1, 600)
    assert stats["hit_rate"] == pytest.approx(600 / 1300)
    assert stats["bytes"]["cached"] == 3 * llama.spec.bytes_per_block("global")
    assert stats["running"] == 0
    total = sum(stats["bytes"][name] for name in ("free", "held", "live", "staging", "cached"))
    assert total == stats["bytes"]["total"]


def test_configurations_that_cannot_work_are_refused(llama, gemma):
    with pytest.raises(PoolConfigurationError, match="another spec"):
        CacheManager(llama.spec, gemma.pool)
    with pytest.raises(PoolConfigurationError, match="needs a namespace"):
        CacheManager(llama.spec, llama.pool, store=object())
    with pytest.raises(PoolConfigurationError, match="EvictionPolicy"):
        CacheManager(llama.spec, llama.pool, policy=object())


def test_a_reconfigured_pool_needs_a_new_manager(llama, gemma):
    llama.turn("a", TOKENS)
    llama.pool.reconfigure(gemma.spec)
    assert llama.pool.snapshot().free == llama.pool.total_memory()
    with pytest.raises(PoolConfigurationError, match="reconfigured"):
        llama.memory.admit("a", TOKENS)


def test_without_an_mlx_side_tensors_are_refused(llama):
    memory = cache_manager.CacheManager(llama.spec, llama.pool)
    with memory.admit("a", TOKENS) as lease:
        assert lease.commit(TOKENS, []).reason == "unsupported"
    with pytest.raises(UnsupportedCacheError, match="semantic-kv\\[mlx\\]"):
        memory.capture_batch([], 0)


def test_b07_namespaces_keep_apart():
    base = {"fingerprint": "m", "adapter": "a", "kv_dtype": "bfloat16", "salt": "s"}
    roots = {Namespace(**base).root}
    for change in (
        {"fingerprint": "n"},
        {"adapter": "b"},
        {"kv_dtype": "float16"},
        {"salt": "t"},
        {"kv_bits": 8},
        {"layout_version": 2},
        {"adapter": "s", "salt": "a"},
    ):
        roots.add(Namespace(**base | change).root)
    assert len(roots) == 8
    assert Namespace("m", adapter="x").root != Namespace("m", salt="x").root
    assert Namespace.private() != Namespace.private()
    with pytest.raises(BlockValidationError):
        Namespace("")


def test_b09_keys_are_the_same_in_every_process():
    from semantic.application.sealed_blocks import SealedBlocks
    from semantic.domain.native import TokenIds
    from semantic.testing.reference_keys import block_key, pack
    from tests.token_rows import SPECS, TokenRows

    tokens, events = [1, -2, 1 << 40], []
    spec, namespace = SPECS["global"], Namespace("model")
    pool = BlockPool(spec, total_blocks=2)
    sealed = SealedBlocks(spec, pool, namespace, on_event=events.append)
    sealed.publish(TokenIds(tokens), TokenRows(spec, tokens, 0), "a", "user")
    assert TokenIds(tokens).tobytes() == pack(tokens).tobytes()
    assert [event.key for event in events] == [block_key(namespace.root, pack(tokens).tobytes())]
    assert events[0].parent == namespace.root
    assert events[0].key.hex() == "dccfb402ddcc43ea7671a0d55cca049c348e70bde0826283478f68aecca71c79"
