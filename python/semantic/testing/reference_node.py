"""The nodes of the plain-Python prefix index: token blocks, sealed blocks, published ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from semantic.ports.outbound import BlockData
from semantic.testing.reference_keys import Tokens

__all__ = ["PrefixNode", "SealedBlock", "SequenceEnd", "common_prefix"]


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
        node: Where it is found; None when it is found no more.
        leases: Running sequences that hold it.
        readers: Published ends that read it; unused in unbounded groups.
    """

    block_id: int
    group: str
    lo: int
    hi: int
    data: BlockData
    kind: str
    node: PrefixNode | None = None
    leases: int = 0
    readers: int = 0

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all of `[lo, hi)` is valid here."""
        return self.lo <= lo and hi <= self.hi


@dataclass(eq=False, slots=True)
class SequenceEnd:
    """A published end of a sequence: from here on, every group can be restored.

    Args:
        handle: Its name.
        node: The node of its last token.
        at: Its length in tokens.
        kind: What kind of segment ends here.
        reads: The blocks of bounded groups that a hit here reads.
        agents: Who published it; it stays while one of them still wants it.
        use_number: Which use was its last, counted from the first.
        used_at_ms: When that was.
        is_superseded: Whether its conversation has gone on.
    """

    handle: int
    node: PrefixNode
    at: int
    kind: str
    reads: list[SealedBlock]
    agents: set[str] = field(default_factory=set)
    use_number: int = 0
    used_at_ms: int = 0
    is_superseded: bool = False


@dataclass(eq=False, slots=True)
class PrefixNode:
    """One token block under its exact prefix.

    Only a full node has children. Its unbounded blocks cover all of its tokens; its bounded blocks
    (windows, chunks, states) cover what some end reads. `users` are the agents that have used it;
    its last use is as that of an end.
    """

    tokens: Tokens
    start: int
    parent: PrefixNode | None = None
    children: list[PrefixNode] = field(default_factory=list)
    unbounded: dict[str, SealedBlock] = field(default_factory=dict)
    bounded: list[SealedBlock] = field(default_factory=list)
    ends: list[SequenceEnd] = field(default_factory=list)
    users: set[str] = field(default_factory=set)
    use_number: int = 0
    used_at_ms: int = 0

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)

    @property
    def is_leased(self) -> bool:
        """Whether a running sequence holds one of its blocks."""
        return any(block.leases for block in self.blocks())

    @property
    def path(self) -> list[PrefixNode]:
        """The nodes from the first token block to this one."""
        path = []
        node: PrefixNode | None = self
        while node is not None and node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    def blocks(self) -> Iterator[SealedBlock]:
        """Every sealed block it owns."""
        yield from self.unbounded.values()
        yield from self.bounded

    def end_at(self, at: int) -> SequenceEnd | None:
        """The published end of that length."""
        return next((end for end in self.ends if end.at == at), None)

    def child(self, tokens: Tokens) -> PrefixNode | None:
        """The child that holds exactly these tokens."""
        return next((child for child in self.children if child.tokens == tokens), None)

    def bounded_block(self, group: str, lo: int, hi: int) -> SealedBlock | None:
        """A block of a bounded group that covers `[lo, hi)`."""
        return next((b for b in self.bounded if b.group == group and b.covers(lo, hi)), None)


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many leading tokens `a` and `b` share."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
