"""The picture of a plan: agents over context by memory size, and bytes by layer group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semantic.cli.plan_figures import ModelFigures, PlanOptions
from semantic.cli.sizes import short_size
from semantic.domain.value_objects import Basis

__all__ = ["draw"]

_ACROSS = 4
"""Models beside each other."""

_COLOURS = {
    "global": "#4c72b0",
    "sliding_window": "#dd8452",
    "chunked": "#55a868",
    "state": "#8172b3",
    "prefill": "0.8",
}
_SHADES = ("#dd8452", "#f0b894", "#b35a26", "#8a4016")
"""For groups of one kind beside each other."""

_SHORTEST = 1024
_LONGEST = 128 * 1024
_UPRIGHT = 5
"""So many bars have room for their names."""

_GIGA = 1e9
_WORDS = {
    "peak": "one agent, GB running",
    "live": "one agent, GB running",
    "cached": "one agent, GB at rest",
}


def draw(
    path: Path,
    models: Sequence[ModelFigures],
    memory_bytes: Mapping[str, int],
    options: PlanOptions,
) -> None:
    """A panel per model: agents over context, a line per memory size; below it bytes by group.

    Args:
        path: The file; its ending says what kind of picture.
        models: The models.
        memory_bytes: Name of a memory size to bytes.
        options: What was asked.

    Raises:
        OSError: When the file cannot be written.
    """
    # The object interface with its own canvas: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(models))
    down = -(-len(models) // across)
    figure = Figure(figsize=(2.6 + 3.2 * across, 0.8 + 5.4 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * down, across, squeeze=False, height_ratios=[3, 2] * down)
    for panel in axes.flat:
        panel.set_visible(False)
    most = 1
    for number, model in enumerate(models):
        row, column = 2 * (number // across), number % across
        most = max(most, _draw_agents(axes[row][column], model, memory_bytes, options))
        _draw_bytes(axes[row + 1][column], model, options.basis)
        if column == 0:
            axes[row][column].set_ylabel("agents that fit")
            axes[row + 1][column].set_ylabel(_WORDS[options.basis])
    for panel in axes[0::2].flat:
        panel.set_ylim(0.8, 2 * most)
    beside = "beside the weights" if options.with_weights else "without weights"
    figure.suptitle(f"Agents that fit {beside}, by their {options.basis} bytes", fontsize="medium")
    _share_legends(figure, axes)
    figure.savefig(path, dpi=120)


def _draw_agents(
    axes: Any, model: ModelFigures, memory_bytes: Mapping[str, int], options: PlanOptions
) -> int:
    """The lines of one model; the most agents among them."""
    axes.set_visible(True)
    most = 1
    asked = [line.n_tokens for line in model.contexts]
    contexts = sorted({*_doublings(max(asked)), *asked})
    for number, (name, size) in enumerate(memory_bytes.items()):
        agents = [model.agents(size, n, options) for n in contexts]
        most = max(most, *agents)
        # None at all has no place on this scale: the line ends there.
        fits = [(n, count) for n, count in zip(contexts, agents, strict=True) if count]
        axes.plot(
            [n for n, _ in fits],
            [count for _, count in fits],
            label=name,
            color=_line_colour(number, len(memory_bytes)),
            marker="o",
            markevery=[place for place, (n, _) in enumerate(fits) if n in asked],
            markersize=4,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = list(_doublings(max(asked)))[::-2]
    axes.set_xticks(ticks, labels=[_tokens(n) for n in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(contexts[0] / 1.2, contexts[-1] * 1.2)
    axes.grid(alpha=0.3)
    axes.set_xlabel("context, tokens")
    weights = ""
    if model.weight_bytes is not None:
        weights = f"\nweights {short_size(model.weight_bytes)}"
    axes.set_title(f"{model.name}{weights}", fontsize="medium")
    if model.too_small:
        names = ", ".join(model.too_small)
        axes.annotate(
            f"weights do not fit into\n{names}",
            (0.04, 0.04),
            xycoords="axes fraction",
            fontsize="small",
            color="0.3",
        )
    return most


def _draw_bytes(axes: Any, model: ModelFigures, basis: Basis) -> None:
    axes.set_visible(True)
    bars = [(_tokens(n), model.group_bytes(n, basis)) for n in (c.n_tokens for c in model.contexts)]
    bottoms = [0.0] * len(bars)
    for name in bars[0][1]:
        heights = [parts[name] / _GIGA for _, parts in bars]
        colour = _group_colour(name, [group.name for group in model.spec.groups])
        label = "more while prefilling" if name == "prefill" else name
        axes.bar(range(len(bars)), heights, 0.6, bottom=bottoms, label=label, color=colour)
        bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
    for place, top in enumerate(bottoms):
        axes.annotate(
            short_size(round(top * _GIGA)),
            (place, top),
            textcoords="offset points",
            xytext=(0, 2),
            ha="center",
            fontsize="x-small",
        )
    slanted = {"rotation": 45, "ha": "right"} if len(bars) > _UPRIGHT else {}
    axes.set_xticks(range(len(bars)), labels=[name for name, _ in bars], **slanted)
    margin = 0.6 + max(0, 3 - len(bars)) / 2
    axes.set_xlim(-margin, len(bars) - 1 + margin)
    axes.set_ylim(0, max(bottoms) * 1.15)
    axes.set_xlabel("context, tokens")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _share_legends(figure: Any, axes: Any) -> None:
    """What the lines and the bars of all panels mean, each once."""
    for rows, title, place in (
        (axes[0::2], "memory", "outside right upper"),
        (axes[1::2], "layer group", "outside right lower"),
    ):
        found: dict[str, Any] = {}
        for panel in (panel for row in rows for panel in row):
            handles, labels = panel.get_legend_handles_labels()
            found.update(zip(labels, handles, strict=True))
        figure.legend(list(found.values()), list(found), title=title, loc=place, fontsize="small")


def _line_colour(number: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis_r"](0.95 - 0.8 * (count - 1 - number) / max(1, count - 1))


def _group_colour(name: str, groups: Sequence[str]) -> str:
    kind, _, again = name.partition(".")
    if again:
        alike = [group for group in groups if group.partition(".")[0] == kind]
        return _SHADES[alike.index(name) % len(_SHADES)]
    return _COLOURS.get(kind, "0.5")


def _doublings(longest: int) -> Iterator[int]:
    n_tokens = _SHORTEST
    while n_tokens <= max(longest, _LONGEST):
        yield n_tokens
        n_tokens *= 2


def _tokens(n_tokens: int) -> str:
    return f"{n_tokens // 1024}K" if n_tokens % 1024 == 0 else f"{n_tokens:,}"
