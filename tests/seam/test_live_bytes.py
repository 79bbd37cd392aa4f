"""`live_bytes` and `live_peak_bytes` against what mlx-lm allocates, for every architecture.

The models run lazily: an array that is never evaluated has the shape, and so the bytes, that it
would have.
"""

from __future__ import annotations

import os

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from semantic import BlockPool, CacheManager, PoolExhaustedError
from semantic.adapters.mlx.lazy_forward import shapes_only
from semantic.mlx import probe
from semantic.testing.architectures import architectures, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.tiny_models import lazy_model
from tests.conftest import require

FULL = bool(os.environ.get("SEMANTIC_TEST_FULL"))
STEPS = (2048, 256, 100, 31) if FULL else (2048, 100)
LENGTHS = (
    *(1, 2, 3, 4, 5, 31, 32, 33, 34, 63, 64, 65, 128, 255, 256, 257, 258, 289, 511, 512, 513, 600),
    *(1023, 1024, 1025, 2047, 2048, 2049, 2050, 2304, 2305, 3000),
)
SHORT = (1, 2, 3, 5, 32, 33, 34, 64, 256, 257, 288, 513, 600)


@pytest.fixture(scope="module", autouse=True)
def runnable():
    with cpu_stand_ins():
        yield


def measured(model, n_tokens: int, step: int) -> tuple[int, int]:
    """Bytes at the end, and the most on the way, when `generate_step` puts tokens in."""
    caches = make_prompt_cache(model)
    largest = done = 0
    with shapes_only(model):
        while done < n_tokens:
            count = min(step, n_tokens - 1 - done) if done < n_tokens - 1 else 1
            model(mx.zeros((1, count), dtype=mx.int32), cache=caches)
            done += count
            largest = max(largest, sum(cache.nbytes for cache in caches))
    return sum(cache.nbytes for cache in caches), largest


@pytest.mark.parametrize("name", architectures())
def test_live_bytes_are_exact(name):
    require(name)
    model = lazy_model(architectures()[name], dtype="bfloat16")
    spec = probe(model)
    longest_call = recipe_of(name).longest_call_tokens
    for step in STEPS if longest_call is None else (longest_call,):
        for n in LENGTHS if FULL else SHORT:
            found = spec.live_bytes(n, step), spec.live_peak_bytes(n, step)
            assert found == measured(model, n, step), (n, step)


def arrays_in(value: object) -> list[int]:
    """Every array that a cache holds, wherever it keeps it."""
    if isinstance(value, mx.array):
        return [id(value)]
    if isinstance(value, dict):
        return [found for inner in value.values() for found in arrays_in(inner)]
    if isinstance(value, list | tuple):
        return [found for inner in value for found in arrays_in(inner)]
    return arrays_in(vars(value)) if hasattr(value, "__dict__") else []


@pytest.mark.parametrize("name", architectures())
def test_live_arrays_are_exact(name):
    require(name)
    model = lazy_model(architectures()[name], dtype="bfloat16")
    spec = probe(model)
    caches = make_prompt_cache(model)
    longest_call = recipe_of(name).longest_call_tokens
    with shapes_only(model):
        for count in (min(40, longest_call or 40), 1):
            model(mx.zeros((1, count), dtype=mx.int32), cache=caches)
    assert len(set(arrays_in(caches))) == spec.live_arrays


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss", "cohere2", "llama4"])
def test_a_request_is_charged_the_peak_of_the_prefill_step_that_it_is_given(name):
    require(name)
    model = lazy_model(architectures()[name], dtype="bfloat16")
    spec = probe(model)
    peaks = {step: measured(model, 3000, step)[1] for step in (2048, 1024, 512, 256)}
    assert peaks[256] < peaks[512] < peaks[1024] < peaks[2048]
    for step, peak in peaks.items():
        memory = CacheManager(spec, BlockPool(spec, total_memory=peak))
        with memory.admit("a", range(3000)) as lease:
            assert (lease.prefill_step, lease.live_bytes) == (step, peak)
    memory = CacheManager(spec, BlockPool(spec, total_memory=peaks[256] - 1))
    with pytest.raises(PoolExhaustedError):
        memory.admit("a", range(3000))
