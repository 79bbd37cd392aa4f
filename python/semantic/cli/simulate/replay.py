"""The replay through the library itself: its index, its pool, its eviction, no tensors.

Requests run one after the other: admit, commit what was prefilled, release. What the model answers
is not committed, since no trace says how it comes back in a later prompt.

The memory is that of the sealed blocks, as in `semantic plan --basis cached`. A running sequence is
charged for its buffers as always, and they lie beside that memory: the pool is larger by a reserve,
which is filled up with a second charge while the sequence runs, so that the blocks get exactly the
memory, whatever the length of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, cast

from semantic.application.cache_manager import CacheManager
from semantic.cli.simulate.outcome import Advance, Outcome, Timing
from semantic.cli.simulate.prompts import Prompts
from semantic.cli.simulate.weightless import WeightlessMaterialiser
from semantic.cli.simulate.workload import Workload
from semantic.domain.errors import AgentNotFoundError
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec

if TYPE_CHECKING:
    from semantic.domain.identity import Tokens

__all__ = ["POLICIES", "replay"]

POLICIES: Mapping[str, None] = {"lru": None}
"""Names of the eviction policies, and what `CacheManager` takes for them."""


class _Memory:
    """A cache of exactly `memory_bytes`, and the clock around each request to it."""

    def __init__(
        self, spec: ModelCacheSpec, memory_bytes: int, longest_tokens: int, policy: str
    ) -> None:
        # A hit may leave a buffer with up to a step more than prefilling it all: far below twice.
        self._reserve = 2 * spec.live_peak_bytes(longest_tokens)
        self._pool = BlockPool(spec, total_memory=memory_bytes + self._reserve)
        self._manager = CacheManager(
            spec, self._pool, materialiser=WeightlessMaterialiser(), policy=POLICIES[policy]
        )
        self._hint: Callable[[str, str], object] | None = getattr(self._manager, "hint", None)
        self._seconds: list[float] = []
        self._cached_tokens = 0
        self._peak_bytes = 0

    def serve(self, agent_id: str, tokens: Tokens) -> None:
        start = perf_counter()
        with self._manager.admit(agent_id, tokens) as lease:
            beside = self._reserve - lease.live_bytes
            self._pool.charge("live", beside)
            lease.commit(tokens, [])
            self._pool.discharge("live", beside)
        self._seconds.append(perf_counter() - start)
        self._cached_tokens += lease.cached_tokens
        self._peak_bytes = max(self._peak_bytes, self._pool.snapshot().cached)

    def hint(self, agent_id: str, state: str) -> None:
        """What is known of an agent that does not run: "waiting" or "ended"."""
        if self._hint is not None:
            # All that it published may be evicted by now.
            with suppress(AgentNotFoundError):
                self._hint(agent_id, state)

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
    workload: Workload, spec: ModelCacheSpec, memory_bytes: int, policy: str, advance: Advance
) -> Outcome:
    """Replay all requests through a `CacheManager` with a pool of its own.

    Args:
        workload: The requests.
        spec: The model's geometry, quantised at rest or not.
        memory_bytes: Memory of the sealed blocks.
        policy: A name in `POLICIES`.
        advance: Called after each request.
    """
    prompts = Prompts(workload)
    longest = max([1, *map(workload.replayed_tokens, workload.order)])
    memory = _Memory(spec, memory_bytes, longest, policy)
    agents = _agents_by_last_row(workload)
    for row in workload.order:
        request = workload.request(row)
        tokens = prompts.tokens(row)
        if tokens:
            memory.serve(request.agent_id, tokens)
        if request.waits:
            memory.hint(request.agent_id, "waiting")
        for agent_id in agents.get(row, ()):
            memory.hint(agent_id, "ended")
        advance()
    return memory.outcome()


def _agents_by_last_row(workload: Workload) -> dict[int, list[str]]:
    """The last row of each session, and who took part in it."""
    last: dict[int, int] = {}
    agents: dict[int, dict[str, None]] = {}
    for row, request in enumerate(workload.trace.requests):
        last[request.session] = row
        if workload.blocks(row):
            agents.setdefault(request.session, {})[request.agent_id] = None
    return {row: list(agents.get(session, ())) for session, row in last.items()}


def _timing(seconds: list[float]) -> Timing | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Timing(sum(ordered) / len(ordered), ordered[len(ordered) * 99 // 100])
