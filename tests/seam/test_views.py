"""What a commit does about views: memory that a cache keeps alive beyond its own bytes.

Some states are the last row of an activation as long as the prompt. `nbytes` counts the row, MLX
keeps the activation. A commit puts a copy in its place, and nothing else may change by that.
"""

from __future__ import annotations

import gc

import mlx.core as mx
import pytest

from semantic import BlockPool, CacheManager
from semantic.adapters.mlx.layout import flatten
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import fresh_caches, random_tokens

TOKENS = random_tokens(610)
PROMPT = TOKENS[:600]
WITH_VIEWS = ("jamba", "mamba2", "recurrent_gemma", "baichuan_m1", "lfm2")
WITHOUT = ("llama", "deepseek_v3", "gpt_oss")


@pytest.fixture(scope="module", autouse=True)
def runnable():
    with cpu_stand_ins():
        yield


def prefilled(model):
    """The caches after the whole prompt in one call."""
    caches = fresh_caches(model)
    mx.eval(model(mx.array([PROMPT]), cache=caches), [cache.state for cache in caches])
    gc.collect()
    return caches


def commit(model, caches) -> int:
    """Commit the prompt, forget it again, and return the bytes of views that the commit reports."""
    spec = probe(model)
    manager = CacheManager(spec, BlockPool(spec, total_memory=1 << 30))
    with manager.admit("a", PROMPT) as lease:
        assert lease.commit(PROMPT, caches).published_tokens == len(PROMPT)
    manager.clear()
    return int(manager.stats()["view_bytes"])


def values(caches):
    """Copies of every array in the caches; a reference would keep what is to be freed."""
    copies = [array + 0 for leaf in flatten(caches)[1] for array in leaf.arrays().values()]
    mx.eval(copies)
    return copies


def equal(first, second):
    """Whether two lists of arrays are the same, bit by bit."""
    return all(mx.array_equal(a, b) for a, b in zip(first, second, strict=True))


def continued(model, caches):
    """The logits of each token that follows, fed one by one."""
    logits = [model(mx.array([[token]]), cache=caches)[0, -1] for token in TOKENS[len(PROMPT) :]]
    mx.eval(logits)
    return logits


def test_jamba_keeps_its_whole_prefill_alive_until_a_commit():
    model = architecture_model("jamba")
    gc.collect()
    before = mx.get_active_memory()
    caches = prefilled(model)
    nbytes = sum(cache.nbytes for cache in caches)
    held = mx.get_active_memory() - before
    reported = commit(model, caches)
    gc.collect()
    freed = held - (mx.get_active_memory() - before)
    assert reported > 10 * nbytes
    assert freed > 10 * nbytes
    assert abs(reported - freed) < nbytes
    assert held - freed < 1.1 * nbytes


@pytest.mark.parametrize("name", WITHOUT)
def test_buffers_of_their_own_are_left_alone(name):
    model = architecture_model(name)
    caches = prefilled(model)
    arrays = [array for leaf in flatten(caches)[1] for array in leaf.arrays().values()]
    assert commit(model, caches) == 0
    after = [array for leaf in flatten(caches)[1] for array in leaf.arrays().values()]
    assert all(a is b for a, b in zip(arrays, after, strict=True))


@pytest.mark.parametrize("name", [*WITH_VIEWS, *WITHOUT])
def test_a_commit_changes_no_value_and_no_continuation(name):
    model = architecture_model(name)
    committed, untouched = prefilled(model), prefilled(model)
    before = values(committed)
    assert (commit(model, committed) > 0) is (name in WITH_VIEWS)
    assert equal(values(committed), before)
    assert equal(continued(model, committed), continued(model, untouched))


@pytest.mark.parametrize("name", WITH_VIEWS[1:])
def test_a_second_commit_finds_nothing_more(name):
    model = architecture_model(name)
    caches = prefilled(model)
    assert commit(model, caches) > 0
    assert commit(model, caches) == 0
