"""Geometry: from arguments, from a probe, and the bytes that follow from it."""

from __future__ import annotations

import json
from importlib import resources
from types import SimpleNamespace

import pytest

from semantic import ModelCacheSpec, ModelSpecValidationError
from semantic.domain.model_args import FAMILIES
from tests.conftest import CONFIGS, config_of, feed, fresh_caches, random_tokens

MIB = 1 << 20
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
GEMMA = {
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "sliding_window": 1024,
}


def model(nested=None, **args):
    if nested is not None:
        args["text_config"] = nested
    return SimpleNamespace(args=SimpleNamespace(**args))


def preset(name):
    folder = resources.files("semantic") / "presets"
    return json.loads((folder / f"{name}.json").read_text())


def built(config):
    """The model that mlx-lm builds, never evaluated."""
    from mlx_lm.utils import _get_classes

    config = json.loads(json.dumps(config))
    model_class, args_class = _get_classes(config=config)
    return model_class(args_class.from_dict(config))


def test_from_model_gemma3():
    spec = ModelCacheSpec.from_model(model(GEMMA, model_type="gemma3"), kv_dtype="float16")
    assert spec.n_layers == 48
    assert spec.group("global").layers == tuple(range(5, 48, 6))
    assert spec.group("sliding_window").n_layers == 40
    assert (spec.n_kv_heads, spec.head_dim, spec.v_head_dim) == (8, 256, 256)
    assert spec.sliding_window == 1024
    assert spec.bytes_per_block_per_layer("global") == 2 * MIB
    assert spec.bytes_per_block_per_layer("sliding_window") == 2 * MIB
    assert spec.max_blocks_for_layer("global") is None
    assert spec.max_blocks_for_layer("sliding_window") == 4
    assert spec.layer_types[4:7] == ("sliding_window", "global", "sliding_window")
    narrow = ModelCacheSpec.from_model(model(GEMMA | {"sliding_window": 512}, model_type="gemma3"))
    assert narrow.max_blocks_for_layer("sliding_window") == 2


def test_from_model_gpt_oss():
    spec = ModelCacheSpec.from_model(model(model_type="gpt_oss", num_hidden_layers=24))
    assert spec.group("sliding_window").layers == tuple(range(0, 24, 2))
    assert spec.group("global").layers == tuple(range(1, 24, 2))
    assert (spec.n_kv_heads, spec.head_dim, spec.sliding_window) == (8, 64, 128)
    assert spec.bytes_per_block_per_layer("global") == MIB // 2
    assert spec.max_blocks_for_layer("sliding_window") == 1


def test_from_model_qwen():
    args = {
        "model_type": "qwen2",
        "num_hidden_layers": 48,
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
    }
    spec = ModelCacheSpec.from_model(model(**args, use_sliding_window=True, sliding_window=4096))
    assert spec.layer_types == ("global",) * 48  # mlx-lm ignores Qwen's window
    assert (spec.n_kv_heads, spec.head_dim) == (8, 128)
    assert spec.bytes_per_block_per_layer() == MIB
    qwen3 = ModelCacheSpec.from_model(model(**args | {"model_type": "qwen3"}, head_dim=64))
    assert qwen3.head_dim == 64


def test_from_model_llama():
    spec = ModelCacheSpec.from_model(model(**LLAMA), kv_dtype="float16")
    assert spec.layer_types == ("global",) * 32
    assert (spec.n_kv_heads, spec.head_dim) == (8, 128)
    assert spec.bytes_per_block_per_layer("global") == MIB
    assert spec.bytes_per_block("global") == 32 * MIB
    assert spec.sliding_window is None


def test_from_model_mistral():
    mistral = ModelCacheSpec.from_model(
        model(**LLAMA | {"model_type": "mistral"}, sliding_window=4096)
    )
    assert mistral.layer_types == ("global",) * 32  # without layer_types the window is unused
    nested = {k: v for k, v in LLAMA.items() if k != "model_type"}
    wrapped = ModelCacheSpec.from_model(model(nested, model_type="mistral3"))
    assert wrapped == mistral
    types = ["sliding_attention"] * 31 + ["full_attention"]
    ministral = model(**LLAMA | {"model_type": "ministral3"}, layer_types=types, sliding_window=128)
    assert ModelCacheSpec.from_model(ministral).group("sliding_window").n_layers == 31


def test_a_missing_field_gets_the_default_of_mlx_lm():
    spec = ModelCacheSpec.from_model(model({}, model_type="gemma3"))
    assert (spec.n_layers, spec.n_kv_heads, spec.head_dim, spec.sliding_window) == (26, 4, 256, 512)
    assert ModelCacheSpec.from_model(model(model_type="gemma3_text")).n_kv_heads == 1
    assert ModelCacheSpec.from_model(model(model_type="gpt_oss")).n_layers == 36
    without_kv = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    assert ModelCacheSpec.from_model(model(**without_kv)).n_kv_heads == 32
    assert ModelCacheSpec.from_model(model(**LLAMA, head_dim=96)).head_dim == 96


@pytest.mark.parametrize("family", FAMILIES)
def test_the_defaults_are_those_of_the_installed_mlx_lm(family):
    import dataclasses

    from mlx_lm.utils import _get_classes

    if family == "gemma3":
        text = _get_classes(config={"model_type": "gemma3"})[1](model_type="gemma3", text_config={})
        fields = {"num_attention_heads": None, "num_key_value_heads": None}
        assert {k: FAMILIES[family].defaults[k] for k in fields} == {
            k: text.text_config[k] for k in fields
        }
        return
    args_class = _get_classes(config={"model_type": family})[1]
    theirs = {f.name: f.default for f in dataclasses.fields(args_class)}
    for name, value in FAMILIES[family].defaults.items():
        assert theirs[name] == value, name


@pytest.mark.parametrize(
    ("broken", "attribute"),
    [
        (SimpleNamespace(), "args"),
        (model(), "model_type"),
        (model(model_type=7), "model_type"),
        (model(model_type="mamba2"), "model_type"),
        (model(model_type="gemma3"), "text_config"),
        (model({"model_type": "mistral4"}, model_type="mistral3"), "model_type"),
        (model(model_type="llama"), "num_hidden_layers"),
        (model(**LLAMA | {"num_hidden_layers": 0}), "num_hidden_layers"),
        (model(**LLAMA | {"num_hidden_layers": True}), "num_hidden_layers"),
        (model(**LLAMA | {"num_key_value_heads": "8"}), "num_key_value_heads"),
        (model(**{k: v for k, v in LLAMA.items() if k != "hidden_size"}), "hidden_size"),
        (model(**LLAMA | {"hidden_size": 16}), "hidden_size"),
        (model(**LLAMA, layer_types=["full_attention"]), "layer_types"),
        (model(**LLAMA, layer_types="full_attention"), "layer_types"),
        (model(**LLAMA, layer_types=["sliding_attention"] * 32), "layer_types"),
        (
            model(**LLAMA, layer_types=["full_attention", "sliding_attention"] * 16),
            "sliding_window",
        ),
        (model(model_type="gpt_oss", num_hidden_layers=3), "layer_types"),
        (model(model_type="gpt_oss", num_hidden_layers=1, layer_types=["x"]), "layer_types"),
        (model({"num_hidden_layers": 4}, model_type="gemma3"), "sliding_window_pattern"),
        (model(**LLAMA | {"model_type": "qwen3"}), "head_dim"),
    ],
)
def test_what_cannot_be_derived_is_refused_by_name(broken, attribute):
    with pytest.raises(ModelSpecValidationError) as refusal:
        ModelCacheSpec.from_model(broken)
    assert refusal.value.attribute == attribute
    assert attribute in str(refusal.value)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ModelSpecValidationError, match="unknown dtype 'fp16'"):
        ModelCacheSpec.from_model(model(**LLAMA), kv_dtype="fp16")


def test_a_pipelined_model_is_refused():
    half = SimpleNamespace(args=SimpleNamespace(**LLAMA), layers=[None] * 16)
    with pytest.raises(ModelSpecValidationError, match="16 layers"):
        ModelCacheSpec.from_model(half)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kv_dtype", ["bfloat16", "float32"])
def test_from_model_equals_the_probe(name, kv_dtype):
    from semantic.mlx import spec_from_config

    config = config_of(name)
    probed = spec_from_config(config, kv_dtype=kv_dtype)
    assert ModelCacheSpec.from_model(built(config), kv_dtype=kv_dtype) == probed
    assert probed.groups[0].layer_type == "global"
    assert config == config_of(name)  # the caller's dict is left alone


@pytest.mark.parametrize(
    ("name", "live", "peak"),
    [
        ("gemma-3-12b", 603_979_776, 1_274_413_056),
        ("gpt-oss-20b", 103_809_024, 154_091_520),
        ("qwen2.5-14b", 805_306_368, 805_306_368),
        ("llama-3.1-8b", 536_870_912, 536_870_912),
    ],
)
def test_the_reference_models_at_4096_tokens(name, live, peak):
    import mlx.core as mx

    from semantic.mlx import spec_from_config

    mx.reset_peak_memory()
    before = mx.get_active_memory()
    spec = spec_from_config(preset(name), kv_dtype="bfloat16")
    assert mx.get_peak_memory() - before < 1_000_000
    assert spec.live_bytes(4096) == live
    assert spec.live_peak_bytes(4096) == peak
    assert ModelCacheSpec.from_model(built(preset(name))) == spec


def test_a_probe_leaves_the_random_state_alone():
    import mlx.core as mx

    from semantic.mlx import spec_from_config

    mx.random.seed(11)
    expected = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(11)
    spec_from_config(config_of("llama"))
    assert mx.random.uniform(shape=(3,)).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": None}, "model_type"),
        ({"model_type": "no_such_model"}, "no_such_model"),
        ({"num_hidden_layers": None}, "llama"),
        ({"model_type": "olmo"}, "olmo"),
    ],
)
def test_a_config_that_mlx_lm_cannot_build_is_refused(changes, match):
    from semantic.mlx import spec_from_config

    with pytest.raises(ModelSpecValidationError, match=match):
        spec_from_config(config_of("llama", **changes))


def test_a_model_that_this_machine_cannot_run_is_refused():
    from semantic import UnsupportedCacheError
    from semantic.mlx import probe

    class NeedsAKernel:
        layers = (None,)

        def __call__(self, tokens, cache):
            raise RuntimeError("[metal_kernel] No Metal back-end.")

    with pytest.raises(UnsupportedCacheError, match="No Metal back-end"):
        probe(NeedsAKernel())


def test_a_config_file_is_read_from_its_path_or_folder(tmp_path):
    from semantic.mlx import spec_from_config

    file = tmp_path / "config.json"
    with pytest.raises(ModelSpecValidationError, match="no config at"):
        spec_from_config(tmp_path)
    file.write_text("{")
    with pytest.raises(ModelSpecValidationError, match="not a JSON file"):
        spec_from_config(file)
    file.write_text("[]")
    with pytest.raises(ModelSpecValidationError, match="no JSON object"):
        spec_from_config(file)
    file.write_text(json.dumps(config_of("llama", torch_dtype="float16")))
    for path in (file, tmp_path, str(tmp_path)):
        assert spec_from_config(path).groups[0].token_tensors[0].dtype == "float16"
    with pytest.raises(ModelSpecValidationError, match="unknown KV dtype"):
        spec_from_config(file, kv_dtype="int4")


STEPS = (1, 100, 256, 300, 2048)
LENGTHS = (1, 2, 3, 39, 40, 41, 42, 100, 255, 256, 257, 258, 299, 301, 513, 600, 1000)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma3_text", {}),
        ("gemma3_text", {"sliding_window": 300}),
        ("gemma3_text", {"sliding_window": 700}),
        ("gpt_oss", {"sliding_window": 128}),
        ("llama", {}),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_live_bytes_equal_what_mlx_lm_allocates(name, changes, step):
    """Lazily: shapes are enough, nothing is computed."""
    import mlx.core as mx

    from semantic.mlx import probe

    model = built(config_of(name, **changes))
    model.set_dtype(mx.bfloat16)
    spec = probe(model)
    for n in LENGTHS if step > 1 else (1, 2, 41, 257, 301):
        caches = fresh_caches(model)
        tokens = random_tokens(n)
        sizes = []
        position = 0
        while position < n:
            count = min(step, n - 1 - position) if position < n - 1 else 1
            model(mx.array([tokens[position : position + count]]), cache=caches)
            sizes.append(sum(cache.nbytes for cache in caches))
            position += count
        assert spec.live_bytes(n, step) == sizes[-1], n
        assert spec.live_peak_bytes(n, step) == max(sizes), n


def test_live_peak_covers_decoding(model_of):
    import mlx.core as mx

    from semantic.mlx import probe

    model = model_of("gemma3_text", sliding_window=300)
    spec = probe(model)
    tokens = random_tokens(900)
    for n in (10, 256, 700):
        caches = fresh_caches(model)
        feed(model, tokens[:n], caches)
        largest = spec.live_peak_bytes(n)
        for position in range(n, min(n + 300, 900)):
            model(mx.array([[tokens[position]]]), cache=caches)
            largest = max(largest, sum(cache.nbytes for cache in caches))
            new = position + 1 - n
            assert spec.live_peak_bytes(n, new_tokens=new) == largest, (n, new)


def test_live_peak_covers_a_restored_start(model_of):
    import mlx.core as mx

    from semantic import BlockPool, CacheManager
    from semantic.mlx import probe

    model = model_of("gemma3_text", sliding_window=300)
    spec = probe(model)
    manager = CacheManager(spec, BlockPool(spec, total_memory=1 << 26))
    tokens = random_tokens(900)
    for cached in (100, 300, 420):
        caches = fresh_caches(model)
        feed(model, tokens[:cached], caches)
        with manager.admit("a", tokens[:cached]) as lease:
            lease.commit(tokens[:cached], caches)
        with manager.admit("b", tokens, prefill_step=200) as lease:
            assert lease.cached_tokens == cached
            caches = lease.materialise()
            largest = sum(cache.nbytes for cache in caches)
            for start in [*range(cached, 899, 200), 899]:
                end = min(start + 200, 899) if start < 899 else 900
                model(mx.array([tokens[start:end]]), cache=caches)
                largest = max(largest, sum(cache.nbytes for cache in caches))
            assert lease.live_bytes == largest, cached


def test_live_bytes_of_chunks_and_states():
    """Closed forms of mlx_lm_caches.md: chunk 32, and a state that never grows."""
    from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor

    tensors = (TokenTensor("keys", 1, 1, "int8"), TokenTensor("values", 1, 0, "int8"))
    chunked = ModelCacheSpec((LayerGroup("chunked", "chunked", (0,), tensors, chunk=32),))
    assert chunked.live_bytes(40) == 288
    assert chunked.live_bytes(600) == 288
    assert chunked.max_blocks_for_layer("chunked") == 1
    state = StateTensor("conv", (1, 3, 8), "float32")
    mamba = ModelCacheSpec((LayerGroup("state", "state", (0, 1), (state,)),))
    assert {mamba.live_bytes(n) for n in (1, 5, 5000)} == {2 * 96}
    assert mamba.bytes_per_block("state") == 192
    assert mamba.live_peak_bytes(10, cached_tokens=5, new_tokens=3) == 192
    assert chunked.live_peak_bytes(40, cached_tokens=35, new_tokens=600) == 288
    with pytest.raises(ModelSpecValidationError, match="n_kv_heads"):
        _ = mamba.n_kv_heads


def test_a_batch_is_padded_to_its_longest(model_of):
    from mlx_lm.generate import BatchGenerator

    from semantic.mlx import probe

    model = model_of("llama")
    spec = probe(model)
    lengths = [30, 300, 555]
    generator = BatchGenerator(model, max_tokens=3)
    generator.insert([random_tokens(n, seed=n) for n in lengths])
    while not generator._generation_batch.uids:
        generator.next()
    assert len(generator._generation_batch) == 3
    assert generator.prompt_cache_nbytes == spec.live_batch_bytes(lengths)
    with pytest.raises(ModelSpecValidationError, match="lengths"):
        spec.live_batch_bytes([])


def test_agents_that_fit():
    spec = ModelCacheSpec.from_model(model(**LLAMA))
    gib = 1 << 30
    assert spec.max_agents(8 * gib, 4096) == 16
    assert spec.max_agents(8 * gib, 4096, basis="live") == 16
    assert spec.max_agents(8 * gib, 4096, basis="cached") == 16
    assert spec.max_agents(8 * gib, 4096, shared_prefix=2048, basis="cached") == 31
    assert spec.max_agents(0, 4096) == 0
    with pytest.raises(ModelSpecValidationError, match="unknown basis"):
        spec.max_agents(gib, 4096, basis="best")
    with pytest.raises(ModelSpecValidationError, match="longer than"):
        spec.max_agents(gib, 100, shared_prefix=200)
    with pytest.raises(ModelSpecValidationError, match="total_memory"):
        spec.max_agents(-1, 100)


@pytest.mark.parametrize("tokens", [0, -1, True, 2.5])
def test_token_counts_are_checked(tokens):
    spec = ModelCacheSpec.from_model(model(**LLAMA))
    with pytest.raises(ModelSpecValidationError, match="n_tokens"):
        spec.live_bytes(tokens)
