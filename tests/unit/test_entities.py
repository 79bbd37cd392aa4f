"""Entities and values: validated at birth, equal by what they should be equal by."""

from __future__ import annotations

import pytest

from semantic import (
    AgentBlocks,
    BlockValidationError,
    CacheKey,
    GenerationResult,
    KVBlock,
    LayerGroup,
    ModelCacheSpec,
    ModelSpecValidationError,
    StateTensor,
    TokenTensor,
)

TENSORS = (TokenTensor("keys", 2, 8, "float16"), TokenTensor("values", 2, 4, "float16"))
GLOBAL = LayerGroup("global", "global", (0, 2), TENSORS)
WINDOW = LayerGroup("sliding_window", "sliding_window", (1,), TENSORS, window=300)


def test_blocks_compare_by_id():
    a, b = KVBlock(7), KVBlock(7, layer_data={"keys": 1}, token_count=256)
    assert a == b
    assert hash(a) == hash(b)
    assert a != KVBlock(8)
    assert a != 7
    assert (a.is_captured, b.is_captured) == (False, True)
    assert (a.is_full, b.is_full) == (False, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"block_id": -1},
        {"block_id": True},
        {"block_id": "x"},
        {"block_id": 1, "token_count": 257},
        {"block_id": 1, "token_count": -1},
        {"block_id": 1, "token_count": 2.0},
    ],
)
def test_blocks_are_validated(fields):
    with pytest.raises(BlockValidationError):
        KVBlock(**fields)


def test_agent_blocks():
    blocks = AgentBlocks("a", {"global": [KVBlock(1), KVBlock(2)], "state": [KVBlock(3)]}, 300)
    assert blocks.block_ids == (1, 2, 3)
    assert len(blocks) == 3
    assert isinstance(blocks.blocks["global"], tuple)
    assert blocks == AgentBlocks("a", {"x": (KVBlock(1), KVBlock(2), KVBlock(3))}, 1)
    assert hash(blocks) == hash(AgentBlocks("a", {"x": (KVBlock(1), KVBlock(2), KVBlock(3))}, 1))
    assert blocks != AgentBlocks("b", blocks.blocks, 300)
    assert blocks != "a"
    with pytest.raises(TypeError):
        blocks.blocks["global"] = ()


@pytest.mark.parametrize(
    ("agent", "blocks", "tokens"),
    [
        ("", {}, 0),
        (3, {}, 0),
        ("a", {}, -1),
        ("a", {"x": [KVBlock(1)], "y": [KVBlock(1)]}, 5),
    ],
)
def test_agent_blocks_are_validated(agent, blocks, tokens):
    with pytest.raises(BlockValidationError):
        AgentBlocks(agent, blocks, tokens)


def test_keys_and_results_are_values():
    assert CacheKey("a", "m", "h") == CacheKey("a", "m", "h")
    assert len({CacheKey("a", "m", "h"), CacheKey("a", "m", "h"), CacheKey("b", "m", "h")}) == 2
    with pytest.raises(BlockValidationError, match="prefix_hash"):
        CacheKey("a", "m", "")
    result = GenerationResult("text", [1, 2], cache=object())
    assert result.tokens == (1, 2)
    assert result == GenerationResult("text", (1, 2))
    assert hash(result) == hash(GenerationResult("text", (1, 2)))
    with pytest.raises(BlockValidationError, match="tokens"):
        GenerationResult("text", [True])


def test_group_arithmetic():
    assert GLOBAL.bytes_per_token_per_layer == 2 * (8 + 4) * 2
    assert GLOBAL.bytes_per_block == 2 * 256 * 48
    assert (GLOBAL.max_blocks, WINDOW.max_blocks) == (None, 2)
    assert [WINDOW.blocks_for(n) for n in (0, 1, 256, 257, 9999)] == [0, 1, 1, 2, 2]
    assert [WINDOW.blocks_at_rest(n) for n in (0, 1, 300, 555, 556, 9999)] == [0, 1, 2, 2, 2, 3]
    state = LayerGroup("state", "state", (0,), (StateTensor("conv", (2, 3), "float32"),))
    assert (state.bytes_per_block, state.max_blocks, state.blocks_for(9)) == (24, 1, 1)
    empty_values = LayerGroup("g", "global", (0,), (TokenTensor("values", 1, 0, "int8"),))
    assert empty_values.bytes_per_block == 0


@pytest.mark.parametrize(
    ("fields", "attribute"),
    [
        ({"layer_type": "linear"}, "layer_type"),
        ({"name": ""}, "name"),
        ({"layers": ()}, "layers"),
        ({"tensors": ()}, "layers"),
        ({"tensors": (StateTensor("s", (1,), "int8"),)}, "tensors"),
        ({"layer_type": "state"}, "tensors"),
        ({"window": 4}, "window"),
        ({"chunk": 4}, "chunk"),
        ({"layer_type": "sliding_window"}, "window"),
        ({"layer_type": "sliding_window", "window": 0}, "window"),
        ({"layer_type": "chunked", "chunk": True}, "chunk"),
        ({"keep": -1}, "keep"),
        ({"layers": (0, "a")}, "layers"),
        ({"layers": (-1,)}, "layers"),
        ({"name": 5}, "name"),
    ],
)
def test_groups_are_validated(fields, attribute):
    base = {"name": "g", "layer_type": "global", "layers": (0,), "tensors": TENSORS}
    with pytest.raises(ModelSpecValidationError) as refusal:
        LayerGroup(**base | fields)
    assert refusal.value.attribute == attribute


@pytest.mark.parametrize(
    "make",
    [
        lambda: TokenTensor("keys", 0, 8, "float16"),
        lambda: TokenTensor("keys", 1, -8, "float16"),
        lambda: TokenTensor("keys", 1, 8, "float17"),
        lambda: TokenTensor("keys", 1, 8, ["float16"]),
        lambda: StateTensor("conv", (1, -1), "float16"),
    ],
)
def test_tensors_are_validated(make):
    with pytest.raises(ModelSpecValidationError):
        make()


def test_specs():
    spec = ModelCacheSpec((WINDOW, GLOBAL))
    assert (spec.n_layers, spec.n_kv_heads, spec.head_dim, spec.v_head_dim) == (3, 2, 8, 4)
    assert spec.layer_types == ("global", "sliding_window", "global")
    assert spec.block_tokens == 256
    assert hash(spec) == hash(ModelCacheSpec((WINDOW, GLOBAL)))
    with pytest.raises(ModelSpecValidationError, match="this model has sliding_window, global"):
        spec.group("state")
    assert spec.cached_bytes(0) == 0
    with pytest.raises(ModelSpecValidationError):
        spec.cached_bytes(-1)


def test_a_second_group_of_a_type_is_found_by_its_own_name():
    other = LayerGroup("sliding_window.1", "sliding_window", (3,), TENSORS, window=64)
    spec = ModelCacheSpec((GLOBAL, WINDOW, other))
    assert spec.group("sliding_window") is WINDOW
    assert spec.group("sliding_window.1") is other
    with pytest.raises(ModelSpecValidationError, match="sliding_window is not one number"):
        _ = spec.sliding_window


@pytest.mark.parametrize(
    "groups",
    [
        (),
        (1,),
        (GLOBAL, GLOBAL),
        (GLOBAL,),
        (GLOBAL, LayerGroup("w", "sliding_window", (2,), TENSORS, window=4)),
    ],
)
def test_specs_hold_every_layer_once(groups):
    with pytest.raises(ModelSpecValidationError):
        ModelCacheSpec(groups)
