"""Where a prefill is worth a stop: checkpoints of what cannot be cut afterwards.

A window, a chunk or a recurrent state can be restored only where somebody captured it. Each
checkpoint costs the blocks of these groups, and saves the prefill before it to whoever comes there.
"""

from __future__ import annotations

from dataclasses import dataclass

from semantic.domain._check import whole_number
from semantic.domain.errors import PoolConfigurationError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["CheckpointPolicy"]

_JUNCTION_STEP = 16
"""Two prompts may have a few tokens in common behind the point where they part. Junctions
are rounded down, so that the next one, which has fewer, is not a token short."""


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """At which lengths of a prompt the running caches should be published on the way.

    The ends of segments (a system prompt, a turn) are their owner's to know: publish them with
    `Lease.checkpoint` and `Lease.commit`.

    Args:
        junctions: Where the prompt leaves what is cached: the next one may leave it there too.
        every_blocks: Every so many token blocks of the prompt; None for none.
        least_tokens: Tokens that a checkpoint must save beyond the hit to be worth a stop.

    Raises:
        PoolConfigurationError: `every_blocks` or `least_tokens` below 1.
    """

    junctions: bool = True
    every_blocks: int | None = None
    least_tokens: int = BLOCK_TOKENS

    def __post_init__(self) -> None:
        if self.every_blocks is not None:
            whole_number(self.every_blocks, "every_blocks", PoolConfigurationError, at_least=1)
        whole_number(self.least_tokens, "least_tokens", PoolConfigurationError, at_least=1)

    def stops(
        self, spec: ModelCacheSpec, n_tokens: int, cached_tokens: int, matched_tokens: int
    ) -> tuple[int, ...]:
        """The lengths, in order, above what is cached and below the whole prompt.

        None where every position can be restored anyway.

        Args:
            spec: The model's geometry.
            n_tokens: Length of the prompt.
            cached_tokens: Length of its hit.
            matched_tokens: Tokens of it that are cached in some way.
        """
        if not any(group.is_bounded for group in spec.groups):
            return ()
        junction = matched_tokens - matched_tokens % _JUNCTION_STEP
        stops = {junction} if self.junctions else set()
        if self.every_blocks is not None:
            stops.update(range(0, n_tokens, self.every_blocks * BLOCK_TOKENS))
        first = cached_tokens + self.least_tokens
        return tuple(sorted(stop for stop in stops if first <= stop < n_tokens))

    @staticmethod
    def bytes_at(spec: ModelCacheSpec, n_tokens: int) -> int:
        """What a checkpoint at that length costs at most: the blocks that can serve it alone.

        Blocks of unbounded groups are not counted: the sequence has them anyway.
        """
        return sum(
            group.blocks_at_rest(n_tokens) * group.bytes_per_block
            for group in spec.groups
            if group.is_bounded
        )
