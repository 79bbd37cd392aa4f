"""The command `semantic`: a registry of commands, one module each.

Nothing here, and nothing at the top of a command's module, imports MLX, a web or a plotting
library: `semantic --help` answers at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from semantic.cli.extras import missing_message

__all__ = ["COMMANDS", "main"]

COMMANDS = ("plan", "inspect", "simulate", "serve", "store", "demo")
"""Modules of `semantic.cli`, each with `register(app)`, in the order of the help."""


def main() -> None:
    """Run the command line and exit.

    Raises:
        SystemExit: Always, with the exit status: 0 done, 1 failed, 2 wrong use.
    """
    message = missing_message("(the command line)", "typer", "rich")
    if message is not None:
        print(message, file=sys.stderr)
        raise SystemExit(2)
    import typer

    app = typer.Typer(
        name="semantic",
        help="The KV-cache memory of LLM servers on MLX.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        epilog="Example: semantic serve --model ./my-model --kv-memory 8GB",
    )

    def show_version(asked: bool) -> None:
        if asked:
            print(f"semantic {_version()}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Print it and exit."
        ),
    ) -> None:
        """The KV-cache memory of LLM servers on MLX."""

    for name in COMMANDS:
        import_module(f"semantic.cli.{name}").register(app)
    app()


def _version() -> str:
    try:
        return version("semantic-kv")
    except PackageNotFoundError:
        return "(not installed, run from its source)"
