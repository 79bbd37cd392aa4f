"""The commands of `semantic store`."""

from __future__ import annotations

import typer

from semantic.cli.store.changing import (
    collect_garbage,
    export_store,
    forget_blocks,
    import_store,
)
from semantic.cli.store.looking import list_store, show_block, show_stats, verify_store

__all__ = ["register"]

_HELP = """Look into a folder of stored blocks, and look after it; servers may run meanwhile.

    Exit status: 0 done, 1 nothing found or something bad, 2 wrong use, no such store, or one whose
    catalogue is damaged.
    """
_EPILOG = "Example: semantic store verify --store ~/.cache/kv --repair"

_COMMANDS = (
    ("ls", list_store, "semantic store ls --store ~/.cache/kv --blocks"),
    ("show", show_block, "semantic store show 3fa94c --store ~/.cache/kv"),
    ("stats", show_stats, "semantic store stats --store ~/.cache/kv --json"),
    ("verify", verify_store, "semantic store verify --store ~/.cache/kv --repair"),
    ("gc", collect_garbage, "semantic store gc --store ~/.cache/kv --max 20GB"),
    ("forget", forget_blocks, "semantic store forget --store ~/.cache/kv --older-than 30d"),
    ("export", export_store, "semantic store export kv.tar --store ~/.cache/kv --agent alice"),
    ("import", import_store, "semantic store import kv.tar --store ~/.cache/kv"),
)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(help=_HELP, epilog=_EPILOG, no_args_is_help=True)
    for name, function, example in _COMMANDS:
        commands.command(name, epilog=f"Example: {example}")(function)
    app.add_typer(commands, name="store")
