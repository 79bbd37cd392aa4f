"""Does a store ever serve a wrong block, or lose a sealed one?

    python project/experiments/exp_005/fault_matrix.py [--record] [--quick] [--only calls]

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
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE)]

from faults.calls import call_rows, preloaded  # noqa: E402 (the path comes first)
from faults.files import file_rows  # noqa: E402
from faults.oracle import Row  # noqa: E402
from faults.system import inside, process_rows, rust_rows, system_rows  # noqa: E402

_COLUMNS = ("fault", "where", "tried", "refused", "wrong", "lost", "left", "raised", "note")


def _rows(folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    stride = 11 if args.quick else 1
    parts = {
        "rust": lambda: rust_rows(100 if args.quick else 10_000),
        "calls": lambda: call_rows(folder / "calls", stride, args.scene),
        "files": lambda: file_rows(folder / "files", stride),
        "system": lambda: system_rows(folder, stride),
        "processes": lambda: process_rows(folder / "processes", 6 if args.quick else 120),
    }
    for name, part in parts.items():
        if not args.only or name in args.only:
            yield from part()


def _table(rows: list[Row]) -> str:
    """The matrix as in the note: one line for each fault, places and notes left to the CSV."""
    lines = [
        "| fault | while | tried | wrong | lost | left | raised |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = (row.tried, row.wrong, row.lost, row.left, row.raised)
        lines.append(f"| {row.fault} | {row.where} | {' | '.join(f'{n:,}' for n in counts)} |")
    total = [sum(getattr(row, name) for row in rows) for name in ("tried", "wrong", "lost", "left")]
    total.append(sum(row.raised for row in rows))
    lines.append(f"| **all** | | {' | '.join(f'**{n:,}**' for n in total)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/fault-matrix"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", help="rust, calls, files, system, processes")
    parser.add_argument("--scene", default="", help="of the calls: only those whose name has this")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.inside:
        inside(args.inside, args.folder)
        return
    if not args.only or "calls" in args.only:
        preloaded()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    rows = []
    start = time.monotonic()
    for row in _rows(args.folder, args):
        rows.append(row)
        counts = ", ".join(f"{name} {getattr(row, name)}" for name in _COLUMNS[2:8])
        print(f"{time.monotonic() - start:5.0f} s  {row.fault}, {row.where}: {counts}", flush=True)
    shutil.rmtree(args.folder)
    print(f"\n{platform.platform()}, Python {platform.python_version()}, SQLite", end=" ")
    print(f"{sqlite3.sqlite_version}, {time.monotonic() - start:.0f} s\n\n{_table(rows)}")
    if args.record:
        with (HERE / "faults.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows([getattr(row, name) for name in _COLUMNS] for row in rows)
    if any(row.wrong or row.lost or row.left or row.raised for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
