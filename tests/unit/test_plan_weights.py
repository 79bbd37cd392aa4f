"""`semantic plan` with weights, several agents, shared prefixes and quantised blocks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from semantic.adapters.mlx.parameters import count_parameters
from semantic.adapters.model_weights import weight_bytes
from semantic.cli.plan_sheet import config_of, spec_of
from semantic.testing.tiny_models import tiny_model
from tests.conftest import config_of as tiny_config
from tests.unit.test_cli_main import semantic

GIB = 1 << 30


def rows(*arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(semantic("plan", *arguments, "--json", expect=0)))


def test_parameters_are_those_of_the_model_that_is_built() -> None:
    config = tiny_config("llama")
    model: Any = tiny_model(config)
    expected = sum(array.size for _, array in tree_flatten(model.parameters()))
    before = mx.get_active_memory()
    assert count_parameters(config) == expected
    assert mx.get_active_memory() <= before
    # 8.03 billion, as everybody says.
    assert count_parameters(config_of("llama-3.1-8b")) == 8_030_261_248


def test_weights_are_subtracted_from_the_memory() -> None:
    (plain,) = rows("llama-3.1-8b", "--memory", "24GiB")
    assert "weight bytes" not in plain
    (full,) = rows("llama-3.1-8b", "--memory", "24GiB", "--weights")
    assert full["weight bytes"] == 2 * 8_030_261_248
    (four,) = rows("llama-3.1-8b", "--memory", "24GiB,4GiB", "--weight-bits", "4")
    assert four["weight bytes"] == 8_030_261_248 // 2 + 8_030_261_248 // 64 * 4
    spec = spec_of("llama-3.1-8b")
    column = "agents in 24GiB (peak)"
    for row in (full, four):
        assert row[column] == spec.max_agents(24 * GIB - row["weight bytes"], 4096)
    assert four["agents in 4GiB (peak)"] == 0, "the weights alone are more"
    assert plain[column] > four[column] > full[column]


def test_a_folder_says_what_its_weights_take(tmp_path: Path) -> None:
    config = tiny_config("llama")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "a.safetensors").write_bytes(bytes(1000))
    (tmp_path / "b.safetensors").write_bytes(bytes(500))
    assert weight_bytes(str(tmp_path), config) == 1500
    assert weight_bytes(str(tmp_path / "config.json"), config) == 1500
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1234}}))
    assert weight_bytes(str(tmp_path), config) == 1234
    index.write_text("damaged")
    assert weight_bytes(str(tmp_path), config) == 1500
    parameters = count_parameters(config)
    assert weight_bytes(str(tmp_path), config, 8) == parameters + parameters // 64 * 4
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    quantised = {**config, "quantization": {"group_size": 32, "bits": 4}, "torch_dtype": "float16"}
    assert weight_bytes(str(tmp_path), quantised) == parameters // 2 + parameters // 32 * 4
    shutil.rmtree(tmp_path)


def test_agents_with_a_shared_prefix() -> None:
    arguments = ("qwen2.5-14b", "--context", "32K", "--memory", "64GiB", "--basis", "cached")
    (alone,) = rows(*arguments, "--agents", "10")
    (shared,) = rows(*arguments, "--agents", "10", "--shared-prefix", "2K")
    spec = spec_of("qwen2.5-14b")
    column = "bytes of 10 agents (cached)"
    assert alone[column] == 10 * spec.cached_bytes(32_768)
    assert shared[column] == alone[column] - 9 * spec.cached_bytes(2048)
    assert shared["agents in 64GiB (cached)"] >= alone["agents in 64GiB (cached)"]
    (short,) = rows("qwen2.5-14b", "--agents", "3", "--shared-prefix", "8K", "--basis", "cached")
    assert short["bytes of 3 agents (cached)"] == spec.cached_bytes(4096), (
        "a prefix fits its prompt"
    )


def test_quantised_blocks_take_less_at_rest_only() -> None:
    (plain,) = rows("llama-3.1-8b")
    (packed,) = rows("llama-3.1-8b", "--kv-bits", "4")
    assert packed["cached bytes"] * 3 < plain["cached bytes"]
    assert packed["live bytes"] == plain["live bytes"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--agents", "0"),
        ("--shared-prefix", "lots"),
        ("--kv-bits", "5"),
        ("--weight-bits", "99"),
        ("--memory", "nanGB"),
        ("--memory", "9999999999999TB"),
    ],
)
def test_wrong_numbers_are_said(wrong: tuple[str, str]) -> None:
    said = semantic("plan", "llama-3.1-8b", *wrong, expect=2)
    assert "Traceback" not in said


def test_the_table_shows_what_was_asked() -> None:
    said = semantic("plan", "llama-3.1-8b", "--weight-bits", "4", "--agents", "5", expect=0)
    assert "KV cache with weights" in said
    assert "4.52 GB" in said
    assert "5 agents" in said
