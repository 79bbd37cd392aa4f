"""What does a call of `allocate` or `free` cost, as Python sees it?

A pool of 1,000 blocks: 100 times `allocate(10)`, then 100 times `free`, over and over. Each call is
timed by itself for the distribution, and each row of 100 calls as a whole, which is free of the
timer's own cost. Then the same from several threads at once, and beside a thread that keeps the
lock busy with `check`. With `--record` the numbers replace those beside this script.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import perf_counter_ns

from semantic.domain.services import BlockPool
from semantic.testing.specs import dense_spec

CALLS = 100
BLOCKS_PER_CALL = 10
BIN_NS = 10
HERE = Path(__file__).parent

Arguments = Sequence[tuple[object, ...]]


class Samples:
    """Times of one operation: call by call, and row by row."""

    def __init__(self) -> None:
        self.calls_ns: list[int] = []
        self.rows_ns: list[float] = []

    def time_calls(self, call: Callable[..., object], arguments: Arguments) -> list[object]:
        """One row with a clock around every call."""
        results = []
        for args in arguments:
            start = perf_counter_ns()
            result = call(*args)
            self.calls_ns.append(perf_counter_ns() - start)
            results.append(result)
        return results

    def time_row(self, call: Callable[..., object], arguments: Arguments) -> list[object]:
        """One row with a clock around all of it."""
        start = perf_counter_ns()
        results = [call(*args) for args in arguments]
        self.rows_ns.append((perf_counter_ns() - start) / len(arguments))
        return results

    def summary(self) -> dict[str, float]:
        """Nanoseconds per call."""
        percentiles = statistics.quantiles(self.calls_ns, n=1000)
        quartiles = statistics.quantiles(self.rows_ns, n=4)
        return {
            "row_mean": round(statistics.fmean(self.rows_ns), 1),
            "row_median": round(quartiles[1], 1),
            "row_quartile_1": round(quartiles[0], 1),
            "row_quartile_3": round(quartiles[2], 1),
            "row_min": round(min(self.rows_ns), 1),
            "call_mean": round(statistics.fmean(self.calls_ns), 1),
            "call_median": percentiles[499],
            "call_p99": percentiles[989],
            "call_p99.9": percentiles[998],
            "call_max": max(self.calls_ns),
            "calls": len(self.calls_ns),
        }


def measure(rounds: int) -> dict[str, Samples]:
    """Each operation in turn, so that a busy moment of the machine meets all of them."""
    pool = BlockPool(dense_spec(), total_blocks=CALLS * BLOCKS_PER_CALL)
    everything: dict[str, Samples] = {
        name: Samples() for name in ("nothing", "used_memory", "allocate 10", "free 10")
    }
    tens: Arguments = [(BLOCKS_PER_CALL,)] * CALLS
    none: Arguments = [()] * CALLS
    gc.disable()
    for turn in range(2 * rounds):
        timed = Samples.time_calls if turn % 2 else Samples.time_row
        timed(everything["nothing"], _nothing, none)
        timed(everything["used_memory"], pool.used_memory, none)
        ids = timed(everything["allocate 10"], pool.allocate, tens)
        timed(everything["free 10"], pool.free, [(of_call,) for of_call in ids])
    gc.enable()
    pool.check()
    return everything


def measure_threads(n_threads: int, pairs: int, *, checking: bool) -> dict[str, float]:
    """Pairs of `allocate(10)` and `free` from several threads on one pool.

    Args:
        n_threads: Threads that allocate, each under an agent of its own.
        pairs: Pairs of each thread.
        checking: Whether another thread calls `check` all the while, with the lock and without
            the GIL.
    """
    pool = BlockPool(dense_spec(), total_blocks=CALLS * BLOCKS_PER_CALL)
    pool.free(pool.allocate(CALLS * BLOCKS_PER_CALL))
    done = Event()
    checks = 0

    def churn(thread: int) -> list[int]:
        took = []
        for _ in range(pairs):
            start = perf_counter_ns()
            pool.free(pool.allocate(BLOCKS_PER_CALL, "global", f"a{thread}"))
            took.append(perf_counter_ns() - start)
        return took

    def check() -> None:
        nonlocal checks
        while not done.is_set():
            pool.check()
            checks += 1

    checker = Thread(target=check)
    if checking:
        checker.start()
    start = perf_counter_ns()
    with ThreadPoolExecutor(n_threads) as threads:
        took = [ns for of_thread in threads.map(churn, range(n_threads)) for ns in of_thread]
    elapsed = perf_counter_ns() - start
    done.set()
    if checking:
        checker.join()
    pool.check()
    percentiles = statistics.quantiles(took, n=1000)
    return {
        "threads": n_threads,
        "checks": checks,
        "pairs": len(took),
        "elapsed_per_pair": round(elapsed / len(took), 1),
        "pair_median": percentiles[499],
        "pair_p99": percentiles[989],
        "pair_max": max(took),
    }


def _nothing() -> None:
    """What calling and timing cost by themselves."""


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": models[0] if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "platform": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def record(results: dict[str, Samples], summary: dict[str, object]) -> None:
    """Write the summary as JSON, and every call and row as a histogram."""
    (HERE / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    with (HERE / "histogram.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["operation", "timed", "from_ns", "count"])
        for name, samples in results.items():
            for timed, values in (("call", samples.calls_ns), ("row", samples.rows_ns)):
                bins = Counter(int(ns) // BIN_NS * BIN_NS for ns in values)
                table.writerows([name, timed, ns, bins[ns]] for ns in sorted(bins))


def main() -> None:
    """Measure, print, and record when asked to."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=1000)
    arguments.add_argument("--record", action="store_true", help="replace the recorded numbers")
    given = arguments.parse_args()
    before = machine()
    results = measure(given.rounds)
    numbers = {name: samples.summary() for name, samples in results.items()}
    threaded = [
        measure_threads(n, 50 * given.rounds // n, checking=checking)
        for n, checking in [(1, False), (2, False), (8, False), (1, True), (2, True)]
    ]
    summary = {"machine": before, "ns": numbers, "threads_ns": threaded}
    print(json.dumps(summary, indent=2))
    if given.record:
        record(results, summary)


if __name__ == "__main__":
    main()
