"""What Prometheus reads is what the memory says of itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from semantic import BlockPool, CacheManager, MemoryStore, Namespace
from semantic.adapters.metrics import exposition
from semantic.mlx import probe
from semantic.mlx_lm import PromptCache
from tests.conftest import feed, fresh_caches, random_tokens

PROMPT = random_tokens(600, seed=1)


def read(memory: Any, model: str = "m") -> dict[tuple[str, ...], float]:
    """Values by metric name and labels, as a scraper parses them."""
    text = exposition(memory.stats, model).decode()
    values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            assert sample.labels.pop("model") == model
            values[(sample.name, *sample.labels.values())] = sample.value
    return values


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
    values = read(memory)
    stats: Any = memory.stats()
    for name in ("total", "free", "held", "live", "staging", "cached"):
        assert values["semantic_bytes", name] == stats["bytes"][name]
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
    held.release()
    memory.close(10)


def test_failures_have_reasons(model_of: Any) -> None:
    cache = PromptCache()
    model = model_of("llama")
    caches = fresh_caches(model)
    feed(model, PROMPT[:10], caches)
    cache.insert_cache("key", PROMPT, [object()])
    cache.insert_cache("key", PROMPT[:10], caches)
    values = read(cache)
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
