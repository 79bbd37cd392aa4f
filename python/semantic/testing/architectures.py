"""Every architecture of mlx-lm in small, and what each needs for a comparison that can fail.

The configurations are true to their family's layer pattern: 32-token windows and chunks, a few
layers, 128 token ids. The weights are random, with noise over every parameter, so that a model
looks at its whole context. `RECIPES` lists the architectures for which that is not enough.

    with cpu_stand_ins():
        model = architecture_model("mixtral")
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map_with_path

from semantic.testing.stand_ins.bitlinear import pack_ternary
from semantic.testing.tiny_models import tiny_model

__all__ = ["RECIPES", "Recipe", "architecture_model", "architectures", "recipe_of"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an architecture is built and fed so that a wrong cache shows in its logits.

    Attributes:
        reason: Why the plain recipe does not do.
        config_changes: Laid over the configuration.
        scaled: Factors of parameters, by a regular expression that finds their path.
        shifted: Terms added to parameters, by a regular expression that finds their path.
        seed: Added to the caller's seed.
        longest_call_tokens: The most tokens that one forward call may get.
        same_schedule: Whether other chunk sizes change the result in mlx-lm itself, so that only
            caches filled by the same calls can be compared.
        unread: The arrays of a cache that the model writes and never reads, as a regular
            expression over `LAYER.CLASS.ATTRIBUTE`; no logit depends on them.
        tolerance: Of the logits' scale: below it two caches count as equal.
    """

    reason: str
    config_changes: Mapping[str, Any] = field(default_factory=dict)
    scaled: Mapping[str, float] = field(default_factory=dict)
    shifted: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    longest_call_tokens: int | None = None
    same_schedule: bool = False
    unread: str | None = None
    tolerance: float = 1e-4


_PLAIN = Recipe(reason="noise over every parameter is enough")
_QUERIES = r"\.(q_proj|q_b_proj)\."
_SOFT = Recipe(
    reason="a peaked attention may pass a single wrong token over: softer queries",
    scaled={_QUERIES: 0.25},
)
_SOFTER = Recipe(
    reason="unscaled activations make the attention choose one token: much softer queries",
    scaled={_QUERIES: 0.1},
)
_SOFT_FUSED = Recipe(
    reason="as softer queries, where one matrix makes queries, keys and values; the output makes "
    "up for the smaller values",
    scaled={
        r"(c_attn|Wqkv|query_key_value)\.": 0.35,
        r"(attn\.c_proj|mixer\.out_proj|attention\.dense)\.weight": 3.0,
    },
)
_SLOW_DECAY = Recipe(
    reason="a state that halves with every token forgets a wrong one, and a zeroed state hardly "
    "shows: slower decay",
    shifted={r"A_log": -3.0},
)
_LOUD_ATTENTION = Recipe(
    reason="the attention is a small part of the residual stream: its output counts for more",
    scaled={r"self_attn\.(o_proj|out_proj)\.weight": 3.0},
)
_FLAT = Recipe(
    reason="the published multipliers leave the last token's embedding nearly alone in the logits",
    config_changes={
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 0.2,
    },
)
_SPARSE = Recipe(
    reason="an indexer that keeps 16 of hundreds of tokens drops a wrong one unseen: it keeps 192, "
    "and the attention to them is soft and loud. The indexer's values are never read, and zeroed",
    config_changes={"index_topk": 192},
    scaled={**_SOFT.scaled, **_LOUD_ATTENTION.scaled},
    unread=r"^\d+\.1\.KVCache\.values$",
)

_SHARED: Mapping[str, Recipe] = {
    "cohere deepseek_v2 deepseek_v3 ernie4_5 ernie4_5_moe exaone gemma2 glm glm4 glm4_moe_lite "
    "gptj helium internlm3 iquestcoder joyai_llm_flash kimi_k2 kimi_k25 kimi_vl llama4_text llava "
    "longcat_flash minicpm ministral3 mistral3 mistral4 mixtral nemotron-nas phi phimoe pixtral "
    "stablelm starcoder2 telechat3": _SOFT,
    "gemma nemotron": _SOFTER,
    "gpt2 gpt_bigcode gpt_neox phi-msft phixtral": _SOFT_FUSED,
    "falcon_mamba kimi_linear mamba mamba2 nemotron_h prism_hadamard_qwen35 qwen3_5 qwen3_5_moe "
    "qwen3_next": _SLOW_DECAY,
    "lfm2 lfm2-vl lfm2_moe llama4 minicpm3": _LOUD_ATTENTION,
    "deepseek_v32 glm_moe_dsa": _SPARSE,
    "granite granitemoe": _FLAT,
}

RECIPES: Mapping[str, Recipe] = {
    **{name: recipe for names, recipe in _SHARED.items() for name in names.split()},
    "granitemoehybrid": Recipe(
        reason=f"{_FLAT.reason}; {_SLOW_DECAY.reason}",
        config_changes=_FLAT.config_changes,
        shifted=_SLOW_DECAY.shifted,
    ),
    "bailing_moe_v3": Recipe(
        reason=_SLOW_DECAY.reason,
        shifted={r"dt_bias": -3.0},
    ),
    "rwkv7": Recipe(
        reason=f"{_SLOW_DECAY.reason}; its head norm starts at zero, which mutes the state",
        shifted={r"w_lora\.lora\.2\.bias": -4.0, r"g_norm\.weight": 1.0},
    ),
    "baichuan_m1": Recipe(
        reason="its convolution starts at zero, and its state touches one row of keys and values "
        "only: larger taps, a louder attention and weights that look at that row",
        scaled={r"o_proj": 3.0},
        shifted={r"conv_[kv]$": 0.5},
        seed=2,
    ),
    "bitnet": Recipe(
        reason="packed ternary weights take no noise, so they are drawn anew, and are so large "
        "that the attention chooses one token: softer queries",
        scaled={r"q_proj\.weight_scale": 0.02},
    ),
    "muse_spark": Recipe(
        reason="it rounds its last hidden state to bfloat16: the last bit of a float32 turns into "
        "up to 2e-3 of the logits' scale, though once in a thousand comparisons",
        tolerance=4e-3,
    ),
    "olmo": Recipe(
        reason="it adds the name of the mask to the scores: mlx-lm 0.32 cannot run a call of more "
        "than one token",
        longest_call_tokens=1,
    ),
    "phi3small": Recipe(
        reason="its sparse layers add a boolean mask to the scores, so they see the later tokens "
        "of their call, and the calls decide what is computed",
        same_schedule=True,
    ),
    "plamo3": Recipe(
        reason="its mask lets a token see one more than its ring keeps, so what a token sees "
        "depends on where its call began",
        same_schedule=True,
    ),
}
"""The architectures that need more than the plain recipe."""


def architectures() -> dict[str, dict[str, Any]]:
    """A copy of the tiny configurations, by model type."""
    return copy.deepcopy(_configurations())


def recipe_of(name: str) -> Recipe:
    """The architecture's own recipe, or the plain one."""
    return RECIPES.get(name, _PLAIN)


def architecture_model(name: str, *, seed: int = 0, dtype: str = "float32") -> Any:
    """The tiny model of an architecture, built by its recipe.

    On a machine without Metal, some can be built and run inside `cpu_stand_ins` only.

    Args:
        name: A key of `architectures()`.
        seed: The same seed gives the same weights.
        dtype: The element type of every floating point parameter, by MLX's name.

    Raises:
        KeyError: No such architecture.
        ValueError: mlx-lm has no such model type, or MLX no such dtype.
    """
    recipe = recipe_of(name)
    config = {**architectures()[name], **recipe.config_changes}
    model = tiny_model(config, seed=seed + recipe.seed, dtype=dtype)
    by_recipe = partial(_by_recipe, recipe)
    model.update(tree_map_with_path(by_recipe, model.parameters()))
    mx.eval(model.parameters())
    return model


@cache
def _configurations() -> dict[str, dict[str, Any]]:
    file = resources.files("semantic.testing") / "architectures.json"
    configurations: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return configurations


def _by_recipe(recipe: Recipe, path: str, parameter: mx.array) -> mx.array:
    if parameter.dtype == mx.uint8:
        # BitNet's packed weights: built as zero bytes, that is -1 everywhere.
        rows, columns = parameter.shape
        return pack_ternary(mx.random.randint(-1, 2, (4 * rows, columns)))
    if not mx.issubdtype(parameter.dtype, mx.floating):
        return parameter
    factor = _found(recipe.scaled, path, 1.0)
    term = _found(recipe.shifted, path, 0.0)
    return (parameter * factor + term).astype(parameter.dtype)


def _found(changes: Mapping[str, float], path: str, otherwise: float) -> float:
    return next(
        (value for pattern, value in changes.items() if re.search(pattern, path)), otherwise
    )
