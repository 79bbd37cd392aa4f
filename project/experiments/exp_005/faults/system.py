"""What a machine does to a store: full and read-only disks, cut power, and other processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from tests.store_hammer import LIMIT, hammered, lying_at_once
from tests.stored_blocks import sequence, turn

from faults.oracle import Expected, Row, checked, compared, opened
from semantic import CachePersistenceError
from semantic.adapters.store.upkeep import verify

__all__ = ["inside", "process_rows", "rust_rows", "system_rows"]

ROOT_FOLDER = Path(__file__).parents[4]


# A disk of its own ------------------------------------------------------------------------------


def _full(path: Path, row: Row) -> None:
    """Fill a disk: by the store itself, and then by others to the last byte."""
    store = opened(path)
    acknowledged = []
    for seed in range(1, 400):
        try:
            turn(store, sequence(seed, 1 + seed % 3), "a")
        except CachePersistenceError:
            row.refused += 1
            break
        acknowledged.append((seed, 1 + seed % 3))
    everything = Expected(there=tuple(acknowledged))
    compared(store, everything, row, "full")
    with (path / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    for attempt in range(3):
        row.tried += 1
        try:
            turn(store, sequence(500 + attempt, 1), "b")
        except CachePersistenceError:
            row.refused += 1
        compared(store, everything, row, f"full to the last byte, attempt {attempt}")
    store.close()
    (path / "others").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(path)], check=True)
    checked(path, everything, row, "a larger disk")


def _reopened_full(path: Path, row: Row) -> None:
    """Open a store on a disk that has no byte left."""
    store = opened(path)
    turn(store, sequence(1, 2), "a")
    store.close()
    with (path / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    row.tried += 1
    try:
        store = opened(path)
        compared(store, Expected(there=((1, 2),)), row, "opened on a full disk")
        store.close()
    except CachePersistenceError:
        row.refused += 1
    (path / "others").unlink()
    checked(path, Expected(there=((1, 2),)), row, "a place again")


def _read_only(path: Path, row: Row) -> None:
    """Remount the disk while the store is open, and open it again."""
    expected = Expected(there=((1, 2),), maybe=((2, 1),))
    store = opened(path)
    turn(store, sequence(1, 2), "a")
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
    row.tried += 1
    try:
        store = opened(path)
        compared(store, expected, row, "opened read-only")
        turn(store, sequence(2, 1), "b")
    except CachePersistenceError:
        row.refused += 1
    subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)
    checked(path, expected, row, "writable again")


WORKS = {"full": _full, "opened full": _reopened_full, "read only": _read_only}


def inside(work: str, path: Path) -> None:
    """In a mount namespace of its own: run one of these, and print its row."""
    row = Row("", "")
    WORKS[work](path, row)
    print(json.dumps(asdict(row)))


def _on_a_disk(row: Row, work: str, path: Path, size: str) -> None:
    path.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {path}"
    script = [sys.executable, *sys.argv[:1], "--inside", work, "--folder", str(path)]
    apart = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount"]
    done = subprocess.run(
        [*apart, "sh", "-c", f'{mount} && exec "$@"', "sh", *script],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        row.tried += 1
        row.raised += 1
        row.say(f"{size}: {done.stderr[-500:]}")
        return
    found = Row(**json.loads(done.stdout.splitlines()[-1]))
    for name in (field.name for field in fields(Row) if field.type == "int"):
        setattr(row, name, getattr(row, name) + getattr(found, name))
    for what in found.seen:
        row.say(f"{size}: {what}")


def system_rows(folder: Path, stride: int) -> Iterator[Row]:
    """Disks of several sizes, so that they are full at another step each time."""
    sizes = range(400, 2400, 100 if stride == 1 else 700)
    cases = {
        "full": ("a full tmpfs", "put, served, opened again", sizes),
        "opened full": ("a full tmpfs", "open", (700, 1500)),
        "read only": ("a read-only tmpfs", "open, put, opened again", (4000,)),
    }
    for work, (fault, where, kilobytes) in cases.items():
        row = Row(fault, where)
        for n in kilobytes:
            _on_a_disk(row, work, folder / f"{work.replace(' ', '-')}-{n}", f"{n}k")
        yield row


# Processes --------------------------------------------------------------------------------------


def process_rows(folder: Path, seconds: float) -> Iterator[Row]:
    """Two to eight processes that write, read, evict, collect and verify; others are killed."""
    for n_processes in (2, 3, 4, 6, 8):
        path = folder / f"{n_processes}"
        path.mkdir(parents=True)
        n_seconds = seconds if n_processes == 8 else seconds / 6
        seen = hammered(path, n_processes, n_seconds)
        done = seen.done
        row = Row(f"{n_processes} processes, some killed", "everything at once", seen.killed)
        row.raised = sum(status != 0 for status in seen.exits)
        if seen.most_bytes > LIMIT:
            row.left += 1
            row.say(f"{seen.most_bytes} bytes lay there, and {LIMIT} may")
        row.note = (
            f"{n_seconds:.0f} s, {done['turns']} turns, {done['read']} blocks read,"
            f" {done['written']} written, {done['collected']} gc, {done['verified']} verify;"
            f" at most {seen.most_bytes} of {LIMIT} bytes in {seen.looks} looks"
        )
        store = opened(path / "store", max_bytes=LIMIT)
        row.left += verify(store) != [] or store.stats()["bytes"] != lying_at_once(path / "store")
        store.close()
        checked(path / "store", Expected(), row, max_bytes=LIMIT)
        yield row


# The writer in Rust -----------------------------------------------------------------------------


def rust_rows(cases: int) -> Iterator[Row]:
    """Faults at every step of the writer, on a disk in memory that loses what is not synced."""
    command = ["cargo", "test", "--quiet", "--release", "--package", "semantic-store"]
    done = subprocess.run(
        [*command, "--test", "faults", "--", "--nocapture", "--test-threads=1"],
        cwd=ROOT_FOLDER,
        capture_output=True,
        text=True,
        env={**os.environ, "PROPTEST_CASES": str(cases)},
        check=False,
    )
    for fault, tried in re.findall(r"fault matrix: (.+), (\d+) tried", done.stdout):
        row = Row(fault, "the writer in Rust, in memory", int(tried))
        row.wrong = done.returncode
        yield row
