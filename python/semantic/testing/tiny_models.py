"""Tiny random models of real architectures, and a model folder that mlx-lm's own loader reads.

Random does not mean arbitrary here. A plain initialisation hardly looks at its context: every text
looks alike and a wrong cache goes unnoticed. So noise is laid over every parameter, the weights are
float32, so that equal means equal, and the demo's output head knows whole words only, so that a
text is split again into the tokens it was made of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm import utils as mlx_lm_utils

from semantic.testing.cached_folder import build_once, recipe_key
from semantic.testing.handbook import handbook
from semantic.testing.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    END_OF_TURN,
    EOS,
    PAD,
    speakable_ids,
    write_tokenizer,
)

__all__ = ["GEMMA3_DEMO", "chat_model", "gemma3_demo", "lazy_model", "tiny_model"]

GEMMA3_DEMO: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 32768,
    "torch_dtype": "float32",
}
"""Gemma 3's pattern, 2 global layers and 10 sliding ones, in small; token ids are filled in."""

_RECIPE = 1
_NOISE = 0.2


def tiny_model(config: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> Any:
    """A model in memory from a config, with random weights that depend on `seed` alone.

    Args:
        config: What a `config.json` says; the class is looked up as mlx-lm does it.
        seed: The same seed gives the same weights. MLX's random state is re-seeded with it.
        dtype: The element type of every floating point parameter, by MLX's name.

    Raises:
        ValueError: When mlx-lm knows no such `model_type`, or MLX no such dtype.
    """
    target = getattr(mx, dtype, None)
    if not isinstance(target, mx.Dtype):
        raise ValueError(f"{dtype!r} is no MLX dtype; try 'float32', 'float16' or 'bfloat16'")
    model_class, args_class = mlx_lm_utils._get_classes(config)
    mx.random.seed(seed)
    model = model_class(args_class.from_dict(config))
    model.update(tree_map(_with_noise, model.parameters()))
    model.set_dtype(target)
    model.eval()
    mx.eval(model.parameters())
    return model


def lazy_model(config: dict[str, Any], *, dtype: str = "bfloat16") -> Any:
    """A model whose weights are never evaluated: for its shapes, at any size.

    Args:
        config: What a `config.json` says.
        dtype: The element type of every floating point parameter, by MLX's name.
    """
    model_class, args_class = mlx_lm_utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(getattr(mx, dtype))
    model.eval()
    return model


def gemma3_demo(folder: Path | str, *, seed: int = 0) -> Path:
    """A model folder of Gemma 3's pattern for `mlx_lm.utils.load`: built once, then reused.

    Args:
        folder: The cache folder; the model gets a sub-folder named by its recipe.
        seed: Seed of the weights.

    Returns:
        The model's folder. One whose files are not as they were written is built again.
    """
    return chat_model(folder, GEMMA3_DEMO, name="gemma3-demo", seed=seed)


def chat_model(folder: Path | str, config: dict[str, Any], *, name: str, seed: int = 0) -> Path:
    """A model folder with a tokenizer and a chat template: built once, then reused.

    Args:
        folder: The cache folder; the model gets a sub-folder named by its recipe.
        config: A `config.json` without its token ids; the model has an output head of its own.
        name: What its sub-folder's name begins with.
        seed: Seed of the weights.
    """
    key = recipe_key(_RECIPE, config, _NOISE, seed, CHAT_TEMPLATE, handbook())
    return build_once(Path(folder), f"{name}-{key}", lambda into: _write(into, config, seed))


def _write(into: Path, config: dict[str, Any], seed: int) -> None:
    vocab = write_tokenizer(into)
    config = {
        **config,
        "vocab_size": len(vocab),
        "bos_token_id": vocab[BOS],
        "eos_token_id": [vocab[EOS], vocab[END_OF_TURN]],
        "pad_token_id": vocab[PAD],
    }
    model = tiny_model(config, seed=seed)
    # A zero row is a token that is never the likeliest.
    spoken = mx.zeros((len(vocab), 1)).at[mx.array(speakable_ids(into))].add(1.0)
    model.lm_head.weight = model.lm_head.weight * spoken
    weights = dict(tree_flatten(model.parameters()))
    mx.eval(weights)
    mx.save_safetensors(str(into / "model.safetensors"), weights, metadata={"format": "mlx"})
    (into / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _with_noise(parameter: mx.array) -> mx.array:
    if not mx.issubdtype(parameter.dtype, mx.floating):
        return parameter
    return parameter + _NOISE * mx.random.normal(parameter.shape, dtype=parameter.dtype)
