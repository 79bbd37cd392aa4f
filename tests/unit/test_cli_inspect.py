"""`semantic inspect`: what a model's cache is made of, against specs that the command never saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx_lm.models
import pytest
import typer
from typer.testing import CliRunner

from semantic import LayerGroup, ModelCacheSpec, StateTensor, TokenTensor
from semantic.cli import inspect
from semantic.cli.plan_models import spec_of
from semantic.domain.cache_entry import CacheEntry
from tests.conftest import config_of
from tests.unit.test_cli_main import semantic

APP = typer.Typer()
inspect.register(APP)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def written(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


def report(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def refusal(*arguments: object) -> str:
    """The message of a refused run, without the frame that typer draws around a wrong option."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture
def architecture(tmp_path, monkeypatch):
    """Adds an architecture to mlx-lm, from its source; returns the path of a config for it."""

    def add(name: str, source: str) -> Path:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(mlx_lm.models, "__path__", [*mlx_lm.models.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, f"mlx_lm.models.{name}", raising=False)
        return written(tmp_path, {"model_type": name})

    return add


LLAMA_IN_DISGUISE = """
from mlx_lm.models import llama

class ModelArgs:
    @classmethod
    def from_dict(cls, config):
        return llama.ModelArgs("llama", 64, 2, 96, 4, 1e-5, 128)

class Model(llama.Model):
    {body}
"""


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss", "llama", "llama_sliding", "qwen3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_json_says_what_the_arguments_alone_say(name, dtype, tmp_path):
    config = config_of(name)
    spec = ModelCacheSpec.from_model(SimpleNamespace(args=config), kv_dtype=dtype)
    told = report(written(tmp_path, config), "--kv-dtype", dtype, "--context", "1,300,4K")
    assert (told["model_type"], told["kv_dtype"]) == (config["model_type"], dtype)
    assert told["leaf_caches"] == told["cache_entries"] == spec.n_layers
    assert told["contexts"] == [
        {
            "tokens": tokens,
            "live_bytes": spec.live_bytes(tokens),
            "live_peak_bytes": spec.live_peak_bytes(tokens),
            "cached_bytes": spec.cached_bytes(tokens),
        }
        for tokens in (1, 300, 4096)
    ]
    for group, expected in zip(told["groups"], spec.groups, strict=True):
        for plain in ("name", "layer_type", "window", "keep", "chunk", "n_layers", "max_blocks"):
            assert group[plain] == getattr(expected, plain)
        assert group["layers"] == list(expected.layers)
        assert group["bytes_per_token"] == expected.bytes_per_token_per_layer * expected.n_layers
        assert group["bytes_per_block"] == spec.bytes_per_block(expected.name)
        assert group["bytes_per_block_per_layer"] == spec.bytes_per_block_per_layer(expected.name)
        for tensor, token in zip(group["tensors"], expected.token_tensors, strict=True):
            assert tensor == {
                **{"name": token.name, "heads": token.heads, "dim": token.dim, "dtype": dtype},
                **{"stride": 1, "shape": None, "grows": None},
            }
    assert told["totals"]["bytes_per_block"] == sum(g.bytes_per_block for g in spec.groups)


def test_numbers_by_hand(tmp_path):
    told = report(written(tmp_path, config_of("gemma3_text")), "--context", "256")
    row = 2 * (24 + 24) * 2  # heads x (keys + values) x bfloat16
    assert [g["layer_ranges"] for g in told["groups"]] == ["2,5", "0-1,3-4,6"]
    assert [g["bytes_per_token"] for g in told["groups"]] == [2 * row, 5 * row]
    assert [g["bytes_per_block"] for g in told["groups"]] == [2 * 256 * row, 5 * 256 * row]
    assert told["totals"] == {
        "bytes_per_token": 7 * row,
        "bytes_per_token_unbounded": 2 * row,
        "bytes_per_block": 7 * 256 * row,
    }
    assert told["contexts"] == [
        {
            "tokens": 256,
            "live_bytes": (2 * 256 + 5 * 40) * row,
            "live_peak_bytes": (2 * 256 + 5 * 255) * row,
            "cached_bytes": 7 * 256 * row,
        }
    ]


def test_the_keys_of_the_json_are_a_promise(tmp_path):
    told = report(written(tmp_path, config_of("llama")))
    assert list(told) == [
        *("model", "model_type", "mlx_lm_version", "kv_dtype", "block_tokens"),
        *("cache_entries", "leaf_caches", "entries", "groups", "totals", "contexts"),
    ]
    (group,) = told["groups"]
    assert list(group) == [
        *("name", "layer_type", "layers", "layer_ranges", "n_layers"),
        *("window", "keep", "chunk", "max_blocks", "tensors"),
        *("bytes_per_token_per_layer", "bytes_per_token"),
        *("bytes_per_block_per_layer", "bytes_per_block", "recipe"),
    ]
    assert [row["tokens"] for row in told["contexts"]] == [4096, 32768, 131072]


def test_a_preset_a_file_and_a_folder(tmp_path):
    path = written(tmp_path, config_of("llama", torch_dtype="float16"))
    of_file, of_folder = report(path), report(tmp_path)
    assert of_file["kv_dtype"] == "float16"
    assert of_file["groups"] == of_folder["groups"]
    preset = report("gemma-3-12b", "--context", "32K")
    assert preset["contexts"][0]["live_bytes"] == spec_of("gemma-3-12b").live_bytes(32768)


def test_lengths_keep_their_order_and_come_once(tmp_path):
    told = report(written(tmp_path, config_of("llama")), "--context", "32k, 4096,4K")
    assert [row["tokens"] for row in told["contexts"]] == [32768, 4096]


def test_the_tables_fit_a_pipe_of_100_columns():
    command = [sys.executable, "-m", "semantic.cli", "inspect", "gemma-3-12b"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert "…" not in text
    for part in (
        *("gemma3 of mlx-lm", "cache entries: 48, leaf caches: 48", "window 1,024"),
        *("8: 5, 11, 17, 23, 29, 35, 41, 47", "values 8 x 256 bfloat16"),
        *("327,680", "83,886,080", "100,663,296", "a token costs 65,536 bytes"),
        *("131,072", "603.98 MB", "1.27 GB"),
    ):
        assert part in text


def test_states_chunks_strides_recipes_and_nesting_are_told(tmp_path, monkeypatch):
    keys = TokenTensor("keys", 2, 8, "bfloat16")
    groups = (
        LayerGroup("global", "global", (0,), (TokenTensor("rows", 1, 8, "float32", stride=4),)),
        LayerGroup("rings", "sliding_window", (1, 2), (keys,), window=40, keep=4),
        LayerGroup("chunked", "chunked", (3,), (keys,), chunk=8192),
        LayerGroup(
            name="state",
            layer_type="state",
            layers=(4,),
            tensors=(StateTensor("ids", (3,), "int64", grows=0),),
            recipe=(("slots", 2), ("wrapped", (1, "[bold]"))),
        ),
    )
    pair = CacheEntry("m.CacheList", (), (CacheEntry("m.KVCache", (0,)), CacheEntry("m.R", (1,))))
    spec = ModelCacheSpec(groups, (pair, *(CacheEntry("m.R", (leaf,)) for leaf in (2, 3, 4))))
    monkeypatch.setattr("semantic.mlx.spec_from_config", lambda *_, **__: spec)
    path = written(tmp_path, {"model_type": "strange"})
    text = run(path).stdout
    for part in (
        *("cache entries: 4, leaf caches: 5", "entries: 1 CacheList[KVCache, R], 3 R"),
        *("rows 1 x 8 float32", "a row per 4 tokens", "ids [3] int64", "axis 0 fills up"),
        *("window 40", "keep 4", "chunk 8,192", "2: 1-2"),
        "state is rebuilt with slots=2, wrapped=(1, '[bold]')",
    ):
        assert part in text
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert lines[lines.index("rings") + 1] == "sliding_window"  # a name that does not say its type
    told = report(path)
    assert told["entries"][0]["children"][1] == {"class_name": "m.R", "leaves": [1], "children": []}
    assert told["groups"][3]["recipe"] == {"slots": 2, "wrapped": [1, "[bold]"]}
    assert told["groups"][3]["tensors"] == [
        {
            **{"name": "ids", "dtype": "int64", "heads": None, "dim": None},
            **{"stride": None, "shape": [3], "grows": 0},
        }
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not a JSON file"),
        ("[1]", "holds no JSON object"),
        ("[" * 100_000, "recursion"),
        ({}, "no 'model_type'"),
        ({"model_type": "nonesuch"}, "Model type nonesuch not supported."),
        ({"model_type": "llama"}, "cannot build model_type 'llama' from this config"),
        (config_of("llama", num_attention_heads=0), "by zero"),
        (config_of("llama", torch_dtype="int4"), "unknown KV dtype 'int4'"),
    ],
)
def test_a_bad_config_is_refused_in_one_line(config, message, tmp_path):
    text = refusal(written(tmp_path, config))
    assert text.startswith("semantic inspect: ")
    assert message in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gemma3-12b"], "did you mean gemma-3-12b?"),
        (["/no/such/folder/config.json"], "neither a preset nor a config file"),
        (["llama-3.1-8b", "--kv-dtype", "int8"], "unknown KV dtype 'int8'"),
        (["llama-3.1-8b", "--context", "0"], "no context length"),
        (["llama-3.1-8b", "--context", "4K,"], "no context length"),
        (["llama-3.1-8b", "--context", "-4K"], "no context length"),
        (["llama-3.1-8b", "--context", "1.5K"], "no context length"),
        (["llama-3.1-8b", "--context", "9" * 5000], "no context is longer than"),
        (["llama-3.1-8b", "--context", "200000K"], "no context is longer than 134,217,728 tokens"),
        ([], "Missing argument"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    assert message in refusal(*arguments)


def test_a_folder_without_config_and_an_unreadable_path(tmp_path):
    assert "no config at" in refusal(tmp_path)
    (tmp_path / "config.json").mkdir()
    assert "Is a directory" in refusal(tmp_path)


def test_an_unknown_cache_class_is_named(architecture):
    body = "def make_cache(self): return [type('OddCache', (), {})()] * 2"
    body += "\n    def __call__(self, inputs, cache=None): return inputs"
    text = refusal(architecture("odd_llama", LLAMA_IN_DISGUISE.format(body=body)))
    assert "OddCache is not supported" in text


def test_whatever_an_architecture_raises_is_told_in_one_line(architecture):
    body = "def __call__(self, inputs, cache=None): raise LookupError('first\\nsecond')"
    path = architecture("raising_llama", LLAMA_IN_DISGUISE.format(body=body))
    text = refusal(path)
    assert text.startswith("semantic inspect: mlx-lm cannot run model_type ")
    assert text.endswith("LookupError: first")


def test_a_missing_package_is_named(architecture):
    text = refusal(architecture("needy_llama", "import no_such_package.inside"))
    assert "the package 'no_such_package' is not installed" in text


def test_what_an_architecture_prints_stays_out_of_the_json(architecture):
    body = "def __call__(self, inputs, cache=None):"
    body += "\n        print('chatter')\n        return super().__call__(inputs, cache=cache)"
    path = architecture("chatty_llama", LLAMA_IN_DISGUISE.format(body=body))
    assert report(path)["leaf_caches"] == 2
    assert "chatter" in run(path).stderr


@pytest.mark.parametrize("missing", ["mlx", "mlx_lm"])
def test_without_mlx_a_message_says_how_to_get_it(missing):
    text = semantic("inspect", "llama-3.1-8b", expect=2, blocked=(missing,))
    assert text.splitlines() == [
        f"semantic inspect needs {missing}, which this installation does not have. "
        "Get it with: pip install 'semantic-kv[serve]'"
    ]


def test_an_mlx_that_cannot_be_loaded_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "semantic.mlx", None)
    assert "MLX cannot be imported" in refusal("llama-3.1-8b")
