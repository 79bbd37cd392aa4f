"""`semantic plan`: what a KV cache costs and how many agents fit, from a config alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from semantic.cli.extras import missing_message
from semantic.cli.options import context_length, context_lengths, memory_size, picture_file
from semantic.cli.plan_figures import ModelFigures, PlanOptions, figures_of
from semantic.cli.plan_models import preset_names
from semantic.cli.plan_sheet import Sheet, write_csv, write_xlsx
from semantic.cli.plan_table import table_lines
from semantic.domain.errors import SemanticError

__all__ = ["register"]

_MEMORY = "8GB,16GB,24GB,64GB,128GB,192GB"
_HELP = """Size a machine: weights, bytes per token and block, agents that fit.

    What the weights take is subtracted from the memory first: read from the safetensors files
    beside a config, else the number of parameters, packed as the config says.
    """
_EPILOG = (
    "Example: semantic plan gemma-3-12b ./my-model --memory 24GB,64GB --context 4K,32K "
    "--weight-bits 4 --agents 10 --shared-prefix 2000 --plot plan.png"
)
_PIPE_COLUMNS = 160
"""Piped into a file, the table must not be folded to an imagined terminal."""


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
    memory: Annotated[
        str, typer.Option(help="Memory sizes for weights and KV caches, with commas.")
    ] = _MEMORY,
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
            "rest; a sequence that runs owns its buffers.",
        ),
    ] = None,
    kv_bits: Annotated[
        int | None, typer.Option(help="Keep cached blocks in 8 or 4 bits; as they run if left out.")
    ] = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights/--no-weights",
            help="Subtract the weights from the memory, or leave them out.",
        ),
    ] = True,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="Bits of each weight, in groups of 64, whatever the files have."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the figures as CSV, too.")] = None,
    xlsx: Annotated[Path | None, typer.Option(help="Write the figures as XLSX, too.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw agents over context and bytes by layer group into this file, too."),
    ] = None,
) -> None:
    _check_packages(xlsx, plot)
    sizes = {text.strip(): memory_size(text) for text in memory.split(",")}
    contexts = context_lengths(context)
    prefix = 0 if shared_prefix is None else context_length(shared_prefix)
    try:
        options = PlanOptions(
            cast(Any, basis), agents, prefix, kv_bits, weights, weight_bits if weights else None
        )
        chosen = figures_of(preset_names() if every else models, sizes, contexts, options)
        sheet = Sheet.of(chosen, sizes, options)
        _write(sheet, csv, xlsx)
        if plot is not None:
            from semantic.cli.plan_plot import draw

            draw(plot, chosen, sizes, options)
    except (SemanticError, OSError) as error:
        typer.echo(f"semantic plan: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(sheet.records(), indent=1))
    else:
        _print(chosen, sizes, options)


def _check_packages(xlsx: Path | None, plot: Path | None) -> None:
    """Before anything is counted: whether the files can be made at all."""
    for option, file, module in (("--xlsx", xlsx, "xlsxwriter"), ("--plot", plot, "matplotlib")):
        if file is not None and (message := missing_message(f"plan {option}", module)):
            typer.echo(message, err=True)
            raise typer.Exit(2)
    if plot is not None:
        picture_file(plot)


def _write(sheet: Sheet, csv: Path | None, xlsx: Path | None) -> None:
    if csv is not None:
        write_csv(sheet, csv)
    if xlsx is not None:
        write_xlsx(sheet, xlsx)


def _print(
    models: Sequence[ModelFigures], memory_bytes: Mapping[str, int], options: PlanOptions
) -> None:
    """What a reader needs, in units that fit a terminal; `--json` has all of it in bytes."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_COLUMNS
    for line in table_lines(models, memory_bytes, options, columns):
        # A model's own lines begin at the margin, its figures do not.
        typer.secho(line, bold=bool(line) and not line.startswith(" ") and line.endswith(")"))
