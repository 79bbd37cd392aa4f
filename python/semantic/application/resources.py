"""What every turn over one model's memory works with."""

from __future__ import annotations

from dataclasses import dataclass

from semantic.application.counters import Counters
from semantic.application.sealed_blocks import SealedBlocks
from semantic.application.store_tier import StoreTier
from semantic.domain.checkpoints import CheckpointPolicy
from semantic.domain.services import BlockPool
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import Materialiser

__all__ = ["Resources"]


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
