"""The command: reads the trace, runs each simulation with a progress bar, reports.

Everything that needs an extra is imported after the check that it is installed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from semantic.cli.extras import missing_message
from semantic.cli.options import context_length, file_to_write, memory_size, picture_file
from semantic.cli.plan_models import spec_of
from semantic.domain.errors import SemanticError

if TYPE_CHECKING:
    from semantic.cli.simulate.report import Record
    from semantic.cli.simulate.workload import Workload
    from semantic.domain.policy import EvictionOrder
    from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["register"]

_HELP = """Replay recorded requests through the real index and pool: what would a cache have hit?

    TRACE is a CSV file, gzipped or plain, that says of each request which prompt blocks it shares
    with which earlier one. No tensor is made and no model is run. Beside the library stand plain
    LRU, as other servers have it, and the offline bound, which knows the future: no order of
    eviction can do better. Both count the layers that keep every token, and nothing else.
    """
_EPILOG = (
    "Example: semantic simulate claude_code.csv.gz --model llama-3.1-8b --memory 12GiB,43GiB "
    "--users 4 --kv-bits 8 --plot hits.png"
)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("simulate", help=_HELP, epilog=_EPILOG)(_simulate)


def _simulate(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="The recorded requests.")],
    model: Annotated[
        str, typer.Option(help="A preset, a config.json or a model folder, as in semantic plan.")
    ],
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE[,SIZE...]",
            help="Memory for cached blocks, such as 24GB or 12.25GiB: what the weights and the "
            "running sequences take (semantic plan) has to be subtracted first.",
        ),
    ],
    policy: Annotated[
        str,
        typer.Option(
            metavar="ORDER[,ORDER...]",
            help="The library's orders of eviction: lru (tails before heads), resident (keeps some "
            "agents whole), scan_resistant (what was asked for once goes first).",
        ),
    ] = "lru",
    hints: Annotated[
        bool,
        typer.Option(help="Tell the library which agents wait, and whose session has ended."),
    ] = True,
    users: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sessions side by side: each user takes the next one when the last has ended. "
            "Left out, requests come in the order of the file.",
        ),
    ] = None,
    kv_bits: Annotated[
        int | None, typer.Option(help="Keep cached blocks in 8 or 4 bits; as they run if left out.")
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            parser=context_length,
            metavar="TOKENS",
            help="The longest prompt: a session ends at its first longer one.",
        ),
    ] = "128K",  # type: ignore[assignment]  # the parser is applied to the default too
    limit: Annotated[
        int | None, typer.Option(min=1, help="Replay the first requests only, so many.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw hit rate over memory into this file, too.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    message = missing_message("simulate", "numpy", *(["matplotlib"] if plot else []))
    if message is not None:
        typer.echo(message, err=True)
        raise typer.Exit(2)
    sizes = {text.strip(): memory_size(text) for text in memory.split(",")}
    with _errors_named():
        policies = _orders(policy)
        _check_files(plot, csv)
        spec = spec_of(model)
        if kv_bits is not None:
            spec = spec.quantised_at_rest(kv_bits)
        workload = _workload(trace, users, max_tokens, limit)
        records = _measure(workload, spec, sizes, policies, hints=hints)
        facts = {
            "trace": trace.name,
            "requests": len(workload.turns),
            "users": users,
            "max_tokens": max_tokens,
            "model": Path(model).name or model,
            "kv_bits": kv_bits,
            "policy": policy,
            "hints": hints,
        }
        _report(facts, records, plot, csv, as_json=as_json)


@contextmanager
def _errors_named() -> Iterator[None]:
    """What is wrong with the input is one line on stderr and exit status 2."""
    from semantic.cli.simulate.trace import TraceError

    try:
        yield
    except (TraceError, SemanticError, OSError) as error:
        typer.echo(f"semantic simulate: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo("semantic simulate: stopped", err=True)
        raise typer.Exit(130) from None


def _orders(text: str) -> list[EvictionOrder]:
    from semantic.domain.policy import EvictionOrder

    orders = []
    for word in (part.strip() for part in text.split(",")):
        known = next((order for order in get_args(EvictionOrder) if order == word), None)
        if known is None:
            names = ", ".join(get_args(EvictionOrder))
            raise typer.BadParameter(f"no policy {word!r}; one of {names}", param_hint="--policy")
        orders.append(known)
    return orders


def _check_files(plot: Path | None, csv: Path | None) -> None:
    """Before minutes are spent: whether the results can be written at all."""
    if plot is not None:
        picture_file(plot)
    if csv is not None:
        file_to_write(csv)


def _workload(path: Path, users: int | None, max_tokens: int, limit: int | None) -> Workload:
    from semantic.cli.simulate.schedule import as_recorded, side_by_side
    from semantic.cli.simulate.trace import TraceError, load_trace
    from semantic.cli.simulate.workload import Workload

    trace = load_trace(path)
    if users is None:
        turns = as_recorded(trace, max_tokens)
    else:
        turns = side_by_side(trace, users, max_tokens)
    workload = Workload(trace, turns[:limit])
    if not any(map(workload.replayed_tokens, workload.order)):
        raise TraceError(
            f"{path}: no prompt of at most {max_tokens:,} tokens has a full block of "
            f"{trace.block_tokens} tokens"
        )
    return workload


def _measure(
    workload: Workload,
    spec: ModelCacheSpec,
    sizes: dict[str, int],
    policies: Sequence[EvictionOrder],
    *,
    hints: bool,
) -> list[Record]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from semantic.cli.simulate.report import record
    from semantic.cli.simulate.study import cached_bytes_per_token, runs

    per_token, prompt_tokens = cached_bytes_per_token(spec), workload.prompt_tokens
    planned = runs(workload, spec, sizes, policies, hints=hints)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    records = []
    with (
        _quiet(),
        Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        ) as bars,
    ):
        for run in planned:
            task = bars.add_task(f"{run.memory} {run.cache}", total=len(workload.turns))
            outcome = run.measure(_stepping(bars, task))
            bars.update(task, completed=len(workload.turns))
            records.append(record(run, outcome, per_token, prompt_tokens))
    return records


_STRIDE = 64


def _stepping(bars: Any, task: Any) -> Callable[[], None]:
    """Moves a bar once in many requests: an update costs more than some requests do."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % _STRIDE == 0:
            bars.update(task, completed=done)

    return advance


@contextmanager
def _quiet() -> Iterator[None]:
    """The library logs each commit that the budget cuts; a simulation counts them."""
    log = logging.getLogger("semantic")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _report(
    facts: dict[str, Any],
    records: Sequence[Record],
    plot: Path | None,
    csv: Path | None,
    *,
    as_json: bool,
) -> None:
    from rich.console import Console

    from semantic.cli.simulate.report import print_table, write_csv

    title = _title(facts)
    if as_json:
        typer.echo(json.dumps({**facts, "results": records}, indent=1))
    else:
        # Piped into a file, the table must not be folded to an imagined terminal.
        width = None if Console().is_terminal else 120
        print_table(Console(width=width, highlight=False), title, records)
    if csv is not None:
        write_csv(csv, records)
    if plot is not None:
        from semantic.cli.simulate.plot import draw

        draw(plot, title, records)


def _title(facts: dict[str, Any]) -> str:
    parts = [
        f"{facts['trace']}: {facts['requests']:,} requests",
        f"{facts['users']} users side by side" if facts["users"] else "in the order of the file",
        f"{facts['model']}" + (f", cached in {facts['kv_bits']} bits" if facts["kv_bits"] else ""),
    ]
    return "; ".join(parts)
