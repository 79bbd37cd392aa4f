"""A fork of mlx-lm's cache classes, such as mlx-vlm's, is served by shape, in its own classes."""

from __future__ import annotations

import sys

import pytest
from mlx_lm.models import cache as mlx_lm_cache

from semantic import CacheManager
from semantic.domain.services import BlockPool
from semantic.mlx import spec_of_caches
from semantic.testing.architectures import architecture_model
from tests.conftest import distance, feed, random_tokens


class KVCache(mlx_lm_cache.KVCache):
    """The same name and attributes, another module."""


class RotatingKVCache(mlx_lm_cache.RotatingKVCache):
    """The same name and attributes, another module."""


def fork_of(package: str):
    if package == "own":
        return sys.modules[__name__]
    why = "mlx-vlm is not among the test dependencies: pip install mlx-vlm to compare with it"
    return pytest.importorskip(package, reason=why, exc_type=ImportError)


@pytest.mark.parametrize("package", ["own", "mlx_vlm.models.cache"])
@pytest.mark.parametrize("kind", ["KVCache", "RotatingKVCache"])
@pytest.mark.parametrize("n", [30, 40, 41, 256, 300])
def test_a_fork_is_read_and_rebuilt_in_its_own_classes(package, kind, n):
    fork = fork_of(package)
    model = architecture_model("qwen3")
    tokens = random_tokens(n + 8)
    new = getattr(fork, kind)
    caches = [new(40) if kind == "RotatingKVCache" else new() for _ in model.layers]
    feed(model, tokens[:n], caches)
    spec = spec_of_caches(caches)
    manager = CacheManager(spec, BlockPool(spec, total_memory=1 << 28))
    with manager.admit("a", tokens[:n]) as lease:
        assert lease.commit(tokens[:n], caches).published_tokens == n
    with manager.admit("b", tokens) as lease:
        restored = lease.materialise()
    assert [type(c) for c in restored] == [type(c) for c in caches]
    assert distance(feed(model, tokens[n:], restored), feed(model, tokens[n:], caches)) < 1e-4
