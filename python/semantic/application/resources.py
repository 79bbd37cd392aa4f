"""What every turn over one model's memory works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semantic.application.counters import Counters
from semantic.application.sealed_blocks import SealedBlocks
from semantic.application.store_tier import StoreTier
from semantic.domain.checkpoints import CheckpointPolicy
from semantic.domain.native import PoolSnapshot
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import Materialiser

__all__ = ["Resources", "groups_of", "stats_of", "stats_of_all"]


@dataclass(frozen=True, slots=True)
class Resources:
    """One model's memory: geometry, bytes, sealed blocks, MLX side, counts, checkpoints, store."""

    spec: ModelCacheSpec
    pool: BlockPool
    sealed: SealedBlocks
    materialiser: Materialiser
    counters: Counters
    checkpoints: CheckpointPolicy
    tier: StoreTier | None = None


def groups_of(snapshot: PoolSnapshot) -> dict[str, dict[str, int]]:
    """Blocks by layer group and state."""
    return {
        group.name: {
            "held": group.held_blocks,
            "staged": group.staged_blocks,
            "leased": group.leased_blocks,
            "cached": group.cached_blocks,
        }
        for group in snapshot.groups
    }


def stats_of(memory: Resources) -> dict[str, object]:
    """Counters, sequences and bytes by class, in one reading of the pool."""
    snapshot = memory.pool.snapshot()
    sequences = memory.sealed.sequences()
    return {
        **memory.counters.as_dict(),
        "sequences": len(sequences),
        "blocks": memory.sealed.n_blocks,
        "evicted_blocks": memory.sealed.evicted_blocks,
        "bytes": {
            "total": snapshot.total,
            "free": snapshot.free,
            "held": snapshot.held,
            "live": snapshot.live,
            "staging": snapshot.staging,
            "cached": snapshot.cached,
        },
        "groups": groups_of(snapshot),
        "unshared_bytes": sum(memory.spec.cached_bytes(end.n_tokens) for end in sequences),
        **({} if memory.tier is None else {"store": memory.tier.stats()}),
    }


def stats_of_all(read: Sequence[tuple[Resources, PoolSnapshot]]) -> dict[str, Any]:
    """Sequences, blocks and bytes of several memories together, without their counters.

    Args:
        read: The memories, each with a reading of its pool.
    """
    memories = [memory for memory, _ in read]
    groups: dict[str, Counter[str]] = {}
    for _, snapshot in read:
        for name, states in groups_of(snapshot).items():
            groups.setdefault(name, Counter()).update(states)
    ends = [(m.spec, end.n_tokens) for m in memories for end in m.sealed.sequences()]
    return {
        "sequences": len(ends),
        "blocks": sum(memory.sealed.n_blocks for memory in memories),
        "evicted_blocks": sum(memory.sealed.evicted_blocks for memory in memories),
        "bytes": {
            name: sum(getattr(snapshot, name) for _, snapshot in read)
            for name in ("held", "live", "staging", "cached")
        },
        "groups": {name: dict(states) for name, states in groups.items()},
        "unshared_bytes": sum(spec.cached_bytes(end) for spec, end in ends),
    }
