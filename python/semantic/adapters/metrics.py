"""What a memory says of itself, as Prometheus reads it.

Nothing is counted twice: a scrape asks for the memory's `stats()` and says it in Prometheus' words,
so that a step of a request costs nothing more. Nor is a byte: what is one part of a whole has a
label, and the whole has a name of its own.
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
_Part = Mapping[str, Any]
_Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]

_OF_MODELS: tuple[tuple[_Kind, str, str], ...] = (
    (CounterMetricFamily, "requests", "Lookups."),
    (CounterMetricFamily, "hits", "Lookups that found something."),
    (CounterMetricFamily, "prompt_tokens", "Tokens of prompts that were looked up."),
    (CounterMetricFamily, "cached_tokens", "Tokens of prompts that came from the memory."),
    (CounterMetricFamily, "evicted_blocks", "Sealed blocks that went because memory was short."),
    (GaugeMetricFamily, "sequences", "Published ends of sequences."),
    (
        GaugeMetricFamily,
        "unshared_bytes",
        "What the published sequences would take if nothing were shared.",
    ),
    (GaugeMetricFamily, "running", "Leases that run."),
)
_OF_QUEUE: tuple[tuple[_Kind, str, str], ...] = (
    (GaugeMetricFamily, "waiting", "Requests that wait for memory."),
    (GaugeMetricFamily, "running", "Requests that run."),
    (CounterMetricFamily, "admitted", "Requests that were let in."),
    (CounterMetricFamily, "refused", "Requests that were told to come again, or never fit."),
    (CounterMetricFamily, "waited_seconds", "Time that requests have waited for memory."),
)
_OF_STORE: tuple[tuple[_Kind, str, str], ...] = (
    (GaugeMetricFamily, "blocks", "Blocks in the store."),
    (GaugeMetricFamily, "bytes", "Bytes in the store, those on their way included."),
    (GaugeMetricFamily, "max_bytes", "Bytes that the store may take."),
    (GaugeMetricFamily, "unread", "Files that could not be read when the store was opened."),
    (GaugeMetricFamily, "waiting", "Turns and words that the store has not been told yet."),
    (CounterMetricFamily, "loaded_tokens", "Tokens of prompts that came from the store."),
    (CounterMetricFamily, "read_bytes", "Bytes of blocks that were read."),
    (CounterMetricFamily, "written_blocks", "Blocks that were written."),
    (CounterMetricFamily, "written_bytes", "Bytes of the files that were written."),
    (CounterMetricFamily, "evicted_blocks", "Blocks that went from the store to make room."),
    (CounterMetricFamily, "refused", "Reads and writes that the system refused."),
)
_CLASSES = ("held", "live", "staging", "cached")


class MemoryCollector(Collector):
    """The metrics of one memory: of a `CacheManager`, or of a `PromptCache` with all its models.

    Args:
        stats: The memory's `stats`.
        model: The label `model` of what is not said of one of several models.
    """

    def __init__(self, stats: Stats, model: str = "") -> None:
        self._stats = stats
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """The metrics, from one reading; of what has no number yet there is none."""
        return (metric for metric in self._read() if metric.samples)

    def _read(self) -> Iterator[Metric]:
        stats = self._stats()
        # What has no model's name is the rest of the whole.
        parts: dict[str, _Part] = dict(stats.get("models") or {self._model: stats})
        yield from self._budget(stats["bytes"])
        yield self._bytes(stats, parts)
        yield _blocks(parts)
        for kind, name, text in _OF_MODELS:
            if all(name in part for part in parts.values()):
                yield _labelled(kind, f"semantic_{name}", text, parts, name)
        yield _missed(parts)
        yield self._failures(stats, parts)
        yield from _steps(parts)
        yield from self._each("queue", _OF_QUEUE, stats)
        yield from self._each("store", _OF_STORE, stats)
        yield from self._store_reads(stats.get("store", {}))

    def _budget(self, by_class: Mapping[str, int]) -> Iterator[Metric]:
        text = "Bytes that this memory may take; models may share them."
        yield self._of_whole(GaugeMetricFamily, "semantic_budget_bytes", text, by_class["total"])
        text = "Bytes of the budget that nothing has taken."
        name = "semantic_budget_free_bytes"
        yield self._of_whole(GaugeMetricFamily, name, text, by_class["free"])

    def _bytes(self, stats: _Part, parts: Mapping[str, _Part]) -> Metric:
        text = "Bytes that are taken of the budget, by class."
        metric = GaugeMetricFamily("semantic_bytes", text, labels=("model", "class"))
        for name in _CLASSES:
            of_models = {model: part["bytes"][name] for model, part in parts.items()}
            rest = stats["bytes"][name] - sum(of_models.values())
            if rest > 0:
                of_models[self._model] = of_models.get(self._model, 0) + rest
            for model, n_bytes in of_models.items():
                metric.add_metric((model, name), n_bytes)
        return metric

    def _failures(self, stats: _Part, parts: Mapping[str, _Part]) -> Metric:
        text = "What went wrong and was served without the memory."
        metric = CounterMetricFamily("semantic_failures", text, labels=("model", "reason"))
        for reason, total in stats["failures"].items():
            of_models = {model: part["failures"].get(reason, 0) for model, part in parts.items()}
            rest = total - sum(of_models.values())
            if rest > 0:
                of_models[self._model] = of_models.get(self._model, 0) + rest
            for model, count in of_models.items():
                if count:
                    metric.add_metric((model, reason), count)
        return metric

    def _each(
        self, section: str, families: tuple[tuple[_Kind, str, str], ...], stats: _Part
    ) -> Iterator[Metric]:
        """The families of a section, as far as the memory tells of it."""
        told = stats.get(section, {})
        for kind, name, text in families:
            if name in told:
                yield self._of_whole(kind, f"semantic_{section}_{name}", text, told[name])

    def _store_reads(self, store: _Part) -> Iterator[Metric]:
        if "read_hits" in store:
            text = "Blocks that were asked for: found, or missing or damaged."
            metric = CounterMetricFamily("semantic_store_reads", text, labels=("model", "result"))
            metric.add_metric((self._model, "hit"), store["read_hits"])
            metric.add_metric((self._model, "miss"), store["read_misses"])
            yield metric

    def _of_whole(self, kind: _Kind, name: str, text: str, value: float) -> Metric:
        metric = kind(name, text, labels=("model",))
        metric.add_metric((self._model,), value)
        return metric


def _labelled(kind: _Kind, name: str, text: str, parts: Mapping[str, _Part], key: str) -> Metric:
    metric = kind(name, text, labels=("model",))
    for model, part in parts.items():
        metric.add_metric((model,), part[key])
    return metric


def _blocks(parts: Mapping[str, _Part]) -> Metric:
    labels = ("model", "group", "state")
    metric = GaugeMetricFamily("semantic_blocks", "Blocks by group and state.", labels=labels)
    for model, part in parts.items():
        for group, states in part.get("groups", {}).items():
            for state, blocks in states.items():
                metric.add_metric((model, group, state), blocks)
    return metric


def _missed(parts: Mapping[str, _Part]) -> Metric:
    text = "Prompt tokens that had to be computed: never seen, or seen and not restorable there."
    metric = CounterMetricFamily("semantic_missed_tokens", text, labels=("model", "reason"))
    for model, part in parts.items():
        missed = part["prompt_tokens"] - part["cached_tokens"]
        not_restorable = part["unrestorable_tokens"]
        metric.add_metric((model, "not_restorable"), not_restorable)
        metric.add_metric((model, "never_seen"), missed - not_restorable)
    return metric


def _steps(parts: Mapping[str, _Part]) -> Iterator[Metric]:
    """Time and bytes of restores and captures."""
    for name in ("restore", "capture"):
        text = f"Time of {name}s."
        seconds = SummaryMetricFamily(f"semantic_{name}_seconds", text, labels=("model",))
        text = f"Bytes that {name}s have moved."
        moved = CounterMetricFamily(f"semantic_{name}_bytes", text, labels=("model",))
        for model, part in parts.items():
            count, total, n_bytes = part.get("steps", {}).get(name, (0, 0.0, 0))
            seconds.add_metric((model,), count_value=count, sum_value=total)
            moved.add_metric((model,), n_bytes)
        yield seconds
        yield moved


def exposition(stats: Stats, model: str = "") -> bytes:
    """The metrics of a memory in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MemoryCollector(stats, model))
    return generate_latest(registry)
