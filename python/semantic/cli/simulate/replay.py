"""The replay through the library itself: its index, its pool, its eviction, no tensors.

Requests run one after the other: admit, publish at the prefill's stops and at its end, release.
What the model answers is not committed, since no trace says how it comes back in a later prompt.

The memory is that of the sealed blocks, as in `semantic plan --basis cached`. A running sequence is
charged for its buffers as always, and they lie beside that memory: the pool is larger by a reserve,
which is filled up with a second charge while the sequence runs, so that the blocks get exactly the
memory, whatever the length of the prompt.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from time import perf_counter
from typing import cast

from semantic.application.cache_manager import CacheManager
from semantic.cli.simulate.outcome import Advance, Outcome, Timing
from semantic.cli.simulate.prompts import Prompts
from semantic.cli.simulate.weightless import WeightlessMaterialiser
from semantic.cli.simulate.workload import Workload
from semantic.domain.policy import EvictionOrder, EvictionPolicy
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["replay"]


class _TraceClock:
    """The time of the replay: that of the requests, not of the machine."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def monotonic(self) -> float:
        """Seconds since the replay began."""
        return self.now_ms / 1000


class _Memory:
    """A cache of exactly `memory_bytes`, and the stopwatch around each request to it."""

    def __init__(
        self, spec: ModelCacheSpec, memory_bytes: int, longest_tokens: int, order: EvictionOrder
    ) -> None:
        # A hit may leave a buffer with up to a step more than prefilling it all: far below twice.
        self._reserve = 2 * spec.live_peak_bytes(longest_tokens)
        self._pool = BlockPool(spec, total_memory=memory_bytes + self._reserve)
        self.clock = _TraceClock()
        self._manager = CacheManager(
            spec,
            self._pool,
            materialiser=WeightlessMaterialiser(),
            policy=EvictionPolicy(order),
            clock=self.clock,
        )
        self._seconds: list[float] = []
        self._cached_tokens = 0
        self._peak_bytes = 0

    def serve(self, agent_id: str, tokens: array[int], hints: Mapping[str, str]) -> None:
        """One request: admitted, published with what is known of agents by its end, released."""
        start = perf_counter()
        with self._manager.admit(agent_id, tokens) as lease:
            beside = self._reserve - lease.live_bytes
            self._pool.charge("live", beside)
            for stop in lease.stops:
                lease.checkpoint(tokens[:stop], [])
            self.hint(hints)
            lease.commit(tokens, [])
            self._pool.discharge("live", beside)
        self._seconds.append(perf_counter() - start)
        self._cached_tokens += lease.cached_tokens
        self._peak_bytes = max(self._peak_bytes, self._pool.snapshot().cached)

    def hint(self, hints: Mapping[str, str]) -> None:
        """What is known of agents that do not run: "waiting" or "ended"."""
        for agent_id, state in hints.items():
            self._manager.hint(agent_id, "ended" if state == "ended" else "waiting")

    def outcome(self) -> Outcome:
        stats = self._manager.stats()
        return Outcome(
            self._cached_tokens,
            cast(int, stats["evicted_blocks"]),
            self._peak_bytes,
            _timing(self._seconds),
            dict(cast(Mapping[str, int], stats["failures"])),
        )


def replay(
    workload: Workload,
    spec: ModelCacheSpec,
    memory_bytes: int,
    order: EvictionOrder,
    advance: Advance,
    *,
    hints: bool = True,
) -> Outcome:
    """Replay all requests through a `CacheManager` with a pool of its own.

    Args:
        workload: The requests.
        spec: The model's geometry, quantised at rest or not.
        memory_bytes: Memory of the sealed blocks.
        order: The library's order of eviction.
        advance: Called after each request.
        hints: Tell the memory which agents wait for their human, and whose session has ended.
    """
    prompts = Prompts(workload)
    longest = max([1, *map(workload.replayed_tokens, workload.order)])
    memory = _Memory(spec, memory_bytes, longest, order)
    known = _hints(workload) if hints else {}
    for turn in workload.turns:
        memory.clock.now_ms = max(memory.clock.now_ms, turn.at_ms)
        request = workload.request(turn.row)
        said = known.get(turn.row, {})
        tokens = prompts.tokens(turn.row)
        if tokens:
            memory.serve(request.agent_id, tokens, said)
        else:
            memory.hint(said)
        advance()
    return memory.outcome()


def _hints(workload: Workload) -> dict[int, dict[str, str]]:
    """What is known when a row has been served: who waits, who has ended.

    A sub-agent's end of turn is its end: its parent goes on.
    """
    known: dict[int, dict[str, str]] = {}
    last: dict[int, int] = {}
    agents: dict[int, dict[str, str]] = {}
    for turn in workload.turns:
        request = workload.request(turn.row)
        last[request.session] = turn.row
        agents.setdefault(request.session, {})[request.agent_id] = "ended"
        if request.waits:
            state = "ended" if request.agent else "waiting"
            known[turn.row] = {request.agent_id: state}
    for session, row in last.items():
        known[row] = agents[session]
    return known


def _timing(seconds: list[float]) -> Timing | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Timing(sum(ordered) / len(ordered), ordered[len(ordered) * 99 // 100])
