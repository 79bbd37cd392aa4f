"""What does counting cost a step of a request, and a scrape the server?

    python project/experiments/exp_013/bench_metrics.py [--rounds 400] [--record]

Each count is timed over 1,000 calls at a time, an empty loop of the same shape subtracted; all of
them interleaved in one run; medians and quartiles in microseconds per call. A scrape is timed
whole: four models' geometries under one budget, two groups each, some hundred blocks.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from semantic import BlockPool, CacheManager, MemoryBudget
from semantic.adapters.metrics import exposition
from semantic.application.counted_store import CountedStore
from semantic.application.counters import Counters
from semantic.cli.plan_models import REFERENCE, spec_of
from semantic.cli.simulate.weightless import WeightlessMaterialiser
from semantic.mlx_lm import PromptCache

HERE = Path(__file__).parent
CALLS = 1000
KEY = ("./my-model", None, None)


class EmptyStore:
    """Answers at once: what is left of a call is the counting."""

    def read(self, *_: Any) -> bool:
        return True


def per_call(work: Callable[[], object]) -> float:
    """Microseconds of one call, without the loop around it."""
    start = perf_counter()
    for _ in range(CALLS):
        work()
    whole = perf_counter() - start
    start = perf_counter()
    for _ in range(CALLS):
        nothing()
    return (whole - (perf_counter() - start)) / CALLS * 1e6


def nothing() -> None:
    pass


def steps() -> dict[str, Callable[[], object]]:
    """Everything that a step of a request counts."""
    counters = Counters()
    cache = PromptCache()
    bare = EmptyStore()
    store = CountedStore(bare)  # type: ignore[arg-type]
    memory = [(None, memoryview(b"x"))] * 2
    return {
        "a lookup": lambda: counters.request(8192, 8191, 8191),
        "a lookup, by model": lambda: cache._counts(KEY).request(8192, 8191, 8191),
        "a restore or capture": lambda: counters.step("restore", 0.01, 1 << 30),
        "a block from the store": lambda: store.read(None, None, memory),  # type: ignore[arg-type]
        "… of which the store's own call": lambda: bare.read(None, None, memory),
    }


def scrapes() -> dict[str, Callable[[], object]]:
    """A whole scrape, and the reading in it."""
    budget = MemoryBudget(64 << 30)
    memories = {}
    for model in REFERENCE:
        spec = spec_of(model)
        pool = BlockPool(spec, budget=budget)
        memories[model] = memory = CacheManager(spec, pool, materialiser=WeightlessMaterialiser())
        for agent in range(4):
            tokens = [1000 * agent + n for n in range(4096)]
            with memory.admit(f"a{agent}", tokens) as lease:
                lease.commit(tokens, [])
    stats = memories[REFERENCE[0]].stats
    parts = {name: memory.stats() for name, memory in memories.items()}

    def several() -> dict[str, Any]:
        return {**parts[REFERENCE[0]], "models": parts}

    return {
        "reading one memory's stats": stats,
        "a scrape of one memory": lambda: exposition(stats, "m"),
        "a scrape of four models, read before": lambda: exposition(several),
    }


def microseconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--record", action="store_true", help="write rows.csv and summary.json")
    options = parser.parse_args()
    counted, scraped = steps(), scrapes()
    measured: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, work in counted.items():
            measured.setdefault(name, []).append(per_call(work))
        for name, work in scraped.items():
            measured.setdefault(name, []).append(microseconds(work))
    summary = []
    for name, times in measured.items():
        low, median, high = statistics.quantiles(times, n=4)
        summary.append(
            {"what": name, "median_us": round(median, 3)}
            | {"quartiles_us": [round(low, 3), round(high, 3)], "n": len(times)}
        )
        print(f"{name:<40} {median:9.3f} us  ({low:.3f} to {high:.3f}, n={len(times)})")
    if options.record:
        about = {"machine": platform.processor() or platform.machine(), "python": sys.version}
        about |= {"semantic": version("semantic-kv")}
        (HERE / "summary.json").write_text(json.dumps({"about": about, "rows": summary}, indent=1))
        with (HERE / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "microseconds"])
            for name, times in measured.items():
                writer.writerows((name, round(us, 3)) for us in times)


if __name__ == "__main__":
    main()
