"""`semantic store ls | show | stats | verify`: what there is, and whether it is whole."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from semantic.adapters.store.disk import DiskStore
from semantic.adapters.store.listing import AgentRow, BlockRow, Listing
from semantic.adapters.store.upkeep import verify
from semantic.cli.sizes import format_size
from semantic.cli.store.ago import ago
from semantic.cli.store.session import (
    AsJson,
    KeyFile,
    StoreFolder,
    digits,
    opened,
    print_json,
    progress,
    say,
    table,
)
from semantic.domain.errors import CacheCorruptionError, CachePersistenceError

__all__ = ["list_store", "show_block", "show_stats", "verify_store"]

_NAME_DIGITS = 12
"""Of names of 64 digits: enough to tell them apart, and to be given to `show`."""


def list_store(
    store: StoreFolder,
    blocks: Annotated[bool, typer.Option("--blocks", help="List each block.")] = False,
    agent: Annotated[str | None, typer.Option(help="Only what this agent uses.")] = None,
    namespace: Annotated[
        str,
        typer.Option(
            metavar="HEX", parser=digits, help="Only namespaces whose names begin like this."
        ),
    ] = "",
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List what is stored: a row for each agent, or for each block.

    Exit status 1: there is nothing of the agent or the namespaces that were asked for.
    """
    with opened("ls", store, key_file) as found:
        listing = Listing(found.catalogue, found.veil)
        of_blocks = listing.blocks(agent_id=agent, namespace=namespace) if blocks else []
        of_agents = [
            row
            for row in (() if blocks else listing.agents())
            if row.namespace.startswith(namespace) and agent in (None, row.agent)
        ]
    if as_json:
        print_json([asdict(row) for row in of_blocks] + [asdict(row) for row in of_agents])
    elif blocks:
        _list_blocks(of_blocks)
    else:
        _list_agents(store, of_agents)
    is_asked = agent is not None or namespace
    raise typer.Exit(1 if is_asked and not (of_blocks or of_agents) else 0)


def _list_agents(store: Path, rows: list[AgentRow]) -> None:
    now = time.time()
    table(
        f"{store}: {len(rows)} agents",
        ("agent", "namespace", "tokens:", "blocks:", "size:", "last use:"),
        (
            (
                row.agent or "(nobody)",
                row.namespace[:_NAME_DIGITS],
                f"{row.tokens:,}",
                f"{row.blocks:,}",
                format_size(row.bytes),
                ago(now - row.used_at) if row.used_at else "",
            )
            for row in rows
        ),
    )


def _list_blocks(rows: list[BlockRow]) -> None:
    table(
        f"{len(rows)} blocks, the next to go first",
        ("key", "group", "positions", "size:", "standing", "agents"),
        (
            (
                row.key[:_NAME_DIGITS],
                row.layer_group,
                f"{row.lo} to {row.hi}",
                format_size(row.bytes),
                row.standing,
                ", ".join(row.agents),
            )
            for row in rows
        ),
    )


def show_block(
    key: Annotated[
        str, typer.Argument(metavar="KEY", parser=digits, help="What the key begins with.")
    ],
    store: StoreFolder,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print the token ids, too.")] = False,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a token block: who uses it, what is stored of it, and whether it is whole.

    Exit status 1: there is none, or something of it is not whole.
    """
    with opened("show", store, key_file) as found:
        rows = Listing(found.catalogue, found.veil).blocks(key=key)
        shown = [_described(found, row, with_tokens=tokens) for row in rows]
    if not shown:
        typer.echo(f"semantic store show: no key begins with {key!r}", err=True)
        raise typer.Exit(1)
    status = 0 if all(block["state"] == "whole" for block in shown) else 1
    if as_json:
        print_json(shown)
        raise typer.Exit(status)
    for block in shown:
        tensors = block.pop("tensors")
        block["agents"] = ", ".join(block["agents"])
        block["used_at"] = ago(time.time() - block["used_at"])
        table(block["file"], ("field", "value"), ((k, str(v)) for k, v in block.items()))
        table(
            "tensors",
            ("name", "type", "shape"),
            ((name, dtype, " x ".join(map(str, shape))) for name, dtype, shape in tensors),
        )
    raise typer.Exit(status)


def _described(store: DiskStore, row: BlockRow, *, with_tokens: bool) -> dict[str, Any]:
    block: dict[str, Any] = {**asdict(row), "agents": list(row.agents), "tensors": []}
    try:
        file = store.folder.open(row.file)
        if file is None:
            return {**block, "state": "missing"}
        block["tensors"] = file.tensors
        block["layer_type"] = file.metadata.get("layer_type", "")
        if with_tokens:
            block["token_ids"] = file.metadata.get("tokens", "")
        file.verify()
    except (CacheCorruptionError, CachePersistenceError) as error:
        return {**block, "state": str(error)}
    return {**block, "state": "whole"}


def show_stats(store: StoreFolder, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Sum up what is stored."""
    with opened("stats", store, key_file) as found:
        listing = Listing(found.catalogue, found.veil)
        blocks, n_bytes = found.catalogue.totals()
        agents = listing.agents()
        stats: dict[str, Any] = {
            "blocks": blocks,
            "bytes": n_bytes,
            "bytes_by_group": listing.bytes_by_group(),
            "agents": len({(row.namespace, row.agent) for row in agents if row.agent}),
            "namespaces": len({row.namespace for row in agents}),
            "max_bytes": found.catalogue.fact("max_bytes"),
            "catalogue_bytes": found.catalogue.database.disk_bytes,
            "aside_bytes": found.bytes_aside(_ALL),
            "written_today_bytes": listing.written_today(int(time.time())),
            "processes": len(found.running()) - 1,
            "sealed": found.veil.secret is not None,
        }
    if as_json:
        print_json(stats)
        return
    sizes = ("bytes", "max_bytes", "catalogue_bytes", "aside_bytes", "written_today_bytes")
    rows = [
        (name.replace("_", " "), format_size(value) if name in sizes else str(value))
        for name, value in stats.items()
        if name != "bytes_by_group"
    ]
    rows += [
        (f"bytes of {group}", format_size(value))
        for group, value in stats["bytes_by_group"].items()
    ]
    table(str(store), ("what", "how much:"), rows)


_ALL = 1 << 62


def verify_store(
    store: StoreFolder,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put bad files aside; make files and catalogue agree."),
    ] = False,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Read every block and compare it with its checksums. Exit status 1: something is bad.

    What cannot be read or is no block is named and stays, for that may pass, or be somebody's; it
    is bad after --repair, too.
    """
    with opened("verify", store, key_file) as found:
        bad = verify(found, repair=repair, progress=progress("verifying"))
        is_known = not found.catalogue.database.is_damaged
        blocks, n_bytes = found.catalogue.totals() if is_known else (0, 0)
    if as_json:
        said = {"blocks": blocks, "bytes": n_bytes, "bad": [asdict(file) for file in bad]}
        print_json({**said, "repaired": repair})
    else:
        for file in bad:
            say(f"{file.file}: {file.why}")
        state = f"{len(bad)} bad" if bad else "all whole"
        left = sum(file.stays for file in bad)
        if bad and repair:
            state += f": {len(bad) - left} mended or put aside, {left} left as they are"
        typer.echo(f"{blocks} blocks, {format_size(n_bytes)}: {state}")
    raise typer.Exit(1 if any(file.stays or not repair for file in bad) else 0)
