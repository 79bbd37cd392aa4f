"""Prompts as paths of segments: blocks that every request of a replay uses together or not at all.

The whole replay is known, so prompts are cut where any of them ends or leaves another. A prompt of
a thousand blocks is then a path of some dozen segments, and simulators that count single blocks
never have to look at one. A segment's number is larger than that of the one before it on any path.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from semantic.cli.simulate.trace import Run
from semantic.cli.simulate.workload import Workload

__all__ = ["Segments", "cut"]


@dataclass(frozen=True, slots=True)
class Segments:
    """The prompts of a workload in blocks of one size.

    Args:
        unit_tokens: Tokens of a block; what is left of a prompt is dropped.
        lengths: Blocks of each segment.
        paths: For each request in the order of the replay, its segments from the first on.
        limits: For each request, the most tokens that can be cached: one is left to compute.
    """

    unit_tokens: int
    lengths: list[int]
    paths: list[list[int]]
    limits: list[int]


def cut(workload: Workload, unit_tokens: int) -> Segments:
    """The prompts of `workload`, in blocks of `unit_tokens`."""
    size = workload.trace.block_tokens
    prompts = [_in_units(workload.runs(row), size, unit_tokens) for row in workload.order]
    ends: dict[int, set[int]] = {}
    starts: dict[int, int] = {}
    for runs in prompts:
        for row, lo, hi in runs:
            ends.setdefault(row, set()).add(hi)
            starts[row] = lo
    lengths: list[int] = []
    first_of: dict[int, int] = {}
    cuts: dict[int, list[int]] = {}
    for row in sorted(ends):
        first_of[row], cuts[row] = len(lengths), sorted(ends[row])
        lo = starts[row]
        for hi in cuts[row]:
            lengths.append(hi - lo)
            lo = hi
    paths = []
    for runs in prompts:
        path: list[int] = []
        for row, _, hi in runs:
            first = first_of[row]
            path.extend(range(first, first + bisect_left(cuts[row], hi) + 1))
        paths.append(path)
    limits = [max(0, workload.replayed_tokens(row) - 1) for row in workload.order]
    return Segments(unit_tokens, lengths, paths, limits)


def _in_units(runs: list[Run], block_tokens: int, unit_tokens: int) -> list[Run]:
    """A row's run in every prompt begins at the same block, so rounding down keeps them apart."""
    converted = (
        (row, lo * block_tokens // unit_tokens, hi * block_tokens // unit_tokens)
        for row, lo, hi in runs
    )
    return [(row, lo, hi) for row, lo, hi in converted if lo < hi]
