"""What the plain pool tells of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from semantic.domain.entities import KVBlock
from semantic.domain.layer_group import LayerGroup

__all__ = ["ReferenceGroupSnapshot", "ReferenceSnapshot", "kv_blocks"]


@dataclass(frozen=True)
class ReferenceGroupSnapshot:
    """What `GroupSnapshot` has."""

    name: str
    bytes_per_block: int
    held_blocks: int
    staged_blocks: int
    leased_blocks: int
    cached_blocks: int
    free_slots: int


@dataclass(frozen=True)
class ReferenceSnapshot:
    """What `PoolSnapshot` has."""

    total: int
    free: int
    held: int
    live: int
    staging: int
    cached: int
    used: int
    available: int
    arrays_used: int
    arrays_max: int
    agents: int
    groups: tuple[ReferenceGroupSnapshot, ...]

    def as_dict(self) -> dict[str, object]:
        """The same as nested dicts."""
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}


def kv_blocks(group: LayerGroup, ids: list[int], total_tokens: int) -> tuple[KVBlock, ...]:
    """An agent's blocks of a group, and the tokens that each stands for."""
    starts = list(range(0, total_tokens, 256))
    if group.max_blocks is not None:
        starts = starts[-len(ids) :]
    lengths = [min(256, total_tokens - start) for start in starts] + [0] * len(ids)
    if group.layer_type == "state":
        lengths = [0] * len(ids)
    return tuple(KVBlock(i, token_count=n) for i, n in zip(ids, lengths, strict=False))
