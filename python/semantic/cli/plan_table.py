"""What `semantic plan` prints: a paragraph and a small table for each model, as wide as it may be.

Columns that do not fit beside each other go on below.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from semantic.cli.plan_figures import ContextFigures, ModelFigures, PlanOptions
from semantic.cli.sizes import short_size
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup

__all__ = ["table_lines"]

_GAP = "  "

_Column = tuple[str, list[str]]


def table_lines(
    models: Sequence[ModelFigures],
    memory_bytes: Mapping[str, int],
    options: PlanOptions,
    width: int,
) -> Iterator[str]:
    """The lines, none of them wider than `width` where that is 40 or more.

    Args:
        models: The models.
        memory_bytes: Name of a memory size to bytes.
        options: What was asked.
        width: Of the terminal, in characters.
    """
    yield from _wrapped(_title(options), width)
    for model in models:
        yield ""
        for sentence in _about(model):
            yield from _wrapped(sentence, width)
        for columns in _side_by_side(_columns(model, memory_bytes, options), width):
            yield ""
            yield from _rows(columns)
        yield from _remarks(model, memory_bytes, width)


def _title(options: PlanOptions) -> str:
    beside = "beside the weights" if options.with_weights else "without weights"
    title = f"Agents that fit {beside}, by their {options.basis} bytes. Other figures: one agent."
    if options.agents is not None:
        title += f" {options.agents} agents together: running ({options.basis}) and at rest"
        if options.basis == "cached":
            title = title.replace("running (cached) and at rest", "at rest")
        if options.shared_prefix:
            title += f", where {options.shared_prefix:,} tokens are kept once"
        title += "."
    return title


def _about(model: ModelFigures) -> Iterator[str]:
    groups = ", ".join(map(_group, model.spec.groups))
    yield f"{model.name}: {model.spec.n_layers} layers ({groups})"
    weights = ""
    if model.weight_bytes is not None:
        weights = f"weights {short_size(model.weight_bytes)}; "
    blocks = " + ".join(short_size(group.bytes_per_block) for group in model.spec.groups)
    yield (
        f"{weights}{short_size(model.bytes_per_token)} per token; "
        f"a block of {BLOCK_TOKENS} tokens {blocks}"
    )


def _group(group: LayerGroup) -> str:
    shape = "/".join(
        dict.fromkeys(f"{tensor.heads}x{tensor.dim}" for tensor in group.token_tensors)
    )
    span = group.window or group.chunk
    words = [
        f"{group.n_layers} {group.name}",
        *([f"of {span:,}"] if span else []),
        *([shape] if shape else []),
    ]
    return " ".join(words)


def _columns(
    model: ModelFigures, memory_bytes: Mapping[str, int], options: PlanOptions
) -> list[_Column]:
    lines = model.contexts
    columns: list[_Column] = [
        ("context", [f"{line.n_tokens:,}" for line in lines]),
        ("blocks", ["+".join(map(str, line.blocks.values())) for line in lines]),
        ("live", [short_size(line.live_bytes) for line in lines]),
        ("peak", [short_size(line.peak_bytes) for line in lines]),
        ("cached", [short_size(line.cached_bytes) for line in lines]),
    ]
    for basis in options.bases_of_agents:
        name = f"{options.agents} {'at rest' if basis == 'cached' else 'run'}"
        columns.append((name, [short_size(line.agents_bytes[basis]) for line in lines]))
    columns += [(name, [_agents(model, name, line) for line in lines]) for name in memory_bytes]
    return columns


def _agents(model: ModelFigures, memory: str, line: ContextFigures) -> str:
    return "-" if memory in model.too_small else f"{line.agents[memory]:,}"


def _side_by_side(columns: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns in as few rows of them as fit, each beginning with the first column."""
    first, *others = columns
    chunk = [first]
    for column in others:
        if len(chunk) > 1 and _width([*chunk, column]) > width:
            yield chunk
            chunk = [first]
        chunk.append(column)
    yield chunk


def _width(columns: Sequence[_Column]) -> int:
    return sum(map(_column_width, columns)) + len(_GAP) * len(columns)


def _column_width(column: _Column) -> int:
    name, cells = column
    return max(map(len, (name, *cells)))


def _rows(columns: Sequence[_Column]) -> Iterator[str]:
    widths = [_column_width(column) for column in columns]
    rows = [[name for name, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield _GAP + _GAP.join(cells)


def _remarks(model: ModelFigures, memory_bytes: Mapping[str, int], width: int) -> Iterator[str]:
    """In words, what a number would hide."""
    if not model.too_small or model.weight_bytes is None:
        return
    every = len(model.too_small) == len(memory_bytes) > 1
    names = "any of these" if every else ", ".join(model.too_small)
    yield ""
    yield from _wrapped(
        f"{model.name} does not fit into {names}: its weights alone take "
        f"{short_size(model.weight_bytes)}. It is smaller with fewer --weight-bits.",
        width,
    )


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False)
