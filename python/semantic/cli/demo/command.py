"""The command: makes the model, runs the passes, reports.

Everything that needs an extra is imported after the check that it is installed.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from semantic.cli.extras import missing_message
from semantic.cli.options import memory_size
from semantic.domain.errors import SemanticError

__all__ = ["register"]

_HELP = """Show on this machine, offline, what a shared KV memory does for several agents.

    A small random Gemma-3-style model is made in the cache folder. Agents who share a system prompt
    then talk to stock mlx_lm.server and to semantic serve, one request at a time, and once more all
    at once. The exit status is 1 when a text of the first pass differs from stock, or when an
    agent's first turn finds nothing cached.
    """
_EPILOG = "Example: semantic demo --agents 2 --turns 2 --out ./demo --json ./demo/rows.json"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo", help=_HELP, epilog=_EPILOG)(_demo)


def _demo(
    agents: Annotated[int, typer.Option(min=1, max=64, help="How many agents.")] = 4,
    turns: Annotated[int, typer.Option(min=1, max=100, help="Turns of each agent.")] = 6,
    system_tokens: Annotated[
        int, typer.Option(min=1, max=16_000, help="Least length of the shared system prompt.")
    ] = 2000,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=1000, help="Length of each answer, in tokens.")
    ] = 24,
    kv_memory: Annotated[
        int,
        typer.Option(parser=memory_size, metavar="SIZE", help="Bytes for KV caches, as in serve."),
    ] = "256MB",  # type: ignore[assignment]  # the parser is applied to the default too
    out: Annotated[Path, typer.Option(help="Folder for server logs and the picture.")] = Path(
        "semantic-demo"
    ),
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the model; $XDG_CACHE_HOME/semantic or ~/.cache/semantic."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write every number to this file.")
    ] = None,
) -> None:
    message = missing_message("demo", "mlx", "mlx_lm", "tokenizers", "httpx", "matplotlib")
    if message is not None:
        typer.echo(message, err=True)
        raise typer.Exit(2)
    try:
        from semantic.cli.demo.story import tell
    except ImportError as error:
        typer.echo(
            f"semantic demo: MLX cannot be loaded ({error}); pip install 'semantic-kv[serve]'",
            err=True,
        )
        raise typer.Exit(2) from error
    from semantic.cli.demo.turns import DemoError, Settings

    # A demo that is told to end takes its servers with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings(agents, turns, system_tokens, max_tokens, kv_memory)
    try:
        problems = tell(settings, out, cache_dir or _cache_folder(), rows=json_file)
    except (DemoError, SemanticError, OSError) as error:
        typer.echo(f"semantic demo: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("semantic demo: stopped", err=True)
        raise typer.Exit(130) from None
    if problems:
        raise typer.Exit(1)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "semantic"
