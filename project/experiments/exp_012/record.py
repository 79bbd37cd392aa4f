"""Run the core's criterion benches some times over, and add what they say to a table.

    python project/experiments/exp_012/record.py --run "2026-11-30, quiet" --rounds 3

A row has one bench: nanoseconds per block, the fastest and the slowest sample of all rounds, and
between them the median of the rounds' medians, with the lowest and the highest of those. Nothing
else should run meanwhile; on a machine of several cores, pin it to one (`taskset -c 1`).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
CRITERION = REPOSITORY / "target/criterion"
COLUMNS = (
    "run",
    "question",
    "pool",
    "fastest",
    "lowest_median",
    "median",
    "highest_median",
    "slowest",
)


def one_round(bench: str, benches: str) -> dict[tuple[str, str], list[float]]:
    """Nanoseconds per block by question and pool, a number for each sample."""
    shutil.rmtree(CRITERION, ignore_errors=True)
    command = ["cargo", "bench", "--quiet", "--package", "semantic-benches", "--bench", bench]
    subprocess.run([*command, "--", benches], cwd=REPOSITORY, check=True, capture_output=True)
    found = {}
    for file in CRITERION.glob("**/new/sample.json"):
        what = json.loads(file.with_name("benchmark.json").read_text())
        sample = json.loads(file.read_text())
        n_blocks = what["throughput"]["Elements"]
        times = zip(sample["times"], sample["iters"], strict=True)
        question = what["function_id"], what["value_str"] or ""
        found[question] = [time / iterations / n_blocks for time, iterations in times]
    return found


def main() -> None:
    """Run, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="what the rows are called")
    parser.add_argument("--bench", choices=("prefix", "allocation"), default="prefix")
    parser.add_argument("--benches", default="", help="only those whose name has this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "rounds.csv")
    args = parser.parse_args()
    samples = defaultdict(list)
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", flush=True)
        for question, times in one_round(args.bench, args.benches).items():
            samples[question].append(times)
    is_new = not args.out.exists()
    with args.out.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        for question, rounds in sorted(samples.items(), key=lambda item: _sorted(*item[0])):
            medians = [statistics.median(times) for times in rounds]
            figures = (
                min(map(min, rounds)),
                min(medians),
                statistics.median(medians),
                max(medians),
                max(map(max, rounds)),
            )
            writer.writerow([args.run, *question, *(round(figure, 1) for figure in figures)])


def _sorted(question: str, pool: str) -> tuple[str, int, str]:
    n_blocks = pool.split(",")[0]
    return question, int(n_blocks) if n_blocks.isdigit() else 0, pool


if __name__ == "__main__":
    main()
