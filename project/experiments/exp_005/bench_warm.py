"""How fast are blocks loaded from the page cache, beside mx.load of the same bytes?

    python project/experiments/exp_005/bench_warm.py --folder /dev/shm/bench-warm [--record]

Each load is in a process of its own. One that has just begun has no memory that was used before, as
after a restart: `first` is its first load, and `again` one into memory that the first has given
back. Both evaluate, and keep all that they load in the arrays' own memory; the store verifies its
checksums on the way. `store` reads into arrays that nobody has filled, `filled` into such as MLX
has filled with zeros on its own device: the CPU's way and the GPU's. They take turns in going
first; ratios to mlx are within a round. Processor seconds tell work from waiting.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench_store
import mlx.core as mx
from bench_store import GROUP, blocks_of, data_of, load, mlx_load, mlx_save

from semantic import DiskStore
from semantic.adapters.mlx.block_memory import MlxBlockMemory
from semantic.domain.block_bytes import TensorBytes

HERE = Path(__file__).parent
LOADS = ("first", "again")
KINDS = ("store", "filled", "mlx")


class Filled(MlxBlockMemory):
    """Memory that MLX's default device has filled before it is read into."""

    def fresh(self, tensors: Sequence[TensorBytes]) -> tuple[dict[str, object], Any]:
        data: dict[str, object] = {
            tensor.name: mx.zeros(tensor.memory_shape, dtype=getattr(mx, tensor.dtype))
            for tensor in tensors
        }
        mx.eval(data)
        return data, self.memory_of(data, tensors)


MEMORIES = {"store": MlxBlockMemory, "filled": Filled}


def measured(work: Callable[[], object]) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "user_seconds": after.ru_utime - before.ru_utime,
        "system_seconds": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
    }


def child(what: str, folder: Path, n_blocks: int, n_readers: int) -> None:
    """One process: the first load, and another one after all of it was dropped."""
    bench_store.READERS = ThreadPoolExecutor(n_readers)
    store = DiskStore(folder / "store", 1 << 40, free_floor_bytes=0)
    small = {"keys": mx.zeros((1, 8, 256, 128), dtype=mx.bfloat16)}
    blocks = blocks_of(0, [{**small, "values": small["keys"]}] * n_blocks)
    mx.eval(
        mx.zeros(1), mx.zeros(1, stream=mx.cpu), mx.load(str(folder / "plain/small.safetensors"))
    )
    list(bench_store.READERS.map(abs, range(n_readers)))
    if what in MEMORIES:
        bench_store.MEMORY = MEMORIES[what]()

    def work() -> None:
        if what == "mlx":
            mlx_load(folder / "plain", n_blocks)
        else:
            load(store, blocks)

    print(json.dumps({name: measured(work) for name in LOADS}))
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench-warm"))
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--readers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--cpu", action="store_true", help="MLX on the CPU, where there is a GPU")
    parser.add_argument("--name", default="warm", help="of the recorded file")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--child", choices=KINDS)
    args = parser.parse_args()
    if args.cpu:
        mx.set_default_device(mx.cpu)
    if args.child:
        child(args.child, args.folder, args.blocks, args.readers)
        return
    shutil.rmtree(args.folder, ignore_errors=True)
    (args.folder / "plain").mkdir(parents=True)
    store = DiskStore(args.folder / "store", 1 << 40, free_floor_bytes=0)
    data = [data_of(n % 4) for n in range(args.blocks)]
    store.put(blocks_of(0, data), "a")
    mlx_save(args.folder / "plain", data)
    mx.save_safetensors(str(args.folder / "plain/small.safetensors"), {"a": mx.zeros(1)})
    store.close()
    del data
    gigabytes = args.blocks * GROUP.bytes_per_block / 1e9
    rows = []
    for number in range(args.rounds):
        for what in KINDS[:: 1 if number % 2 else -1]:
            command = [sys.executable, __file__, "--child", what]
            command += ["--cpu"] if args.cpu else []
            for name in ("folder", "blocks", "readers"):
                command += [f"--{name}", str(getattr(args, name))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for name, found in json.loads(done.stdout).items():
                rows.append({"round": number, "load": name, "what": what, **found})
    summary: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "device": str(mx.default_device()),
        "mlx": version("mlx"),
        "readers": args.readers,
        "blocks": args.blocks,
        "block_bytes": GROUP.bytes_per_block,
    }
    for name in LOADS:
        by = {
            what: [row for row in rows if (row["load"], row["what"]) == (name, what)]
            for what in KINDS
        }
        summary[name] = {what: _summary(found, by["mlx"], gigabytes) for what, found in by.items()}
    print(json.dumps(summary, indent=1))
    if args.record:
        (HERE / f"{args.name}.json").write_text(json.dumps(summary, indent=1) + "\n")
        with (HERE / f"{args.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    shutil.rmtree(args.folder)


def _summary(
    found: list[dict[str, Any]], mlx: list[dict[str, Any]], gigabytes: float
) -> dict[str, float]:
    ratios = [other["seconds"] / row["seconds"] for row, other in zip(found, mlx, strict=True)]
    cpu = [_cpu(other) / _cpu(row) for row, other in zip(found, mlx, strict=True)]
    return {
        "gigabytes_per_second": gigabytes / statistics.median(row["seconds"] for row in found),
        "times_mlx": statistics.median(ratios),
        "times_mlx_low": min(ratios),
        "times_mlx_high": max(ratios),
        "times_mlx_per_processor_second": statistics.median(cpu),
        "processor_seconds_per_gigabyte": statistics.median(map(_cpu, found)) / gigabytes,
        "page_faults_per_gigabyte": statistics.median(row["page_faults"] for row in found)
        / gigabytes,
    }


def _cpu(row: dict[str, float]) -> float:
    return row["user_seconds"] + row["system_seconds"]


if __name__ == "__main__":
    main()
