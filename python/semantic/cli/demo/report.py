"""The end of a demo: two tables, the totals, and the raw rows as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from semantic.cli.demo.turns import Answer, Pass, Settings
from semantic.cli.sizes import format_size

__all__ = ["print_report", "print_restart", "write_json"]


def print_report(console: Console, stock: Pass, ours: Pass, together: Pass) -> None:
    """Print the tables of both passes and the totals."""
    console.print(_one_by_one(stock, ours))
    console.print(_at_once(ours, together))
    console.print(_totals([ours, together]))


def print_restart(console: Console, settings: Settings, stock: Pass, restarted: Pass) -> None:
    """Print how each agent went on after the server had been killed."""
    table = Table(title="The same with a store; the server was killed before these turns")
    table.add_column("turn", justify="right")
    table.add_column("agent")
    for heading in ("prompt\ntokens", "cached\ntokens", "first\ntoken"):
        table.add_column(heading, justify="right")
    table.add_column("text equal\nto stock")
    expected = stock.answers()
    for turn in restarted.turns:
        if turn.number == settings.rounds_before_restart + 1:
            table.add_row(
                str(turn.number),
                turn.agent,
                str(turn.answer.prompt_tokens),
                str(turn.answer.cached_tokens),
                _seconds(turn.answer),
                _equal(expected[turn.agent, turn.number], turn.answer),
            )
    console.print(table)


def write_json(path: Path, settings: Settings, passes: list[Pass], problems: list[str]) -> None:
    """Write every number of the demo.

    Raises:
        OSError: When the file cannot be written.
    """
    content = {
        "settings": asdict(settings),
        "problems": problems,
        "passes": [_rows(one) for one in passes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rows(one: Pass) -> dict[str, Any]:
    return {
        "name": one.name,
        "turns": [
            {"agent": turn.agent, "turn": turn.number, **asdict(turn.answer)} for turn in one.turns
        ],
        "after_turn": [{"seconds": s.seconds, **s.stats} for s in one.after_turn],
        "over_time": [{"seconds": s.seconds, **s.stats} for s in one.over_time],
        "at_end": one.at_end and {"seconds": one.at_end.seconds, **one.at_end.stats},
    }


def _one_by_one(stock: Pass, ours: Pass) -> Table:
    table = Table(title="One request at a time: stock mlx_lm.server and ours")
    table.add_column("turn", justify="right")
    table.add_column("agent")
    for heading in ("prompt\ntokens", "cached\nstock", "cached\nours"):
        table.add_column(heading, justify="right")
    for heading in ("first token\nstock", "first token\nours"):
        table.add_column(heading, justify="right")
    table.add_column("text equal\nto stock")
    expected = stock.answers()
    for turn in ours.turns:
        theirs = expected[turn.agent, turn.number]
        table.add_row(
            str(turn.number),
            turn.agent,
            str(turn.answer.prompt_tokens),
            str(theirs.cached_tokens),
            str(turn.answer.cached_tokens),
            _seconds(theirs),
            _seconds(turn.answer),
            _equal(theirs, turn.answer),
        )
    return table


def _at_once(ours: Pass, together: Pass) -> Table:
    table = Table(title="All agents at once, in a fresh server (equality is not promised here)")
    table.add_column("turn", justify="right")
    table.add_column("agent")
    for heading in ("prompt\ntokens", "cached\ntokens", "first\ntoken"):
        table.add_column(heading, justify="right")
    table.add_column("text equal to\none at a time")
    expected = ours.answers()
    order = list(expected)
    for turn in sorted(together.turns, key=lambda one: order.index((one.agent, one.number))):
        table.add_row(
            str(turn.number),
            turn.agent,
            str(turn.answer.prompt_tokens),
            str(turn.answer.cached_tokens),
            _seconds(turn.answer),
            _equal(expected[turn.agent, turn.number], turn.answer),
        )
    return table


def _totals(passes: list[Pass]) -> Table:
    table = Table(title="Memory, from /v1/semantic/stats")
    table.add_column("")
    columns = [_total_rows(one) for one in passes]
    for one in passes:
        table.add_column(one.name, justify="right")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _total_rows(one: Pass) -> dict[str, str]:
    requests, prompt = one.counted("requests"), one.counted("prompt_tokens")
    hits, cached = one.counted("hits"), one.counted("cached_tokens")
    end = one.at_end
    if end is None:
        return {}
    at_rest, unshared = end.class_bytes("cached"), end.count("unshared_bytes")
    live = max(sample.class_bytes("live") for sample in [*one.after_turn, *one.over_time])
    failures = end.stats["failures"]
    return {
        "requests with a hit": f"{hits} of {requests}",
        "prompt tokens from the cache": f"{cached} of {prompt} ({_percent(cached, prompt)})",
        "most bytes live at once": format_size(live),
        "bytes cached at the end": format_size(at_rest),
        "the same without sharing": format_size(unshared),
        "saved by sharing": f"{format_size(unshared - at_rest)}"
        f" ({_percent(unshared - at_rest, unshared)})",
        "blocks evicted": str(end.count("evicted_blocks")),
        "cache failures": ", ".join(f"{why}: {n}" for why, n in failures.items()) or "none",
    }


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _seconds(answer: Answer) -> str:
    return f"{answer.first_token_seconds:.2f} s"


def _equal(expected: Answer, answer: Answer) -> str:
    return "yes" if expected.text == answer.text else "[bold red]NO[/]"
