"""What Prometheus reads is what the memory says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from semantic import (
    BlockPool,
    CacheManager,
    CachePersistenceError,
    DiskStore,
    MemoryBudget,
    MemoryStore,
    Namespace,
)
from semantic.adapters.metrics import exposition
from semantic.application.counted_store import CountedStore
from semantic.mlx import probe
from semantic.mlx_lm import PromptCache
from tests.conftest import feed, fresh_caches, random_tokens

PROMPT = random_tokens(600, seed=1)


def scraped(memory: Any, model: str = "m") -> list[Any]:
    """The families that a scraper parses, each by Prometheus' conventions."""
    text = exposition(memory.stats, model).decode()
    families = list(text_string_to_metric_families(text))
    for family in families:
        check_conventions(family)
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples = [(s.name, *sorted(s.labels.items())) for family in families for s in family.samples]
    assert len(samples) == len(set(samples))
    return families


def check_conventions(family: Any) -> None:
    """What `promtool check metrics` looks at: names, units, endings, helps, labels."""
    assert re.fullmatch(r"semantic(_[a-z]+)+", family.name)
    assert family.documentation.endswith(".")
    assert family.type in ("counter", "gauge", "summary")
    words = family.name.split("_")
    # Base units, plural and last; a kind of metric is no part of a name.
    assert not {"ms", "milliseconds", "kb", "mb", "percent", "second", "byte"} & set(words)
    assert not {"counter", "gauge", "summary", "total", "count", "sum"} & set(words)
    for unit in ("seconds", "bytes"):
        assert unit not in words[:-1]
    endings = {"counter": ("_total",), "gauge": ("",), "summary": ("_count", "_sum")}
    assert family.samples
    for sample in family.samples:
        assert sample.name in [family.name + ending for ending in endings[family.type]]
        assert set(sample.labels) <= {"model", "class", "group", "state", "reason", "result"}
        assert sample.value >= 0


def read(memory: Any, model: str = "m") -> dict[tuple[str, ...], float]:
    """Values by metric name and labels but for the model."""
    values = {}
    for family in scraped(memory, model):
        for sample in family.samples:
            assert sample.labels.pop("model") == model
            values[(sample.name, *sample.labels.values())] = sample.value
    return values


def by_model(memory: Any, name: str, **labels: str) -> dict[str, float]:
    """The values of one metric, by model."""
    return {
        sample.labels["model"]: sample.value
        for family in scraped(memory, "")
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


def test_a_managers_metrics(model_of: Any) -> None:
    model = model_of("gemma3_text")
    spec = probe(model)
    pool = BlockPool(spec, total_memory=1 << 26)
    memory = CacheManager(spec, pool, store=MemoryStore(1 << 26), namespace=Namespace("m"))
    parted = [*PROMPT[:400], *random_tokens(100, seed=2)]
    for tokens in (PROMPT, [*PROMPT, 1], parted):
        with memory.admit("a", tokens) as lease:
            caches = lease.materialise() or fresh_caches(model)
            feed(model, tokens[lease.cached_tokens :], caches)
            lease.commit(tokens, caches)
    memory.flush(30)
    held = memory.admit("a", [*PROMPT, 1, 2])
    memory.flush(30)
    values = read(memory)
    stats: Any = memory.stats()
    for name in ("held", "live", "staging", "cached"):
        assert values["semantic_bytes", name] == stats["bytes"][name]
    assert values["semantic_budget_bytes",] == 1 << 26
    taken = sum(value for (name, *_), value in values.items() if name == "semantic_bytes")
    assert taken + values["semantic_budget_free_bytes",] == 1 << 26, "no byte twice"
    assert values["semantic_bytes", "live"] > 0
    assert values["semantic_blocks", "global", "leased"] == 3
    assert values["semantic_requests_total",] == 4
    assert values["semantic_cached_tokens_total",] == 600 + 601
    computed = values["semantic_missed_tokens_total", "never_seen"]
    computed += values["semantic_missed_tokens_total", "not_restorable"]
    assert values["semantic_missed_tokens_total", "not_restorable"] == 400
    assert computed + 1201 == values["semantic_prompt_tokens_total",] == 600 + 601 + 500 + 602
    assert values["semantic_running",] == 1
    assert values["semantic_restore_seconds_count",] == 1
    assert values["semantic_restore_seconds_sum",] > 0
    assert values["semantic_restore_bytes_total",] > 0
    assert values["semantic_capture_seconds_count",] == 3
    assert values["semantic_store_bytes",] == stats["store"]["bytes"] > 0
    assert values["semantic_store_waiting",] == 0
    assert values["semantic_store_written_blocks_total",] == stats["store"]["blocks"]
    assert values["semantic_store_written_bytes_total",] == stats["store"]["bytes"]
    assert values["semantic_store_evicted_blocks_total",] == 0
    assert values["semantic_store_reads_total", "hit"] == 0
    held.release()
    memory.close(10)


def test_a_store_is_counted(model_of: Any) -> None:
    model = model_of("llama")
    spec = probe(model)
    # Room for three blocks of the four.
    store = MemoryStore(3 * spec.bytes_per_block("global"))

    def started() -> CacheManager:
        pool = BlockPool(spec, total_memory=1 << 26)
        return CacheManager(spec, pool, store=store, namespace=Namespace("m"))

    memory = started()
    for tokens in (PROMPT, random_tokens(256, seed=5)):
        with memory.admit("a", tokens) as lease:
            caches = fresh_caches(model)
            feed(model, tokens, caches)
            lease.commit(tokens, caches)
        assert memory.flush(30)
    assert read(memory)["semantic_store_written_blocks_total",] == 4
    assert read(memory)["semantic_store_evicted_blocks_total",] >= 1
    memory.close(10)
    again = started()
    with again.admit("a", [*PROMPT[:512], 1]) as lease:
        cached = lease.cached_tokens
    assert cached in (256, 512)
    values = read(again)
    blocks = cached // 256
    assert values["semantic_store_reads_total", "hit"] == blocks
    assert values["semantic_store_read_bytes_total",] == blocks * spec.bytes_per_block("global")
    assert values["semantic_store_loaded_tokens_total",] == cached
    assert values["semantic_store_refused_total",] == 0
    again.close(10)


def test_files_that_could_not_be_read_are_counted(model_of: Any, tmp_path: Path) -> None:
    spec = probe(model_of("llama"))
    DiskStore(tmp_path, 1 << 26, free_floor_bytes=0).close()
    (tmp_path / "blocks" / "ab").mkdir()
    (tmp_path / "blocks" / "ab" / "ab-no-block.safetensors").touch()
    store = DiskStore(tmp_path, 1 << 26, free_floor_bytes=0)
    pool = BlockPool(spec, total_memory=1 << 26)
    memory = CacheManager(spec, pool, store=store, namespace=Namespace("m"))
    assert read(memory)["semantic_store_unread",] == 1
    memory.close(10)
    store.close()


def test_what_the_system_refuses_is_counted() -> None:
    class Refusing:
        def put(self, *_: Any) -> int:
            raise CachePersistenceError("full")

        def read(self, *_: Any) -> bool:
            raise CachePersistenceError("gone")

        def stats(self) -> dict[str, int]:
            return {"blocks": 0}

    store = CountedStore(cast(Any, Refusing()))
    with pytest.raises(CachePersistenceError):
        store.put([], "a")
    with pytest.raises(CachePersistenceError):
        store.read(cast(Any, None), cast(Any, None), [])
    assert store.stats()["refused"] == 2
    assert "written_bytes" not in store.stats(), "this store does not tell"


def test_several_models_have_labels_and_add_up(model_of: Any) -> None:
    cache = PromptCache(budget=MemoryBudget(1 << 26))
    keys = {"llama": ("./llama", None, None), "gemma3_text": ("./gemma", "adapter", None)}
    for name, key in keys.items():
        model = model_of(name)
        for tokens in (PROMPT[:300], PROMPT[:400]):
            cache.fetch_nearest_cache(key, tokens)
            caches = fresh_caches(model)
            feed(model, tokens, caches)
            cache.insert_cache(key, tokens, caches)
    cache.fetch_nearest_cache(keys["llama"], PROMPT)
    cache.insert_cache(keys["llama"], PROMPT, [object()])
    cache.trim_to(n_bytes=cast(Any, "nonsense"))
    cache.report_running(1000)
    names = {"./llama", "./gemma, adapter"}
    stats = cache.stats()
    assert by_model(cache, "semantic_requests_total") == {"./llama": 3, "./gemma, adapter": 2}
    for metric, key in (
        ("semantic_cached_tokens_total", "cached_tokens"),
        ("semantic_sequences", "sequences"),
        ("semantic_unshared_bytes", "unshared_bytes"),
        ("semantic_evicted_blocks_total", "evicted_blocks"),
    ):
        found = by_model(cache, metric)
        assert set(found) == names
        assert sum(found.values()) == stats[key]
        assert found == {name: stats["models"][name][key] for name in names}
    cached = by_model(cache, "semantic_bytes", **{"class": "cached"})
    assert set(cached) == names
    assert all(cached.values())
    assert sum(cached.values()) == stats["bytes"]["cached"]
    assert by_model(cache, "semantic_bytes", **{"class": "live"})[""] == 1000, "of no known model"
    taken = sum(
        sample.value
        for family in scraped(cache, "")
        for sample in family.samples
        if sample.name == "semantic_bytes"
    )
    assert taken + by_model(cache, "semantic_budget_free_bytes")[""] == 1 << 26
    assert by_model(cache, "semantic_failures_total", reason="unsupported") == {"./llama": 1}
    assert by_model(cache, "semantic_failures_total", reason="trim") == {"": 1}
    blocks = by_model(cache, "semantic_blocks", group="sliding_window", state="cached")
    assert set(blocks) == {"./gemma, adapter"}
    captures = by_model(cache, "semantic_capture_seconds_count")
    assert captures == {"./llama": 2, "./gemma, adapter": 2}


def test_keys_of_one_name_and_things_that_are_no_keys_are_told_apart() -> None:
    cache = PromptCache()
    for key in ("a", ("a", None), ["no", "key"]):
        cache.fetch_nearest_cache(key, [1, 2, 3])
    stats = cache.stats()
    assert stats["requests"] == 3
    assert {name: part["requests"] for name, part in stats["models"].items()} == {
        "a": 1,
        "('a', None)": 1,
    }


def test_a_queue_is_shown_where_there_is_one() -> None:
    cache = PromptCache()
    assert not by_model(cache, "semantic_queue_waiting")
    cache.queue_stats = lambda: {
        "waiting": 3,
        "running": 2,
        "admitted": 7,
        "refused": 1,
        "waited_seconds": 0.5,
    }
    values = read(cache, "")
    assert values["semantic_queue_waiting",] == 3
    assert values["semantic_queue_running",] == 2
    assert values["semantic_queue_admitted_total",] == 7
    assert values["semantic_queue_refused_total",] == 1
    assert values["semantic_queue_waited_seconds_total",] == 0.5


def test_failures_have_reasons(model_of: Any) -> None:
    cache = PromptCache()
    model = model_of("llama")
    caches = fresh_caches(model)
    feed(model, PROMPT[:10], caches)
    cache.insert_cache("key", PROMPT, [object()])
    cache.insert_cache("key", PROMPT[:10], caches)
    values = read(cache, "key")
    ((reason, count),) = [
        (labels[1], value)
        for labels, value in values.items()
        if labels[0] == "semantic_failures_total"
    ]
    assert (reason, count) == ("unsupported", 1)
    assert values["semantic_sequences",] == 1
    assert ("semantic_running",) not in values


def test_the_library_needs_no_prometheus_client() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; import semantic.cli.main, semantic"
    subprocess.run([sys.executable, "-c", code], check=True)
