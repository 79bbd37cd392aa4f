"""How fast are blocks stored and loaded, and how long does a store take to open?

    python project/experiments/exp_005/bench_store.py --folder /some/disk [--record]

Rates are of payload bytes. Each round writes and reads the same blocks with the store and, as files
of the same size, with mlx; the order of the two changes from round to round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from semantic import DiskStore, LayerGroup, ModelCacheSpec, Namespace, TokenTensor
from semantic.adapters.mlx.block_memory import MlxBlockMemory
from semantic.adapters.store.catalogue import Catalogue
from semantic.application.stored_rows import StoredRows
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, NewBlock, StoredNode
from semantic.domain.stored_hit import StoredHit

HERE = Path(__file__).parent
# Llama-3.1-8B: 32 layers, 8 heads of 128, keys and values, bf16: 32 MiB per block.
TENSORS = tuple(TokenTensor(name, 8, 128, "bfloat16") for name in ("keys", "values"))
GROUP = LayerGroup("global", "global", tuple(range(32)), TENSORS)
ROOT = Namespace("bench").root
SPEC = ModelCacheSpec((GROUP,))
MEMORY = MlxBlockMemory()
READERS = ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def data_of(seed: int) -> dict[str, Any]:
    key = mx.random.key(seed)
    shape = (GROUP.n_layers, 8, 256, 128)
    arrays = {t.name: mx.random.normal(shape, key=key).astype(mx.bfloat16) for t in TENSORS}
    mx.eval(arrays)
    return arrays


def blocks_of(first: int, data: list[dict[str, Any]]) -> list[NewBlock]:
    blocks = []
    for n, arrays in enumerate(data):
        tokens = TokenIds(range((first + n) * 256, (first + n + 1) * 256))
        name = BlockName(tokens.keys(ROOT)[0], "global", 0, 256)
        memory = MEMORY.memory_of(arrays, tensors_of_block(GROUP, 0, 256))
        blocks.append(NewBlock(name, ROOT, ROOT, tokens, "global", False, memory))
    return blocks


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def load(store: DiskStore, blocks: list[NewBlock]) -> None:
    """As a restore reads them."""
    read = tuple(
        (block.name, StoredNode(block.name.key, ROOT, block.tokens, (block.name,)), (n, n + 1))
        for n, block in enumerate(blocks)
    )
    rows = StoredRows(SPEC, store, MEMORY, StoredHit(len(blocks), (("global", read),)), READERS)
    rows.capture("global", [span for _, _, span in read])


def mlx_save(folder: Path, data: list[dict[str, Any]]) -> None:
    for n, arrays in enumerate(data):
        path = folder / f"{n}.safetensors"
        mx.save_safetensors(str(path), arrays)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def mlx_load(folder: Path, n_blocks: int) -> None:
    mx.eval([mx.load(str(folder / f"{n}.safetensors")) for n in range(n_blocks)])


def memory_copy(n_blocks: int) -> None:
    one, other = memoryview(bytearray(GROUP.bytes_per_block)), bytes(GROUP.bytes_per_block)
    for _ in range(n_blocks):
        one[:] = other


def plain_read(folder: Path, n_blocks: int) -> None:
    memory = bytearray(GROUP.bytes_per_block + 4096)
    for n in range(n_blocks):
        with (folder / f"{n}.safetensors").open("rb", buffering=0) as file:
            while file.readinto(memory):
                pass


def rates(folder: Path, n_blocks: int, rounds: int) -> dict[str, list[float]]:
    data = [data_of(n) for n in range(n_blocks)]
    n_bytes = n_blocks * GROUP.bytes_per_block
    found: dict[str, list[float]] = {}
    store = DiskStore(folder / "store", 1 << 40, free_floor_bytes=0)
    plain = folder / "plain"
    plain.mkdir(exist_ok=True)
    for number in range(rounds):
        blocks = blocks_of(number * n_blocks, data)
        steps: list[tuple[str, Callable[[], object]]] = [
            ("save, store", lambda blocks=blocks: store.put(blocks, "a")),
            ("save, mlx and fsync", lambda: mlx_save(plain, data)),
            ("load, store", lambda blocks=blocks: load(store, blocks)),
            ("load, mlx", lambda: mlx_load(plain, n_blocks)),
            ("load, plain read", lambda: plain_read(plain, n_blocks)),
            ("copy in memory", lambda: memory_copy(n_blocks)),
        ]
        if number % 2:
            steps[:2], steps[2:] = steps[1::-1], steps[:1:-1]
        for name, work in steps:
            found.setdefault(name, []).append(n_bytes / timed(work) / 1e9)
        store.forget(ROOT, "a")
    store.close()
    return found


def opening(folder: Path, n_blocks: int) -> dict[str, float]:
    """A store of so many tiny blocks: opened with its catalogue, and without."""
    group = LayerGroup("global", "global", (0,), (TokenTensor("keys", 1, 1, "uint8"),))
    store = DiskStore(folder / "many", 1 << 40, free_floor_bytes=0)
    memory = [(tensors_of_block(group, 0, 256)[0], memoryview(bytes(256)))]
    made = timed(
        lambda: [
            store.put(
                [
                    NewBlock(
                        BlockName(tokens.keys(ROOT)[0], "global", 0, 256),
                        ROOT,
                        ROOT,
                        tokens,
                        "global",
                        False,
                        memory,
                    )
                    for tokens in (
                        TokenIds(range(n * 256, (n + 1) * 256)) for n in range(at, at + 100)
                    )
                ],
                "a",
            )
            for at in range(0, n_blocks, 100)
        ]
    )
    store.close()

    def reopen() -> None:
        DiskStore(folder / "many", 1 << 40, free_floor_bytes=0).close()

    warm = [timed(reopen) for _ in range(5)]
    (folder / "many" / "catalogue.sqlite3").unlink()
    rebuilt = timed(reopen)
    return {
        "made_seconds": made,
        "open_seconds": statistics.median(warm),
        "open_without_catalogue_seconds": rebuilt,
    }


def catalogue_rows(folder: Path, n_rows: int) -> dict[str, float]:
    """What the catalogue alone costs with so many rows, whose files are not there."""
    path = folder / f"rows-{n_rows}.sqlite3"
    catalogue = Catalogue(path, "bench")
    connection = catalogue.database._connection
    connection.execute("BEGIN")
    tokens = bytes(2048)
    rows = (
        (n.to_bytes(32, "big"), ROOT, (n // 2).to_bytes(32, "big"), tokens, 256)
        for n in range(n_rows)
    )
    connection.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?, ?)", rows)
    # Whoever uses a block uses what comes before it too.
    keys = ((n, n.to_bytes(32, "big")) for n in range(n_rows))
    rows = ((key.hex(), key, 32 << 20, n_rows - n) for n, key in keys)
    connection.executemany(
        "INSERT INTO blocks (file, key, layer_group, lo, hi, bytes, is_bounded, state, owner,"
        " last_use) VALUES (?, ?, 'global', 0, 256, ?, 0, 'here', '', ?)",
        rows,
    )
    connection.execute("COMMIT")
    catalogue.close()
    start = time.perf_counter()
    catalogue = Catalogue(path, "bench")
    opened = time.perf_counter() - start
    keys = [n.to_bytes(32, "big") for n in range(0, n_rows, max(1, n_rows // 128))]
    find = statistics.median(timed(lambda: catalogue.nodes(keys)) for _ in range(5))
    use = statistics.median(timed(lambda: catalogue.used(ROOT, keys, "a", 0)) for _ in range(5))
    choose = timed(lambda: catalogue.choose(32 << 20))
    names = timed(catalogue.files)
    n_bytes = path.stat().st_size
    catalogue.close()
    path.unlink()
    return {
        "open_seconds": opened,
        "find_128_seconds": find,
        "use_128_seconds": use,
        "choose_seconds": choose,
        "all_files_seconds": names,
        "file_bytes": n_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench-store"))
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="make the arrays on the CPU")
    parser.add_argument("--rates", action="store_true", help="nothing but the rates")
    args = parser.parse_args()
    if args.cpu:
        mx.set_default_device(mx.cpu)
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    found = rates(args.folder, args.blocks, args.rounds)
    summary = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "device": str(mx.default_device()),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "block_bytes": GROUP.bytes_per_block,
        "blocks": args.blocks,
        "gigabytes_per_second": {
            name: {"median": statistics.median(v), "low": min(v), "high": max(v)}
            for name, v in found.items()
        },
        "ratios": {
            "save": statistics.median(
                a / b
                for a, b in zip(found["save, store"], found["save, mlx and fsync"], strict=True)
            ),
            "load_to_mlx": statistics.median(
                a / b for a, b in zip(found["load, store"], found["load, mlx"], strict=True)
            ),
            "load_to_plain_read": statistics.median(
                a / b for a, b in zip(found["load, store"], found["load, plain read"], strict=True)
            ),
        },
        "opening": {}
        if args.rates
        else {n: opening(args.folder / str(n), n) for n in (100, 10_000)},
        "catalogue": {}
        if args.rates
        else {n: catalogue_rows(args.folder, n) for n in (1, 10_000, 1_000_000)},
    }
    print(json.dumps(summary, indent=1))
    if args.record:
        (HERE / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        rows = [f"{name},{n},{rate:.4f}" for name, v in found.items() for n, rate in enumerate(v)]
        (HERE / "rows.csv").write_text("step,round,gigabytes_per_second\n" + "\n".join(rows) + "\n")
    shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
