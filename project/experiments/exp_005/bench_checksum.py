"""How fast is the checksum of a payload, and how fast are those that were not chosen?

    pip install --target /tmp/sums xxhash crc32c blake3
    PYTHONPATH=/tmp/sums python project/experiments/exp_005/bench_checksum.py [--record]

On one core, of 16 MiB in memory, and of 256 KiB that are still in the core's cache, as they are
while a block is read. `ours` is what the store links, from `rust/store/examples/checksum_speed.rs`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MEMORY, PIECE = 16 << 20, 256 << 10
WHERE = {MEMORY: "16 MiB in memory", PIECE: "256 KiB in cache"}


def seconds(work: Callable[[], object]) -> float:
    """Of this thread alone: others may use the machine meanwhile."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def sums() -> dict[str, Callable[[bytes], object]]:
    found: dict[str, Callable[[bytes], object]] = {
        "BLAKE2b (hashlib)": lambda data: hashlib.blake2b(data).digest(),
        "SHA-256 (hashlib)": lambda data: hashlib.sha256(data).digest(),
    }
    modules: dict[str, tuple[str, Callable[[Any, bytes], object]]] = {
        "XXH3-128 (xxhash)": ("xxhash", lambda module, data: module.xxh3_128(data).digest()),
        "CRC-32C (crc32c)": ("crc32c", lambda module, data: module.crc32c(data)),
        "BLAKE3 (blake3)": ("blake3", lambda module, data: module.blake3(data).digest()),
    }
    for name, (module, sum_of) in modules.items():
        try:
            loaded = importlib.import_module(module)
        except ImportError:
            continue
        found[name] = lambda data, loaded=loaded, sum_of=sum_of: sum_of(loaded, data)
    return found


def ours(rounds: int) -> Iterator[tuple[str, str, int, float]]:
    """The rows of the store's own."""
    command = ["cargo", "run", "--quiet", "--release", "--package", "semantic-store"]
    command += ["--example", "checksum_speed", "--", str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parents[2])
    for number, line in enumerate(done.stdout.splitlines()):
        size, nanoseconds = map(int, line.split())
        yield "XXH3-128 (ours)", WHERE[size], number % rounds, (64 << 20) / nanoseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    rows = list(ours(args.rounds))
    data, piece = os.urandom(MEMORY), os.urandom(PIECE)
    for number in range(args.rounds):
        for name, sum_of in sums().items():
            rate = MEMORY / seconds(lambda sum_of=sum_of: sum_of(data)) / 1e9
            rows.append((name, WHERE[MEMORY], number, rate))
            times = [seconds(lambda sum_of=sum_of: sum_of(piece)) for _ in range(64)]
            rows.append((name, WHERE[PIECE], number, 64 * PIECE / sum(times) / 1e9))
    for name, where in dict.fromkeys((name, where) for name, where, _, _ in rows):
        rates = [rate for *what, _, rate in rows if what == [name, where]]
        print(f"{name:24} {where:18} {statistics.median(rates):6.1f} GB/s, best {max(rates):6.1f}")
    if args.record:
        with (HERE / "checksums.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("checksum", "bytes", "round", "gigabytes_per_second"))
            writer.writerows((*what, f"{rate:.3f}") for *what, rate in rows)


if __name__ == "__main__":
    main()
