"""Do the gains hold on each half of the sessions, and in other orders of them?

    python project/experiments/exp_010/orders.py TRACES

A gain that was found on one order of sessions may be that order's. The sessions of the Claude Code
trace are replayed in other orders, 16 users on 43 GiB, and each half of them alone; so are the
halves of the chat trace, on half of the memory of `run.py` and on twice that. Writes `orders.csv`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ORDERS = 4
AGENTS = ("--memory", "43GiB", "--users", "16", "--policy", "lru,resident,scan_resistant")
CHAT = (
    *("--memory", "62.5GiB,187.5GiB,375GiB,625GiB", "--no-hints"),
    *("--policy", "lru,resident,scan_resistant"),
)


def rows_by_session(lines: list[str]) -> dict[str, list[int]]:
    column = lines[1].split(",").index("session")
    sessions: dict[str, list[int]] = {}
    for row, line in enumerate(lines[2:]):
        sessions.setdefault(line.split(",")[column], []).append(row)
    return sessions


def with_rows(lines: list[str], rows: list[int]) -> str:
    """The trace with these rows alone, in this order; no session shares with another."""
    column = lines[1].split(",").index("ref")
    place = {row: number for number, row in enumerate(rows)}
    kept = lines[:2]
    for row in rows:
        cells = lines[2 + row].split(",")
        if cells[column] != "-1":
            cells[column] = str(place[int(cells[column])])
        kept.append(",".join(cells))
    return "\n".join(kept) + "\n"


def variants(traces: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name, the trace's text, options) of every replay."""
    lines = gzip.decompress((traces / "claude_code.csv.gz").read_bytes()).decode().splitlines()
    sessions = list(rows_by_session(lines).values())
    orders = {"half 0": sessions[::2], "half 1": sessions[1::2]}
    for seed in range(1, ORDERS + 1):
        orders[f"order {seed}"] = random.Random(seed).sample(sessions, len(sessions))
    for name, order in orders.items():
        text = with_rows(lines, [row for rows in order for row in rows])
        yield f"agents, {name}", text, AGENTS
        yield f"agents, {name}, no hints", text, (*AGENTS, "--no-hints")
    lines = (
        gzip.decompress((traces / "mooncake_synthetic.csv.gz").read_bytes()).decode().splitlines()
    )
    sessions = list(rows_by_session(lines).values())
    for half in (0, 1):
        rows = sorted(row for rows in sessions[half::2] for row in rows)
        yield f"chat, half {half}, no hints", with_rows(lines, rows), CHAT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    options = parser.parse_args()
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text, arguments in variants(options.traces):
            trace = Path(folder) / "trace.csv"
            trace.write_text(text)
            command = ["simulate", str(trace), "--model", "llama-3.1-8b", *arguments, "--json"]
            done = subprocess.run(
                [sys.executable, "-m", "semantic.cli", *command],
                capture_output=True,
                text=True,
                check=True,
            )
            for line in json.loads(done.stdout)["results"]:
                rate = round(line["token_hit_rate"], 4)
                print(f"{name:<28} {line['memory']:>9} {line['cache']:<26} {rate}", flush=True)
                results.append(
                    {"study": name, "memory": line["memory"], "cache": line["cache"]}
                    | {"token_hit_rate": rate}
                )
            with (HERE / "orders.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(results[0]))
                writer.writeheader()
                writer.writerows(results)


if __name__ == "__main__":
    main()
