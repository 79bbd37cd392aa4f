"""Replays the recorded traces for EXP-010 and collects the results in one CSV.

    python project/experiments/exp_010/run.py TRACES [--only NAME]

TRACES is the folder with the trace files. Each study is one `semantic simulate` command, printed
before it runs; `hit_rates.csv` gets a line per study, memory and cache.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
USUALLY = {"--model": "llama-3.1-8b", "--policy": "lru,resident,scan_resistant"}
QWEN3_NEXT = str(HERE / "qwen3-next-80b-a3b.json")

# 98K, 344K and 1.13M tokens of Llama-3.1-8B at 128 KiB each; the other models have memory for as
# many tokens of their global layers, and pay for windows and states out of it.
STUDIES: dict[str, tuple[str, ...]] = {
    "agents 4": ("claude_code", "--memory", "12.25GiB,43GiB", "--users", "4"),
    "agents 8": ("claude_code", "--memory", "43GiB", "--users", "8"),
    "agents 12": ("claude_code", "--memory", "43GiB", "--users", "12"),
    "agents 16": ("claude_code", "--memory", "43GiB,141.25GiB", "--users", "16"),
    "agents 24": ("claude_code", "--memory", "43GiB", "--users", "24"),
    "agents 32": ("claude_code", "--memory", "43GiB", "--users", "32"),
    "agents 4, no hints": (
        "claude_code",
        "--memory",
        "12.25GiB,43GiB",
        "--users",
        "4",
        "--no-hints",
    ),
    "agents 16, no hints": (
        *("claude_code", "--memory", "43GiB,141.25GiB", "--users", "16", "--no-hints"),
    ),
    "agents 16, 8 bits": ("claude_code", "--memory", "43GiB", "--users", "16", "--kv-bits", "8"),
    "agents 4, 8 bits": ("claude_code", "--memory", "43GiB", "--users", "4", "--kv-bits", "8"),
    **{
        f"{name}, {users}": (
            *("claude_code", "--memory", memory, "--users", str(users)),
            *("--model", model, "--policy", "lru,resident"),
        )
        for name, model, memory in (
            ("gemma-3-12b", "gemma-3-12b", "21.5GiB,70.625GiB"),
            ("qwen3-next", QWEN3_NEXT, "8.0625GiB,26.484375GiB"),
        )
        for users in (4, 16)
    },
    "tau-bench": ("taubench_airline_gpt4o", "--memory", "4GiB,12.25GiB", "--users", "4"),
    "miniswe": ("lmcache_miniswe", "--memory", "1GiB,4GiB"),
    "magagent": ("lmcache_magagent", "--memory", "1GiB,4GiB"),
    # Sessions of this trace are inferred, so nobody could have told when one ended.
    "chat, no hints": (
        *("mooncake_synthetic", "--memory", "12.25GiB,37.5GiB,125GiB,375GiB,1250GiB", "--no-hints"),
    ),
}


def lines(name: str, traces: Path):
    trace, *options = STUDIES[name]
    command = ["simulate", str(traces / f"{trace}.csv.gz"), *options, "--json"]
    for option, value in USUALLY.items():
        command += [] if option in options else [option, value]
    print("semantic", *command, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "semantic.cli", *command], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    for line in report["results"]:
        print(f"  {line['memory']:>9} {line['cache']:<26} {line['token_hit_rate']:.4f}", flush=True)
        yield {"study": name, "trace": trace, "users": report["users"]} | line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--only", action="append", help="a study's name; all when left out")
    options = parser.parse_args()
    target = HERE / "hit_rates.csv"
    known: dict[str, list[dict[str, object]]] = {}
    if target.is_file():
        with target.open(newline="") as file:
            for row in csv.DictReader(file):
                known.setdefault(row["study"], []).append(row)
    for name in options.only or STUDIES:
        known[name] = list(lines(name, options.traces))
        rows = [row for study in STUDIES for row in known.get(study, [])]
        with target.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
