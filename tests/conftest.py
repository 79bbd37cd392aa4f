"""Shared by all tests: small true-to-pattern models, and the way generate_step feeds them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("full", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile("full" if os.environ.get("SEMANTIC_TEST_FULL") else "ci")

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3_text": _TEXT
    | {
        "model_type": "gemma3_text",
        "head_dim": 24,
        "num_hidden_layers": 7,
        "query_pre_attn_scalar": 24,
        "sliding_window": 40,
        "sliding_window_pattern": 3,
    },
    "gpt_oss": _TEXT
    | {
        "model_type": "gpt_oss",
        "head_dim": 24,
        "num_hidden_layers": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 40,
    },
    "llama": _TEXT | {"model_type": "llama", "num_hidden_layers": 3},
    "llama_sliding": _TEXT
    | {
        "model_type": "llama",
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 40,
    },
    "qwen2": _TEXT | {"model_type": "qwen2", "num_hidden_layers": 3},
    "qwen3": _TEXT
    | {
        "model_type": "qwen3",
        "num_hidden_layers": 3,
        "head_dim": 24,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
    },
}
"""Small configurations, true to their family's layer pattern."""


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """A copy of a configuration, with changes."""
    return {**CONFIGS[name], **changes}


@cache
def _model(name: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    from semantic.testing.tiny_models import tiny_model

    return tiny_model(config_of(name, **dict(changes)))


@pytest.fixture(scope="session")
def model_of() -> Callable[..., Any]:
    """A float32 model with noise over every weight, built once per configuration."""
    return lambda name, **changes: _model(name, tuple(sorted(changes.items())))


def random_tokens(count: int, seed: int = 0, vocab: int = 128) -> list[int]:
    """Token ids that depend on `seed` alone."""
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(count)]


def fresh_caches(model: Any) -> list[Any]:
    """mlx-lm's own empty caches."""
    from mlx_lm.models.cache import make_prompt_cache

    return list(make_prompt_cache(model))


def feed(model: Any, tokens: Sequence[int], caches: list[Any], step: int = 2048) -> Any:
    """Put tokens in as generate_step does: all but the last in steps, the last alone.

    Returns:
        The logits of the last position.
    """
    import mlx.core as mx

    position = 0
    while position < len(tokens) - 1:
        count = min(step, len(tokens) - 1 - position)
        model(mx.array([tokens[position : position + count]]), cache=caches)
        mx.eval([cache.state for cache in caches])
        position += count
    logits = model(mx.array([tokens[position:]]), cache=caches)[0, -1]
    mx.eval(logits)
    return logits


def greedy(model: Any, logits: Any, caches: list[Any], count: int) -> list[int]:
    """The next `count` tokens, each the likeliest."""
    import mlx.core as mx

    tokens = []
    for _ in range(count):
        token = int(mx.argmax(logits).item())
        tokens.append(token)
        logits = model(mx.array([[token]]), cache=caches)[0, -1]
    return tokens


def distance(a: Any, b: Any) -> float:
    """Largest difference of two logit vectors, as a part of the second's scale.

    What a model rules out has the logit -inf in both.
    """
    import mlx.core as mx

    differences = mx.where(a == b, 0, mx.abs(a - b))
    scale = mx.max(mx.where(mx.isfinite(b), mx.abs(b), 0))
    return float(mx.max(differences) / scale)


_BEFORE_0_32 = {
    "llama4": "a chunk was cut out of the buffer with its slack",
    "nemotron-nas": "its empty cache ends the forward pass",
}
_BATCHES_BEFORE_0_32 = {
    "afm7": "its mask does not fit a batch",
    "gemma3n": "its mask does not fit a batch",
}


def require(name: str, *, batched: bool = False) -> None:
    """Skip where the installed mlx-lm has no such architecture, or could not run it yet."""
    from importlib.metadata import version

    from mlx_lm import utils

    from semantic.testing.architectures import architectures

    release = version("mlx-lm")
    try:
        utils._get_classes(architectures()[name])
    except ValueError:
        pytest.skip(f"mlx-lm {release} has no {name}")
    old = _BEFORE_0_32 | (_BATCHES_BEFORE_0_32 if batched else {})
    if name in old and tuple(map(int, release.split(".")[:2])) < (0, 32):
        pytest.skip(f"mlx-lm {release}: {old[name]}")
