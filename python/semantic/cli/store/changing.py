"""`semantic store gc | forget | export | import`: what goes, and what is carried elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from semantic.adapters.store.archive import Exchanged, export_blocks, import_blocks
from semantic.adapters.store.disk import FREE_BYTES, STORE_BYTES, DiskStore
from semantic.adapters.store.gone import Gone
from semantic.adapters.store.leaving import in_namespaces
from semantic.adapters.store.listing import BlockRow, Listing
from semantic.adapters.store.sealing import read_key
from semantic.adapters.store.upkeep import collect
from semantic.cli.options import duration, memory_size
from semantic.cli.sizes import format_size
from semantic.cli.store.session import (
    AsJson,
    KeyFile,
    StoreFolder,
    digits,
    name_stuck,
    opened,
    print_json,
    progress,
    say,
    say_if_doubted,
)
from semantic.domain.errors import SemanticError

__all__ = ["collect_garbage", "export_store", "forget_blocks", "import_store"]

_Agent = Annotated[
    str | None,
    typer.Option(
        help="What this agent uses, in every namespace. A library names its agents; semantic serve "
        'takes the "user" of a request, and server where there is none.'
    ),
]
_Agents = Annotated[
    list[str] | None,
    typer.Option(
        "--agent",
        help="What this agent alone uses, in every namespace; may be given more than once.",
    ),
]
_Namespace = Annotated[
    str,
    typer.Option(
        metavar="HEX", parser=digits, help="Namespaces whose names begin like this (store ls)."
    ),
]
_OlderThan = Annotated[
    int | None,
    typer.Option(
        parser=duration, metavar="TIME", help="What nobody has used for so long: 12h, 30d, 4w."
    ),
]
_Max = Annotated[
    int | None,
    typer.Option("--max", parser=memory_size, metavar="SIZE", help="Keep at most so much: 10GB."),
]

_Free = Annotated[
    int | None,
    typer.Option(
        parser=memory_size, metavar="SIZE", help="What is left free on the disk, 1GiB unless given."
    ),
]


def collect_garbage(
    store: StoreFolder,
    max_bytes: _Max = None,
    older_than: _OlderThan = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove what is of no use: leftovers of killed processes, damaged files, lost ends."""
    with opened("gc", store, key_file, is_changed=True) as found:
        if older_than is not None:
            say_if_doubted("gc", found)
        shown = progress("removing")
        gone = collect(found, max_bytes=max_bytes, older_than=older_than, progress=shown)
        is_stuck = name_stuck("gc", found)
    if as_json:
        print_json(asdict(gone))
    else:
        typer.echo(
            f"{format_size(gone.freed_bytes)} free again: {gone.unreachable} blocks out of reach,"
            f" {gone.old} too old, {gone.evicted} too many,"
            f" {format_size(gone.aside_bytes)} of damaged files"
        )
    raise typer.Exit(1 if is_stuck else 0)


def forget_blocks(
    store: StoreFolder,
    agents: _Agents = None,
    namespace: _Namespace = "",
    older_than: _OlderThan = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove for good what an agent, a namespace or nobody has used.

    What other agents use, too, stays when an agent is forgotten. Damaged files go with it, for
    nobody knows any more whose they were. A server that runs keeps what it has in memory. What
    cannot be removed is named, and tried again when the store is opened next.
    """
    if not agents and not namespace and older_than is None:
        raise typer.BadParameter("say what: --agent, --namespace or --older-than")
    if older_than is not None and (agents or namespace):
        raise typer.BadParameter("--older-than goes alone: what is old is old for everybody")
    with opened("forget", store, key_file, is_changed=not dry_run) as found:
        if older_than is not None:
            say_if_doubted("forget", found)
        chosen, shared = _chosen(found, frozenset(agents or ()), namespace, older_than)
        gone = Gone(len(chosen), sum(row.bytes for row in chosen))
        if not dry_run:
            gone = _forgotten(found, agents or (), namespace, older_than)
        is_stuck = name_stuck("forget", found)
    if as_json:
        said = {"blocks": gone.blocks, "bytes": gone.bytes, "shared": len(shared)}
        print_json({**said, "dry_run": dry_run})
    else:
        would = "would be " if dry_run else ""
        stay = f"; {len(shared)} stay, which others use, too" if shared else ""
        typer.echo(f"{gone.blocks} blocks, {format_size(gone.bytes)}: {would}forgotten{stay}")
    raise typer.Exit(0 if (gone.blocks or shared) and not is_stuck else 1)


def _forgotten(
    store: DiskStore, agents: Sequence[str], namespace: str, older_than: int | None
) -> Gone:
    shown = progress("forgetting")
    gone = Gone()
    for agent in agents:
        gone += store.forget_agent(agent, namespace, shown)
    if not agents:
        those = in_namespaces(namespace) if older_than is None else store.older(older_than)
        gone = store.forget_those(those, shown)
        store.scrub()
    return gone


def _chosen(
    store: DiskStore, agents: frozenset[str], namespace: str, older_than: int | None
) -> tuple[list[BlockRow], list[BlockRow]]:
    """What goes, and what these agents use and others, too."""
    listing = Listing(store.catalogue, store.veil)
    if older_than is not None:
        return listing.blocks(files=store.older_files(older_than)), []
    rows = listing.blocks(namespace=namespace)
    if not agents:
        return rows, []
    theirs = [row for row in rows if not agents.isdisjoint(row.agents)]
    alone = [row for row in theirs if agents.issuperset(row.agents)]
    return alone, [row for row in theirs if not agents.issuperset(row.agents)]


def export_store(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive; it is replaced.")],
    store: StoreFolder,
    agent: _Agent = None,
    namespace: _Namespace = "",
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Write blocks into one file, for another machine. It is not sealed, whatever the store is."""
    with opened("export", store, key_file) as found:
        rows = Listing(found.catalogue, found.veil).blocks(agent_id=agent, namespace=namespace)
        if not rows:
            typer.echo("semantic store export: there is nothing of that", err=True)
            raise typer.Exit(1)
        rows.sort(key=lambda row: row.lo)
        carried = export_blocks(found, rows, file, progress("exporting"))
    _report(carried, "exported", as_json=as_json)


def import_store(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="What store export has written."
        ),
    ],
    store: StoreFolder,
    max_bytes: _Max = None,
    free: _Free = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Put the blocks of a file into a store, which is made when it is not there.

    The store takes no more than its server gave it, or --max, or 64 GB where neither is known.
    """
    if not (store / "blocks").is_dir():
        _make("import", store, key_file)
    floor = free or FREE_BYTES
    with opened("import", store, key_file, is_changed=True, free_floor_bytes=floor) as found:
        known = found.catalogue.fact("max_bytes")
        found.limits = replace(found.limits, max_bytes=max_bytes or known or STORE_BYTES)
        carried = import_blocks(found, file, progress("importing"))
    _report(carried, "imported", as_json=as_json)


def _make(command: str, path: Path, key_file: Path | None) -> None:
    """Make a store, of the size that a server gives one; --max is for one command."""
    try:
        key = read_key(key_file)
        DiskStore(path, STORE_BYTES, free_floor_bytes=0, key=key).close()
    except (SemanticError, OSError) as error:
        say(f"semantic store {command}: {error}", err=True)
        raise typer.Exit(2) from error


def _report(carried: Exchanged, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(carried))
    else:
        for name, why in carried.left:
            say(f"{name} stays, and may hold blocks that are not sealed: {why}", err=True)
        for name, why in carried.bad:
            say(f"{name}: {why}")
        known = f", {carried.known} were there" if carried.known else ""
        bad = f", {len(carried.bad)} bad" if carried.bad else ""
        typer.echo(f"{carried.blocks} blocks, {format_size(carried.bytes)} {what}{known}{bad}")
    raise typer.Exit(1 if carried.bad else 0)
