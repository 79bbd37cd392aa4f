"""The same weights with other caches: what was stored of one is never another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, make_prompt_cache

from semantic import DiskStore, Namespace
from semantic.mlx_lm import PromptCache
from tests.conftest import distance, feed, random_tokens

KEY = ("model", None, None)
TOKENS, OTHERS = random_tokens(900), random_tokens(300, seed=5)


def namespace(key: Any, spec: Any) -> Namespace:
    return Namespace(str(key))


def windows(model: Any, length: int) -> list[Any]:
    return make_prompt_cache(model, max_kv_size=length)


def quantised(model: Any, form: tuple[int, int]) -> list[Any]:
    assert all(type(cache) is KVCache for cache in make_prompt_cache(model))
    bits, group_size = form
    return [
        cache.to_quantized(group_size=group_size, bits=bits) for cache in make_prompt_cache(model)
    ]


def after_a_restart(
    path: Path, model: Any, make: Any, form: Any, tokens: list[int]
) -> tuple[int, mx.array]:
    """What a server restores of a prompt, and the logits behind it; it stores what it computed."""
    cache = PromptCache(store=DiskStore(path, free_floor_bytes=0), namespace_of=namespace)
    caches = make(model, form)
    feed(model, OTHERS, caches, 128)
    cache.insert_cache(KEY, OTHERS, caches)  # from these caches it knows the geometry
    restored, rest = cache.fetch_nearest_cache(KEY, tokens)
    caches = restored or make(model, form)
    logits = feed(model, rest, caches, 128)
    cache.insert_cache(KEY, tokens, caches)
    assert cache.writer is not None
    assert cache.writer.close(60)
    assert cache.stats()["failures"] == {}
    return len(tokens) - len(rest), logits


@pytest.mark.parametrize(
    ("make", "forms"),
    [(windows, (256, 400)), (quantised, ((4, 64), (4, 32), (8, 64)))],
    ids=["windows", "quantised"],
)
def test_what_was_stored_of_other_caches_is_a_miss_and_stays(
    model_of: Any, tmp_path: Path, make: Any, forms: tuple[Any, ...]
) -> None:
    model = model_of(
        "qwen2", hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64
    )
    for form in forms:
        n_restored, _ = after_a_restart(tmp_path, model, make, form, TOKENS[:800])
        assert n_restored == 0, "others have stored the same tokens"
    for form in forms:
        caches = make(model, form)
        feed(model, TOKENS[:800], caches, 128)
        expected = feed(model, TOKENS[800:], caches, 128)
        n_restored, logits = after_a_restart(tmp_path, model, make, form, TOKENS)
        assert n_restored == 800
        assert distance(logits, expected) <= 1e-4
    assert list((tmp_path / "aside").iterdir()) == []
