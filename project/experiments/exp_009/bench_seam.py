"""What does a pair of `allocate(10)` and `free` cost beside the least that C could do?

The baseline is `baseline.c`: a stack of free slots and an owner for each, as a plain extension for
this one interpreter. It is built into a temporary folder with the system's compiler. The peer is
`peer.py`: block objects in a linked free queue, in plain Python. All take turns, row by row, in one
process, so that a busy moment of the machine meets all of them. With `--record` the rows replace
those beside this script.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from types import ModuleType
from typing import TypeVar

from peer import PeerPool

from semantic.domain.services import BlockPool
from semantic.testing.specs import dense_spec

PAIRS = 200
BLOCKS = 1000
HERE = Path(__file__).parent

T = TypeVar("T")


def build_baseline(folder: Path) -> ModuleType:
    """Compile `baseline.c` and import it."""
    target = folder / f"baseline{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    options = ["-O3", "-shared", "-fPIC", f"-I{include}", "-o", str(target)]
    subprocess.run(["cc", str(HERE / "baseline.c"), *options], check=True)
    spec = importlib.util.spec_from_file_location("baseline", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def time_row(
    allocate: Callable[..., list[T]], free: Callable[[list[T]], None], *arguments: object
) -> float:
    """Nanoseconds per pair, over a row of them."""
    start = perf_counter_ns()
    for _ in range(PAIRS):
        free(allocate(*arguments))
    return (perf_counter_ns() - start) / PAIRS


def measure(baseline: ModuleType, rounds: int, n: int) -> dict[str, list[float]]:
    """Rows of all, in turn, with the pool empty and with another agent holding half of it."""
    slots = baseline.Slots(BLOCKS)
    empty, busy = (BlockPool(dense_spec(), total_blocks=BLOCKS) for _ in range(2))
    for pool in (empty, busy):
        pool.free(pool.allocate(BLOCKS))
    busy.allocate(BLOCKS // 2, "global", "other")
    busy.allocate(n, "global", "a1")
    slots.give(slots.take(BLOCKS, "a1"))
    peer = PeerPool(BLOCKS)
    names = ("baseline", "pure-Python peer", "ours", "ours, agent named", "ours, agent stays")
    rows: dict[str, list[float]] = {name: [] for name in names}
    gc.disable()
    for _ in range(rounds):
        rows["baseline"].append(time_row(slots.take, slots.give, n, "a1"))
        rows["pure-Python peer"].append(time_row(peer.allocate, peer.free, n))
        rows["ours"].append(time_row(empty.allocate, empty.free, n))
        named = time_row(empty.allocate, empty.free, n, "global", "a1")
        rows["ours, agent named"].append(named)
        rows["ours, agent stays"].append(time_row(busy.allocate, busy.free, n, "global", "a1"))
    gc.enable()
    empty.check()
    busy.check()
    return rows


def summary(rows: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians and spread in nanoseconds, and the ratio to the baseline, row by row."""
    table = {}
    for name, times in rows.items():
        quartiles = statistics.quantiles(times, n=4)
        ratios = [time / base for time, base in zip(times, rows["baseline"], strict=True)]
        table[name] = {
            "median": round(quartiles[1], 1),
            "quartile_1": round(quartiles[0], 1),
            "quartile_3": round(quartiles[2], 1),
            "min": round(min(times), 1),
            "median_ratio": round(statistics.median(ratios), 3),
            "ratio_of_medians": round(quartiles[1] / statistics.median(rows["baseline"]), 3),
        }
    return table


def main() -> None:
    """Measure, print, and record when asked to."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3000)
    arguments.add_argument("--record", action="store_true", help="replace the recorded numbers")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        baseline = build_baseline(Path(folder))
        everything = {n: measure(baseline, given.rounds, n) for n in (10, 128)}
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "pairs_per_row": PAIRS,
        "ns_per_pair": {f"{n} blocks": summary(rows) for n, rows in everything.items()},
    }
    print(json.dumps(report, indent=2))
    if given.record:
        (HERE / "summary.json").write_text(json.dumps(report, indent=2) + "\n")
        with (HERE / "rows.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["blocks", "what", "ns_per_pair"])
            for n, rows in everything.items():
                for name, times in rows.items():
                    table.writerows([n, name, round(time, 1)] for time in times)


if __name__ == "__main__":
    main()
