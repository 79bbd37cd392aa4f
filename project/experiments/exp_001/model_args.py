"""EXP-001: what mlx-lm reads of a published config.json, and the KV cache that follows from it.

    python project/experiments/exp_001/model_args.py [--out DIR]

Reads the collected configs beside it and the installed mlx-lm, and writes

    fields.csv          every cache-relevant field of each ModelArgs: default, file:line
    configs.csv         each config: the published value, what mlx-lm makes of it, read or ignored
    model_args.json     both, plus the cache each config builds, and the probes of odd configs

Models are built lazily: no weight and no cache row is ever evaluated.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import importlib
import inspect
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes

HERE = Path(__file__).parent
MODULES = (
    "gemma3",
    "gemma3_text",
    "gpt_oss",
    "qwen2",
    "qwen3",
    "llama",
    "mistral3",
    "ministral3",
)
GEOMETRY = (
    "model_type",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "sliding_window",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "layer_types",
    "use_sliding_window",
    "max_window_layers",
    "torch_dtype",
    "dtype",
)
MISSING = "(missing)"


# --- what ModelArgs declares --------------------------------------------------------------------
def model_args_class(module: str) -> type:
    return importlib.import_module(f"mlx_lm.models.{module}").ModelArgs


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.default_factory!r}()"
    return "(required)"


def line_of(cls: type, name: str) -> int | None:
    lines, start = inspect.getsourcelines(cls)
    for offset, line in enumerate(lines):
        if line.strip().startswith(f"{name}:"):
            return start + offset
    return None


def declared_fields(module: str) -> list[dict[str, Any]]:
    cls = model_args_class(module)
    declared = {field.name: field for field in dataclasses.fields(cls)}
    rows = []
    for name in (*GEOMETRY, "text_config"):
        field = declared.get(name)
        if field is None and name == "text_config":
            continue
        rows.append(
            {
                "module": module,
                "field": name,
                "declared": field is not None,
                "default": default_of(field) if field else "(no such field: ignored)",
                "at": f"mlx_lm/models/{module}.py:{line_of(cls, name)}" if field else "",
            }
        )
    return rows


# --- what a config becomes ----------------------------------------------------------------------
def text_model(model: Any) -> Any:
    """The model that owns the attention layers: itself, or a wrapper's language model."""
    return getattr(model, "language_model", model)


def build(config: dict[str, Any]) -> Any:
    model_class, args_class = _get_classes(config)
    return model_class(args_class.from_dict(copy.deepcopy(config)))


def short_types(types: Any) -> Any:
    if not isinstance(types, list) or not types:
        return types
    runs: list[list[Any]] = []
    for name in types:
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    if len(runs) == 1:
        return f"{runs[0][1]} x {runs[0][0]}"
    period = next(
        (p for p in range(2, len(types)) if types == (types[:p] * len(types))[: len(types)]), None
    )
    if period and len(types) % period == 0:
        return f"{len(types) // period} x {short_types(types[:period])}"
    return "+".join(f"{count} {name}" for name, count in runs)


def cache_of(model: Any) -> dict[str, Any]:
    cache = make_prompt_cache(model)
    model(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    layers = [
        {
            "kind": type(entry).__name__,
            "window": getattr(entry, "max_size", None),
            "keys": list(entry.keys.shape),
            "values": list(entry.values.shape),
        }
        for entry in cache
    ]
    groups: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        heads, k_dim, v_dim = layer["keys"][1], layer["keys"][3], layer["values"][3]
        key = f"{layer['kind']} window={layer['window']} heads={heads} dim={k_dim}/{v_dim}"
        groups.setdefault(key, []).append(index)
    return {"entries": len(cache), "groups": groups}


def published(config: dict[str, Any], name: str) -> Any:
    """The value as the file has it: of text_config in a wrapper, the outer one for a dtype."""
    inner = config.get("text_config", {})
    if name in inner:
        return inner[name]
    if "text_config" in config and name not in ("torch_dtype", "dtype"):
        return MISSING
    return config.get(name, MISSING)


def study(name: str, document: dict[str, Any]) -> dict[str, Any]:
    config = document["config"]
    model = build(config)
    inner = text_model(model)
    args = inner.args
    rows = []
    for field in GEOMETRY:
        value = published(config, field)
        known = field in inspect.signature(type(args)).parameters
        rows.append(
            {
                "config": name,
                "field": field,
                "published": shown(field, value),
                "mlx_lm": shown(field, getattr(args, field)) if known else "",
                "use": use_of(known, value),
            }
        )
    return {
        "config": name,
        "model": document["model"],
        "status": document["status"],
        "module": type(model).__module__.removeprefix("mlx_lm.models."),
        "args_module": type(args).__module__.removeprefix("mlx_lm.models."),
        "text_config_is": type(getattr(model.args, "text_config", None)).__name__,
        "fields": rows,
        "cache": cache_of(model),
    }


def shown(field: str, value: Any) -> Any:
    if value is None:
        return "null"
    return short_types(value) if field == "layer_types" else value


def use_of(known: bool, value: Any) -> str:
    if value == MISSING:
        return "default" if known else ""
    return "read" if known else "ignored"


# --- odd configs --------------------------------------------------------------------------------
def tiny(module: str, **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model_type": module,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "vocab_size": 64,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    base |= fields
    return {key: value for key, value in base.items() if value != MISSING}


def outcome(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def layout(config: dict[str, Any]) -> Any:
    return outcome(lambda: cache_of(build(config))["groups"])


def mutated_text_config() -> dict[str, Any]:
    absent = dict.fromkeys(("vocab_size", "num_attention_heads", "num_key_value_heads"), MISSING)
    config = {"model_type": "gemma3", "text_config": tiny("gemma3_text", **absent)}
    before = dict(config["text_config"])
    model_args_class("gemma3").from_dict(config)
    return {k: v for k, v in config["text_config"].items() if before.get(k, MISSING) != v}


def max_kv_size(module: str) -> list[str]:
    return sorted({type(c).__name__ for c in make_prompt_cache(build(tiny(module)), 16)})


def probes() -> dict[str, Any]:
    sliding, full = "sliding_attention", "full_attention"
    wrapper = {
        "model_type": "gemma3",
        "text_config": tiny(
            "gemma3_text",
            hidden_size=2560,
            num_attention_heads=MISSING,
            num_key_value_heads=MISSING,
            head_dim=MISSING,
        ),
    }
    return {
        "qwen2: use_sliding_window true, window 8, max_window_layers 0": layout(
            tiny("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0)
        ),
        "qwen2: head_dim 32 in the config, hidden/heads 16": layout(tiny("qwen2")),
        "qwen2: num_key_value_heads missing": layout(tiny("qwen2", num_key_value_heads=MISSING)),
        "qwen3: layer_types all sliding, window 8": layout(
            tiny("qwen3", layer_types=[sliding] * 4, sliding_window=8)
        ),
        "qwen3: head_dim missing": layout(tiny("qwen3", head_dim=MISSING)),
        "qwen3: head_dim null": layout(tiny("qwen3", head_dim=None)),
        "llama: head_dim missing, hidden/heads 16": layout(tiny("llama", head_dim=MISSING)),
        "llama: head_dim null, hidden/heads 16": layout(tiny("llama", head_dim=None)),
        "llama: num_key_value_heads missing, 4 heads": layout(
            tiny("llama", num_key_value_heads=MISSING)
        ),
        "llama: num_key_value_heads null, 4 heads": layout(tiny("llama", num_key_value_heads=None)),
        "mistral: sliding_window 8, no layer_types": layout(tiny("mistral", sliding_window=8)),
        "mistral: sliding_window 8, layer_types 3 sliding + 1 full": layout(
            tiny("mistral", sliding_window=8, layer_types=[sliding] * 3 + [full])
        ),
        "llama: layer_types all sliding": layout(
            tiny("llama", sliding_window=8, layer_types=[sliding] * 4)
        ),
        "llama: layer_types of 2 entries, num_hidden_layers 4": layout(
            tiny("llama", layer_types=[full] * 2)
        ),
        "llama: layer_types with chunked_attention": layout(
            tiny("llama", layer_types=[full, "chunked_attention"] * 2)
        ),
        "llama: sliding layers, sliding_window missing": layout(
            tiny("llama", layer_types=[full, sliding] * 2)
        ),
        "gpt_oss: layer_types missing": layout(tiny("gpt_oss")),
        "gpt_oss: layer_types missing, 5 layers": layout(tiny("gpt_oss", num_hidden_layers=5)),
        "gpt_oss: layer_types all full": layout(tiny("gpt_oss", layer_types=[full] * 4)),
        "gpt_oss: layer_types with chunked_attention": layout(
            tiny("gpt_oss", layer_types=[full, sliding, "chunked_attention", full])
        ),
        "gpt_oss: head_dim missing, hidden/heads 16": layout(tiny("gpt_oss", head_dim=MISSING)),
        "gpt_oss: args.layer_types after building without it": outcome(
            lambda: build(tiny("gpt_oss")).args.layer_types
        ),
        "gemma3_text: 8 layers, everything else missing": layout(
            {"model_type": "gemma3_text", "num_hidden_layers": 8}
        ),
        "gemma3_text: layer_types all full, pattern missing": layout(
            tiny("gemma3_text", num_hidden_layers=6, layer_types=[full] * 6)
        ),
        "gemma3_text: pattern 6, 4 layers (no global layer)": layout(tiny("gemma3_text")),
        "gemma3_text: _sliding_window_pattern 2 (as transformers 4.57.3 writes it), 6 layers": (
            layout(tiny("gemma3_text", num_hidden_layers=6, _sliding_window_pattern=2))
        ),
        "gemma3_text: head_dim null": layout(
            tiny("gemma3_text", num_hidden_layers=6, head_dim=None)
        ),
        "gemma3 (wrapper): heads missing": layout(
            {**wrapper, "text_config": {**wrapper["text_config"], "num_hidden_layers": 6}}
        ),
        "gemma3 (wrapper): what building adds to the caller's text_config": mutated_text_config(),
        "make_prompt_cache(max_kv_size=16)": {
            m: outcome(lambda m=m: max_kv_size(m)) for m in ("qwen2", "qwen3", "llama", "gpt_oss")
        },
    }


# --- writing ------------------------------------------------------------------------------------
def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    mx.reset_peak_memory()
    fields = [row for module in MODULES for row in declared_fields(module)]
    studies = [
        study(path.stem, json.loads(path.read_text()))
        for path in sorted((HERE / "configs").glob("*.json"))
    ]
    results = {
        "versions": {
            "mlx": version("mlx"),
            "mlx-lm": version("mlx-lm"),
            "python": platform.python_version(),
        },
        "fields": fields,
        "configs": studies,
        "probes": probes(),
        "peak_bytes_of_mlx": mx.get_peak_memory(),
    }
    write_csv(out / "fields.csv", fields)
    write_csv(out / "configs.csv", [row for one in studies for row in one["fields"]])
    (out / "model_args.json").write_text(json.dumps(results, indent=1) + "\n")
    for one in studies:
        groups = ", ".join(f"{len(v)} x {k}" for k, v in one["cache"]["groups"].items())
        print(f"{one['config']:32} {one['args_module']:12} {groups}")
    for name, value in results["probes"].items():
        print(f"{name}\n    {value}")
    print(f"peak of MLX memory: {results['peak_bytes_of_mlx']} bytes")


if __name__ == "__main__":
    main()
