"""Which length of a matched prefix every group can serve, and from which rows (law 4).

Pure functions over a path of nodes. Unbounded groups serve every position of the path. A
sliding-window group of window w serves p when all of `[max(0, p - w + 1), p)` is valid in its
blocks: each gapless stretch `[a, b)` of valid rows serves p in `[a + w - 1, b]`, or every p up to b
when it starts at 0. A hit is the largest p that lies in such an interval of every group.
"""

from __future__ import annotations

from collections.abc import Sequence

from semantic.application.prefix_node import PrefixNode, SealedBlock
from semantic.domain.layer_group import LayerGroup
from semantic.domain.reports import HitPlan, RowSpan
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["plan_hit", "window_start"]

_Interval = tuple[int, int]


def window_start(group: LayerGroup, end: int) -> int:
    """The first position that a hit at `end` reads in a window group."""
    return max(0, end - (group.window or end) + 1)


def plan_hit(spec: ModelCacheSpec, path: Sequence[PrefixNode], limit: int) -> HitPlan:
    """The longest hit of at most `limit` tokens along `path`.

    Args:
        spec: The geometry.
        path: Nodes from the first token block on; the last may match in part.
        limit: Tokens that match, already below the length of the request.
    """
    windowed = [group for group in spec.groups if group.window is not None]
    lengths: list[_Interval] = [(1, limit)] if limit > 0 else []
    for group in windowed:
        lengths = _intersect(lengths, _served_lengths(group, path))
    if not lengths:
        return HitPlan(0)
    end = lengths[-1][1]
    spans = tuple(
        (group.name, _window_spans(group, path, end) if group.window else _whole(group, path, end))
        for group in spec.groups
    )
    return HitPlan(end, spans)


def _blocks(group: LayerGroup, path: Sequence[PrefixNode]) -> list[SealedBlock]:
    return sorted(
        (block for node in path for block in node.windows.get(group.name, ())),
        key=lambda block: (block.lo, block.hi),
    )


def _served_lengths(group: LayerGroup, path: Sequence[PrefixNode]) -> list[_Interval]:
    stretches: list[list[int]] = []
    for block in _blocks(group, path):
        if stretches and block.lo <= stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], block.hi)
        else:
            stretches.append([block.lo, block.hi])
    window = group.window or 0
    served = ((1 if lo == 0 else lo + window - 1, hi) for lo, hi in stretches)
    return [(first, last) for first, last in served if first <= last]


def _intersect(a: Sequence[_Interval], b: Sequence[_Interval]) -> list[_Interval]:
    pairs = ((max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b)
    return sorted((lo, hi) for lo, hi in pairs if lo <= hi)


def _whole(group: LayerGroup, path: Sequence[PrefixNode], end: int) -> tuple[RowSpan, ...]:
    return tuple(
        RowSpan(node.unbounded[group.name].block_id, node.start, min(node.end, end))
        for node in path
        if node.start < end
    )


def _window_spans(group: LayerGroup, path: Sequence[PrefixNode], end: int) -> tuple[RowSpan, ...]:
    spans: list[RowSpan] = []
    blocks = _blocks(group, path)
    position = window_start(group, end)
    while position < end:
        best = max((b for b in blocks if b.lo <= position < b.hi), key=lambda b: b.hi)
        spans.append(RowSpan(best.block_id, position, min(best.hi, end)))
        position = best.hi
    return tuple(spans)
