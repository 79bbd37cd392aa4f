"""What all commands of `semantic store` have in common: the store, its errors, a progress bar."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from semantic.adapters.store.disk import DiskStore
from semantic.adapters.store.sealing import read_key
from semantic.adapters.store.view import readable
from semantic.cli.store.ago import lasting
from semantic.domain.errors import SemanticError

__all__ = [
    "AsJson",
    "KeyFile",
    "StoreFolder",
    "digits",
    "name_stuck",
    "opened",
    "print_json",
    "printable",
    "progress",
    "say",
    "say_if_doubted",
    "table",
]

_NO_LIMIT = 1 << 62
"""Looking at a store takes nothing from it, whatever limit its server has."""


def unfolded(text: str) -> Path:
    """A path whose ~ a shell has left: it does in --store=~/kv and in environment variables."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{text}: whose home that is, is not known") from error


StoreFolder = Annotated[
    Path,
    typer.Option(
        "--store",
        parser=unfolded,
        metavar="DIR",
        envvar="SEMANTIC_STORE",
        help="The folder, as given to semantic serve.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        parser=unfolded,
        metavar="FILE",
        help="The key of a sealed store, 64 hexadecimal digits; else SEMANTIC_STORE_KEY is used.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


_PIPE_WIDTH = 1000
"""Columns of what is no terminal: a row is a line there, however long."""

_DIGITS = frozenset("0123456789abcdef")


def digits(text: str) -> str:
    """What a hexadecimal name begins with, as an option has it.

    Raises:
        BadParameter: Something else.
    """
    if not _DIGITS.issuperset(text.lower()):
        raise typer.BadParameter(f"{text!r} is not hexadecimal")
    return text.lower()


@contextmanager
def opened(
    command: str,
    path: Path,
    key_file: Path | None,
    *,
    is_changed: bool = False,
    free_floor_bytes: int = 0,
) -> Iterator[DiskStore]:
    """A store; what is wrong with it or the input is one line on stderr and exit status 2.

    Args:
        command: Whose errors they are.
        path: The folder, which has to be there.
        key_file: The file of its key, if any.
        is_changed: What killed processes have left is finished first, and a damaged catalogue is
            made again; else nothing is changed.
        free_floor_bytes: What writing leaves free on the disk.
    """
    log = logging.getLogger("semantic")
    level = log.level
    log.setLevel(logging.ERROR)  # the command itself says what it finds
    try:
        key = read_key(key_file)
        with contextlib.ExitStack() as inside:
            folder = path if is_changed else inside.enter_context(readable(path))
            looked = DiskStore(
                folder, _NO_LIMIT, free_floor_bytes=free_floor_bytes, key=key, repair=False
            )
            inside.callback(looked.close)
            if is_changed:
                _put_right(command, looked)
            yield looked
    except (SemanticError, OSError) as error:
        say(f"semantic store {command}: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo(f"semantic store {command}: stopped", err=True)
        raise typer.Exit(130) from None
    finally:
        log.setLevel(level)


def _put_right(command: str, store: DiskStore) -> None:
    # What is forgotten on a full disk makes room, whatever cannot be done before.
    store.put_right()
    why = store.unread.get("catalogue")
    if why is not None:
        say(f"semantic store {command}: not all was put right: {why}", err=True)


def say_if_doubted(command: str, store: DiskStore) -> None:
    """Say on stderr that the clock is not believed, to whoever has asked for what is old."""
    doubted = store.doubted_seconds()
    if doubted:
        say(
            f"semantic store {command}: the clock is {lasting(doubted)} ahead of the last use:"
            " nothing is taken as old for that, for it may have jumped; if it is right, ask again"
            " in a day",
            err=True,
        )


def progress(what: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """A bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)

    def shown(items: Sequence[Any]) -> Iterable[Any]:
        return track(items, what, console=console, transient=True, disable=not console.is_terminal)

    return shown


def printable(text: str) -> str:
    """A text that does nothing to a terminal: agents and files may be called anything."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def say(line: str, *, err: bool = False) -> None:
    """One line on stdout or stderr."""
    typer.echo(printable(line), err=err)


def name_stuck(command: str, store: DiskStore) -> bool:
    """Name on stderr what could not be removed; whether there was anything."""
    for file, why in store.stuck.items():
        say(f"semantic store {command}: {file} could not be removed: {why}", err=True)
    return bool(store.stuck)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=1))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; numbers are in the columns whose names end in a colon.

    Nothing in it is cut off: what is shown may be copied.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(printable(title)), title_justify="left")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.endswith(":") else "left"
        made.add_column(column.rstrip(":"), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*(escape(printable(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(made)
