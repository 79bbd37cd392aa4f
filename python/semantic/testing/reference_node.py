"""The nodes of the prefix index: token blocks, the sealed blocks they own, and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from semantic.ports.outbound import BlockData
from semantic.testing.reference_keys import Tokens

__all__ = ["Checkpoint", "Claim", "PrefixNode", "SealedBlock", "common_prefix"]


@dataclass(eq=False, slots=True)
class SealedBlock:
    """A sealed block of one group: what it holds and who needs it.

    Args:
        block_id: The pool's id.
        group: Name of its layer group.
        lo: First valid position.
        hi: End of the valid positions.
        data: The tensors, by name.
        kind: What kind of segment published it.
        leases: Running sequences that hold it.
        checkpoints: Checkpoints that read it; unused in unbounded groups.
    """

    block_id: int
    group: str
    lo: int
    hi: int
    data: BlockData
    kind: str
    node: PrefixNode | None = None
    leases: int = 0
    checkpoints: int = 0

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all of `[lo, hi)` is valid here."""
        return self.lo <= lo and hi <= self.hi


@dataclass(eq=False, slots=True)
class Checkpoint:
    """A published end of a sequence: from here on, every group can be restored.

    Args:
        node: The node of its last token.
        end: Its length in tokens.
        agents: Who published it; it stays while one of them still wants it.
        kind: What kind of segment ended here.
        reads: The blocks of bounded groups that a hit at `end` reads.
    """

    node: PrefixNode
    end: int
    agents: set[str]
    kind: str
    reads: list[SealedBlock] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Claim:
    """An agent's hold on a published end.

    Args:
        checkpoint: The end.
        is_new_end: Whether it was published just now.
        is_new_agent: Whether this agent had not published it before.
    """

    checkpoint: Checkpoint
    is_new_end: bool
    is_new_agent: bool


@dataclass(eq=False, slots=True)
class PrefixNode:
    """One token block under its exact prefix.

    Only a full node has children. Its unbounded blocks cover all of its tokens; its bounded blocks
    (windows, chunks, states) cover what some checkpoint reads.
    """

    key: bytes
    tokens: Tokens
    start: int
    parent: PrefixNode | None = None
    children: dict[bytes, PrefixNode] = field(default_factory=dict)
    unbounded: dict[str, SealedBlock] = field(default_factory=dict)
    bounded: dict[str, list[SealedBlock]] = field(default_factory=dict)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)

    @property
    def is_leased(self) -> bool:
        """Whether a running sequence holds one of its blocks."""
        return any(block.leases for block in self.blocks())

    def blocks(self) -> Iterator[SealedBlock]:
        """Every sealed block it owns."""
        yield from self.unbounded.values()
        for blocks in self.bounded.values():
            yield from blocks

    def bounded_block(self, group: str, lo: int, hi: int) -> SealedBlock | None:
        """A block of a bounded group that covers `[lo, hi)`."""
        return next((b for b in self.bounded.get(group, ()) if b.covers(lo, hi)), None)

    def remove_bounded_block(self, block: SealedBlock) -> None:
        """Forget a block of a bounded group."""
        remaining = [b for b in self.bounded[block.group] if b is not block]
        if remaining:
            self.bounded[block.group] = remaining
        else:
            del self.bounded[block.group]


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many leading tokens `a` and `b` share, by bisection over slices."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
