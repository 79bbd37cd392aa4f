"""Each preset is a config.json that mlx-lm builds, with the cache geometry that it is named for."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import _get_classes

from semantic.adapters.mlx.parameters import packed_bytes
from semantic.adapters.weight_packing import packing_of

PRESETS = files("semantic") / "presets"
LAZY_BYTES = 1 << 20


class Expected(NamedTuple):
    layers: int
    heads: int
    dim: int
    """Width of the keys."""
    window: int | None = None
    every: int = 0
    """With a window: every so many layers one is global, the last of each so many."""
    value_dim: int | None = None
    """Width of the values, where it is not that of the keys."""

    @property
    def windows(self) -> list[int | None]:
        """Of each layer; None: global."""
        if self.window is None:
            return [None] * self.layers
        return [self.window if (i + 1) % self.every else None for i in range(self.layers)]


EXPECTED = {
    "command-r7b": Expected(32, 8, 128, window=4096, every=4),
    # Multi-head latent attention: mlx-lm's V2 caches heads, its V3 the latent and the rotated part.
    "deepseek-v2-lite": Expected(27, 16, 128 + 64, value_dim=128),
    "deepseek-v3": Expected(61, 1, 512, value_dim=64),
    # mlx-lm caches every layer of Gemma 2 and of Phi-3 whole, whatever their window.
    "gemma-2-2b": Expected(26, 4, 256),
    "gemma-2-9b": Expected(42, 8, 256),
    "gemma-2-27b": Expected(46, 16, 128),
    "gemma-3-1b": Expected(26, 1, 256, window=512, every=6),
    "gemma-3-4b": Expected(34, 4, 256, window=1024, every=6),
    "gemma-3-12b": Expected(48, 8, 256, window=1024, every=6),
    "gemma-3-27b": Expected(62, 16, 128, window=1024, every=6),
    "glm-4.5-air": Expected(46, 8, 128),
    "gpt-oss-20b": Expected(24, 8, 64, window=128, every=2),
    "gpt-oss-120b": Expected(36, 8, 64, window=128, every=2),
    "granite-3.2-2b": Expected(40, 8, 64),
    "llama-3.1-8b": Expected(32, 8, 128),
    "llama-3.1-70b": Expected(80, 8, 128),
    "llama-3.2-1b": Expected(16, 8, 64),
    "llama-3.2-3b": Expected(28, 8, 128),
    "ministral-3-3b": Expected(26, 8, 128),
    "mistral-7b-v0.3": Expected(32, 8, 128),
    "mistral-nemo-12b": Expected(40, 8, 128),
    "mistral-small-3.1-24b": Expected(40, 8, 128),
    "mixtral-8x7b": Expected(32, 8, 128),
    "mixtral-8x22b": Expected(56, 8, 128),
    "phi-3-mini": Expected(32, 32, 96),
    "phi-3.5-mini": Expected(32, 32, 96),
    "phi-4": Expected(40, 10, 128),
    "phi-4-mini": Expected(32, 8, 128),
    "qwen2.5-0.5b": Expected(24, 2, 64),
    "qwen2.5-1.5b": Expected(28, 2, 128),
    "qwen2.5-3b": Expected(36, 2, 128),
    "qwen2.5-7b": Expected(28, 4, 128),
    "qwen2.5-14b": Expected(48, 8, 128),
    "qwen2.5-32b": Expected(64, 8, 128),
    "qwen2.5-72b": Expected(80, 8, 128),
    "qwen3-0.6b": Expected(28, 8, 128),
    "qwen3-1.7b": Expected(28, 8, 128),
    "qwen3-4b": Expected(36, 8, 128),
    "qwen3-8b": Expected(36, 8, 128),
    "qwen3-14b": Expected(40, 8, 128),
    "qwen3-32b": Expected(64, 8, 128),
    "qwen3-30b-a3b": Expected(48, 4, 128),
    "qwen3-235b-a22b": Expected(94, 4, 128),
    "qwen3-coder-30b-a3b": Expected(48, 4, 128),
    "qwen3-coder-480b-a35b": Expected(62, 8, 128),
    "smollm2-135m": Expected(30, 3, 64),
    "smollm2-360m": Expected(32, 5, 64),
    "smollm2-1.7b": Expected(24, 32, 64),
    "smollm3-3b": Expected(36, 4, 128),
}

UNCOUNTED = {"command-r7b", "granite-3.2-2b", "ministral-3-3b"}
"""No source shows how many parameters these have."""

GEMMA_3_SIGHT = 416_867_184
"""Parameters of Gemma 3's vision tower, without the projector to the width of the text model."""

COUNTED_OTHERWISE = {
    # mlx-lm builds Gemma 3 with an output layer, which it ties when it loads the weights.
    "gemma-3-1b": 262144 * 1152,
    # It leaves out the vision tower, which the published count includes.
    "gemma-3-4b": 262208 * 2560 - GEMMA_3_SIGHT - 1152 * 2560,
    "gemma-3-12b": 262208 * 3840 - GEMMA_3_SIGHT - 1152 * 3840,
    "gemma-3-27b": 262208 * 5376 - GEMMA_3_SIGHT - 1152 * 5376,
    "mistral-small-3.1-24b": -438_958_080,
}
"""What mlx-lm builds beyond the published count."""


def preset(name: str) -> dict[str, Any]:
    # A fresh parse each time: mlx-lm's ModelArgs writes into the text_config that it is given.
    config: dict[str, Any] = json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    return config


def built(config: dict[str, Any]) -> Any:
    model_class, args_class = _get_classes(config)
    return model_class(args_class.from_dict(config))


def field(config: dict[str, Any], dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = value[part]
    return value


def test_every_preset_file_is_expected_here() -> None:
    names = {entry.name for entry in PRESETS.iterdir() if entry.name.endswith(".json")}
    assert names == {f"{name}.json" for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_geometry_is_what_mlx_lm_builds(name: str) -> None:
    expected = EXPECTED[name]
    before = mx.get_active_memory()
    model = built(preset(name))
    cache = make_prompt_cache(model)
    model(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    assert mx.get_active_memory() - before < LAZY_BYTES, "the model was evaluated"
    assert [getattr(entry, "max_size", None) for entry in cache] == expected.windows
    for entry, window in zip(cache, expected.windows, strict=True):
        assert type(entry) is (KVCache if window is None else RotatingKVCache)
        assert entry.keys.shape[:2] == entry.values.shape[:2] == (1, expected.heads)
        assert entry.keys.shape[3] == expected.dim
        assert entry.values.shape[3] == (expected.value_dim or expected.dim)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_published_count_is_that_of_the_parameters_that_mlx_lm_builds(name: str) -> None:
    config = preset(name)
    stated = config["_semantic"].get("parameters")
    assert (stated is None) == (name in UNCOUNTED)
    if stated is not None:
        leaves: Any = tree_flatten(built(config).parameters())
        count = sum(array.size for _, array in leaves)
        assert count == stated + COUNTED_OTHERWISE.get(name, 0)


def test_the_published_bytes_are_those_of_the_weights_as_they_are_packed() -> None:
    # The published file of the larger one packs as the smaller one's says.
    packing = packing_of(preset("gpt-oss-20b"))
    assert packing is not None
    stated = {name: preset(name)["_semantic"].get("weight_bytes") for name in EXPECTED}
    packed = {name for name, n_bytes in stated.items() if n_bytes is not None}
    assert packed == {"gpt-oss-20b", "gpt-oss-120b"}
    assert {name for name in EXPECTED if packing_of(preset(name))} <= packed
    for name in packed:
        assert stated[name] == packed_bytes(preset(name), packing, element_bytes=2)


@pytest.mark.parametrize("name", EXPECTED)
def test_preset_names_its_sources(name: str) -> None:
    about = preset(name)["_semantic"]
    assert set(about) - {"parameters", "weight_bytes"} == {
        "name",
        "source",
        "published_dtype",
        "confirmed_fields",
        "unconfirmed_fields",
    }
    assert about["name"]
    assert all(isinstance(line, str) and line for line in about["source"])
    counts = ("parameters", "weight_bytes")
    for_counts = [line for line in about["source"] if line.startswith(counts)]
    for count in counts:
        assert sum(line.startswith(count) for line in for_counts) == (count in about)
    assert len(about["source"]) > len(for_counts)
    assert about["published_dtype"] == "bfloat16"


@pytest.mark.parametrize("name", EXPECTED)
def test_every_field_is_declared_confirmed_or_unconfirmed_once(name: str) -> None:
    config = preset(name)
    about = config.pop("_semantic")
    fields = {key for key in config if key != "text_config"}
    fields |= {f"text_config.{key}" for key in config.get("text_config", {})}
    confirmed, unconfirmed = about["confirmed_fields"], about["unconfirmed_fields"]
    assert sorted([*confirmed, *unconfirmed]) == sorted(fields)
    # Two published nulls that mlx-lm has to be given: its own default is another, or there is none.
    null = {dotted for dotted in confirmed if field(config, dotted) is None}
    assert null == {"deepseek-v2-lite": {"q_lora_rank"}, "glm-4.5-air": {"rope_scaling"}}.get(
        name, set()
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_published_dtype_agrees_with_the_config(name: str) -> None:
    config = preset(name)
    stated = config.get("dtype", config.get("torch_dtype"))
    if config["model_type"] == "gpt_oss":
        assert stated is None, "the published file names no dtype: a reader must be told"
    else:
        assert stated == config["_semantic"]["published_dtype"]
