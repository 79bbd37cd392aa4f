"""`semantic plan`: what a KV cache costs and how many agents fit, from a config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from semantic.cli.extras import missing_message
from semantic.cli.options import context_length, context_lengths, memory_size
from semantic.cli.plan_sheet import (
    Cell,
    PlanOptions,
    Sheet,
    make_sheet,
    preset_names,
    write_csv,
    write_xlsx,
)
from semantic.cli.sizes import format_size
from semantic.domain.errors import SemanticError

__all__ = ["register"]

_MEMORY = "8GB,16GB,24GB,64GB,128GB,192GB"
_HELP = """Size a machine: bytes per token and block, live and cached bytes, agents that fit.

    Counts the KV cache alone, unless --weights subtracts what the weights take first.
    """
_EPILOG = (
    "Example: semantic plan gemma-3-12b ./my-model --memory 24GB,64GB --context 4K,32K "
    "--weight-bits 4 --agents 10 --shared-prefix 2000 --basis cached"
)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("plan", help=_HELP, epilog=_EPILOG)(_plan)


def _plan(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Presets, config.json files or model folders; four of the presets when left out."
        ),
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory sizes for KV caches, with commas.")] = _MEMORY,
    context: Annotated[
        str, typer.Option(help="Context lengths of one agent in tokens, such as 4096,32K.")
    ] = "4K",
    basis: Annotated[
        str,
        typer.Option(help="What an agent costs: peak (of its prefill), live, or cached (at rest)."),
    ] = "peak",
    every: Annotated[
        bool, typer.Option("--all", help="Every preset; some of them are probed with MLX.")
    ] = False,
    agents: Annotated[
        int | None, typer.Option(min=1, help="Say what so many agents take, too.")
    ] = None,
    shared_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help="Leading tokens that all agents have in common, such as 2000 or 2K: kept once at "
            "rest, so they count with --basis cached.",
        ),
    ] = None,
    kv_bits: Annotated[
        int | None, typer.Option(help="Keep cached blocks in 8 or 4 bits; as they run if left out.")
    ] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights/--no-weights",
            help="Subtract the weights from the memory: from the files of a model folder, else "
            "from the number of parameters.",
        ),
    ] = False,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="Bits of each weight, in groups of 64; implies --weights."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
    xlsx: Annotated[Path | None, typer.Option(help="Write the table as XLSX, too.")] = None,
) -> None:
    if xlsx is not None and (message := missing_message("plan --xlsx", "xlsxwriter")):
        typer.echo(message, err=True)
        raise typer.Exit(2)
    sizes = {text.strip(): memory_size(text) for text in memory.split(",")}
    contexts = context_lengths(context)
    options = PlanOptions(
        agents,
        0 if shared_prefix is None else context_length(shared_prefix),
        kv_bits,
        weights or weight_bits is not None,
        weight_bits,
    )
    try:
        sheet = make_sheet(preset_names() if every else models, sizes, contexts, basis, options)
        if csv is not None:
            write_csv(sheet, csv)
        if xlsx is not None:
            write_xlsx(sheet, xlsx)
    except (SemanticError, OSError) as error:
        typer.echo(f"semantic plan: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(sheet.records(), indent=1))
    else:
        _print(sheet, basis, options)


def _print(sheet: Sheet, basis: str, options: PlanOptions) -> None:
    """The columns that a reader needs, in units that fit a terminal; `--json` has all of them."""
    from rich.console import Console
    from rich.table import Table

    agents = [column for column in sheet.columns if column.startswith("agents in ")]
    more = options.columns(basis)
    table = Table(
        title=f"KV cache with{'' if options.with_weights else 'out'} weights; agents that fit, "
        f"by their {basis} bytes",
        title_justify="left",
    )
    table.add_column("model", no_wrap=True)
    for heading in ("layers", "heads x dim", "window", "per token", "context", "live", "peak"):
        table.add_column(heading, justify="right")
    for column in more:
        table.add_column(column.split(" (")[0].replace("bytes of ", ""), justify="right")
    for column in agents:
        table.add_column(column.removeprefix("agents in ").split(" ")[0], justify="right")
    for row in sheet.records():
        table.add_row(
            str(row["model"]),
            f"{row['global']}+{row['sliding']}" if row["sliding"] else str(row["layers"]),
            f"{row['KV heads']}x{row['head dim']}",
            str(row["window"] or "-"),
            _bytes(row["bytes/token"]),
            f"{row['context']:,}",
            _bytes(row["live bytes"]),
            _bytes(row["prefill peak"]),
            *(_bytes(row[column]) for column in more),
            *(f"{row[column]:,}" for column in agents),
        )
    # Piped into a file, the table must not be folded to an imagined terminal.
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _bytes(cell: Cell) -> str:
    return format_size(int(cell))
