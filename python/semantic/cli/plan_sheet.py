"""The sheet of `semantic plan`: one row per model and context length, for JSON, CSV and XLSX."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from semantic.cli.plan_figures import ContextFigures, ModelFigures, PlanOptions, figures_of

__all__ = ["Cell", "Sheet", "make_sheet", "write_csv", "write_xlsx"]

Cell = str | int

_FIXED = (
    "model",
    "layers",
    "global",
    "sliding",
    "window",
    "KV heads",
    "head dim",
    "dtype",
    "bytes/token",
    "bytes/block/layer",
)
_WEIGHTS = ("weight bytes", "too big for")
_CONTEXT = ("context", "blocks", "live bytes", "prefill peak", "cached bytes")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of models: column names and rows of the same length."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(
        cls, models: Sequence[ModelFigures], memory_names: Iterable[str], options: PlanOptions
    ) -> Self:
        """The sheet of these figures.

        Args:
            models: The models.
            memory_names: The memory sizes, by name.
            options: What was asked.
        """
        columns = (
            *_FIXED,
            *(_WEIGHTS if options.with_weights else ()),
            *_CONTEXT,
            *(f"bytes of {options.agents} agents ({b})" for b in options.bases_of_agents),
            *(f"agents in {name} ({options.basis})" for name in memory_names),
        )
        rows = [
            (*_model_cells(model), *_context_cells(line))
            for model in models
            for line in model.contexts
        ]
        return cls(columns, tuple(rows))

    def records(self) -> list[dict[str, Cell]]:
        """Each row as a mapping from column to cell."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def make_sheet(
    models: Sequence[str] | None,
    memory_bytes: Mapping[str, int],
    contexts: Sequence[int],
    options: PlanOptions | None = None,
) -> Sheet:
    """The sheet for these models, context lengths and memory sizes; see `figures_of`."""
    asked = options or PlanOptions()
    return Sheet.of(figures_of(models, memory_bytes, contexts, asked), memory_bytes, asked)


def _model_cells(model: ModelFigures) -> tuple[Cell, ...]:
    spec = model.spec
    types = spec.layer_types
    tensors = [tensor for group in spec.groups for tensor in group.token_tensors]
    weights: tuple[Cell, ...] = ()
    if model.weight_bytes is not None:
        weights = (model.weight_bytes, ", ".join(model.too_small))
    return (
        model.name,
        spec.n_layers,
        types.count("global"),
        types.count("sliding_window"),
        _listed(g.window for g in spec.groups if g.window is not None),
        _listed(tensor.heads for tensor in tensors),
        _listed(tensor.dim for tensor in tensors),
        _listed(tensor.dtype for tensor in tensors),
        model.bytes_per_token,
        _listed(group.bytes_per_block_per_layer for group in spec.groups),
        *weights,
    )


def _context_cells(line: ContextFigures) -> tuple[Cell, ...]:
    return (
        line.n_tokens,
        ", ".join(f"{group} {count}" for group, count in line.blocks.items()),
        line.live_bytes,
        line.peak_bytes,
        line.cached_bytes,
        *line.agents_bytes.values(),
        *line.agents.values(),
    )


def _listed(values: Any) -> Cell:
    """One number where all are equal, else all of them."""
    distinct = sorted(set(values))
    return distinct[0] if len(distinct) == 1 else "/".join(map(str, distinct))


def write_csv(sheet: Sheet, path: Path) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(sheet.columns)
        writer.writerows(sheet.rows)


def write_xlsx(sheet: Sheet, path: Path) -> None:
    """Write the table as an Excel workbook."""
    import xlsxwriter
    from xlsxwriter.exceptions import XlsxWriterException

    try:
        with xlsxwriter.Workbook(str(path)) as book:
            _fill(book, sheet)
    except XlsxWriterException as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _fill(book: Any, sheet: Sheet) -> None:
    page = book.add_worksheet("KV cache")
    bold = book.add_format({"bold": True, "text_wrap": True, "valign": "top"})
    number = book.add_format({"num_format": "#,##0"})
    page.write_row(0, 0, sheet.columns, bold)
    for line, row in enumerate(sheet.rows, start=1):
        page.write_row(line, 0, row, number)
    page.set_column(0, 0, 22)
    page.set_column(1, len(sheet.columns) - 1, 15)
    page.freeze_panes(1, 1)
