"""The results as plain values, as a table, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic.cli.simulate.outcome import Outcome
from semantic.cli.simulate.study import Run
from semantic.cli.sizes import format_size

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Record", "print_table", "record", "write_csv"]

Record = dict[str, Any]
"""One line of the results; the same keys in every line, None where nothing is to be said."""


def record(run: Run, outcome: Outcome, bytes_per_token: int, prompt_tokens: int) -> Record:
    """One cache of one size: what it was and what it did, in exact numbers."""
    timing = outcome.timing
    return {
        "memory": run.memory,
        "memory_bytes": run.memory_bytes,
        "memory_tokens": run.memory_bytes // bytes_per_token if bytes_per_token else None,
        "cache": run.cache,
        "token_hit_rate": outcome.cached_tokens / prompt_tokens,
        "cached_tokens": outcome.cached_tokens,
        "prompt_tokens": prompt_tokens,
        "evicted_blocks": outcome.evicted_blocks,
        "peak_bytes": outcome.peak_bytes,
        "mean_seconds_per_request": timing and timing.mean_seconds,
        "p99_seconds_per_request": timing and timing.p99_seconds,
        "cut_or_refused_commits": sum(outcome.failures.values()),
    }


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write all results, one line each.

    Raises:
        OSError: When the file cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def print_table(console: Console, title: str, records: Iterable[Record]) -> None:
    """Print what a reader compares; `--json` has all of it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, title=Text(title), title_justify="left")
    table.add_column("memory", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("cache", no_wrap=True)
    for heading in ("token hit rate", "evicted blocks", "peak", "time per request"):
        table.add_column(heading, justify="right")
    memory = None
    for line in records:
        if memory not in (None, line["memory"]):
            table.add_section()
        is_first, memory = line["memory"] != memory, line["memory"]
        tokens, seconds = line["memory_tokens"], line["mean_seconds_per_request"]
        table.add_row(
            line["memory"] if is_first else "",
            f"{tokens:,}" if is_first and tokens is not None else "",
            line["cache"],
            f"{line['token_hit_rate']:.3f}",
            f"{line['evicted_blocks']:,}",
            format_size(line["peak_bytes"]),
            "" if seconds is None else f"{1000 * seconds:.2f} ms",
        )
    console.print(table)
