"""Models that change at one path: none reads another's blocks, and each finds its own again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from semantic import BlockPool, CacheManager, DiskStore
from semantic.mlx import namespace, probe
from semantic.testing.tiny_models import tiny_model
from tests.conftest import config_of, feed, fresh_caches, greedy, random_tokens

PROMPT = random_tokens(400, seed=1)


def write(folder: Path, seed: int, bits: int | None = None) -> None:
    """A model of these weights at this path, in the place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = config_of("llama")
    model = tiny_model(config, seed=seed)
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
        config = {**config, "quantization": {"group_size": 32, "bits": bits}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def answer(folder: Path, store: DiskStore, salt: str | None = None) -> tuple[list[int], int]:
    """A fresh process' answer with a store, and how much of the prompt it found there."""
    model, _ = load_model(folder)
    spec = probe(model)
    pool = BlockPool(spec, total_memory=1 << 28)
    memory = CacheManager(spec, pool, store=store, namespace=namespace(model, folder, salt=salt))
    with memory.admit("a", PROMPT, max_new_tokens=4) as lease:
        caches = lease.materialise() or fresh_caches(model)
        logits = feed(model, PROMPT[lease.cached_tokens :], caches)
        tokens = greedy(model, logits, caches, 4)
        lease.commit([*PROMPT, *tokens], caches)
    assert memory.close(30)
    assert not memory.stats()["failures"]
    return tokens, lease.cached_tokens


def stock(folder: Path) -> list[int]:
    model, _ = load_model(folder)
    caches = fresh_caches(model)
    return greedy(model, feed(model, PROMPT, caches), caches, 4)


Change = Callable[[Path], None]


def fuse(folder: Path) -> None:
    """A change of a few weights in one layer, as of a small adapter: names and sizes stay."""
    write(folder, seed=1)
    weights = mx.load(str(folder / "model.safetensors"))
    name = "model.layers.2.self_attn.v_proj.weight"
    assert isinstance(weights, dict)
    weights[name] = weights[name].at[3, 5].add(0.5)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


CHANGES: dict[str, Change] = {
    "one weight": fuse,
    "other weights": lambda folder: write(folder, seed=2),
    "quantised": lambda folder: write(folder, seed=1, bits=8),
    "quantised further": lambda folder: write(folder, seed=1, bits=4),
}


def test_b28_a_model_that_changes_at_its_path_never_reads_foreign_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    store = DiskStore(tmp_path / "kv", free_floor_bytes=0)
    write(folder, seed=1)
    expected = stock(folder)
    assert answer(folder, store) == (expected, 0)
    found: Sequence[Any] = []
    for change in CHANGES.values():
        change(folder)
        mine = stock(folder)
        assert answer(folder, store) == (mine, 0)
        assert answer(folder, store) == (mine, len(PROMPT) - 1)
        found = [*found, mine]
        write(folder, seed=1)
        assert answer(folder, store) == (expected, len(PROMPT) - 1)
    # Swapped once more, each finds what it has stored.
    for change, mine in zip(CHANGES.values(), found, strict=True):
        change(folder)
        assert answer(folder, store) == (mine, len(PROMPT) - 1)
    store.close()


@pytest.mark.parametrize("salts", [("alice", "bob"), (None, "bob")])
def test_b28_tenants_share_nothing(salts: tuple[str | None, str], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    store = DiskStore(tmp_path / "kv", free_floor_bytes=0)
    write(folder, seed=1)
    one, other = salts
    assert answer(folder, store, one)[1] == 0
    assert answer(folder, store, other)[1] == 0
    assert answer(folder, store, one)[1] == len(PROMPT) - 1
    store.close()
