"""Blocks that are quantised at rest: their bytes, their rows, and what continues from them.

What is expected comes from MLX and mlx-lm alone: `mx.quantize`, `mx.dequantize`,
`KVCache.to_quantized`, and the models. Equal means equal in every bit.
"""

from __future__ import annotations

import copy
import functools
import sys
from types import ModuleType

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models import cache as mlx_lm_cache
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache

from semantic import CacheManager
from semantic.adapters.mlx.lazy_forward import shapes_only
from semantic.domain.errors import ModelSpecValidationError, PoolConfigurationError
from semantic.domain.growth import calls
from semantic.domain.services import BlockPool
from semantic.mlx import MlxMaterialiser, probe, spec_of_caches
from semantic.testing.architectures import architectures
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.tiny_models import tiny_model
from tests.conftest import distance, feed, fresh_caches, greedy, random_tokens, require

FORMS = [(bits, group_size) for bits in (8, 4) for group_size in (32, 64, 128)]
LENGTHS = (3, 256, 300, 600)
TOKENS = random_tokens(640)

MODELS = {
    "llama": ("llama", {"head_dim": 128, "num_hidden_layers": 2}),
    "llama 64 wide": ("llama", {"head_dim": 64, "num_hidden_layers": 1}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 128,
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 128,
            "sliding_window": 300,
            "sliding_window_pattern": 3,
        },
    ),
    "gpt_oss": ("gpt_oss", {"head_dim": 64, "num_hidden_layers": 2, "layer_types": None}),
    "no width divides": ("deepseek_v3", {"num_hidden_layers": 2}),
    "keys divide, values do not": ("deepseek_v3", {"num_hidden_layers": 2, "kv_lora_rank": 128}),
    "hybrid": ("qwen3_next", {"head_dim": 128, "num_hidden_layers": 4}),
    "compressed": ("deepseek_v41", {"head_dim": 64, "index_head_dim": 128}),
    "nested, no values": ("deepseek_v32", {"num_hidden_layers": 1, "index_head_dim": 64}),
}
CASES = [(name, "float32") for name in MODELS] + [
    (name, "bfloat16") for name in ("llama", "gemma3", "gpt_oss", "hybrid")
]


@pytest.fixture(scope="module", autouse=True)
def runnable():
    with cpu_stand_ins():
        yield


@functools.cache
def model_of(name, dtype="float32"):
    architecture, changes = MODELS[name]
    require(architecture)
    return tiny_model({**architectures()[architecture], **changes}, dtype=dtype)


@functools.cache
def _computed(name, dtype, n):
    caches = fresh_caches(model_of(name, dtype))
    feed(model_of(name, dtype), TOKENS[:n], caches)
    return caches


def computed(name, dtype, n):
    """The model's own caches with n tokens in."""
    return copy.deepcopy(_computed(name, dtype, n))


class Recorder(MlxMaterialiser):
    """Keeps what the last restore was made from."""

    def restore(self, spec, plan, data):
        self.plan, self.data = plan, data
        return super().restore(spec, plan, data)


class Memory:
    """A manager over one spec, its failures, and the blocks of its last restore."""

    def __init__(self, spec, **options):
        self.spec = spec
        self.materialiser = Recorder(**options)
        self.pool = BlockPool(spec, total_memory=1 << 30)
        self.failures = []
        self.manager = CacheManager(
            spec,
            self.pool,
            materialiser=self.materialiser,
            on_failure=lambda *failure: self.failures.append(failure),
        )

    def commit(self, tokens, caches):
        with self.manager.admit("a", tokens) as lease:
            return lease.commit(tokens, caches)

    def keep(self, tokens, caches):
        report = self.commit(tokens, caches)
        assert report.published_tokens == len(tokens), report
        return self

    def restored(self, tokens):
        """Caches that hold the tokens, from blocks that are free to go again."""
        with self.manager.admit("b", [*tokens, 1]) as lease:
            assert lease.cached_tokens == len(tokens)
            caches = lease.materialise()
        assert caches is not None, self.failures
        return caches

    def blocks(self):
        """(group, block) for each block of the last restore."""
        for name, spans in self.materialiser.plan.spans:
            for block_id in dict.fromkeys(span.block_id for span in spans):
                yield self.spec.group(name), self.materialiser.data[block_id]


def same_bits(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return not a.size or mx.array_equal(a.view(mx.uint8), b.view(mx.uint8)).item()


def through(rows, bits, group_size):
    """What the rows are after a stay in a block."""
    if not rows.size or rows.shape[-1] % group_size:
        return rows
    packed = mx.quantize(rows, group_size=group_size, bits=bits)
    return mx.dequantize(*packed, group_size=group_size, bits=bits)


def rows_of(cache, n):
    """The rows and the states that a cache of n tokens surely has: (rows by name, states)."""
    kind = type(cache).__name__
    if kind == "ArraysCache":
        return {}, list(cache.cache)
    if kind == "CacheList":
        parts = [rows_of(child, n)[0] for child in cache.caches]
        return {
            (at, name): rows for at, part in enumerate(parts) for name, rows in part.items()
        }, []
    if kind == "LayerCache":
        names = ("compress_kv", "index_k", "pending_kv", "pending_gate")
        found = {name: getattr(cache, name) for name in names}
        found["window"] = cache.window[:, 1 - min(n + 1, cache.window_size) :]
        return {name: rows for name, rows in found.items() if rows is not None}, []
    if kind == "RotatingKVCache":
        known = min(n, cache.max_size - 1)
        order = cache._temporal_order
        return {
            "k": order(cache.keys)[..., -known:, :],
            "v": order(cache.values)[..., -known:, :],
        }, []
    return {"k": cache.keys[..., :n, :], "v": cache.values[..., :n, :]}, []


def packed_rows(cache, n):
    """Words, scales and biases of keys and values, n rows of each."""
    return [part[..., :n, :] for part in (*cache.keys, *cache.values)]


# Plain while they run ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_restored_rows_are_quantised_and_dequantised_once(name, dtype, form):
    spec = probe(model_of(name, dtype)).quantised_at_rest(*form)
    for n in LENGTHS:
        ours = Memory(spec).keep(TOKENS[:n], computed(name, dtype, n)).restored(TOKENS[:n])
        theirs = computed(name, dtype, n)
        for restored, original in zip(ours, theirs, strict=True):
            assert type(restored) is type(original)
            rows, states = rows_of(original, n)
            found, found_states = rows_of(restored, n)
            assert found.keys() == rows.keys()
            for tensor in rows:
                assert same_bits(found[tensor], through(rows[tensor], *form)), (n, tensor)
            assert all(map(same_bits, found_states, states))
        assert sum(c.nbytes for c in ours) == sum(c.nbytes for c in theirs) == spec.live_bytes(n)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_block_costs_what_mlx_allocates_for_it(name, dtype, form):
    bits, group_size = form
    plain = probe(model_of(name, dtype))
    spec = plain.quantised_at_rest(*form)
    for n in (300, 600):
        memory = Memory(spec).keep(TOKENS[:n], computed(name, dtype, n))
        memory.restored(TOKENS[:n])
        total = 0
        for group, block in memory.blocks():
            nbytes = sum(array.nbytes for array in block.values())
            assert nbytes == spec.bytes_per_block(group.name)
            assert nbytes == spec.bytes_per_block_per_layer(group.name) * group.n_layers
            assert nbytes == sum(allocated(group, t, bits, group_size) for t in group.tensors)
            total += nbytes
        assert memory.pool.snapshot().cached == total == spec.cached_bytes(n)
        assert total <= plain.cached_bytes(n)


def allocated(group, tensor, bits, group_size):
    """Bytes of one tensor in a block of the group, asked of MLX."""
    if group.layer_type == "state":
        shape = (group.n_layers, *tensor.shape)
        return mx.zeros(shape, dtype=getattr(mx, tensor.dtype)).nbytes
    shape = (group.n_layers, tensor.heads, 256 // tensor.stride, tensor.dim)
    plain = mx.zeros(shape, dtype=getattr(mx, tensor.dtype))
    if tensor.dim == 0 or tensor.dim % group_size:
        return plain.nbytes
    return sum(part.nbytes for part in mx.quantize(plain, group_size=group_size, bits=bits))


@pytest.mark.parametrize(
    ("name", "group_size", "plain"),
    [
        ("llama", 128, ()),
        ("llama 64 wide", 64, ()),
        ("llama 64 wide", 128, ("global.keys", "global.values")),
        ("no width divides", 32, ("global.keys", "global.values")),
        ("keys divide, values do not", 32, ("global.values",)),
        ("hybrid", 64, ("state.slot_0", "state.slot_1")),
    ],
)
def test_what_stays_plain_is_named(name, group_size, plain):
    assert probe(model_of(name)).quantised_at_rest(8, group_size).plain_at_rest == plain


def test_where_no_width_divides_blocks_are_as_if_nothing_was_asked():
    spec = probe(model_of("no width divides"))
    assert spec.quantised_at_rest(4, 32).cached_bytes(600) == spec.cached_bytes(600)


def test_full_blocks_are_not_quantised_again_when_a_restored_sequence_goes_on():
    model = model_of("llama")
    memory = Memory(probe(model).quantised_at_rest(8))
    memory.keep(TOKENS[:300], computed("llama", "float32", 300))
    caches = memory.restored(TOKENS[:300])
    _, first = next(memory.blocks())
    before = {name: mx.array(array) for name, array in first.items()}
    feed(model, TOKENS[300:600], caches)
    memory.keep(TOKENS[:600], caches)
    memory.restored(TOKENS[:600])
    _, again = next(memory.blocks())
    assert all(same_bits(again[name], before[name]) for name in before)


@pytest.mark.parametrize("keep_quantised", [False, True])
def test_a_branch_leaves_the_blocks_as_they_are(keep_quantised):
    model = model_of("gemma3")
    memory = Memory(probe(model).quantised_at_rest(8), keep_quantised=keep_quantised)
    memory.keep(TOKENS[:300], computed("gemma3", "float32", 300))
    expected = feed(model, TOKENS[300:308], memory.restored(TOKENS[:300]))
    feed(model, random_tokens(40, seed=9), memory.restored(TOKENS[:300]))
    again = feed(model, TOKENS[300:308], memory.restored(TOKENS[:300]))
    assert same_bits(again, expected)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_eight_bits_are_nearer_to_the_truth_than_four(name):
    model = model_of(name)
    expected = feed(model, TOKENS[600:608], computed(name, "float32", 600))
    found = {}
    for bits in (8, 4):
        memory = Memory(probe(model).quantised_at_rest(bits))
        memory.keep(TOKENS[:600], computed(name, "float32", 600))
        found[bits] = distance(
            feed(model, TOKENS[600:608], memory.restored(TOKENS[:600])), expected
        )
    assert 0 < found[8] < 0.1
    assert 2 * found[8] < found[4]


# Restored without dequantising ------------------------------------------------------------------


def quantised_by_mlx_lm(caches, bits, group_size):
    return [
        c.to_quantized(group_size=group_size, bits=bits) if hasattr(c, "to_quantized") else c
        for c in caches
    ]


def own_quantised(caches, restored, form):
    """mlx-lm's quantised caches of the same rows; rings and states as they were restored."""
    bits, group_size = form
    return [
        original.to_quantized(group_size=group_size, bits=bits)
        if type(original).__name__ == "KVCache"
        else copy.deepcopy(ours)
        for original, ours in zip(caches, restored, strict=True)
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", "float32"),
        ("llama", "bfloat16"),
        ("gemma3", "float32"),
        ("hybrid", "float32"),
    ],
)
def test_kept_quantised_they_are_mlx_lms_own_quantised_caches(name, dtype, form):
    model = model_of(name, dtype)
    spec = probe(model).quantised_at_rest(*form)
    for n in LENGTHS:
        memory = Memory(spec, keep_quantised=True).keep(TOKENS[:n], computed(name, dtype, n))
        ours = memory.restored(TOKENS[:n])
        theirs = own_quantised(computed(name, dtype, n), ours, form)
        assert any(isinstance(cache, QuantizedKVCache) for cache in ours)
        for restored, original in zip(ours, theirs, strict=True):
            assert type(restored) is type(original)
            assert restored.nbytes == original.nbytes
            if isinstance(restored, QuantizedKVCache):
                facts = restored.offset, restored.bits, restored.group_size
                assert facts == (n, *form)
                assert all(map(same_bits, packed_rows(restored, n), packed_rows(original, n)))
    # The last ones, of 600 tokens, go on past the end of a block: 32 tokens and the tail are 640.
    logits = feed(model, TOKENS[600:608], ours)
    expected = feed(model, TOKENS[600:608], theirs)
    assert same_bits(logits, expected)
    assert greedy(model, logits, ours, 32) == greedy(model, expected, theirs, 32)
    assert [c.nbytes for c in ours] == [c.nbytes for c in theirs]


def test_growth_after_a_quantised_restore_is_mlx_lms():
    model = model_of("llama")
    memory = Memory(probe(model).quantised_at_rest(8), keep_quantised=True)
    memory.keep(TOKENS[:256], computed("llama", "float32", 256))
    ours = memory.restored(TOKENS[:256])
    theirs = own_quantised(computed("llama", "float32", 256), ours, (8, 64))
    for tokens in (TOKENS[256:300], TOKENS[300:301], TOKENS[301:600]):
        assert same_bits(feed(model, tokens, ours), feed(model, tokens, theirs))
        assert [c.nbytes for c in ours] == [c.nbytes for c in theirs]


def test_groups_that_are_not_quantised_in_both_keys_and_values_become_plain():
    name = "keys divide, values do not"
    memory = Memory(probe(model_of(name)).quantised_at_rest(8, 32), keep_quantised=True)
    memory.keep(TOKENS[:300], computed(name, "float32", 300))
    (restored, original), *_ = zip(
        memory.restored(TOKENS[:300]), computed(name, "float32", 300), strict=True
    )
    assert same_bits(restored.keys[..., :300, :], through(original.keys[..., :300, :], 8, 32))
    assert same_bits(restored.values[..., :300, :], original.values[..., :300, :])


def test_a_forks_plain_cache_becomes_mlx_lms_quantised_one(monkeypatch):
    fork = ModuleType("a_fork")  # has no quantised class of its own
    fork.KVCache = type("KVCache", (mlx_lm_cache.KVCache,), {"__module__": "a_fork"})
    monkeypatch.setitem(sys.modules, "a_fork", fork)
    model = model_of("llama")
    caches = [fork.KVCache() for _ in model.layers]
    feed(model, TOKENS[:300], caches)
    spec = spec_of_caches(caches).quantised_at_rest(8)
    memory = Memory(spec, keep_quantised=True).keep(TOKENS[:300], caches)
    assert all(type(cache) is QuantizedKVCache for cache in memory.restored(TOKENS[:300]))


def test_attention_with_sinks_cannot_read_quantised_caches_in_mlx_lm_either():
    model = model_of("gpt_oss")
    memory = Memory(probe(model).quantised_at_rest(8), keep_quantised=True)
    memory.keep(TOKENS[:300], computed("gpt_oss", "float32", 300))
    ours = memory.restored(TOKENS[:300])
    for caches in (ours, own_quantised(computed("gpt_oss", "float32", 300), ours, (8, 64))):
        with pytest.raises(ValueError, match="attention sinks"):
            feed(model, TOKENS[300:301], caches)


# Quantised while they run -----------------------------------------------------------------------


@pytest.mark.parametrize("form", [(8, 64), (4, 32)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_caches_that_generation_quantised_are_kept_as_they_are(form, dtype):
    bits, group_size = form
    model = model_of("llama", dtype)
    tokens, caches = TOKENS[:300], fresh_caches(model)
    for token, _ in generate_step(
        mx.array(tokens),
        model,
        prompt_cache=caches,
        max_tokens=8,
        kv_bits=bits,
        kv_group_size=group_size,
        quantized_kv_start=0,
    ):
        tokens.append(int(token))
    assert all(type(cache) is QuantizedKVCache for cache in caches)
    tokens = tokens[: caches[0].offset]
    running = [packed_rows(cache, len(tokens)) for cache in caches]
    spec = probe(model).quantised_at_rest(*form)

    kept = Memory(spec, keep_quantised=True).keep(tokens, caches)
    for cache, rows in zip(kept.restored(tokens), running, strict=True):
        assert all(map(same_bits, packed_rows(cache, len(tokens)), rows))
    assert kept.pool.snapshot().cached == spec.cached_bytes(len(tokens))

    plain = Memory(spec).keep(tokens, caches)
    for cache, rows in zip(plain.restored(tokens), running, strict=True):
        for found, triple in ((cache.keys, rows[:3]), (cache.values, rows[3:])):
            expected = mx.dequantize(*triple, group_size=group_size, bits=bits)
            assert same_bits(found[..., : len(tokens), :], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_turns_that_stay_quantised_never_change_a_row(dtype):
    """A partial block is captured again by each turn: words are copied, not made anew."""
    model = model_of("llama", dtype)
    memory = Memory(probe(model).quantised_at_rest(8), keep_quantised=True)
    memory.keep(TOKENS[:300], computed("llama", dtype, 300))
    rows = []
    for n in range(300, 420, 20):
        caches = memory.restored(TOKENS[:n])
        rows = rows or [packed_rows(cache, 300) for cache in caches]
        for cache, expected in zip(caches, rows, strict=True):
            assert all(map(same_bits, packed_rows(cache, 300), expected))
        feed(model, TOKENS[n : n + 20], caches)
        memory.keep(TOKENS[: n + 20], caches)


def test_plain_and_quantised_runs_share_blocks():
    model = model_of("llama")
    memory = Memory(probe(model).quantised_at_rest(8), keep_quantised=True)
    memory.keep(TOKENS[:600], computed("llama", "float32", 600))
    quantised = quantised_by_mlx_lm(computed("llama", "float32", 600), 8, 64)
    assert memory.commit(TOKENS[:600], quantised).reason == "already_cached"


def half_quantised(name, form):
    caches = computed(name, "float32", 300)
    return [*quantised_by_mlx_lm(caches[:1], *form), *caches[1:]]


def all_quantised(name, form):
    """Also in the places of rings, whose windows hold all 300 tokens."""
    return [
        mlx_lm_cache.KVCache.to_quantized(cache, bits=form[0], group_size=form[1])
        for cache in computed(name, "float32", 300)
    ]


@pytest.mark.parametrize(
    ("name", "form", "caches"),
    [
        ("llama", (8, 64), lambda: all_quantised("llama", (4, 64))),
        ("llama", (8, 64), lambda: all_quantised("llama", (8, 32))),
        ("llama", (4, 32), lambda: all_quantised("llama", (4, 128))),
        ("llama", None, lambda: all_quantised("llama", (8, 64))),
        ("llama", (8, 64), lambda: half_quantised("llama", (8, 64))),
        ("llama", (8, 64), lambda: half_quantised("llama", (8, 64))[::-1]),
        ("gemma3", (8, 64), lambda: all_quantised("gemma3", (8, 64))),
        ("llama 64 wide", (8, 128), lambda: all_quantised("llama 64 wide", (8, 64))),
    ],
)
def test_another_form_is_refused_and_counted(name, form, caches):
    spec = probe(model_of(name))
    memory = Memory(spec if form is None else spec.quantised_at_rest(*form))
    report = memory.commit(TOKENS[:300], caches())
    assert (report.published_tokens, report.reason) == (0, "incompatible"), report
    assert [reason for reason, _ in memory.failures] == ["incompatible"]
    assert memory.manager.stats()["failures"] == {"incompatible": 1}
    snapshot = memory.pool.snapshot()
    assert snapshot.free == snapshot.total
    with memory.manager.admit("b", TOKENS[:301]) as lease:
        assert lease.cached_tokens == 0
        assert lease.materialise() is None


# Quantised from the first token on --------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_caches_quantised_from_the_start_are_served_as_they_are(form, dtype):
    bits, group_size = form
    model = model_of("llama", dtype)

    def fresh():
        return [QuantizedKVCache(group_size=group_size, bits=bits) for _ in model.layers]

    caches = fresh()
    feed(model, TOKENS[:300], caches)
    spec = spec_of_caches(caches)
    (group,) = spec.groups
    assert [tensor.name for tensor in group.tensors] == [
        f"{tensor}.{part}"
        for tensor in ("keys", "values")
        for part in ("packed", "scales", "biases")
    ]
    assert dict(group.recipe) == {"bits": bits, "group_size": group_size}
    assert spec.quantised_at_rest(4, 128) == spec

    memory = Memory(spec).keep(TOKENS[:300], caches)
    restored = memory.restored(TOKENS[:300])
    assert spec_of_caches(restored) == spec
    for ours, theirs in zip(restored, caches, strict=True):
        assert type(ours) is QuantizedKVCache
        assert all(map(same_bits, packed_rows(ours, 300), packed_rows(theirs, 300)))
    assert sum(c.nbytes for c in restored) == sum(c.nbytes for c in caches) == spec.live_bytes(300)
    assert memory.pool.snapshot().cached == spec.cached_bytes(300)
    # What mlx-lm allocates at a block's end is what a block of it costs at rest.
    assert spec.cached_bytes(256) == spec.live_bytes(256)

    logits = feed(model, TOKENS[300:308], restored)
    expected = feed(model, TOKENS[300:308], caches)
    assert same_bits(logits, expected)
    assert greedy(model, logits, restored, 32) == greedy(model, expected, caches, 32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [2048, 100])
def test_live_bytes_of_quantised_caches_are_exact(step, form):
    bits, group_size = form
    model = model_of("llama", "bfloat16")
    for n in (1, 2, 255, 256, 257, 258, 300, 513, 600, 2049, 2050, 2305):
        caches, sizes = [QuantizedKVCache(group_size, bits) for _ in model.layers], []
        with shapes_only(model):  # arrays that are never evaluated have their bytes too
            for _, count in calls(0, n, step):
                model(mx.zeros((1, count), dtype=mx.int32), cache=caches)
                sizes.append(sum(cache.nbytes for cache in caches))
        spec = spec_of_caches(caches)
        assert (spec.live_bytes(n, step), spec.live_peak_bytes(n, step)) == (sizes[-1], max(sizes))


def test_plain_caches_do_not_fit_a_spec_of_quantised_ones():
    caches = all_quantised("llama", (8, 64))
    memory = Memory(spec_of_caches(caches))
    report = memory.commit(TOKENS[:300], computed("llama", "float32", 300))
    assert (report.published_tokens, report.reason) == (0, "incompatible")


# The spec ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 5, 6, 16, -8, "8", 8.0, True])
def test_other_bits_are_refused_by_name(bits):
    with pytest.raises(ModelSpecValidationError) as refused:
        probe(model_of("llama")).quantised_at_rest(bits)
    assert refused.value.attribute == "kv_bits"


@pytest.mark.parametrize("group_size", [0, 1, 16, 48, 256, -64, "64", 64.0, None])
def test_other_group_sizes_are_refused_by_name(group_size):
    with pytest.raises(ModelSpecValidationError) as refused:
        probe(model_of("llama")).quantised_at_rest(8, group_size)
    assert refused.value.attribute == "kv_group_size"


def test_specs_of_different_forms_are_different():
    spec = probe(model_of("gemma3"))
    forms = [spec, *(spec.quantised_at_rest(*form) for form in FORMS)]
    assert len(set(forms)) == len(forms)
    assert spec.quantised_at_rest(8) == spec.quantised_at_rest(8, 64)
    assert spec.quantised_at_rest(8).quantised_at_rest(4) == spec.quantised_at_rest(4)


def test_what_runs_is_counted_as_before():
    spec = probe(model_of("gemma3"))
    for form in FORMS:
        quantised = spec.quantised_at_rest(*form)
        for n in (1, 300, 5000):
            assert quantised.live_bytes(n) == spec.live_bytes(n)
            assert quantised.live_peak_bytes(n) == spec.live_peak_bytes(n)
        assert quantised.max_agents(1 << 30, 5000) == spec.max_agents(1 << 30, 5000)
        at_rest = quantised.max_agents(1 << 30, 5000, basis="cached")
        assert at_rest > spec.max_agents(1 << 30, 5000, basis="cached")


def test_a_pool_of_the_plain_spec_refuses_a_manager_of_the_quantised_one():
    spec = probe(model_of("llama"))
    quantised = spec.quantised_at_rest(8)
    for ours, others in (
        (spec, quantised),
        (quantised, spec),
        (quantised, spec.quantised_at_rest(4)),
    ):
        with pytest.raises(PoolConfigurationError, match="another spec"):
            CacheManager(ours, BlockPool(others, total_memory=1 << 30))


def test_rings_restored_from_quantised_blocks_are_rings():
    memory = Memory(probe(model_of("gemma3")).quantised_at_rest(8), keep_quantised=True)
    memory.keep(TOKENS[:600], computed("gemma3", "float32", 600))
    kinds = [type(cache) for cache in memory.restored(TOKENS[:600])]
    assert kinds == [RotatingKVCache, RotatingKVCache, QuantizedKVCache, RotatingKVCache]
