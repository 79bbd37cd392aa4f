"""`semantic plan` with weights, several agents, shared prefixes and quantised blocks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from semantic import ModelSpecValidationError
from semantic.adapters.mlx.parameters import count_parameters
from semantic.adapters.model_weights import weight_bytes
from semantic.adapters.weight_packing import packing_of
from semantic.cli.plan_models import config_of, spec_of
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
    (plain,) = rows("llama-3.1-8b", "--memory", "24GiB", "--no-weights", "--weight-bits", "4")
    assert "weight bytes" not in plain
    (full,) = rows("llama-3.1-8b", "--memory", "24GiB")
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
    assert weight_bytes(str(tmp_path), {**config, "torch_dtype": "float16"}) == 2 * parameters


def test_files_count_only_where_they_are_loaded_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(bytes(1000))
    parameters = count_parameters(tiny_config("llama"))

    def counted(**settings: Any) -> int:
        config = tiny_config("llama", torch_dtype="bfloat16", quantization_config=settings)
        return weight_bytes(str(tmp_path), config)

    assert counted(quant_method="mxfp4") == 1000
    assert counted(quant_method="compressed-tensors", format="pack-quantized") == 1000
    assert counted(quant_method="modelopt", quant_algo="NVFP4") == 1000
    blocks = {"weight_block_size": [32, 32], "scale_fmt": "ue8m0"}
    assert counted(quant_method="fp8", **blocks) == 1000
    # mlx-lm makes 16 bits of other fp8 files, and packs these anew, with a bias for each group.
    assert counted(quant_method="fp8", weight_block_size=[128, 128]) == 2 * parameters
    packed = counted(quant_method="awq", bits=4, group_size=32)
    model: Any = tiny_model(tiny_config("llama"))
    linear = sum(module.weight.size for path, module in model.named_modules() if "_proj" in path)
    assert packed == 2 * (parameters - linear) + linear // 2 + linear // 32 * 4


def test_what_a_config_leaves_unpacked() -> None:
    patterns = ["model.layers.*.self_attn", "re:.*down_proj$", "lm_head"]
    settings = {"quant_method": "mxfp8", "modules_to_not_convert": patterns}
    packing = packing_of({"text_config": {"quantization_config": settings}})
    assert packing is not None
    kept = ("model.layers.10.self_attn.q_proj", "model.layers.0.mlp.down_proj", "lm_head")
    assert [packing.of(path) for path in kept] == [None] * 3
    assert packing.of("model.layers.0.mlp.up_proj") is packing
    assert packing.of("model.lm_head_norm") is packing
    assert packing.nbytes(320) == 320 + 10


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        ({"quant_method": "bitnet"}, "'bitnet'"),
        ({}, "quant_method None"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "'float-quantized'"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "'FP8'"),
        ({"quant_method": "gptq", "bits": 8}, "'gptq' with 8 bits"),
        ({"quant_method": "awq", "group_size": 0}, "group_size 0"),
    ],
)
def test_packings_that_mlx_lm_does_not_load_are_refused_by_name(
    settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelSpecValidationError, match=re.escape(named)):
        weight_bytes("x", tiny_config("llama", quantization_config=settings))


def test_a_refusal_says_how_to_go_on(tmp_path: Path) -> None:
    config = tiny_config("llama", quantization_config={"quant_method": "bitnet"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = semantic("plan", str(tmp_path), expect=2)
    assert "'bitnet'" in said
    assert "--no-weights" in said
    assert rows(str(tmp_path), "--no-weights")


@pytest.mark.parametrize(
    "words", [{"bits": "4"}, {"bits": 4, "group_size": 0}, {"bits": 4, "mode": "fp3"}]
)
def test_words_of_a_conversion_that_cannot_be(words: dict[str, Any]) -> None:
    with pytest.raises(ModelSpecValidationError, match="--weight-bits"):
        packing_of({"quantization": words})


def test_without_mlx_parameters_that_nobody_states_are_refused() -> None:
    said = semantic("plan", "granite-3.2-2b", expect=2, blocked=("mlx", "mlx_lm"))
    assert "pip install" in said


def test_gpt_oss_takes_what_its_published_files_take() -> None:
    small, large = rows("gpt-oss-20b", "gpt-oss-120b", "--memory", "24GB")
    assert small["weight bytes"] == 13_761_264_768
    assert small["too big for"] == ""
    assert large["weight bytes"] == 65_248_815_744
    assert large["too big for"] == "24GB"
    assert large["agents in 24GB (peak)"] == 0


def test_agents_with_a_shared_prefix() -> None:
    arguments = ("qwen2.5-14b", "--context", "32K", "--memory", "64GiB", "--basis", "cached")
    (alone,) = rows(*arguments, "--agents", "10")
    (shared,) = rows(*arguments, "--agents", "10", "--shared-prefix", "2K")
    spec = spec_of("qwen2.5-14b")
    column = "bytes of 10 agents (cached)"
    assert "bytes of 10 agents (peak)" not in alone
    assert alone[column] == 10 * spec.cached_bytes(32_768)
    assert shared[column] == alone[column] - 9 * spec.cached_bytes(2048)
    assert shared["agents in 64GiB (cached)"] >= alone["agents in 64GiB (cached)"]
    (short,) = rows("qwen2.5-14b", "--agents", "3", "--shared-prefix", "8K")
    assert short["bytes of 3 agents (peak)"] == 3 * spec.live_peak_bytes(4096)
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
    assert "beside the weights" in said
    assert "weights 4.52 GB" in said
    assert "5 agents together" in said
