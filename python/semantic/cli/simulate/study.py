"""All that one command simulates: each size of memory with the library, plain LRU and the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd

from semantic.cli.simulate.baselines import Tally, offline_bound, plain_lru
from semantic.cli.simulate.outcome import Advance, Outcome
from semantic.cli.simulate.replay import replay
from semantic.cli.simulate.segments import Segments, cut
from semantic.cli.simulate.workload import Workload
from semantic.domain.errors import PoolConfigurationError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.policy import EvictionOrder
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["BOUND", "OURS", "PLAIN_LRU", "Run", "cached_bytes_per_token", "runs"]

OURS, PLAIN_LRU, BOUND = "semantic", "plain LRU", "offline bound"


@dataclass(frozen=True, slots=True)
class Run:
    """One cache of one size, ready to be simulated.

    Args:
        cache: Its name.
        memory: The size as it was asked for.
        memory_bytes: The size.
        measure: Simulates all requests.
    """

    cache: str
    memory: str
    memory_bytes: int
    measure: Callable[[Advance], Outcome]


def cached_bytes_per_token(spec: ModelCacheSpec) -> int:
    """Bytes that a token costs at rest for as long as it is cached, 0 without such layers.

    What windows, chunks and states cost besides depends on where sequences end.
    """
    unbounded = sum(group.bytes_per_block for group in spec.groups if not group.is_bounded)
    return unbounded // BLOCK_TOKENS


def runs(
    workload: Workload,
    spec: ModelCacheSpec,
    memory_bytes: Mapping[str, int],
    policies: Sequence[EvictionOrder],
    *,
    hints: bool = True,
) -> Iterator[Run]:
    """What is to be simulated, size by size.

    The two baselines count tokens of unbounded layers alone, at their bytes at rest. LRU has
    the library's blocks and drops what is left of a prompt; the bound has blocks so small that it
    divides the trace's and the library's, so that nothing which a partial block wins passes it.

    Args:
        workload: The requests.
        spec: The model's geometry, quantised at rest or not.
        memory_bytes: Sizes by the label that they were given.
        policies: The library's orders of eviction.
        hints: Tell the library which agents wait and whose session has ended.

    Raises:
        PoolConfigurationError: A memory below one block of every group.
    """
    least = sum(group.bytes_per_block for group in spec.groups)
    for label, size in memory_bytes.items():
        if size < least:
            raise PoolConfigurationError(
                f"{label} is below one block of this model, which takes {least:,} bytes"
            )
    return _runs(workload, spec, memory_bytes, policies, hints)


def _runs(
    workload: Workload,
    spec: ModelCacheSpec,
    memory_bytes: Mapping[str, int],
    policies: Sequence[EvictionOrder],
    hints: bool,
) -> Iterator[Run]:
    per_token = cached_bytes_per_token(spec)
    if per_token:
        blocks = cut(workload, BLOCK_TOKENS)
        fine = cut(workload, gcd(BLOCK_TOKENS, workload.trace.block_tokens))
    for label, size in memory_bytes.items():
        for order in policies:
            measure = partial(replay, workload, spec, size, order, hints=hints)
            yield Run(f"{OURS}, {order}", label, size, measure)
        if per_token:
            yield Run(
                PLAIN_LRU, label, size, partial(_baseline, plain_lru, blocks, size, per_token)
            )
            yield Run(BOUND, label, size, partial(_baseline, offline_bound, fine, size, per_token))


def _baseline(
    simulate: Callable[[Segments, int, Advance], Tally],
    segments: Segments,
    memory_bytes: int,
    bytes_per_token: int,
    advance: Advance,
) -> Outcome:
    unit_bytes = segments.unit_tokens * bytes_per_token
    tally = simulate(segments, memory_bytes // unit_bytes, advance)
    evicted_blocks = -(-tally.evicted * segments.unit_tokens // BLOCK_TOKENS)
    return Outcome(tally.cached_tokens, evicted_blocks, tally.peak * unit_bytes)
