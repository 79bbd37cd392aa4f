"""How far apart are a right and a wrong cache, in every architecture of mlx-lm?

Measures what `tests/seam/test_sensitivity.py` asserts, writes one row for each architecture and
prompt length to `sensitivity.csv`, and puts the worst of the lengths into the table of
`EXP-004-restore-equals-recompute.md`. From the root of the repository:

    python -m project.experiments.exp_004.sensitivity [--names llama ...] [--tokens 300 600]
    python -m project.experiments.exp_004.sensitivity --table-only
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

from tests.seam.test_sensitivity import sensitivity

from semantic.testing.architectures import RECIPES, architectures, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins

HERE = Path(__file__).parent
ROWS = HERE / "sensitivity.csv"
DOCUMENT = HERE.parent / "EXP-004-restore-equals-recompute.md"
BEGIN, END = "<!-- sensitivity.csv, worst of the lengths -->", "<!-- end -->"
COLUMNS = [
    *("architecture", "tokens", "tolerance", "other_calls", "same_greedy", "wrong_token"),
    *("shifted", "foreign", "weakest_array", "weakest_array_is", "seconds"),
]


def measured(name: str, tokens: int) -> dict[str, object]:
    start = time.perf_counter()
    result = sensitivity(name, tokens)
    weakest, label = result.weakest_array
    return {
        "architecture": name,
        "tokens": tokens,
        "tolerance": f"{recipe_of(name).tolerance:.0e}",
        "other_calls": f"{result.other_calls:.1e}",
        "same_greedy": result.same_greedy,
        "wrong_token": f"{result.wrong_token:.1e}",
        "shifted": f"{result.shifted:.1e}",
        "foreign": f"{result.foreign:.1e}",
        "weakest_array": f"{weakest:.1e}",
        "weakest_array_is": label,
        "seconds": f"{time.perf_counter() - start:.1f}",
    }


def measure_all(names: list[str], lengths: list[int]) -> None:
    with ROWS.open("w", newline="") as file, cpu_stand_ins():
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for name in names:
            for tokens in lengths:
                row = measured(name, tokens)
                writer.writerow(row)
                file.flush()
                print(*row.values(), flush=True)


def table() -> str:
    with ROWS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| architecture | other calls | wrong token | shifted | foreign | weakest array | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["architecture"] for row in rows):
        own = [row for row in rows if row["architecture"] == name]
        cells = [name, max((row["other_calls"] for row in own), key=float)]
        for column in ("wrong_token", "shifted", "foreign", "weakest_array"):
            cells.append(min((row[column] for row in own), key=float))
        marks = "R" * (name in RECIPES) + "S" * recipe_of(name).same_schedule
        lines.append(f"| {' | '.join([*cells, marks])} |")
    return "\n".join(lines)


def put_into_document() -> None:
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", default=list(architectures()))
    parser.add_argument("--tokens", nargs="+", type=int, default=[300, 600])
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    if not options.table_only:
        measure_all(options.names, options.tokens)
    put_into_document()


if __name__ == "__main__":
    main()
