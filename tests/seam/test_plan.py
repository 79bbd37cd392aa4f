"""Every figure of `semantic plan` is what mlx-lm and the memory really take.

Small models are run and published; the four reference models are run lazily at their full size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import quantize_model

from semantic import BlockPool, CacheManager, PoolExhaustedError
from semantic.adapters.mlx.lazy_forward import shapes_only
from semantic.cli.plan_figures import ModelFigures, PlanOptions, figures_of
from semantic.cli.plan_models import REFERENCE, spec_of
from semantic.mlx import probe
from semantic.testing.tiny_models import tiny_model
from tests.conftest import config_of, feed, fresh_caches, random_tokens
from tests.unit.test_presets import built, preset

SMALL = ("llama", "gemma3_text", "gpt_oss")
LENGTHS = (256, 300)


@pytest.fixture(params=SMALL)
def small(request: Any, tmp_path: Path) -> tuple[Any, str]:
    """A small model, in the element type that its config names, and the path of that config."""
    config = config_of(request.param, torch_dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tiny_model(config), str(tmp_path)


def figures(path: str, memory: dict[str, int] | None = None, **options: Any) -> ModelFigures:
    (model,) = figures_of([path], memory or {}, LENGTHS, PlanOptions(**options))
    return model


def walked(model: Any, n_tokens: int) -> tuple[list[Any], int]:
    """Caches after so many tokens, and the most bytes on the way; nothing is evaluated."""
    caches = make_prompt_cache(model)
    most = done = 0
    with shapes_only(model):
        while done < n_tokens:
            count = min(2048, n_tokens - 1 - done) if done < n_tokens - 1 else 1
            model(mx.zeros((1, count), dtype=mx.int32), cache=caches)
            done += count
            most = max(most, nbytes(caches))
    return caches, most


def nbytes(caches: list[Any]) -> int:
    return sum(cache.nbytes for cache in caches)


def published(model: Any, spec: Any, *prompts: list[int]) -> Any:
    """What a memory with room for everything holds once these have been published."""
    memory = CacheManager(spec, BlockPool(spec, total_memory=1 << 30))
    for number, tokens in enumerate(prompts):
        with memory.admit(f"a{number}", tokens) as lease:
            caches = lease.materialise() or fresh_caches(model)
            feed(model, tokens[lease.cached_tokens :], caches)
            lease.commit(tokens, caches)
    return memory


def test_small_models_take_what_is_planned(small: tuple[Any, str]) -> None:
    model, path = small
    plan = figures(path)
    arrays = [array for _, array in tree_flatten(model.parameters())]
    assert plan.weight_bytes == sum(array.nbytes for array in arrays)
    long, longer = (nbytes(walked(model, n)[0]) for n in (2048, 2048 + 256))
    assert plan.bytes_per_token == (longer - long) // 256
    for line in plan.contexts:
        tokens = random_tokens(line.n_tokens, seed=3)
        caches = fresh_caches(model)
        feed(model, tokens, caches)
        assert line.live_bytes == nbytes(caches)
        assert line.peak_bytes == walked(model, line.n_tokens)[1]
        memory = published(model, probe(model), tokens)
        taken = memory.pool.snapshot()
        assert line.cached_bytes == taken.cached
        assert line.blocks == {group.name: group.cached_blocks for group in taken.groups}
        for basis, total in (
            ("peak", line.peak_bytes),
            ("live", line.live_bytes),
            ("cached", line.cached_bytes),
        ):
            assert sum(plan.group_bytes(line.n_tokens, basis).values()) == total  # type: ignore[arg-type]


def test_as_many_agents_fit_as_are_planned(small: tuple[Any, str]) -> None:
    model, path = small
    spec = probe(model)
    total = 5 * spec.live_peak_bytes(300) + 1000
    weights = figures(path).weight_bytes or 0
    plan = figures(path, {"m": total + weights})
    for line in plan.contexts:
        memory = CacheManager(spec, BlockPool(spec, total_memory=total))
        agents = line.agents["m"]
        assert agents > 1
        for agent in range(agents):
            memory.admit(f"a{agent}", random_tokens(line.n_tokens, seed=agent))
        with pytest.raises(PoolExhaustedError):
            memory.admit("one more", random_tokens(line.n_tokens, seed=agents))


def test_agents_at_rest_share_what_is_planned(small: tuple[Any, str]) -> None:
    model, path = small
    prefix = random_tokens(256, seed=1)
    prompts = [[*prefix, *random_tokens(44, seed=10 + n)] for n in range(3)]
    plan = figures(path, agents=3, shared_prefix=256)
    memory = published(model, probe(model), *prompts)
    assert plan.contexts[1].agents_bytes["cached"] == memory.pool.snapshot().cached


def test_quantised_blocks_take_what_is_planned(model_of: Any, tmp_path: Path) -> None:
    config = config_of("llama", head_dim=64, torch_dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = figures(str(tmp_path), kv_bits=8)
    model = model_of("llama", head_dim=64)
    memory = published(model, probe(model).quantised_at_rest(8), random_tokens(300))
    held = [data for blocks in memory.pool.contents.values() for data in blocks.values()]
    assert plan.contexts[1].cached_bytes == memory.pool.snapshot().cached
    assert plan.contexts[1].cached_bytes == sum(array.nbytes for array in held)


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
def test_packed_weights_take_what_mlx_lm_makes_of_them(mode: str, tmp_path: Path) -> None:
    bits, group = {"affine": (6, 32), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}[mode]
    config = config_of("gpt_oss", torch_dtype="bfloat16")
    model = tiny_model(config, dtype="bfloat16")
    apart: dict[str, Any] = {
        "lm_head": False,
        "model.layers.0.self_attn.q_proj": {"bits": 8, "group_size": 64, "mode": "affine"},
    }

    def chosen(path: str, _: Any) -> Any:
        return apart.get(path, True)

    quantised, made = quantize_model(
        model, dict(config), group, bits, mode=mode, quant_predicate=chosen
    )
    arrays = [array for _, array in tree_flatten(quantised.parameters())]
    # mlx-lm writes no word of what it leaves, since its files show that.
    made["quantization"] |= apart
    (tmp_path / "config.json").write_text(json.dumps(made))
    assert figures(str(tmp_path)).weight_bytes == sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_models_take_what_is_planned(name: str) -> None:
    before = mx.get_active_memory()
    model = built(preset(name))
    model.set_dtype(mx.bfloat16)
    (plan,) = figures_of([name], {}, (4096, 5000), PlanOptions())
    for line in plan.contexts:
        caches, most = walked(model, line.n_tokens)
        assert (line.live_bytes, line.peak_bytes) == (nbytes(caches), most), line.n_tokens
        for group in spec_of(name).groups:
            rows = [caches[layer].nbytes // caches[layer].keys.shape[2] for layer in group.layers]
            assert [256 * row for row in rows] == [group.bytes_per_block_per_layer] * len(rows)
    assert mx.get_active_memory() - before < 1 << 20, "nothing was evaluated"
