"""What a server keeps under a model's key when the files of that key change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.server import ModelProvider

from semantic import BlockValidationError, DiskStore
from semantic.adapters.mlx_lm.loaded_models import LoadedModels
from semantic.adapters.mlx_lm.model_identity import namespace_of_key
from semantic.adapters.store.listing import Listing
from semantic.mlx import probe
from semantic.mlx_lm import PromptCache
from semantic.testing.tiny_models import tiny_model
from tests.conftest import config_of, feed, fresh_caches, random_tokens

TOKENS = random_tokens(300, seed=3)


def save(folder: Path, seed: int = 1, config: str = "config.json") -> None:
    """Weights of this seed at this path, in the place of what is there."""
    folder.mkdir(exist_ok=True)
    (folder / config).write_text(json.dumps(config_of("llama")))
    weights = dict(tree_flatten(tiny_model(config_of("llama"), seed=seed).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


class Provider:
    """mlx_lm.server's model provider, as far as loading goes: files become a model."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        self.model: Any = None
        self.model_key: Any = None

    def _load(self, model_path: Any, adapter_path: Any = None, draft_model_path: Any = None) -> str:
        self.model = tiny_model(config_of("llama"))
        self.model.load_weights(str(Path(model_path) / "model.safetensors"))
        self.meanwhile()
        self.model_key = (model_path, adapter_path, draft_model_path)
        return "loaded"

    def load(self, *key: Any) -> None:
        assert self._load(*key) == "loaded"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "model")
    return tmp_path / "model"


def test_the_provider_loads_by_the_method_that_is_watched() -> None:
    provider = SimpleNamespace(
        model_key=None, _model_map={}, _adapter_map={}, _draft_model_map={}, model=1, tokenizer=2
    )
    loads: list[Any] = []
    provider._load = lambda *key: loads.append(key)
    LoadedModels(provider, stores=False)
    ModelProvider.load(provider, "a", None, "b")
    assert loads == [("a", None, "b")]


def test_a_model_is_what_was_loaded_not_what_its_path_has_become(folder: Path) -> None:
    provider = Provider()
    loaded = LoadedModels(provider, stores=True, salt="alice")
    key = (str(folder), None, None)
    provider.load(*key)
    spec = probe(provider.model)
    first = loaded.namespace_of(key, spec)
    assert first == namespace_of_key(key, spec, "alice")
    assert first.root != namespace_of_key(key, spec).root
    save(folder, seed=2)
    assert loaded.namespace_of(key, spec) == first
    assert namespace_of_key(key, spec, "alice") != first
    provider.load(*key)
    assert loaded.namespace_of(key, spec) == namespace_of_key(key, spec, "alice")


def test_adapters_and_drafts_count(folder: Path, tmp_path: Path) -> None:
    provider = Provider()
    loaded = LoadedModels(provider, stores=True)
    save(tmp_path / "adapter", config="adapter_config.json")
    save(tmp_path / "draft", seed=3)
    save(tmp_path / "other", seed=4)
    roots = set()
    for beside in (
        (None, None),
        (tmp_path / "adapter", None),
        (None, tmp_path / "draft"),
        (None, tmp_path / "other"),
        (tmp_path / "adapter", tmp_path / "draft"),
    ):
        provider.load(folder, *beside)
        roots.add(loaded.namespace_of((folder, *beside), probe(provider.model)).root)
    assert len(roots) == 5


@pytest.mark.parametrize("again", [False, True])
def test_what_changes_while_it_is_loaded_is_not_stored(folder: Path, again: bool) -> None:
    provider = Provider()
    loaded = LoadedModels(provider, stores=True)
    if again:
        provider.load(folder)
    provider.meanwhile = lambda: save(folder, seed=2)
    provider.load(folder)
    with pytest.raises(BlockValidationError, match="changed while it was loaded"):
        loaded.namespace_of((folder, None, None), probe(provider.model))


def test_a_release_without_that_method_is_known_by_todays_files(folder: Path) -> None:
    loaded = LoadedModels(SimpleNamespace(model_key=None), stores=True, salt="alice")
    spec = probe(tiny_model(config_of("llama")))
    key = (folder, None, None)
    assert loaded.namespace_of(key, spec) == namespace_of_key(key, spec, "alice")


def test_what_was_never_loaded_is_not_stored(folder: Path) -> None:
    provider = Provider()
    spec = probe(tiny_model(config_of("llama")))
    with pytest.raises(BlockValidationError, match="nothing was loaded"):
        LoadedModels(provider, stores=True).namespace_of((str(folder), None, None), spec)


def test_what_is_fetched_by_the_load_is_stored(folder: Path, tmp_path: Path) -> None:
    provider, fetched = Provider(), tmp_path / "fetched"
    real = provider._load

    def fetch_and_load(path: Path, *beside: Any) -> str:
        shutil.copytree(folder, path)
        return real(path, *beside)

    provider._load = fetch_and_load
    loaded = LoadedModels(provider, stores=True)
    provider.load(fetched)
    spec = probe(provider.model)
    assert loaded.namespace_of((fetched, None, None), spec) == namespace_of_key(folder, spec)


@pytest.mark.parametrize("with_store", [False, True])
def test_a_model_loaded_from_other_files_finds_nothing_of_the_one_before(
    folder: Path, tmp_path: Path, with_store: bool
) -> None:
    provider = Provider()
    loaded = LoadedModels(provider, stores=with_store)
    store = DiskStore(tmp_path / "kv", free_floor_bytes=0) if with_store else None
    cache = loaded.watching(PromptCache(store=store, namespace_of=loaded.namespace_of))
    key = (str(folder), None, None)

    def turn() -> int:
        """Tokens found of the prompt, and the prompt remembered."""
        provider.load(*key)
        found = len(TOKENS) - len(cache.fetch_nearest_cache(key, TOKENS)[1])
        caches = fresh_caches(provider.model)
        feed(provider.model, TOKENS, caches)
        cache.insert_cache(key, TOKENS, caches)
        return found

    assert [turn(), turn()] == [0, len(TOKENS) - 1]
    before = cache._each_member()
    save(folder, seed=2)
    assert [turn(), turn()] == [0, len(TOKENS) - 1]
    assert len(cache) == 1
    assert not with_store or cache.writer.flush(60)
    assert [len(member.sealed) for member in before] == [0]  # whoever still looks at it
    if store is not None:
        assert cache.writer.close(60)
        namespaces = {row.namespace for row in Listing(store.catalogue, store.veil).blocks()}
        assert len(namespaces) == 2
    snapshot = cache.stats()["bytes"]
    assert snapshot["free"] + snapshot["cached"] == snapshot["total"]
    assert not cache.stats()["failures"]
    if store is not None:
        store.close()
