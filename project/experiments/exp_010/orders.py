"""Do the gains hold on each half of the sessions, in other orders, and when more is known?

    python project/experiments/exp_010/orders.py TRACES

A gain that was found on one order of sessions may be that order's. The sessions of the Claude Code
trace are replayed in other orders, 16 users on 43 GiB, and each half of them alone; so are the
halves of the chat trace, on half of the memory of `run.py` and on twice that. "Told" is the same as
with hints, but a main agent also counts as waiting when its next request comes after more than a
minute: what somebody could say who knows the tool that runs. Writes `orders.csv`.
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
ORDERS = 2
LONG_MS = 60_000
FEW_AGENTS = ("--memory", "43GiB", "--users", "4", "--policy", "lru,resident")
AGENTS = (*FEW_AGENTS, "--users", "16")
CHAT = (
    *("--memory", "62.5GiB,187.5GiB,375GiB,625GiB", "--no-hints"),
    *("--policy", "lru,resident,scan_resistant"),
)


def lines_of(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


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


def told(lines: list[str]) -> list[str]:
    """The trace, in which main agents wait before every long absence."""
    columns = lines[1].split(",")
    session, agent, at, stop = (columns.index(name) for name in ("session", "agent", "t", "stop"))
    marked = [line.split(",") for line in lines[2:]]
    last: dict[str, list[str]] = {}
    for cells in marked:
        if cells[agent] != "0":
            continue
        before = last.get(cells[session])
        if before is not None and float(cells[at]) - float(before[at]) > LONG_MS:
            before[stop] = "E"
        last[cells[session]] = cells
    return lines[:2] + [",".join(cells) for cells in marked]


def variants(traces: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name, the trace's text, options) of every replay."""
    lines = lines_of(traces / "mooncake_synthetic.csv.gz")
    sessions = list(rows_by_session(lines).values())
    for half in (0, 1):
        rows = sorted(row for session in sessions[half::2] for row in session)
        yield f"chat, half {half}, no hints", with_rows(lines, rows), CHAT
    lines = lines_of(traces / "claude_code.csv.gz")
    sessions = list(rows_by_session(lines).values())
    knowing = told(lines)
    yield "agents, told", "\n".join(knowing), AGENTS
    yield "few agents, told", "\n".join(knowing), FEW_AGENTS
    orders = {"half 0": sessions[::2], "half 1": sessions[1::2]}
    for seed in range(1, ORDERS + 1):
        orders[f"order {seed}"] = random.Random(seed).sample(sessions, len(sessions))
    for name, order in orders.items():
        rows = [row for session in order for row in session]
        text = with_rows(lines, rows)
        yield f"agents, {name}", text, AGENTS
        yield f"agents, {name}, no hints", text, (*AGENTS, "--no-hints")
        yield f"agents, {name}, told", with_rows(knowing, rows), AGENTS


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
                print(f"{name:<32} {line['memory']:>9} {line['cache']:<26} {rate}", flush=True)
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
