"""The picture of the memory over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semantic.cli.demo.turns import Pass, Sample

__all__ = ["draw"]

_CLASSES = {"held": "#4c72b0", "live": "#dd8452", "staging": "#8172b3", "cached": "#55a868"}
_MEGA = 1e6


def draw(path: Path, passes: list[Pass]) -> None:
    """Stacked bytes by class over time, and prompt tokens served from the cache; one panel a pass.

    Raises:
        OSError: When the file cannot be written.
    """
    # The object interface with its own canvas: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(passes), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(passes), squeeze=False)[0]
    for axes, one in zip(panels, passes, strict=True):
        _panel(axes, one)
    figure.suptitle("KV memory of semantic serve over time")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _panel(axes: Any, one: Pass) -> None:
    samples = _in_order(one)
    seconds = [sample.seconds for sample in samples]
    heights = [[s.class_bytes(name) / _MEGA for s in samples] for name in _CLASSES]
    axes.stackplot(
        seconds, *heights, labels=list(_CLASSES), colors=list(_CLASSES.values()), alpha=0.85
    )
    unshared = [sample.count("unshared_bytes") / _MEGA for sample in samples]
    axes.plot(seconds, unshared, "k--", linewidth=1, label="cached, without sharing")
    axes.set_xlabel("seconds")
    axes.set_ylabel("megabytes")
    axes.set_title(one.name)
    tokens = axes.twinx()
    start = one.at_start.count("cached_tokens") if one.at_start else 0
    tokens.plot(
        seconds,
        [sample.count("cached_tokens") - start for sample in samples],
        color="#c44e52",
        label="prompt tokens from the cache",
    )
    tokens.set_ylabel("tokens")
    tokens.set_ylim(bottom=0)
    lines, names = axes.get_legend_handles_labels()
    more_lines, more_names = tokens.get_legend_handles_labels()
    axes.legend(lines + more_lines, names + more_names, loc="upper left", fontsize="small")


def _in_order(one: Pass) -> list[Sample]:
    ends = [sample for sample in (one.at_start, one.at_end) if sample is not None]
    return sorted([*ends, *one.over_time, *one.after_turn], key=lambda sample: sample.seconds)
