"""What a memory says of itself, as Prometheus reads it.

Nothing is counted twice: a scrape asks for the memory's `stats()` and says it in Prometheus' words,
so that a step of a request costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "MemoryCollector", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Stats = Callable[[], Mapping[str, Any]]

_COUNTERS = {
    "requests": "Lookups.",
    "hits": "Lookups that found something.",
    "prompt_tokens": "Tokens of prompts that were looked up.",
    "cached_tokens": "Tokens of prompts that came from the memory.",
    "evicted_blocks": "Sealed blocks that went because memory was short.",
}
_GAUGES = {
    "sequences": "Published ends of sequences.",
    "running": "Leases that run.",
    "unshared_bytes": "What the published sequences would take if nothing were shared.",
}
_STORE_GAUGES = {
    "blocks": "Blocks in the store.",
    "bytes": "Bytes in the store, those on their way included.",
    "max_bytes": "Bytes that the store may take.",
    "waiting": "Turns that wait to be stored.",
}


class MemoryCollector(Collector):
    """The metrics of one memory: of a `CacheManager`, or of a `PromptCache` with all its models.

    Args:
        stats: The memory's `stats`.
        model: The label `model` of every metric.
    """

    def __init__(self, stats: Stats, model: str = "") -> None:
        self._stats = stats
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """The metrics, from one reading."""
        stats = self._stats()
        yield self._bytes(stats["bytes"])
        yield self._blocks(stats.get("groups", {}))
        for name, text in _COUNTERS.items():
            yield self._counter(f"semantic_{name}", text, stats[name])
        for name, text in _GAUGES.items():
            if name in stats:
                yield self._gauge(f"semantic_{name}", text, stats[name])
        yield self._missed(stats)
        yield self._failures(stats["failures"])
        for name, (count, seconds, n_bytes) in stats.get("steps", {}).items():
            yield self._seconds(name, count, seconds)
            text = f"Bytes that {name}s have moved."
            yield self._counter(f"semantic_{name}_bytes", text, n_bytes)
        yield from self._store(stats.get("store", {}))

    def _bytes(self, by_class: Mapping[str, int]) -> Metric:
        metric = GaugeMetricFamily(
            "semantic_bytes", "Bytes of the budget by class.", labels=("model", "class")
        )
        for name, n_bytes in by_class.items():
            metric.add_metric((self._model, name), n_bytes)
        return metric

    def _blocks(self, groups: Mapping[str, Mapping[str, int]]) -> Metric:
        labels = ("model", "group", "state")
        metric = GaugeMetricFamily("semantic_blocks", "Blocks by group and state.", labels=labels)
        for group, states in groups.items():
            for state, blocks in states.items():
                metric.add_metric((self._model, group, state), blocks)
        return metric

    def _missed(self, stats: Mapping[str, Any]) -> Metric:
        text = (
            "Prompt tokens that had to be computed: never seen, or seen and not restorable there."
        )
        metric = CounterMetricFamily("semantic_missed_tokens", text, labels=("model", "reason"))
        missed = stats["prompt_tokens"] - stats["cached_tokens"]
        not_restorable = stats["unrestorable_tokens"]
        metric.add_metric((self._model, "not_restorable"), not_restorable)
        metric.add_metric((self._model, "never_seen"), missed - not_restorable)
        return metric

    def _failures(self, failures: Mapping[str, int]) -> Metric:
        text = "What went wrong and was served without the memory."
        metric = CounterMetricFamily("semantic_failures", text, labels=("model", "reason"))
        for reason, count in failures.items():
            metric.add_metric((self._model, reason), count)
        return metric

    def _seconds(self, name: str, count: int, seconds: float) -> Metric:
        metric = SummaryMetricFamily(
            f"semantic_{name}_seconds", f"Time of {name}s.", labels=("model",)
        )
        metric.add_metric((self._model,), count_value=count, sum_value=seconds)
        return metric

    def _store(self, store: Mapping[str, int]) -> Iterator[Metric]:
        for name, text in _STORE_GAUGES.items():
            if name in store:
                yield self._gauge(f"semantic_store_{name}", text, store[name])
        if "loaded_tokens" in store:
            text = "Tokens that came from the store."
            yield self._counter("semantic_store_loaded_tokens", text, store["loaded_tokens"])

    def _counter(self, name: str, text: str, value: float) -> Metric:
        metric = CounterMetricFamily(name, text, labels=("model",))
        metric.add_metric((self._model,), value)
        return metric

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        metric = GaugeMetricFamily(name, text, labels=("model",))
        metric.add_metric((self._model,), value)
        return metric


def exposition(stats: Stats, model: str = "") -> bytes:
    """The metrics of a memory in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MemoryCollector(stats, model))
    return generate_latest(registry)
