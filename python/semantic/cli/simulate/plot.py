"""The picture: hit rate over memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semantic.cli.simulate.report import Record
from semantic.cli.simulate.study import BOUND, OURS, PLAIN_LRU

__all__ = ["draw"]

_STYLES: dict[str, dict[str, Any]] = {
    BOUND: {"color": "0.4", "linestyle": "--", "marker": "."},
    OURS: {"color": "#4c72b0", "marker": "o"},
    PLAIN_LRU: {"color": "#dd8452", "marker": "s"},
}
_GIGA = 1e9


def draw(path: Path, title: str, records: Sequence[Record]) -> None:
    """One line per cache over all sizes of memory.

    Raises:
        OSError: When the file cannot be written.
    """
    # The object interface with its own canvas: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for cache, style in _STYLES.items():
        lines = sorted(
            (line["memory_bytes"], line["token_hit_rate"])
            for line in records
            if line["cache"] == cache
        )
        if lines:
            sizes, rates = zip(*lines, strict=True)
            axes.plot([size / _GIGA for size in sizes], rates, label=cache, **style)
    axes.set_xscale("log")
    asked = {line["memory_bytes"] / _GIGA: line["memory"] for line in records}
    axes.set_xticks(list(asked), labels=list(asked.values()))
    axes.minorticks_off()
    axes.set_xlabel("memory for cached blocks")
    axes.set_ylabel("token hit rate")
    axes.set_title(title, fontsize="medium", wrap=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
