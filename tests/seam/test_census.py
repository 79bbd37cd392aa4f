"""Every architecture of the installed mlx-lm has a spec that holds all of its cache.

The cases are the modules and remapped types of whatever release is installed, so a new one fails
here by its name. The expected layouts are written out from the fields of the configurations, and
hold for other configurations too. Nothing is evaluated: shapes are enough.
"""

from __future__ import annotations

import ast
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx_lm.models
import pytest
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

from semantic import ModelCacheSpec, ModelSpecValidationError
from semantic.mlx import probe, spec_from_config
from semantic.testing.architectures import architectures
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.tiny_models import lazy_model
from tests.seam.test_live_bytes import measured

RELEASE = tuple(map(int, re.findall(r"\d+", version("mlx-lm"))[:3]))
MLX_LM = f"mlx-lm {version('mlx-lm')}"
CONFIGURATIONS = architectures()
REMAPPED_TYPES = getattr(utils, "MODEL_REMAPPING", {})
REMAPPED_ARCHITECTURES = getattr(utils, "MODEL_ARCHITECTURE_REMAPPING", {})

LAZY_BYTES = 1_000_000
SECONDS = 5.0
"""A fifth of that is usual; the machine may be busy."""


@pytest.fixture(scope="module")
def stand_ins():
    """What some architectures need to be built or run without Metal."""
    with cpu_stand_ins():
        yield


def converted(config: dict[str, Any], dtype: str) -> Any:
    """The lazy model with its parameters in `dtype`, but for those that `mlx_lm.convert` keeps."""
    model = lazy_model(config, dtype="float32")
    casts = getattr(model, "cast_predicate", lambda path: True)

    def cast(path: str, parameter: mx.array) -> mx.array:
        if casts(path) and mx.issubdtype(parameter.dtype, mx.floating):
            return parameter.astype(getattr(mx, dtype))
        return parameter

    model.update(tree_map_with_path(cast, model.parameters()))
    return model


# --- what the installed release has -------------------------------------------------------------
def modules() -> list[str]:
    """The modules with a model: read, not imported, since some cannot be imported everywhere."""
    return [
        found.name
        for found in pkgutil.iter_modules(mlx_lm.models.__path__)
        if {"Model", "ModelArgs"} <= _names(Path(found.module_finder.find_spec(found.name).origin))
    ]


def _names(source: Path) -> set[str]:
    names: set[str] = set()
    for statement in ast.parse(source.read_text("utf-8")).body:
        if isinstance(statement, ast.ClassDef):
            names.add(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.Assign):
            names.update(t.id for t in statement.targets if isinstance(t, ast.Name))
    return names


def module_of(config: dict[str, Any]) -> str:
    """The module that mlx-lm builds a configuration with."""
    model_type = config["model_type"]
    for architecture in config.get("architectures") or ():
        if (model_type, architecture) in REMAPPED_ARCHITECTURES:
            return str(REMAPPED_ARCHITECTURES[model_type, architecture])
    return str(REMAPPED_TYPES.get(model_type, model_type))


MODULES = modules()
PRESENT = {name: c for name, c in CONFIGURATIONS.items() if module_of(c) in MODULES}
"""The configurations that the installed release can have a model for."""


def of_module(module: str) -> dict[str, Any] | None:
    """The module's own configuration, or another that it is used for."""
    fitting = {name: c for name, c in PRESENT.items() if module_of(c) == module}
    return fitting.get(module) or next(iter(fitting.values()), None)


def cases() -> dict[str, dict[str, Any] | None]:
    """Every module and every remapped type, with its configuration."""
    found = {module: of_module(module) for module in MODULES}
    found |= {model_type: PRESENT.get(model_type) for model_type in REMAPPED_TYPES}
    for (model_type, architecture), module in REMAPPED_ARCHITECTURES.items():
        config = of_module(module)
        remapped = {"model_type": model_type, "architectures": [architecture]}
        found[f"{model_type}+{architecture}"] = config and config | remapped
    return found


CASES = cases()
ABSENT = sorted(CONFIGURATIONS.keys() - CASES.keys())
"""Configurations for modules of other releases."""


class Refusal(NamedTuple):
    """Why mlx-lm itself cannot build a model."""

    error: type[Exception]
    says: str
    without_package: str


REFUSED = {"olmo": Refusal(ModelSpecValidationError, "install ai2-olmo", "hf_olmo")}


def required(name: str, config: dict[str, Any] | None) -> dict[str, Any]:
    """The configuration, or a failure that says what to do."""
    if config is None:
        pytest.fail(
            f"{MLX_LM} has {name!r}, and there is no configuration of it: add a tiny one, true to "
            "its layer pattern, to python/semantic/testing/architectures.json, then run "
            "`python project/experiments/exp_003/census.py`"
        )
    return config


@pytest.mark.parametrize("name", [*CASES, *ABSENT])
def test_every_architecture_has_a_spec_of_all_its_caches(name):
    if name in ABSENT:
        module = module_of(CONFIGURATIONS[name])
        assert module not in MODULES
        pytest.skip(f"{MLX_LM} has no module {module!r}")
    config = required(name, CASES[name])
    refusal = REFUSED.get(name)
    if refusal is not None and find_spec(refusal.without_package) is None:
        with pytest.raises(refusal.error, match=refusal.says) as raised:
            spec_from_config(config)
        assert type(raised.value) is refusal.error
        return
    spec = spec_from_config(config, kv_dtype="bfloat16")
    with cpu_stand_ins():
        model = lazy_model(config)
        assert spec.n_entries == len(make_prompt_cache(model))
        assert spec.live_bytes(1) == measured(model, 1, 1)[0]


def test_an_architecture_without_a_configuration_fails_by_its_name():
    with pytest.raises(pytest.fail.Exception, match=r"'brand_new'.*architectures\.json"):
        required("brand_new", of_module("brand_new"))


def test_helper_modules_are_no_cases():
    helpers = {"base", "cache", "mla", "rope_utils", "ssm", "switch_layers", "bitlinear_layers"}
    assert not helpers & set(MODULES)
    assert {"llama", "olmo", "bitnet", "lfm2-vl"} <= set(MODULES)


def test_with_the_package_that_it_lacks_a_refused_one_has_a_spec(stand_ins):
    for name in REFUSED:
        assert spec_from_config(CONFIGURATIONS[name]).layer_types == ("global",) * 4


# --- the layouts, written out -------------------------------------------------------------------
class Cache(NamedTuple):
    """A leaf cache; its tensors are (heads, width, dtype) of rows or (shape, dtype) of states."""

    kind: str
    tensors: tuple[tuple[Any, ...], ...]
    span: int | None = None
    stride: int = 1
    growth: str = "steps"
    grows: int | None = None


Layout = list[list[Cache]]
"""The leaf caches of each entry."""

FORMS: dict[str, Callable[[Any], Layout]] = {}
BF16, FP32 = "bfloat16", "float32"

_FP32_STATES = (0, 31, 2), "the recurrent states were in the dtype of the weights"
_INDEX_VALUES = (0, 32, 0), "the index cache had no values"
SINCE = {
    **dict.fromkeys(("mamba2", "granitemoehybrid", "falcon_h1", "nemotron_h"), _FP32_STATES),
    **dict.fromkeys(("plamo2", "qwen3_next", "qwen3_5", "kimi_linear"), _FP32_STATES),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _INDEX_VALUES),
    "llama4": ((0, 32, 0), "a chunk was cut out of the buffer with its slack"),
}
"""The first release whose caches are as written here, and what was different before."""


def skip_where_it_was_different(name: str) -> None:
    """Skip on a release before the layout became what it is."""
    first, before = SINCE.get(name, ((), ""))
    if first > RELEASE:
        pytest.skip(f"{MLX_LM}: {before}")


def form(*names: str) -> Callable[[Callable[[Any], Layout]], Callable[[Any], Layout]]:
    """The layout of these architectures, from the fields of a (text) configuration."""

    def remember(rule: Callable[[Any], Layout]) -> Callable[[Any], Layout]:
        FORMS.update(dict.fromkeys(names, rule))
        return rule

    return remember


def kv(heads: int, keys: int, values: int | None = None) -> Cache:
    return Cache("global", ((heads, keys, BF16), (heads, keys if values is None else values, BF16)))


def ring(window: int, *shape: int) -> Cache:
    return kv(*shape)._replace(kind="sliding_window", span=window)


def state(**tensors: tuple[tuple[int, ...], str]) -> Cache:
    return Cache("state", tuple(tensors.values()))


def mamba2(kernel: int, heads: int, width: int, groups: int, states: int) -> Cache:
    conv = (kernel - 1, heads * width + 2 * groups * states)
    return state(conv=(conv, BF16), ssm=((heads, width, states), FP32))


def delta(c: Any) -> Cache:
    """A gated delta rule: a convolution over queries, keys and values, and a matrix per head."""
    keys, values = c.linear_num_key_heads, c.linear_num_value_heads
    channels = 2 * keys * c.linear_key_head_dim + values * c.linear_value_head_dim
    matrix = (values, c.linear_value_head_dim, c.linear_key_head_dim)
    return state(
        conv=((c.linear_conv_kernel_dim - 1, channels), BF16),
        matrix=(matrix, FP32),
    )


@form("llama", "qwen3", "glm4", "qwen3_moe", "minimax_m2", "mistral3")
def _(c):
    full = kv(c.num_key_value_heads, c.head_dim)
    if getattr(c, "layer_types", None) is None:
        return [[full]] * c.num_hidden_layers
    sliding = ring(getattr(c, "sliding_window", None), c.num_key_value_heads, c.head_dim)
    return [[full if t == "full_attention" else sliding] for t in c.layer_types]


@form("qwen2", "mixtral", "phi3", "starcoder2")  # their windows are not used
def _(c):
    return [
        [kv(c.num_key_value_heads, c.hidden_size // c.num_attention_heads)]
    ] * c.num_hidden_layers


@form("gpt_bigcode")
def _(c):
    return [[kv(1 if c.multi_query else c.n_head, c.n_embd // c.n_head)]] * c.n_layer


@form("dbrx")
def _(c):
    return [[kv(c.attn_config["kv_n_heads"], c.d_model // c.n_heads)]] * c.n_layers


@form("plamo")
def _(c):
    heads = c.num_attention_heads // c.n_shared_head
    return [[kv(heads, c.hidden_size // c.num_attention_heads)]] * c.num_hidden_layers


@form("openelm")
def _(c):
    return [[kv(heads, c.head_dim)] for heads in c.num_kv_heads]


@form("nemotron-nas")
def _(c):
    width = c.hidden_size // c.num_attention_heads
    blocks = [b["attention"] for b in c.block_configs if not b["attention"]["no_op"]]
    return [
        []  # a linear layer gets a cache too, and leaves it empty
        if b["replace_with_linear"]
        else [kv(c.num_attention_heads // b["n_heads_in_group"], width)]
        for b in blocks
    ]


@form("afm7")
def _(c):
    own = c.num_layers - c.num_kv_reuse_layers
    return [[kv(c.num_kv_heads, c.hidden_dim // c.num_heads)]] * own


@form("nanbeige")
def _(c):
    return [[kv(c.num_key_value_heads, c.head_dim)]] * (c.num_hidden_layers * c.num_loops)


@form("deepseek_v3", "kimi_k2", "kimi_vl", "glm4_moe_lite", "mistral4")
def latent(c):
    return [[kv(1, c.kv_lora_rank, c.qk_rope_head_dim)]] * c.num_hidden_layers


@form("deepseek_v2", "youtu_llm")
def _(c):
    keys = c.qk_nope_head_dim + c.qk_rope_head_dim
    return [[kv(c.num_attention_heads, keys, c.v_head_dim)]] * c.num_hidden_layers


@form("minicpm3")
def _(c):
    keys = c.qk_nope_head_dim + c.qk_rope_head_dim
    values = c.hidden_size // c.num_attention_heads
    return [[kv(c.num_attention_heads, keys, values)]] * c.num_hidden_layers


@form("deepseek_v32", "glm_moe_dsa")
def _(c):
    pair = [kv(1, c.kv_lora_rank, c.qk_rope_head_dim), kv(1, c.index_head_dim)]
    return [pair] * c.num_hidden_layers


@form("longcat_flash")
def twice_latent(c):
    return [[kv(1, c.kv_lora_rank, c.qk_rope_head_dim)] * 2] * c.num_layers


@form("longcat_flash_ngram")
def _(c):
    tokens = state(ids=((c.emb_neighbor_num - 1,), "int64"))._replace(grows=0)
    return [[tokens], *twice_latent(c)]


@form("minimax_m3_vl")
def _(c):
    sparse = c.sparse_attention_config
    own = kv(c.num_key_value_heads, c.head_dim)
    index = kv(1, sparse["sparse_index_dim"], 0)
    return [[own, index] if on else [own] for on in sparse["sparse_attention_freq"]]


@form("deepseek_v41")
def _(c):
    entries = []
    for layer, ratio in enumerate(c.compress_ratios):
        window = ((1, c.head_dim, BF16),)
        entries.append([Cache("sliding_window", window, c.sliding_window, growth="exact")])
        if layer in c.kv_source_layer_ids:
            kept = [(1, c.head_dim, FP32)]
            if layer in c.index_source_layer_ids:
                kept.append((1, c.index_head_dim, FP32))
            entries[-1].append(Cache("global", tuple(kept), stride=ratio, growth="exact"))
        if layer in c.kv_source_layer_ids and ratio > 1:
            still_open = ((1, c.head_dim, FP32),) * 2
            entries[-1].append(Cache("chunked", still_open, ratio, growth="exact"))
    return entries


@form("gemma3_text", "gemma3", "cohere2", "plamo3")
def _(c):
    shape = c.num_key_value_heads, c.head_dim
    pattern = getattr(c, "sliding_window_pattern", 6)
    return [
        [ring(c.sliding_window, *shape) if (i + 1) % pattern else kv(*shape)]
        for i in range(c.num_hidden_layers)
    ]


@form("exaone4")
def _(c):
    shape = c.num_key_value_heads, c.head_dim
    pattern = c.sliding_window_pattern
    return [
        [ring(c.sliding_window, *shape) if pattern[i % len(pattern)] == "L" else kv(*shape)]
        for i in range(c.num_hidden_layers)
    ]


@form("gpt_oss", "afmoe", "olmo3", "gemma3n", "muse_spark")
def _(c):
    width = getattr(c, "head_dim", c.hidden_size // c.num_attention_heads)
    shape = c.num_key_value_heads, width
    own = c.num_hidden_layers - getattr(c, "num_kv_shared_layers", 0)
    return [
        [kv(*shape) if t == "full_attention" else ring(c.sliding_window, *shape)]
        for t in c.layer_types[:own]
    ]


@form("gemma4_text", "gemma4")
def _(c):
    heads = c.num_key_value_heads
    own = c.num_hidden_layers - c.num_kv_shared_layers
    full, sliding = kv(heads, c.global_head_dim), ring(c.sliding_window, heads, c.head_dim)
    return [[full if t == "full_attention" else sliding] for t in c.layer_types[:own]]


@form("step3p5")
def _(c):
    other = c.attention_other_setting
    full = kv(c.num_attention_groups, c.head_dim)
    sliding = ring(c.sliding_window, other["num_attention_groups"], other["head_dim"])
    return [[full if t == "full_attention" else sliding] for t in c.layer_types]


@form("mimo_v2_flash")
def _(c):
    full = kv(c.num_key_value_heads, c.head_dim, c.v_head_dim)
    swa = (c.swa_num_key_value_heads, c.swa_head_dim, c.swa_v_head_dim)
    sliding = ring(c.sliding_window_size, *swa)
    return [[sliding if slides else full] for slides in c.hybrid_layer_pattern]


@form("iquestloopcoder")
def _(c):
    shape = c.num_key_value_heads, c.head_dim
    first, later = kv(*shape), ring(c.loop_window_size, *shape)
    return [[first]] * c.num_hidden_layers + [[later]] * c.num_hidden_layers


@form("llama4")
def _(c):
    full = kv(c.num_key_value_heads, c.head_dim)
    chunked = full._replace(kind="chunked", span=c.attention_chunk_size)
    return [[chunked if (i + 1) % 4 else full] for i in range(c.num_hidden_layers)]


@form("jamba")
def _(c):
    inner = c.mamba_expand * c.hidden_size
    conv, ssm = (c.mamba_d_conv - 1, inner), (inner, c.mamba_d_state)
    mamba = state(conv=(conv, BF16), ssm=(ssm, BF16))
    attention = kv(c.num_key_value_heads, c.hidden_size // c.num_attention_heads)
    return [
        [attention if i % c.attn_layer_period == c.attn_layer_offset else mamba]
        for i in range(c.num_hidden_layers)
    ]


@form("mamba", "falcon_mamba")
def _(c):
    conv, ssm = (c.conv_kernel - 1, c.intermediate_size), (c.intermediate_size, c.state_size)
    return [[state(conv=(conv, BF16), ssm=(ssm, BF16))]] * c.num_hidden_layers


@form("mamba2")
def _(c):
    layer = mamba2(c.conv_kernel, c.num_heads, c.head_dim, c.n_groups, c.state_size)
    return [[layer]] * c.num_hidden_layers


@form("nemotron_h")
def _(c):
    shape = c.mamba_num_heads, c.mamba_head_dim, c.n_groups, c.ssm_state_size
    layers = {
        "M": mamba2(c.conv_kernel, *shape),
        "*": kv(c.num_key_value_heads, c.head_dim),
    }
    return [[layers[letter]] for letter in c.hybrid_override_pattern if letter in layers]


@form("granitemoehybrid")
def _(c):
    shape = c.mamba_n_heads, c.mamba_d_head, c.mamba_n_groups, c.mamba_d_state
    attention = kv(c.num_key_value_heads, c.hidden_size // c.num_attention_heads)
    mamba = mamba2(c.mamba_d_conv, *shape)
    return [[mamba if t == "mamba" else attention] for t in c.layer_types]


@form("falcon_h1")
def _(c):
    shape = c.mamba_n_heads, c.mamba_d_head, c.mamba_n_groups, c.mamba_d_state
    both = [mamba2(c.mamba_d_conv, *shape), kv(c.num_key_value_heads, c.head_dim)]
    return [both] * c.num_hidden_layers


@form("plamo2")
def _(c):
    heads, width = c.mamba_num_heads, c.hidden_size_per_head
    conv, ssm = (c.mamba_d_conv - 1, heads * width), (heads, width, c.mamba_d_state)
    mamba = state(conv=(conv, BF16), ssm=(ssm, FP32))
    attention = kv(c.num_key_value_heads, width)
    middle = c.mamba_step // 2
    return [
        [attention if i % c.mamba_step == middle else mamba] for i in range(c.num_hidden_layers)
    ]


@form("qwen3_next", "qwen3_5")
def _(c):
    full = kv(c.num_key_value_heads, c.head_dim)
    every = c.full_attention_interval
    return [[delta(c) if (i + 1) % every else full] for i in range(c.num_hidden_layers)]


@form("kimi_linear")
def _(c):
    linear = c.linear_attn_config
    heads, width = linear["num_heads"], linear["head_dim"]
    conv = ((linear["short_conv_kernel_size"] - 1, heads * width), BF16)
    matrix = ((heads, width, width), FP32)
    kda = state(q=conv, k=conv, v=conv, matrix=matrix)
    return [
        [kda] if i + 1 in linear["kda_layers"] else [kv(1, c.kv_lora_rank, c.qk_rope_head_dim)]
        for i in range(c.num_hidden_layers)
    ]


@form("bailing_hybrid")
def _(c):
    matrix = state(matrix=((c.num_attention_heads, c.head_dim, c.head_dim), FP32))
    full, size = kv(1, c.kv_lora_rank, c.qk_rope_head_dim), c.layer_group_size
    whole = c.num_hidden_layers // size * size  # the last, incomplete group is all global
    return [[matrix if (i + 1) % size and i < whole else full] for i in range(c.num_hidden_layers)]


@form("lfm2")
def _(c):
    conv = state(conv=((c.conv_L_cache - 1, c.hidden_size), BF16))
    full = kv(c.num_key_value_heads, c.hidden_size // c.num_attention_heads)
    return [[full if i in c.full_attn_idxs else conv] for i in range(c.num_hidden_layers)]


@form("gear")
def _(c):
    shape = c.num_key_value_heads, c.head_dim
    conv = ((c.conv_L_cache - 1, c.num_key_value_heads * c.head_dim), BF16)
    layers = {
        "conv_mixer": state(k=conv, v=conv),
        "full_attention": kv(*shape),
        "sliding_attention": ring(c.sliding_window, *shape),
    }
    return [[layers[t]] for t in c.layer_types]


@form("rwkv7")
def _(c):
    last, heads = ((1, c.hidden_size), BF16), c.hidden_size // c.head_dim
    matrix = ((heads, c.head_dim, c.head_dim), BF16)
    return [[state(attention=last, matrix=matrix, ffn=last)]] * c.num_hidden_layers


@form("recurrent_gemma")
def _(c):
    conv, lru = (4 - 1, c.hidden_size), (c.hidden_size,)  # whatever the config says of the two
    layers = {
        "recurrent": state(conv=(conv, BF16), lru=(lru, BF16)),
        "attention": ring(c.attention_window_size, 1, c.hidden_size // c.num_attention_heads),
    }
    types = c.block_types
    return [[layers[types[i % len(types)]]] for i in range(c.num_hidden_layers)]


@form("baichuan_m1")
def _(c):
    def layer(i: int) -> list[Cache]:
        slides = i in c.sliding_window_layers
        heads = c.num_swa_key_value_heads if slides else c.num_key_value_heads
        queries = c.num_swa_attention_heads if slides else c.num_attention_heads
        width = c.hidden_size // queries
        last = ((heads, 1, width), BF16)
        rows = ring(c.sliding_window, heads, width) if slides else kv(heads, width)
        return [state(k=last, v=last), rows]

    return [layer(i) for i in range(c.num_hidden_layers)]


def found_layout(spec: ModelCacheSpec) -> Layout:
    """What a spec says, in the same words."""
    leaves = {}
    for group in spec.groups:
        assert group.keep == 0
        rows = tuple((t.heads, t.dim, t.dtype) for t in group.token_tensors)
        states = tuple((t.shape, t.dtype) for t in group.state_tensors)
        grows = {t.grows for t in group.state_tensors} or {None}
        span = group.window or group.chunk
        (axis,) = grows
        leaf = Cache(group.layer_type, rows or states, span, group.stride, group.growth, axis)
        leaves |= dict.fromkeys(group.layers, leaf)
    if not spec.entries:
        return [[leaves[i]] for i in range(spec.n_layers)]
    return [[leaves[i] for i in entry.all_leaves] for entry in spec.entries]


def expected_layout(name: str, config: dict[str, Any]) -> Layout:
    return FORMS[name](SimpleNamespace(**config.get("text_config", config)))


@pytest.mark.parametrize("name", sorted(FORMS.keys() & PRESENT.keys()))
def test_the_layout_follows_from_the_fields(name, stand_ins):
    skip_where_it_was_different(name)
    found = found_layout(probe(converted(CONFIGURATIONS[name], BF16)))
    assert found == expected_layout(name, CONFIGURATIONS[name])


def attention(heads: int | None, *, linear: bool = False) -> dict[str, Any]:
    """A block of nemotron-nas with so many query heads for each KV head."""
    kind = {"no_op": heads is None and not linear, "replace_with_linear": linear}
    return {
        "attention": {"n_heads_in_group": heads, **kind},
        "ffn": {"ffn_mult": 1.0, "no_op": False, "replace_with_linear": False},
    }


SLIDING, FULL = "sliding_attention", "full_attention"
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"num_hidden_layers": 8, "num_key_value_heads": 4, "head_dim": 40}),
    ("llama", {"layer_types": [SLIDING, FULL, SLIDING, FULL], "sliding_window": 300}),
    ("openelm", {"num_kv_heads": [4, 1, 4, 1], "head_dim": 8}),
    (
        "nemotron-nas",
        {"block_configs": [*map(attention, (4, 2, None, 1)), attention(None, linear=True)] * 2}
        | {"num_hidden_layers": 10},
    ),
    ("afm7", {"num_layers": 16, "num_kv_reuse_layers": 5, "num_kv_heads": 1}),
    ("nanbeige", {"num_loops": 3}),
    ("deepseek_v3", {"num_hidden_layers": 8, "kv_lora_rank": 48, "qk_rope_head_dim": 16}),
    ("deepseek_v2", {"num_hidden_layers": 8, "num_attention_heads": 2, "v_head_dim": 24}),
    ("minicpm3", {"num_attention_heads": 2, "qk_nope_head_dim": 20}),
    ("deepseek_v32", {"index_head_dim": 16, "kv_lora_rank": 48}),
    ("longcat_flash_ngram", {"emb_neighbor_num": 6, "num_layers": 8}),
    (
        "minimax_m3_vl",
        {
            "sparse_attention_config": {
                "sparse_attention_freq": [1, 0, 0, 1] * 2,
                "sparse_block_size": 16,
                "sparse_index_dim": 16,
                "sparse_local_block": 1,
                "sparse_num_index_heads": 2,
                "sparse_topk_blocks": 2,
            },
            "moe_layer_freq": [0, 1, 1, 1] * 2,
            "num_hidden_layers": 8,
            "num_key_value_heads": 4,
        },
    ),
    (
        "deepseek_v41",
        {"compress_ratios": [0, 8, 8, 3, 3, 0], "candidate_source_layer_id": -1}
        | {"index_source_layer_ids": [1, 2, 4], "sliding_window": 100},
    ),
    ("deepseek_v41", {"compress_ratios": [0, 1, 1, 1, 1, 0]}),
    ("gemma3_text", {"num_hidden_layers": 16, "sliding_window": 300, "sliding_window_pattern": 4}),
    ("exaone4", {"sliding_window_pattern": "LG", "sliding_window": 100, "num_hidden_layers": 12}),
    (
        "gpt_oss",
        {"layer_types": [FULL, SLIDING] * 4, "num_hidden_layers": 8, "sliding_window": 257},
    ),
    ("gemma3n", {"num_kv_shared_layers": 2, "sliding_window": 100, "num_key_value_heads": 1}),
    ("gemma4_text", {"num_kv_shared_layers": 0, "global_head_dim": 64, "sliding_window": 100}),
    (
        "step3p5",
        {
            "layer_types": [SLIDING, FULL, FULL, SLIDING],
            "num_attention_groups": 1,
            "sliding_window": 64,
        },
    ),
    (
        "mimo_v2_flash",
        {"hybrid_layer_pattern": [1, 1, 0, 1], "swa_num_key_value_heads": 4}
        | {"sliding_window_size": 100, "v_head_dim": 8},
    ),
    ("iquestloopcoder", {"num_hidden_layers": 8, "loop_window_size": 300}),
    ("llama4", {"num_hidden_layers": 16, "attention_chunk_size": 300, "num_key_value_heads": 1}),
    (
        "jamba",
        {"num_hidden_layers": 16, "attn_layer_period": 4, "attn_layer_offset": 1}
        | {"mamba_d_conv": 3, "mamba_d_state": 8, "mamba_expand": 3},
    ),
    ("mamba2", {"num_hidden_layers": 8, "n_groups": 4, "num_heads": 4, "head_dim": 32}),
    ("nemotron_h", {"hybrid_override_pattern": "*M-*M*MM", "num_hidden_layers": 8, "n_groups": 4}),
    ("falcon_h1", {"num_hidden_layers": 8, "mamba_n_groups": 2, "mamba_d_state": 16}),
    ("plamo2", {"num_hidden_layers": 12, "mamba_step": 3, "mamba_d_conv": 3}),
    (
        "qwen3_next",
        {"num_hidden_layers": 12, "full_attention_interval": 3, "linear_num_value_heads": 6},
    ),
    ("bailing_hybrid", {"num_hidden_layers": 8, "layer_group_size": 3}),
    ("lfm2", {"full_attn_idxs": [0, 3], "conv_L_cache": 5}),
    ("gear", {"layer_types": [FULL, "conv_mixer", SLIDING] * 2, "conv_L_cache": 5}),
    ("rwkv7", {"num_hidden_layers": 8, "head_dim": 32}),
    (
        "recurrent_gemma",
        {"num_hidden_layers": 9, "block_types": ["recurrent", "attention"], "lru_width": 96}
        | {"attention_window_size": 300, "conv1d_width": 3},
    ),
    (
        "baichuan_m1",
        {"num_hidden_layers": 8, "sliding_window_layers": [0, 2, 5], "sliding_window": 300},
    ),
]
"""Other members of the families: layers, patterns, windows, heads, widths and ratios."""


@pytest.mark.parametrize(("name", "changes"), [o for o in OTHERS if o[0] in PRESENT])
def test_other_configurations_of_an_architecture_work_too(name, changes, stand_ins):
    skip_where_it_was_different(name)
    config = architectures()[name]
    config.get("text_config", config).update(changes)
    model = converted(config, BF16)
    spec = probe(model)
    assert found_layout(spec) == expected_layout(name, config)
    for step in (2048, 100):
        for n in (1, 33, 301, 600):
            found = spec.live_bytes(n, step), spec.live_peak_bytes(n, step)
            assert found == measured(model, n, step), (n, step)


# --- dtypes, memory, and the way without MLX ----------------------------------------------------
@pytest.mark.parametrize("name", PRESENT)
def test_a_config_alone_says_what_its_converted_model_does(name, stand_ins):
    for dtype in (BF16, "float16"):
        model = converted(CONFIGURATIONS[name], dtype)
        assert spec_from_config(CONFIGURATIONS[name], kv_dtype=dtype) == probe(model)


@contextmanager
def within(largest: int) -> Iterator[None]:
    """Inside, arrays never take more than this many bytes."""
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    yield
    assert mx.get_peak_memory() - before < largest


@pytest.mark.parametrize("name", PRESENT)
def test_a_probe_evaluates_nothing(name, stand_ins):
    model = lazy_model(CONFIGURATIONS[name])
    parameters = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    with within(min(LAZY_BYTES, parameters) if parameters > 100_000 else LAZY_BYTES):
        probe(model)
    with within(LAZY_BYTES):
        spec_from_config(CONFIGURATIONS[name])


class Published(NamedTuple):
    """The fields of a published config that shape its model, and its cache by hand."""

    config: dict[str, Any]
    layer_counts: dict[str, int]
    bytes_per_token: int
    state_bytes: int = 0


PUBLISHED = {
    "Llama-3.1-405B": Published(
        {
            "model_type": "llama",
            "hidden_size": 16384,
            "intermediate_size": 53248,
            "num_hidden_layers": 126,
            "num_attention_heads": 128,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "vocab_size": 128256,
            "tie_word_embeddings": False,
        },
        {"global": 126},
        126 * 8 * (128 + 128) * 2,
    ),
    "DeepSeek-V3": Published(
        {
            "model_type": "deepseek_v3",
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "first_k_dense_replace": 3,
            "moe_layer_freq": 1,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "vocab_size": 129280,
            "max_position_embeddings": 163840,
        },
        {"global": 61},
        61 * (512 + 64) * 2,
    ),
    "Qwen3-235B-A22B": Published(
        {
            "model_type": "qwen3_moe",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 94,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
        },
        {"global": 94},
        94 * 4 * (128 + 128) * 2,
    ),
    "Jamba-1.5-Large": Published(
        {
            "model_type": "jamba",
            "hidden_size": 8192,
            "intermediate_size": 24576,
            "num_hidden_layers": 72,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "attn_layer_offset": 4,
            "attn_layer_period": 8,
            "expert_layer_offset": 1,
            "expert_layer_period": 2,
            "mamba_d_conv": 4,
            "mamba_d_state": 16,
            "mamba_expand": 2,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-6,
            "vocab_size": 65536,
            "max_position_embeddings": 262144,
            "tie_word_embeddings": False,
        },
        {"global": 9, "state": 63},
        9 * 8 * (128 + 128) * 2,
        63 * (3 * 16384 + 16384 * 16) * 2,
    ),
    "dbrx-132B": Published(
        {
            "model_type": "dbrx",
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 40,
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
            "vocab_size": 100352,
            "max_seq_len": 32768,
        },
        {"global": 40},
        40 * 8 * (128 + 128) * 2,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_full_size_are_probed_in_no_time_and_no_memory(name, stand_ins):
    published = PUBLISHED[name]
    started = time.perf_counter()
    with within(LAZY_BYTES):
        spec = spec_from_config(published.config, kv_dtype=BF16)
    assert time.perf_counter() - started < SECONDS
    assert {group.name: group.n_layers for group in spec.groups} == published.layer_counts
    assert spec.live_bytes(4096) == 4096 * published.bytes_per_token + published.state_bytes


DERIVED = {
    *("llama", "mistral", "ministral3", "mistral3", "qwen2", "qwen3"),
    *("gemma3", "gemma3_text", "gpt_oss"),
}


@pytest.mark.parametrize("name", PRESENT)
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_arguments_alone_say_what_a_probe_says_or_nothing(name, dtype, stand_ins):
    model = lazy_model(CONFIGURATIONS[name], dtype=dtype)
    if name in DERIVED:
        assert ModelCacheSpec.from_model(model, kv_dtype=dtype) == probe(model)
        return
    with pytest.raises(ModelSpecValidationError) as refused:
        ModelCacheSpec.from_model(model, kv_dtype=dtype)
    assert refused.value.attribute == ("model_type" if hasattr(model, "args") else "args")


@pytest.mark.parametrize(
    "name", sorted({"plamo2", "plamo3", "baichuan_m1", "youtu_llm"} & PRESENT.keys())
)
def test_models_without_arguments_are_refused_by_that_name(name, stand_ins):
    with pytest.raises(ModelSpecValidationError, match="no `args`"):
        ModelCacheSpec.from_model(lazy_model(CONFIGURATIONS[name]))
