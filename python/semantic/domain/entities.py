"""What an agent holds: blocks, and blocks by layer group. Entities compare by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from semantic.domain._check import agent_name, whole_number
from semantic.domain.errors import BlockValidationError
from semantic.domain.layer_group import BLOCK_TOKENS

__all__ = ["AgentBlocks", "KVBlock"]


@dataclass(eq=False, slots=True)
class KVBlock:
    """The storage of one token block for all layers of one group.

    Args:
        block_id: The pool's id, unique in the process.
        layer_data: None until captured; then the group's tensors by name, each stacked over the
            layers of the group: `[layers, heads, 256, dim]`.
        token_count: How many of the 256 positions are meant to be used, 0 to 256.
        metadata: Free for the owner; never read by semantic.

    Raises:
        BlockValidationError: A negative id, or a token count outside 0 to 256.
    """

    block_id: int
    layer_data: object | None = None
    token_count: int = 0
    metadata: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_number(self.block_id, "block_id", BlockValidationError)
        whole_number(self.token_count, "token_count", BlockValidationError)
        if self.token_count > BLOCK_TOKENS:
            raise BlockValidationError(
                f"token_count must be at most {BLOCK_TOKENS}, not {self.token_count}"
            )

    @property
    def is_full(self) -> bool:
        """Whether all 256 positions are used."""
        return self.token_count == BLOCK_TOKENS

    @property
    def is_captured(self) -> bool:
        """Whether the block holds tensors yet."""
        return self.layer_data is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KVBlock):
            return NotImplemented
        return self.block_id == other.block_id

    def __hash__(self) -> int:
        return hash(self.block_id)


@dataclass(frozen=True, eq=False, slots=True)
class AgentBlocks:
    """The blocks that one agent holds, by layer group.

    Args:
        agent_id: The agent's name.
        blocks: Group name to its blocks, in token order.
        total_tokens: The tokens that the blocks stand for.

    Raises:
        BlockValidationError: An empty name, a negative token count, or one block in two places.
    """

    agent_id: str
    blocks: Mapping[str, tuple[KVBlock, ...]]
    total_tokens: int

    def __post_init__(self) -> None:
        agent_name(self.agent_id)
        whole_number(self.total_tokens, "total_tokens", BlockValidationError)
        by_group = {group: tuple(blocks) for group, blocks in self.blocks.items()}
        ids = [block.block_id for blocks in by_group.values() for block in blocks]
        if len(ids) != len(set(ids)):
            raise BlockValidationError(f"agent {self.agent_id!r} lists one block in two places")
        object.__setattr__(self, "blocks", MappingProxyType(by_group))

    @property
    def block_ids(self) -> tuple[int, ...]:
        """The ids of all blocks, group by group."""
        return tuple(block.block_id for block in self)

    def __iter__(self) -> Iterator[KVBlock]:
        for blocks in self.blocks.values():
            yield from blocks

    def __len__(self) -> int:
        return sum(len(blocks) for blocks in self.blocks.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AgentBlocks):
            return NotImplemented
        return self.agent_id == other.agent_id and self.block_ids == other.block_ids

    def __hash__(self) -> int:
        return hash((self.agent_id, self.block_ids))
