"""What the library is measured against: plain LRU below, and a bound above that no cache passes.

Both know blocks and a capacity and share no code with the library.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import NamedTuple

from semantic.cli.simulate.outcome import Advance
from semantic.cli.simulate.segments import Segments

__all__ = ["Tally", "offline_bound", "plain_lru"]


class Tally(NamedTuple):
    """What a simulator counted; evictions and peak in its own blocks."""

    cached_tokens: int
    evicted: int
    peak: int


def plain_lru(segments: Segments, capacity: int, advance: Advance) -> Tally:
    """LRU over single blocks, each touched from the head of the prompt to its tail.

    The order of eviction knows nothing of prefixes: heads go before tails, and tails stay behind
    that nothing can reach. What a running request holds does not go: of a prompt beyond the
    capacity the first blocks stay.

    Args:
        segments: The requests.
        capacity: How many blocks fit.
        advance: Called after each request.
    """
    blocks = _Blocks(segments.lengths)
    cached_tokens = evicted = peak = 0
    for path, limit in zip(segments.paths, segments.limits, strict=True):
        cached_tokens += min(blocks.hit(path) * segments.unit_tokens, limit)
        evicted += blocks.keep(path, capacity)
        evicted += blocks.evict(capacity)
        peak = max(peak, blocks.used)
        advance()
    return Tally(cached_tokens, evicted, peak)


class _Blocks:
    """The blocks of plain LRU: of each segment those from `lo` to `hi`, least recently used first.

    One segment's blocks were touched together, head first: eviction takes them from the front.
    """

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = lengths
        self._lo = [0] * len(lengths)
        self._hi = [0] * len(lengths)
        self._order: OrderedDict[int, None] = OrderedDict()
        self.used = 0

    def hit(self, path: list[int]) -> int:
        """Leading blocks of a prompt that are there."""
        hit = 0
        for segment in path:
            if self._lo[segment]:
                break
            hit += self._hi[segment]
            if self._hi[segment] < self._lengths[segment]:
                break
        return hit

    def keep(self, path: list[int], capacity: int) -> int:
        """Put in, and touch, the first blocks of a prompt; how many behind them had to go."""
        gone = 0
        for segment in path:
            have = self._hi[segment] - self._lo[segment]
            now = min(self._lengths[segment], capacity)
            capacity -= now
            self.used += now - have
            gone += max(0, have - now)
            self._lo[segment], self._hi[segment] = 0, now
            self._order[segment] = None
            self._order.move_to_end(segment)
        return gone

    def evict(self, capacity: int) -> int:
        """Let the oldest blocks go until the rest fits; how many went."""
        evicted = 0
        while self.used > capacity:
            segment = next(iter(self._order))
            have = self._hi[segment] - self._lo[segment]
            gone = min(self.used - capacity, have)
            self.used, evicted = self.used - gone, evicted + gone
            self._lo[segment] += gone
            if gone == have:
                self._lo[segment] = self._hi[segment] = 0
                del self._order[segment]
        return evicted


def offline_bound(segments: Segments, capacity: int, advance: Advance) -> Tally:
    """Belady's rule over prefix blocks: out goes the leaf whose next use is furthest away.

    With blocks of one size that is the most that any order of eviction, or refusal to keep, can
    hit: a block is used no later than those behind it, so what is kept is always whole prefixes.
    Of a segment, then, always the first blocks are there.

    Args:
        segments: The requests, which are also the future.
        capacity: How many blocks fit.
        advance: Called after each request.
    """
    lengths, unit = segments.lengths, segments.unit_tokens
    present = [0] * len(lengths)
    next_use = [-1] * len(lengths)
    furthest: list[int] = []
    used = cached_tokens = evicted = peak = 0
    futures = _next_uses(segments)
    for path, future, limit in zip(segments.paths, futures, segments.limits, strict=True):
        hit = 0
        for segment in path:
            hit += present[segment]
            if present[segment] < lengths[segment]:
                break
        cached_tokens += min(hit * unit, limit)
        for segment, then in zip(path, future, strict=True):
            used += lengths[segment] - present[segment]
            present[segment] = lengths[segment]
            next_use[segment] = then
            # Of equally far ones the last on the path: a number that grows with both.
            heappush(furthest, -(then * len(lengths) + segment))
        while used > capacity:
            then, segment = divmod(-furthest[0], len(lengths))
            gone = min(used - capacity, present[segment]) if next_use[segment] == then else 0
            used, evicted = used - gone, evicted + gone
            present[segment] -= gone
            if not gone or not present[segment]:
                heappop(furthest)
        peak = max(peak, used)
        advance()
    return Tally(cached_tokens, evicted, peak)


def _next_uses(segments: Segments) -> list[list[int]]:
    """For each request and segment of its path, the next request that uses the segment."""
    never = len(segments.paths)
    following = [never] * len(segments.lengths)
    uses = []
    for number in range(never - 1, -1, -1):
        path = segments.paths[number]
        uses.append([following[segment] for segment in path])
        for segment in path:
            following[segment] = number
    uses.reverse()
    return uses
