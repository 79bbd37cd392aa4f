"""Tensors, groups and how they are nested: what is legal, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semantic.domain.at_rest import AtRest
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.growth import kept_from, rows_at_rest
from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

KV = (TokenTensor("keys", 2, 64, "bfloat16"), TokenTensor("values", 2, 64, "bfloat16"))
GLOBAL = LayerGroup("global", "global", (0,), KV)
RING = LayerGroup("sliding_window", "sliding_window", (0,), KV, window=300)
CHUNK = LayerGroup("chunked", "chunked", (0,), KV, chunk=300)
STATE = LayerGroup("state", "state", (0,), (StateTensor("slot_0", (3, 4), "float32"),))
COMPRESSED = LayerGroup(
    "global", "global", (0,), (TokenTensor("kv", 1, 8, "float32", stride=3),), growth="exact"
)


@pytest.mark.parametrize(
    ("group", "end", "spans"),
    [
        (GLOBAL, 700, ((0, 700),)),
        (RING, 100, ((0, 100),)),
        (RING, 299, ((0, 299),)),
        (RING, 300, ((1, 300),)),
        (RING, 700, ((401, 700),)),
        (replace(RING, window=1), 700, ()),
        (replace(RING, keep=4), 3, ((0, 3),)),
        (replace(RING, keep=4), 4, ((0, 4),)),
        (replace(RING, keep=4), 100, ((0, 4), (4, 100))),
        (replace(RING, keep=4), 700, ((0, 4), (405, 700))),
        (CHUNK, 299, ((0, 299),)),
        (CHUNK, 300, ()),
        (CHUNK, 301, ((300, 301),)),
        (STATE, 700, ((699, 700),)),
    ],
)
def test_what_a_hit_reads(group, end, spans):
    assert group.spans_needed(end) == spans
    blocks = sum(-(-hi // 256) - lo // 256 for lo, hi in spans)
    assert group.blocks_at_rest(end) == blocks


def test_a_compressed_tensor_costs_a_row_for_every_stride():
    (tensor,) = COMPRESSED.token_tensors
    assert (tensor.bytes_per_row, tensor.bytes_per_token, tensor.rows_per_block) == (32, 11, 86)
    assert COMPRESSED.bytes_per_block == 86 * 32
    assert [rows_at_rest(COMPRESSED, n) for n in (2, 3, 256, 700)] == [0, 1, 85, 233]
    spec = ModelCacheSpec((COMPRESSED,))
    assert [spec.live_bytes(n) for n in (2, 3, 700)] == [0, 32, 233 * 32]


def test_a_state_that_fills_up_is_as_large_as_the_tokens_made_it():
    tensor = StateTensor("slot_0", (3, 4), "int64", grows=0)
    assert [tensor.shape_at(n) for n in (1, 2, 3, 9)] == [(1, 4), (2, 4), (3, 4), (3, 4)]
    spec = ModelCacheSpec((replace(STATE, tensors=(tensor,)),))
    assert [spec.live_bytes(n) for n in (1, 2, 3, 9)] == [32, 64, 96, 96]
    assert spec.cached_bytes(1) == 96  # a checkpoint has room for the whole


def test_an_open_group_comes_and_goes_and_the_peak_knows():
    open_part = replace(CHUNK, chunk=4, growth="exact")
    spec = ModelCacheSpec((open_part,))
    row = 512
    assert [spec.live_bytes(n) // row for n in range(1, 10)] == [1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert spec.live_peak_bytes(8, 4, new_tokens=0) == 3 * row
    assert spec.live_peak_bytes(4, 4, new_tokens=100) == 3 * row


def test_where_a_chunked_buffer_starts():
    assert [kept_from(CHUNK, n) for n in (1, 300, 301, 302, 700)] == [0, 0, 0, 1, 399]
    assert kept_from(GLOBAL, 256) == 0


@pytest.mark.parametrize(
    ("make", "attribute"),
    [
        (lambda: TokenTensor("keys", 1, 8, "bfloat16", stride=0), "stride"),
        (lambda: TokenTensor("keys", 0, 8, "bfloat16"), "heads"),
        (lambda: TokenTensor("keys", 1, -1, "bfloat16"), "dim"),
        (lambda: StateTensor("s", (3,), "bfloat16", grows=1), "grows"),
        (lambda: StateTensor("s", (3,), "bfloat16", grows=-1), "grows"),
        (lambda: StateTensor("s", (3,), "bfloat99"), "dtype"),
        (lambda: replace(GLOBAL, growth="sometimes"), "growth"),
        (lambda: replace(GLOBAL, keep=4), "keep"),
        (lambda: replace(RING, keep=300), "keep"),
        (lambda: replace(GLOBAL, tensors=(KV[0], replace(KV[1], stride=2))), "stride"),
        (lambda: replace(GLOBAL, name=""), "name"),
        (lambda: AtRest(5), "kv_bits"),
        (lambda: AtRest(8, 48), "kv_group_size"),
        (lambda: ModelCacheSpec((GLOBAL,), (CacheEntry("a.B", (0,)),) * 2), "entries"),
        (lambda: ModelCacheSpec((GLOBAL,), (CacheEntry("a.B", (1,)),)), "entries"),
    ],
)
def test_contradictions_are_refused_by_name(make, attribute):
    with pytest.raises(ModelSpecValidationError) as caught:
        make()
    assert caught.value.attribute == attribute


def test_entries_nest_and_may_stay_empty():
    groups = (replace(GLOBAL, layers=(0, 1)), replace(STATE, layers=(2,)))
    inner = (CacheEntry("m.A", (2,)), CacheEntry("m.K", (0,)))
    spec = ModelCacheSpec(groups, (CacheEntry("m.L", children=inner), CacheEntry("m.K"),
                                   CacheEntry("m.K", (1,))))  # fmt: skip
    assert (spec.n_entries, spec.n_layers) == (3, 3)
    assert list(spec.entries[0].all_leaves) == [2, 0]


def test_quantised_blocks_cost_words_scales_and_biases():
    spec = ModelCacheSpec((GLOBAL,)).quantised_at_rest(8, 64)
    per_row = 2 * (64 * 8 // 32 * 4 + 2 + 2)
    assert spec.bytes_per_block("global") == 2 * 256 * per_row
    assert spec.live_bytes(300) == ModelCacheSpec((GLOBAL,)).live_bytes(300)
    assert spec.plain_at_rest == ()


def test_what_cannot_be_quantised_is_kept_plain_and_named():
    narrow = replace(GLOBAL, tensors=(KV[0], replace(KV[1], dim=20)))
    spec = ModelCacheSpec((narrow, replace(STATE, layers=(1,)))).quantised_at_rest(4, 32)
    assert spec.plain_at_rest == ("global.values", "state.slot_0")
    assert [t.name for t in spec.group("global").rest_tensors] == [
        "keys.packed", "keys.scales", "keys.biases", "values",
    ]  # fmt: skip


def test_what_runs_quantised_is_not_quantised_again():
    group = replace(GLOBAL, recipe=(("bits", 8), ("group_size", 64)))
    assert group.quantised(4, 64) == group
