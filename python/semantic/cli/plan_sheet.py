"""The table behind `semantic plan`: one row per model and context length."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

from semantic.adapters.model_config import kv_dtype_of, load_config
from semantic.adapters.model_weights import weight_bytes
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.value_objects import Basis, ModelCacheSpec

__all__ = [
    "REFERENCE",
    "Cell",
    "PlanOptions",
    "Sheet",
    "config_of",
    "make_sheet",
    "preset_names",
    "spec_of",
    "write_csv",
    "write_xlsx",
]

Cell = str | int

REFERENCE = ("gemma-3-12b", "gpt-oss-20b", "llama-3.1-8b", "qwen2.5-14b")
"""What is planned when nothing is asked for: none of them needs MLX."""

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
    "context",
    "live bytes",
    "prefill peak",
    "cached bytes",
)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of models: column names and rows of the same length."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def records(self) -> list[dict[str, Cell]]:
        """Each row as a mapping from column to cell."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a table says beyond the cache of one agent.

    Args:
        agents: Say what so many agents take; None: do not.
        shared_prefix: Leading tokens that all agents have in common.
        kv_bits: Bits of cached blocks; None: as they run.
        with_weights: Subtract what the weights take from the memory, and say how much that is.
        weight_bits: Bits of each weight; None: what the model's files or config say.
    """

    agents: int | None = None
    shared_prefix: int = 0
    kv_bits: int | None = None
    with_weights: bool = False
    weight_bits: int | None = None

    def at_rest(self, spec: ModelCacheSpec) -> ModelCacheSpec:
        """The geometry with cached blocks in so many bits."""
        return spec if self.kv_bits is None else spec.quantised_at_rest(self.kv_bits)

    def weights_of(self, model: str) -> int:
        """Bytes of a model's weights, where they are asked for."""
        if not self.with_weights:
            return 0
        return weight_bytes(model, config_of(model), self.weight_bits)

    def columns(self, basis: str) -> tuple[str, ...]:
        """The columns that are asked for."""
        weights = ("weight bytes",) if self.with_weights else ()
        agents = () if self.agents is None else (f"bytes of {self.agents} agents ({basis})",)
        return (*weights, *agents)

    def cells(
        self, spec: ModelCacheSpec, context: int, basis: Basis, weights: int
    ) -> tuple[Cell, ...]:
        """Their cells."""
        cells: list[Cell] = [weights] if self.with_weights else []
        if self.agents is not None:
            prefix = min(self.shared_prefix, context)
            cells.append(spec.bytes_of_agents(self.agents, context, prefix, basis))
        return tuple(cells)


def make_sheet(
    models: Sequence[str] | None,
    memory_bytes: Mapping[str, int],
    contexts: Sequence[int],
    basis: str,
    options: PlanOptions | None = None,
) -> Sheet:
    """The table for these models, context lengths and memory sizes.

    Args:
        models: Preset names, config files or model folders; None or empty for `REFERENCE`.
        memory_bytes: Column label to bytes.
        contexts: Context lengths in tokens.
        basis: "peak", "live" or "cached".
        options: What else is asked; None: nothing.

    Raises:
        ModelSpecValidationError: An unknown model, or a config that says too little.
    """
    if basis not in get_args(Basis):
        raise ModelSpecValidationError(
            f"unknown basis {basis!r}; one of {', '.join(get_args(Basis))}", attribute="basis"
        )
    asked = options or PlanOptions()
    chosen = list(models or REFERENCE)
    columns = (
        *_FIXED,
        *asked.columns(basis),
        *(f"agents in {label} ({basis})" for label in memory_bytes),
    )
    rows = []
    for name in chosen:
        spec = asked.at_rest(spec_of(name))
        weights = asked.weights_of(name)
        for context in contexts:
            agents = (
                spec.max_agents(
                    max(0, n_bytes - weights),
                    context,
                    min(asked.shared_prefix, context),
                    cast(Basis, basis),
                )
                for n_bytes in memory_bytes.values()
            )
            more = asked.cells(spec, context, cast(Basis, basis), weights)
            rows.append((*_fixed_cells(name, spec, context), *more, *agents))
    return Sheet(columns, tuple(rows))


def _fixed_cells(name: str, spec: ModelCacheSpec, context: int) -> tuple[Cell, ...]:
    types = spec.layer_types
    growing = [group for group in spec.groups if group.max_blocks is None]
    tensors = [tensor for group in spec.groups for tensor in group.token_tensors]
    return (
        Path(name).name or name,
        spec.n_layers,
        types.count("global"),
        types.count("sliding_window"),
        _listed(g.window for g in spec.groups if g.window is not None),
        _listed(tensor.heads for tensor in tensors),
        _listed(tensor.dim for tensor in tensors),
        _listed(tensor.dtype for tensor in tensors),
        sum(group.bytes_per_token_per_layer * group.n_layers for group in growing),
        _listed(group.bytes_per_block_per_layer for group in spec.groups),
        context,
        spec.live_bytes(context),
        spec.live_peak_bytes(context),
        spec.cached_bytes(context),
    )


def _listed(values: Any) -> Cell:
    """One number where all are equal, else all of them."""
    distinct = sorted(set(values))
    return distinct[0] if len(distinct) == 1 else "/".join(map(str, distinct))


def preset_names() -> list[str]:
    """The models that ship as config files."""
    folder = resources.files("semantic") / "presets"
    return sorted(
        file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")
    )


def spec_of(model: str) -> ModelCacheSpec:
    """The geometry of a preset, a config file or a model folder.

    Arguments alone suffice for the common families; MLX is imported for the others.

    Raises:
        ModelSpecValidationError: No such preset or file, or a config that says too little.
    """
    config = config_of(model)
    try:
        dtype = kv_dtype_of(config)
        return ModelCacheSpec.from_model(SimpleNamespace(args=config), kv_dtype=dtype)
    except ModelSpecValidationError as refusal:
        return _probed(config, refusal)


def _probed(config: dict[str, Any], refusal: ModelSpecValidationError) -> ModelCacheSpec:
    try:
        from semantic.mlx import spec_from_config
    except ImportError as error:
        raise ModelSpecValidationError(
            f"{refusal}; that needs MLX: pip install 'semantic-kv[mlx]' ({error})",
            attribute=refusal.attribute,
        ) from error
    return spec_from_config(config)


def config_of(model: str) -> dict[str, Any]:
    """The parsed config of a preset, a config file or a model folder.

    Raises:
        ModelSpecValidationError: No such preset or file, or no JSON object in it.
    """
    folder = resources.files("semantic") / "presets"
    if model in preset_names():
        return load_config(json.loads((folder / f"{model}.json").read_text("utf-8")))
    if Path(model).exists():
        return load_config(model)
    near = difflib.get_close_matches(model, preset_names(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(preset_names())}"
    raise ModelSpecValidationError(
        f"{model!r} is neither a preset nor a config file; {hint}", attribute="model"
    )


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
