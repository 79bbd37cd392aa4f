"""How fast are blocks read that are on the disk alone, beside dd on the same disk?

    sudo python project/experiments/exp_005/bench_cold.py --folder /some/disk [--record]

Each round drops the page cache (as root; else each file's pages) before each of the two, which take
turns in going first. dd reads files of the same bytes with blocks of 4 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from pathlib import Path

from bench_store import GROUP, blocks_of, data_of, load, mlx_save, timed

from semantic import DiskStore

HERE = Path(__file__).parent


def drop(folder: Path) -> None:
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")


def dd(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        subprocess.run(
            ["dd", f"if={path}", "of=/dev/null", "bs=4M"], check=True, capture_output=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench-cold"))
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    data = [data_of(n % 4) for n in range(args.blocks)]
    store = DiskStore(args.folder / "store", 1 << 40, free_floor_bytes=0)
    blocks = blocks_of(0, data)
    store.put(blocks, "a")
    plain = args.folder / "plain"
    plain.mkdir()
    mlx_save(plain, data)
    del data
    n_bytes = args.blocks * GROUP.bytes_per_block
    rates: dict[str, list[float]] = {"store": [], "dd": []}
    steps = [("store", lambda: load(store, blocks)), ("dd", lambda: dd(plain))]
    for number in range(args.rounds):
        for name, work in steps[:: 1 if number % 2 else -1]:
            drop(args.folder)
            rates[name].append(n_bytes / timed(work) / 1e9)
    ratios = [a / b for a, b in zip(rates["store"], rates["dd"], strict=True)]
    summary = {
        "block_bytes": GROUP.bytes_per_block,
        "blocks": args.blocks,
        "gigabytes_per_second": {k: statistics.median(v) for k, v in rates.items()},
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "rounds": rates,
    }
    print(json.dumps(summary, indent=1))
    if args.record:
        (HERE / "cold.json").write_text(json.dumps(summary, indent=1) + "\n")
    store.close()
    shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
