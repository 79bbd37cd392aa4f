"""Does a store ever serve a wrong block, or lose a sealed one?

    python project/experiments/exp_005/fault_matrix.py [--record] [--quick] [--only PART]

Faults for real: a library that is loaded before libc kills the process at a system call, or refuses
that call; files are damaged on the disk; a tmpfs is full or read-only; processes are killed while
they share a folder. After each fault the store is opened as the next process does and every block
is compared with what was written. `wrong` and `lost` have to be 0, and so have `left` (a temporary
file, a count that is not true, a file that verify names) and `raised` (an exception that is not the
project's own). About 15 minutes; `--quick` leaves out most places.
"""

from __future__ import annotations

import argparse
import csv
import logging
import platform
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE)]

from faults.calls import call_rows, preloaded  # noqa: E402 (the path comes first)
from faults.files import file_rows  # noqa: E402 (as above)
from faults.oracle import Row  # noqa: E402 (as above)
from faults.system import inside, process_rows, rust_rows, system_rows  # noqa: E402 (as above)

_PARTS = ("rust", "calls", "files", "system", "processes")
_COLUMNS = ("fault", "where", "tried", "refused", "wrong", "lost", "left", "raised", "note")


def _parts(folder: Path, args: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    stride = 11 if args.quick else 1
    return {
        "rust": lambda: rust_rows(100 if args.quick else 10_000),
        "calls": lambda: call_rows(folder / "calls", stride, args.scene, args.kind),
        "files": lambda: file_rows(folder / "files", stride),
        "system": lambda: system_rows(folder, stride),
        "processes": lambda: process_rows(folder / "processes", 6 if args.quick else 120),
    }


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The matrix as in the note: a line for each fault, whatever was done meanwhile."""
    counts = ("tried", "wrong", "lost", "left", "raised")
    head = ("fault", "while", *counts)
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for fault in dict.fromkeys(line["fault"] for line in lines):
        same = [line for line in lines if line["fault"] == fault]
        where = ", ".join(dict.fromkeys(line["where"] for line in same))
        numbers = " | ".join(f"{sum(int(line[name]) for line in same):,}" for name in counts)
        table.append(f"| {fault} | {where} | {numbers} |")
    totals = " | ".join(f"**{sum(int(line[name]) for line in lines):,}**" for name in counts)
    return "\n".join([*table, f"| **all** | | {totals} |"])


def _recorded(new: list[dict[str, Any]], *, is_whole: bool) -> list[dict[str, Any]]:
    """Write the rows; what was not run stays as it is."""

    def place(line: Mapping[str, Any]) -> tuple[Any, ...]:
        return (line["part"],) if is_whole else (line["part"], line["fault"], line["where"])

    path = HERE / "faults.csv"
    old: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
    places = set(map(place, new))
    lines = [line for line in old if place(line) not in places] + new
    lines.sort(key=lambda line: _PARTS.index(line["part"]))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("part", *_COLUMNS))
        writer.writeheader()
        writer.writerows(lines)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/fault-matrix"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=_PARTS)
    parser.add_argument("--scene", default="", help="of the calls: only those whose name has this")
    parser.add_argument("--kind", default="", help="of the calls: only what goes wrong like this")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.inside:
        inside(args.inside, args.folder)
        return
    wanted = args.only or _PARTS
    if "calls" in wanted:
        preloaded()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    start = time.monotonic()
    for part, rows in _parts(args.folder, args).items():
        for row in rows() if part in wanted else ():
            line = {"part": part, **{name: getattr(row, name) for name in _COLUMNS}}
            lines.append(line)
            counts = ", ".join(f"{name} {line[name]}" for name in _COLUMNS[2:8])
            print(
                f"{time.monotonic() - start:5.0f} s  {row.fault}, {row.where}: {counts}", flush=True
            )
    shutil.rmtree(args.folder)
    print(f"\n{platform.platform()}, Python {platform.python_version()}, SQLite", end=" ")
    print(f"{sqlite3.sqlite_version}, {time.monotonic() - start:.0f} s\n")
    if args.record:
        lines = _recorded(lines, is_whole=not (args.scene or args.kind))
    print(_table(lines))
    if any(int(line[name]) for line in lines for name in ("wrong", "lost", "left", "raised")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
