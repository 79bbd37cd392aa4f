"""`semantic serve`: mlx_lm.server, all of its options, with our KV memory in it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from semantic.adapters.machine_memory import check_fits_machine
from semantic.adapters.store.disk import CATALOGUE_BYTES, DiskStore
from semantic.adapters.store.sealing import read_key, read_salt
from semantic.cli.extras import missing_message
from semantic.cli.options import duration, memory_size
from semantic.cli.sizes import format_size
from semantic.domain.errors import SemanticError
from semantic.domain.policy import EvictionPolicy

__all__ = ["register"]

_log = logging.getLogger("semantic")

_STORE_MAX_BYTES = 64_000_000_000

_CLOSE_SECONDS = 0.5
"""A store that is idle closes at once."""

_HELP = """Serve a model with mlx_lm.server and a KV memory that agents share.

    Every option of mlx_lm.server is accepted and means what it means there (listed below).
    GET /v1/semantic/stats tells how the memory is used.
    A request's "user" names its agent, for semantic store. It keeps nobody out.
    """
_EPILOG = (
    "Example: semantic serve --model ./my-model --port 8080 --kv-memory 8GB --store ~/.cache/kv"
)


class _ServeCommand(TyperCommand):
    """Our help, followed by mlx_lm.server's own."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        typer.echo(_their_help())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        "serve",
        cls=_ServeCommand,
        help=_HELP,
        epilog=_EPILOG,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_serve)


def _serve(
    context: typer.Context,
    kv_memory: Annotated[
        int | None,
        typer.Option(
            parser=memory_size,
            metavar="SIZE",
            help="Bytes for KV caches, such as 8GB or 7.5GiB, whether they run or are cached: what "
            "is cached makes room for what runs, and a request that does not fit waits. Left out, "
            "--prompt-cache-size and --prompt-cache-bytes limit the cache, and nothing what runs.",
        ),
    ] = None,
    kv_wait: Annotated[
        int | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="With --kv-memory: the longest that a request waits for memory, such as 30s or 5m "
            "(10m unless given). Then it is answered with 503 and a Retry-After.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep conversations over restarts: their KV is stored in this folder, behind "
            "generation, and read again when a prompt continues them.",
        ),
    ] = None,
    store_max: Annotated[
        int | None,
        typer.Option(
            parser=memory_size,
            metavar="SIZE",
            help="The most that the folder may take on the disk, 64GB unless given: the least "
            "recently used goes.",
        ),
    ] = None,
    store_free: Annotated[
        int | None,
        typer.Option(
            parser=memory_size,
            metavar="SIZE",
            help="What the store leaves free on the disk, 1GiB unless given.",
        ),
    ] = None,
    store_keep: Annotated[
        int | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="Forget what nobody has used for so long, such as 12h or 30d.",
        ),
    ] = None,
    store_min_reuse: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write what so many turns had in common, 1 unless given: 2 writes nothing of a "
            "conversation that never comes back.",
        ),
    ] = None,
    store_daily_writes: Annotated[
        int | None,
        typer.Option(
            parser=memory_size, metavar="SIZE", help="Write no more than that in a day, UTC."
        ),
    ] = None,
    store_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Seal the store with this key, 64 hexadecimal digits (openssl rand -hex 32); "
            "SEMANTIC_STORE_KEY does the same.",
        ),
    ] = None,
    store_salt_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Find only what was stored with the same salt, the secret text in this file: one "
            "for each tenant of a folder. SEMANTIC_STORE_SALT does the same.",
        ),
    ] = None,
) -> None:
    message = missing_message("serve", "mlx", "mlx_lm")
    if message is not None:
        typer.echo(message, err=True)
        raise typer.Exit(2)
    options = {
        "max_bytes": store_max,
        "free_floor_bytes": store_free,
        "min_reuse": store_min_reuse,
        "daily_write_bytes": store_daily_writes,
        "policy": store_keep and EvictionPolicy(time_to_live=store_keep),
        "key_file": store_key_file,
        "salt_file": store_salt_file,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if store is None and given:
        raise typer.BadParameter("options for a store need --store", param_hint="--store")
    if kv_wait is not None and kv_memory is None:
        raise typer.BadParameter("without --kv-memory nothing waits", param_hint="--kv-wait")
    from semantic.adapters.mlx_lm.server import DEFAULT_WAIT_SECONDS, ServerError, launch

    wait_seconds = DEFAULT_WAIT_SECONDS if kv_wait is None else float(kv_wait)
    status = 0
    opened: list[DiskStore] = []

    def open_store() -> DiskStore:
        assert store is not None
        opened.append(_opened(store, given))
        return opened[0]

    try:
        if kv_memory is not None:
            check_fits_machine(kv_memory, "--kv-memory")
        salt = read_salt(store_salt_file)
        opens = None if store is None else open_store
        launch(context.args, kv_memory=kv_memory, kv_wait=wait_seconds, store=opens, salt=salt)
    except (ServerError, SemanticError) as error:
        typer.echo(f"semantic serve: {error}", err=True)
        status = 1
    for found in opened:
        _close(found)
    _end_process(status)


def _opened(path: Path, options: dict[str, Any]) -> DiskStore:
    key = read_key(options.pop("key_file", None))
    options.pop("salt_file", None)  # the models' business, not the folder's
    folder_bytes = options.pop("max_bytes", _STORE_MAX_BYTES)
    # What is asked for is the whole folder; the catalogue has its share of it.
    max_bytes = max(folder_bytes // 2, folder_bytes - CATALOGUE_BYTES)
    store = DiskStore(path, **{"max_bytes": max_bytes, "key": key, **options})
    has = store.stats()
    _log.info(
        "%s: %d blocks, %s of %s",
        *(store.path, has["blocks"], format_size(has["bytes"]), format_size(folder_bytes)),
    )
    return store


def _close(store: DiskStore) -> None:
    """Close a store, unless a write that was left keeps it busy: who opens it next ends that."""
    closer = threading.Thread(target=store.close, daemon=True)
    closer.start()
    closer.join(_CLOSE_SECONDS)


def _end_process(status: int) -> NoReturn:
    # A regular exit waits for a stuck generation thread for ever, and where that thread has just
    # ended, MLX's teardown may abort (`launch` says more).
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _their_help() -> str:
    message = missing_message("serve", "mlx", "mlx_lm")
    if message is not None:
        return f"The options of mlx_lm.server cannot be listed here. {message}"
    from semantic.adapters.mlx_lm.server import ServerError, options_help

    try:
        return "Options of mlx_lm.server:\n\n" + options_help()
    except ServerError as error:
        return f"The options of mlx_lm.server cannot be listed here: {error}"
