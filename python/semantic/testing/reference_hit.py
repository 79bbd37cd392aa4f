"""Which length of a matched prefix every group can serve (law 4): the oracle for the native `hit`.

Pure functions over a path of nodes. Unbounded groups serve every position of the path; a bounded
group serves `p` when its blocks cover what a hit at `p` reads:

* a sliding window of w, all of `[max(0, p - w + 1), p)`, and the front that a ring keeps;
* a chunk, all since its start: nothing at all where a chunk is just over;
* a state, a checkpoint exactly there.

Each group answers with the longest length it serves below a limit. The hit is where all agree: the
limit is lowered by one group after the other until none lowers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semantic.domain.layer_group import LayerGroup, Span
from semantic.domain.reports import HitPlan, RowSpan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_node import PrefixNode, SealedBlock

__all__ = ["plan_hit"]

_Longest = Callable[[int], int]
"""The longest length that a group serves and that is not above the given one; 0 for none."""


def plan_hit(spec: ModelCacheSpec, path: Sequence[PrefixNode], limit: int) -> HitPlan:
    """The longest hit of at most `limit` tokens along `path`.

    Args:
        spec: The geometry.
        path: Nodes from the first token block on; the last may match in part.
        limit: Tokens that match, already below the length of the request.
    """
    end = _agreed([_longest(g, path) for g in spec.groups if g.is_bounded], max(0, limit))
    if not end:
        return HitPlan(0)
    spans = tuple(
        (g.name, _bounded_spans(g, path, end) if g.is_bounded else _whole(g, path, end))
        for g in spec.groups
    )
    return HitPlan(end, spans)


def _agreed(groups: Sequence[_Longest], limit: int) -> int:
    """The fixed point: the longest length that every group serves."""
    while True:
        lowered = limit
        for longest in groups:
            lowered = longest(lowered)
        if lowered == limit:
            return limit
        limit = lowered


def _blocks(group: LayerGroup, path: Sequence[PrefixNode]) -> list[SealedBlock]:
    return sorted(
        (block for node in path for block in node.bounded if block.group == group.name),
        key=lambda block: (block.lo, block.hi),
    )


def _longest(group: LayerGroup, path: Sequence[PrefixNode]) -> _Longest:
    blocks = _blocks(group, path)
    if group.layer_type == "state":
        ends = [0, *(block.hi for block in blocks)]
        return lambda limit: max(end for end in ends if end <= limit)
    stretches = _stretches(blocks)
    if group.chunk is not None:
        chunk = group.chunk
        return lambda limit: _longest_in_chunk(stretches, chunk, limit)
    served = _served_by_window(group, stretches)
    return lambda limit: max((min(hi, limit) for lo, hi in served if lo <= limit), default=0)


def _stretches(blocks: Sequence[SealedBlock]) -> list[Span]:
    """The gapless stretches of valid positions, in order."""
    stretches: list[Span] = []
    for block in blocks:
        if stretches and block.lo <= stretches[-1][1]:
            lo, hi = stretches.pop()
            stretches.append((lo, max(hi, block.hi)))
        else:
            stretches.append((block.lo, block.hi))
    return stretches


def _longest_in_chunk(stretches: Sequence[Span], chunk: int, limit: int) -> int:
    start = limit - limit % chunk
    return max((min(hi, limit) for lo, hi in stretches if lo <= start < hi), default=start)


def _served_by_window(group: LayerGroup, stretches: Sequence[Span]) -> list[Span]:
    """The lengths `[first, last]` that the stretches serve, the kept front being there or not."""
    front = stretches[0][1] if stretches and stretches[0][0] == 0 else 0
    reach = (group.window or 0) - group.keep
    served = []
    for lo, hi in stretches:
        if lo == 0:
            served.append((1, hi))
        elif front >= group.keep and lo + reach - 1 <= hi:
            served.append((lo + reach - 1, hi))
    return served


def _whole(group: LayerGroup, path: Sequence[PrefixNode], end: int) -> tuple[RowSpan, ...]:
    return tuple(
        RowSpan(node.unbounded[group.name].block_id, node.start, min(node.end, end))
        for node in path
        if node.start < end
    )


def _bounded_spans(group: LayerGroup, path: Sequence[PrefixNode], end: int) -> tuple[RowSpan, ...]:
    spans: list[RowSpan] = []
    blocks = _blocks(group, path)
    for position, stop in group.spans_needed(end):
        while position < stop:
            best = max((b for b in blocks if b.lo <= position < b.hi), key=lambda b: b.hi)
            spans.append(RowSpan(best.block_id, position, min(best.hi, stop)))
            position = best.hi
    return tuple(spans)
