"""What do a load and the restore behind it take together, where a GPU has to fetch what was read?

    python project/experiments/exp_005/bench_restored.py --folder /dev/shm/bench-restored [--record]

Each process loads 32 blocks and joins them on MLX's default device, three times: into new memory,
and twice into memory that the round before has given back. `store` reads into arrays that nobody
has filled, as the library does, `filled` into such as MLX has filled on its default device.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench_store
import mlx.core as mx
from bench_store import READERS, ROOT, SPEC, TENSORS, blocks_of, data_of
from bench_warm import MEMORIES

from semantic import DiskStore
from semantic.application.stored_rows import StoredRows
from semantic.domain.stored import NewBlock, StoredNode
from semantic.domain.stored_hit import StoredHit

HERE = Path(__file__).parent
N_BLOCKS = 32
LOADS = ("first", "again", "third")


def rounds(store: DiskStore, blocks: list[NewBlock]) -> dict[str, dict[str, float]]:
    read = tuple(
        (block.name, StoredNode(block.name.key, ROOT, block.tokens, (block.name,)), (n, n + 1))
        for n, block in enumerate(blocks)
    )
    found = {}
    for name in LOADS:
        hit = StoredHit(len(blocks), (("global", read),))
        start = time.perf_counter()
        rows = StoredRows(SPEC, store, bench_store.MEMORY, hit, READERS)
        loaded = rows.capture("global", [span for _, _, span in read])
        middle = time.perf_counter()
        whole = [mx.concatenate([data[t.name] for data in loaded], axis=2) for t in TENSORS]
        mx.eval(whole)
        mx.synchronize()
        end = time.perf_counter()
        found[name] = {"load": middle - start, "restore": end - middle, "together": end - start}
        del loaded, whole
    return found


def child(what: str, folder: Path) -> None:
    bench_store.MEMORY = MEMORIES[what]()
    store = DiskStore(folder / "store", 1 << 40, free_floor_bytes=0)
    small = mx.zeros((1, 8, 256, 128), dtype=mx.bfloat16)
    blocks = blocks_of(0, [{"keys": small, "values": small}] * N_BLOCKS)
    mx.eval(mx.zeros(1) + 1, mx.zeros(1, stream=mx.cpu))
    print(json.dumps(rounds(store, blocks)))
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench-restored"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--child", choices=MEMORIES)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder)
        return
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    store = DiskStore(args.folder / "store", 1 << 40, free_floor_bytes=0)
    store.put(blocks_of(0, [data_of(n % 4) for n in range(N_BLOCKS)]), "a")
    store.close()
    rows: list[dict[str, object]] = []
    for number in range(args.rounds):
        for what in list(MEMORIES)[:: 1 if number % 2 else -1]:
            command = [sys.executable, __file__, "--child", what, "--folder", str(args.folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for name, seconds in json.loads(done.stdout).items():
                rows.append({"round": number, "what": what, "load of": name, **seconds})
    for what in MEMORIES:
        for name in LOADS:
            mine = [row for row in rows if (row["what"], row["load of"]) == (what, name)]
            for part in ("load", "restore", "together"):
                median = statistics.median(float(str(row[part])) for row in mine)
                print(f"{what:7} {name:6} {part:9} {median * 1e3:7.1f} ms")
    if args.record:
        with (HERE / "restored_gpu.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
