"""`semantic inspect`: a model's cache layer groups, and what they cost at some lengths.

One report is made, as plain values; `--json` prints it whole, the tables what a reader needs of it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semantic.adapters.model_config import kv_dtype_of
from semantic.cli.extras import missing_message
from semantic.cli.options import context_lengths
from semantic.cli.plan_models import config_of
from semantic.cli.sizes import format_size
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.errors import ModelSpecValidationError, SemanticError
from semantic.domain.layer_group import LayerGroup
from semantic.domain.tensor import StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["register"]

_CONTEXT = "4K,32K,128K"
_HELP = """Show what a model's cache is made of: layer groups, tensors, bytes per token and block.

    Builds the model lazily with the mlx-lm that is installed: no weight is read or allocated.
    """
_EPILOG = "Example: semantic inspect ./my-model/config.json --kv-dtype float16 --context 8K,64K"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("inspect", help=_HELP, epilog=_EPILOG)(_inspect)


def _inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_OR_MODEL_DIR", help="A config.json, a model folder, or a preset."
        ),
    ],
    kv_dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16, float16 or float32; the config's own when left out."),
    ] = None,
    context: Annotated[
        str, typer.Option(help="Lengths of one sequence in tokens, such as 4096,32K.")
    ] = _CONTEXT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    message = missing_message("inspect", "mlx", "mlx_lm")
    if message is not None:
        typer.echo(message, err=True)
        raise typer.Exit(2)
    lengths = context_lengths(context)
    try:
        report = _report(model, kv_dtype, lengths)
    except (SemanticError, OSError, RecursionError) as error:
        typer.echo(f"semantic inspect: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(report, indent=1, default=str))
    else:
        _print(report)


def _report(model: str, kv_dtype: str | None, lengths: Iterable[int]) -> dict[str, Any]:
    """Everything that the command says; bytes are exact integers."""
    config = config_of(model)
    dtype = kv_dtype_of(config) if kv_dtype is None else kv_dtype
    spec = _spec_of(config, dtype)
    growing = [group for group in spec.groups if group.max_blocks is None]
    return {
        "model": model,
        "model_type": config["model_type"],
        "mlx_lm_version": _mlx_lm_version(),
        "kv_dtype": dtype,
        "block_tokens": spec.block_tokens,
        "cache_entries": spec.n_entries,
        "leaf_caches": spec.n_layers,
        "entries": [_entry(entry) for entry in spec.entries],
        "groups": [_group(group) for group in spec.groups],
        "totals": {
            "bytes_per_token": _bytes_per_token(spec.groups),
            "bytes_per_token_unbounded": _bytes_per_token(growing),
            "bytes_per_block": sum(group.bytes_per_block for group in spec.groups),
        },
        "contexts": [
            {
                "tokens": tokens,
                "live_bytes": spec.live_bytes(tokens),
                "live_peak_bytes": spec.live_peak_bytes(tokens),
                "cached_bytes": spec.cached_bytes(tokens),
            }
            for tokens in lengths
        ],
    }


def _spec_of(config: dict[str, Any], dtype: str) -> ModelCacheSpec:
    try:
        from semantic.mlx import spec_from_config
    except ImportError as error:
        raise ModelSpecValidationError(f"MLX cannot be imported: {error}") from error
    # What an architecture prints must not end up in the JSON.
    with redirect_stdout(sys.stderr):
        return spec_from_config(config, kv_dtype=dtype)


def _mlx_lm_version() -> str:
    try:
        return version("mlx-lm")
    except PackageNotFoundError:
        return "of unknown version"


def _entry(entry: CacheEntry) -> dict[str, Any]:
    return {
        "class_name": entry.class_name,
        "leaves": list(entry.leaves),
        "children": [_entry(child) for child in entry.children],
    }


def _group(group: LayerGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "layer_type": group.layer_type,
        "layers": list(group.layers),
        "layer_ranges": _ranges(group.layers),
        "n_layers": group.n_layers,
        "window": group.window,
        "keep": group.keep,
        "chunk": group.chunk,
        "max_blocks": group.max_blocks,
        "tensors": [_tensor(tensor) for tensor in group.tensors],
        "bytes_per_token_per_layer": group.bytes_per_token_per_layer,
        "bytes_per_token": _bytes_per_token([group]),
        "bytes_per_block_per_layer": group.bytes_per_block_per_layer,
        "bytes_per_block": group.bytes_per_block,
        "recipe": dict(group.recipe),
    }


def _tensor(tensor: TokenTensor | StateTensor) -> dict[str, Any]:
    """The same keys for both kinds: what a kind does not have is null."""
    keys = ("name", "dtype", "heads", "dim", "stride", "shape", "grows")
    return {key: getattr(tensor, key, None) for key in keys}


def _bytes_per_token(groups: Iterable[LayerGroup]) -> int:
    return sum(group.bytes_per_token_per_layer * group.n_layers for group in groups)


def _ranges(layers: Iterable[int]) -> str:
    """Ascending indices as `0-4,6-10,12`."""
    runs = groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0])
    ends = [[layer for _, layer in run] for _, run in runs]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ends)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    # Names come from files: no markup in them. Piped, the width is not that of a terminal.
    width = None if Console().is_terminal else 100
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    say = partial(console.print, soft_wrap=True)
    say(
        f"{report['model']}: {report['model_type']} of mlx-lm {report['mlx_lm_version']}, "
        f"KV cache in {report['kv_dtype']}"
    )
    say(
        f"cache entries: {report['cache_entries']}, leaf caches: {report['leaf_caches']}, "
        f"tokens of a block: {report['block_tokens']}"
    )
    if report["entries"]:
        kinds = Counter(map(_entry_text, report["entries"]))
        say("entries:", ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    console.print()
    console.print(_groups_table(report))
    for group in report["groups"]:
        if group["recipe"]:
            facts = ", ".join(f"{name}={fact}" for name, fact in group["recipe"].items())
            say(f"{group['name']} is rebuilt with {facts}")
    totals = report["totals"]
    if totals["bytes_per_token"] != totals["bytes_per_token_unbounded"]:
        beyond = totals["bytes_per_token_unbounded"]
        say(f"Beyond windows and chunks a token costs {beyond:,} bytes.")
    console.print()
    console.print(_contexts_table(report["contexts"]))


def _groups_table(report: dict[str, Any]) -> Table:
    table = _table("group", "leaf caches")
    table.add_column("tensors: heads x dim", no_wrap=True)
    table.add_column("bytes/token", justify="right", no_wrap=True)
    table.add_column("bytes/block", justify="right", no_wrap=True)
    for group in report["groups"]:
        table.add_row(
            "\n".join(_group_lines(group)),
            f"{group['n_layers']}: {group['layer_ranges'].replace(',', ', ')}",
            "\n".join(line for tensor in group["tensors"] for line in _tensor_lines(tensor)),
            f"{group['bytes_per_token']:,}",
            f"{group['bytes_per_block']:,}",
        )
    totals = report["totals"]
    sums = (totals["bytes_per_token"], totals["bytes_per_block"])
    table.add_section()
    table.add_row("all", str(report["leaf_caches"]), "", *(f"{total:,}" for total in sums))
    return table


def _contexts_table(contexts: list[dict[str, int]]) -> Table:
    table = _table()
    for heading in ("tokens", "live", "prefill peak", "cached at rest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in contexts:
        sizes = (row["live_bytes"], row["live_peak_bytes"], row["cached_bytes"])
        table.add_row(f"{row['tokens']:,}", *map(format_size, sizes))
    return table


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _group_lines(group: dict[str, Any]) -> Iterator[str]:
    yield group["name"]
    if group["name"].partition(".")[0] != group["layer_type"]:
        yield group["layer_type"]
    for span in ("window", "keep", "chunk"):
        if group[span]:
            yield f"{span} {group[span]:,}"


def _tensor_lines(tensor: dict[str, Any]) -> Iterator[str]:
    if tensor["shape"] is None:
        yield f"{tensor['name']} {tensor['heads']} x {tensor['dim']} {tensor['dtype']}"
    else:
        yield f"{tensor['name']} {list(tensor['shape'])} {tensor['dtype']}"
    if tensor["grows"] is not None:
        yield f"  axis {tensor['grows']} fills up"
    if (tensor["stride"] or 1) > 1:
        yield f"  a row per {tensor['stride']} tokens"


def _entry_text(entry: dict[str, Any]) -> str:
    name = str(entry["class_name"]).rpartition(".")[2]
    inner = ", ".join(map(_entry_text, entry["children"]))
    return f"{name}[{inner}]" if inner else name
