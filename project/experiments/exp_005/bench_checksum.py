"""How fast is the checksum of a payload, and how fast are those that were not chosen?

    pip install --target /tmp/sums xxhash crc32c blake3
    PYTHONPATH=/tmp/sums python project/experiments/exp_005/bench_checksum.py [--record]

On one core. The libraries sum 16 MiB that lie in memory, and 256 KiB that are still in the core's
cache, as they are while a block is read. `ours` is what the store does: a file in the page cache is
read into a quarter of a megabyte again and again, with the checksum and without it; the difference
is what the checksum takes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semantic.domain.native import BlockFolder

HERE = Path(__file__).parent
MEMORY, PIECE = 16 << 20, 256 << 10
FILE_BYTES = 64 << 20


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


def ours(folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Reading a file with its checksum, and without."""
    shutil.rmtree(folder, ignore_errors=True)
    data = os.urandom(FILE_BYTES)
    blocks = BlockFolder(folder, "bench")
    rows = (1, 1, 0, 1, FILE_BYTES)
    blocks.write([("ab-block", {}, [("keys", "U8", [FILE_BYTES], memoryview(data), rows)])])
    piece = memoryview(bytearray(PIECE))
    file = os.open(folder / "blocks/ab/ab-block.safetensors", os.O_RDONLY)
    opened = blocks.open("ab-block")
    assert opened is not None

    def read() -> None:
        os.lseek(file, 0, os.SEEK_SET)
        while os.readv(file, [piece]):
            pass

    return opened.verify, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench-checksum"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    rows: list[tuple[str, str, int, float]] = []
    data, piece = os.urandom(MEMORY), os.urandom(PIECE)
    verify, read = ours(args.folder)
    for number in range(args.rounds):
        for name, sum_of in sums().items():
            rate = MEMORY / seconds(lambda sum_of=sum_of: sum_of(data)) / 1e9
            rows.append((name, "16 MiB in memory", number, rate))
            times = [seconds(lambda sum_of=sum_of: sum_of(piece)) for _ in range(64)]
            rows.append((name, "256 KiB in cache", number, 64 * PIECE / sum(times) / 1e9))
        with_sum, without = seconds(verify), seconds(read)
        rows.append(("ours, read and summed", "page cache", number, FILE_BYTES / with_sum / 1e9))
        rows.append(("ours, read alone", "page cache", number, FILE_BYTES / without / 1e9))
        rate = FILE_BYTES / max(1e-9, with_sum - without) / 1e9
        rows.append(("ours, the checksum", "page cache", number, rate))
    shutil.rmtree(args.folder)
    for name, where in dict.fromkeys((name, where) for name, where, _, _ in rows):
        rates = [rate for *what, _, rate in rows if what == [name, where]]
        print(f"{name:24} {where:18} {statistics.median(rates):6.1f} GB/s")
    if args.record:
        with (HERE / "checksums.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("checksum", "bytes", "round", "gigabytes_per_second"))
            writer.writerows((*what, f"{rate:.3f}") for *what, rate in rows)


if __name__ == "__main__":
    main()
