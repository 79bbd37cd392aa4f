"""Each preset is a config.json that mlx-lm builds, with the cache geometry that it is named for."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import _get_classes

PRESETS = files("semantic") / "presets"
LAZY_BYTES = 1 << 20


class Expected(NamedTuple):
    heads: int
    dim: int
    windows: list[int | None]
    """Of each layer; None: global."""


EXPECTED = {
    "gemma-3-12b": Expected(8, 256, [None if (i + 1) % 6 == 0 else 1024 for i in range(48)]),
    "gpt-oss-20b": Expected(8, 64, [128, None] * 12),
    "qwen2.5-14b": Expected(8, 128, [None] * 48),
    "llama-3.1-8b": Expected(8, 128, [None] * 32),
}


def preset(name: str) -> dict[str, Any]:
    # A fresh parse each time: mlx-lm's ModelArgs writes into the text_config that it is given.
    config: dict[str, Any] = json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    return config


def cache_after_one_token(config: dict[str, Any]) -> list[Any]:
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    cache: list[Any] = make_prompt_cache(model)
    model(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    return cache


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
    cache = cache_after_one_token(preset(name))
    assert mx.get_active_memory() - before < LAZY_BYTES, "the model was evaluated"
    assert [getattr(entry, "max_size", None) for entry in cache] == expected.windows
    for entry, window in zip(cache, expected.windows, strict=True):
        assert type(entry) is (KVCache if window is None else RotatingKVCache)
        for tensor in (entry.keys, entry.values):
            batch, heads, _, dim = tensor.shape
            assert (batch, heads, dim) == (1, expected.heads, expected.dim)


@pytest.mark.parametrize("name", EXPECTED)
def test_preset_names_its_sources(name: str) -> None:
    config = preset(name)
    about = config["_semantic"]
    assert set(about) == {
        "name",
        "source",
        "published_dtype",
        "confirmed_fields",
        "unconfirmed_fields",
    }
    assert about["name"]
    assert about["source"]
    assert all(isinstance(line, str) and line for line in about["source"])
    assert about["published_dtype"] == "bfloat16"


@pytest.mark.parametrize("name", EXPECTED)
def test_every_field_is_declared_confirmed_or_unconfirmed_once(name: str) -> None:
    config = preset(name)
    about = config.pop("_semantic")
    fields = {key for key in config if key != "text_config"}
    fields |= {f"text_config.{key}" for key in config.get("text_config", {})}
    confirmed, unconfirmed = about["confirmed_fields"], about["unconfirmed_fields"]
    assert sorted([*confirmed, *unconfirmed]) == sorted(fields)
    assert all(field(config, dotted) is not None for dotted in confirmed)


@pytest.mark.parametrize("name", EXPECTED)
def test_published_dtype_agrees_with_the_config(name: str) -> None:
    config = preset(name)
    stated = config.get("dtype", config.get("torch_dtype"))
    if name == "gpt-oss-20b":
        assert stated is None, "the published file names no dtype: a reader must be told"
    else:
        assert stated == config["_semantic"]["published_dtype"]
