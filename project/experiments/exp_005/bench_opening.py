"""How long does a store take to open, with its catalogue and without it?

    python project/experiments/exp_005/bench_opening.py --folder /dev/shm/bench-opening [--record]

Stores of so many real blocks of 256 bytes; the page cache is warm. `linked` has so many names of
one file, and a catalogue that knows them all: opening compares the two and reads no file, so it is
opened as a real one is; only its catalogue cannot be made again from it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import platform
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from semantic import DiskStore, LayerGroup, Namespace, TokenTensor
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, NewBlock

HERE = Path(__file__).parent
ROOT = Namespace("bench").root
GROUP = LayerGroup("global", "global", (0,), (TokenTensor("keys", 1, 1, "uint8"),))
MEMORY = [(tensors_of_block(GROUP, 0, 256)[0], memoryview(bytes(256)))]


Took = tuple[float, float]
"""Seconds by the clock, and of the processor: other work on the machine adds to the first only."""


def seconds(work: Callable[[], object]) -> Took:
    start, start_busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_busy


def block(n: int) -> NewBlock:
    tokens = TokenIds(range(n * 256, (n + 1) * 256))
    name = BlockName(tokens.keys(ROOT)[0], "global", 0, 256)
    return NewBlock(name, ROOT, ROOT, tokens, "global", False, MEMORY)


def reopened(path: Path) -> Took:
    return seconds(lambda: DiskStore(path, 1 << 40, free_floor_bytes=0).close())


def filled(path: Path, n_blocks: int) -> None:
    store = DiskStore(path, 1 << 40, free_floor_bytes=0)
    for at in range(0, n_blocks, 500):
        store.put([block(n) for n in range(at, min(at + 500, n_blocks))], "a")
    store.close()


def linked(path: Path, n_blocks: int) -> None:
    """A store with so many names of one file, entered as `put` enters blocks."""
    filled(path, 1)
    (file,) = (path / "blocks").rglob("*.safetensors")
    for fan in range(256):
        (path / "blocks" / f"{fan:02x}").mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(path / "catalogue.sqlite3")) as connection:
        # A million rows in one transaction, most of them in the middle of every index.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute(f"PRAGMA cache_size = -{4 << 20}")
        (node,) = connection.execute("SELECT * FROM nodes")
        cursor = connection.execute("SELECT * FROM blocks")
        columns = [column[0] for column in cursor.description]
        (block,) = cursor
        assert columns[:2] == ["file", "key"]
        nodes, blocks = (",".join("?" * len(row)) for row in (node, block))
        for n in range(n_blocks - 1):
            # Names as even as hashes are.
            key = (n * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big") + bytes(16)
            key += n.to_bytes(8, "big")
            name = f"{key.hex()}-global-0-256"
            os.link(file, path / "blocks" / name[:2] / f"{name}.safetensors")
            connection.execute(f"INSERT INTO nodes VALUES ({nodes})", (key, *node[1:]))
            connection.execute(f"INSERT INTO blocks VALUES ({blocks})", (name, key, *block[2:]))
        connection.commit()
        connection.execute("PRAGMA journal_mode = WAL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/bench-opening"))
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 100, 1_000, 10_000])
    parser.add_argument("--linked", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    rows: list[tuple[int, str, int, Took]] = []

    def note(n_blocks: int, what: str, number: int, took: Took) -> None:
        rows.append((n_blocks, what, number, took))
        print(f"{n_blocks:9,} blocks: {what}: {took[0]:.4f} s, {took[1]:.4f} busy", flush=True)

    for n_blocks in args.blocks:
        path = args.folder / str(n_blocks)
        note(n_blocks, "filled", 0, seconds(lambda p=path, n=n_blocks: filled(p, n)))
        for number in range(args.rounds):
            note(n_blocks, "opened", number, reopened(path))
        for number in range(args.rounds if n_blocks < 10_000 else 2):
            (path / "catalogue.sqlite3").unlink()
            note(n_blocks, "opened without its catalogue", number, reopened(path))
        shutil.rmtree(path)
    for n_blocks in args.linked:
        path = args.folder / f"linked-{n_blocks}"
        note(n_blocks, "linked", 0, seconds(lambda p=path, n=n_blocks: linked(p, n)))
        for number in range(args.rounds):
            note(n_blocks, "opened, linked", number, reopened(path))
        shutil.rmtree(path)
    shutil.rmtree(args.folder)
    print(f"{platform.platform()}, {os.cpu_count()} cores, SQLite {sqlite3.sqlite_version}")
    if args.record:
        with (HERE / "opening.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("blocks", "what", "round", "seconds", "processor_seconds"))
            writer.writerows((*what, *(f"{each:.5f}" for each in took)) for *what, took in rows)


if __name__ == "__main__":
    main()
