"""The tree of token blocks: what a publication adds to it, and what leaves it.

Every node leads to a published end or is held by a running sequence, so nothing is kept that can
complete no legal hit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_keys import Tokens
from semantic.testing.reference_node import PrefixNode, SealedBlock, SequenceEnd

__all__ = ["MissingSpan", "PrefixTree"]

_handles = itertools.count(1)


@dataclass(frozen=True, slots=True)
class MissingSpan:
    """Rows that a publication needs and the tree does not have."""

    group: str
    lo: int
    hi: int


class PrefixTree:
    """Nodes by their exact tokens, and the published ends in them.

    Args:
        spec: The geometry.
    """

    def __init__(self, spec: ModelCacheSpec) -> None:
        self.root = PrefixNode(Tokens("q"), 0)
        self.unbounded = [group for group in spec.groups if not group.is_bounded]
        self.bounded = [group for group in spec.groups if group.is_bounded]

    def nodes(self) -> Iterator[PrefixNode]:
        """Every node, parents before their children; paths may be long."""
        stack = list(self.root.children)
        while stack:
            node = stack.pop()
            yield node
            stack += node.children

    def full_path(self, tokens: Tokens) -> list[PrefixNode]:
        """The nodes whose full blocks are the beginning of `tokens`."""
        path: list[PrefixNode] = []
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            node = path[-1] if path else self.root
            child = node.child(tokens[start : start + BLOCK_TOKENS])
            if child is None:
                break
            path.append(child)
        return path

    # What a publication adds -------------------------------------------------------------------

    def holders(self, tokens: Tokens, preferred: Sequence[PrefixNode] = ()) -> list[PrefixNode]:
        """The nodes that hold `tokens` already, from the first on; the last may hold more."""
        path = self.full_path(tokens)
        rest = tokens[len(path) * BLOCK_TOKENS :]
        if 0 < len(rest) < BLOCK_TOKENS:
            parent = path[-1] if path else self.root
            longer = [child for child in parent.children if child.tokens[: len(rest)] == rest]
            longer.sort(
                key=lambda child: (
                    child.end_at(len(tokens)) is None,
                    child not in preferred,
                    child.tokens,
                )
            )
            path += longer[:1]
        return path

    def missing(self, end: int, nodes: Sequence[PrefixNode]) -> list[MissingSpan]:
        """What has to be captured beside what `nodes` have, so that a hit at `end` is legal."""
        missing = []
        for group, number, lo, hi in self._reads(end):
            if number >= len(nodes) or nodes[number].bounded_block(group, lo, hi) is None:
                missing.append(MissingSpan(group, lo, hi))
        for group_spec in self.unbounded:
            for start in range(len(nodes) * BLOCK_TOKENS, end, BLOCK_TOKENS):
                hi = min(start + BLOCK_TOKENS, end)
                missing.append(MissingSpan(group_spec.name, start, hi))
        return missing

    def _reads(self, end: int) -> Iterator[tuple[str, int, int, int]]:
        """What a hit at `end` reads of bounded groups: (group, token block, first, last)."""
        for group in self.bounded:
            for first, last in group.spans_needed(end):
                for number in range(first // BLOCK_TOKENS, -(-last // BLOCK_TOKENS)):
                    start = number * BLOCK_TOKENS
                    yield group.name, number, max(start, first), min(start + BLOCK_TOKENS, last)

    def reads_at(self, path: Sequence[PrefixNode], end: int) -> list[SealedBlock]:
        """The bounded blocks along `path` that a hit at `end` reads, as far as they are there."""
        found = (
            path[number].bounded_block(group, lo, hi)
            for group, number, lo, hi in self._reads(end)
            if number < len(path)
        )
        return list(dict.fromkeys(block for block in found if block is not None))

    def grow(self, path: list[PrefixNode], tokens: Tokens) -> list[SealedBlock]:
        """Extend `path` to all of `tokens`; blocks of shorter nodes that fuller ones replace."""
        replaced: list[SealedBlock] = []
        for start in range(len(path) * BLOCK_TOKENS, len(tokens), BLOCK_TOKENS):
            parent = path[-1] if path else self.root
            node = PrefixNode(tokens[start : start + BLOCK_TOKENS], parent.end, parent)
            for child in list(parent.children):
                if child.tokens == node.tokens[: len(child.tokens)]:
                    replaced += self._absorb(node, child)
            parent.children.append(node)
            path.append(node)
        return replaced

    def _absorb(self, node: PrefixNode, shorter: PrefixNode) -> list[SealedBlock]:
        """Take over what a partial node has; fuller unbounded blocks replace its own."""
        node.bounded += shorter.bounded
        for block in shorter.bounded:
            block.node = node
        node.users |= shorter.users
        node.ends += shorter.ends
        for end in shorter.ends:
            end.node = node
        for block in shorter.unbounded.values():
            block.node = None
        shorter.parent.children.remove(shorter)  # type: ignore[union-attr]
        shorter.parent = None
        return list(shorter.unbounded.values())

    def place(self, block: SealedBlock, path: Sequence[PrefixNode]) -> bool:
        """Make a block findable in its node, unless a shorter node has brought one as good."""
        node = path[block.lo // BLOCK_TOKENS]
        if node.bounded_block(block.group, block.lo, block.hi) is not None:
            return False
        if any(group.name == block.group for group in self.bounded):
            node.bounded.append(block)
        else:
            node.unbounded[block.group] = block
        block.node = node
        return True

    def end(self, path: Sequence[PrefixNode], at: int, kind: str) -> SequenceEnd:
        """The published end at the end of `path`, which may be there already."""
        node = path[-1]
        end = node.end_at(at)
        if end is None:
            end = SequenceEnd(next(_handles), node, at, kind, self.reads_at(path, at))
            node.ends.append(end)
            for block in end.reads:
                block.readers += 1
        return end

    # What leaves -------------------------------------------------------------------------------

    def drop(self, end: SequenceEnd) -> list[SealedBlock]:
        """Forget a published end and all that nothing else needs; the freed blocks."""
        end.node.ends.remove(end)
        for block in end.reads:
            block.readers -= 1
        return self.released(end.reads) + self._prune(end.node)

    def released(self, blocks: Iterable[SealedBlock]) -> list[SealedBlock]:
        """After leases or readers have gone: those blocks that nothing needs any more."""
        freed = []
        for block in blocks:
            node = block.node
            if node is None or block.leases:
                continue
            if block in node.bounded and not block.readers:
                node.bounded.remove(block)
                block.node = None
                freed.append(block)
            freed += self._prune(node)
        return freed

    def drop_leaf(self, node: PrefixNode) -> list[SealedBlock]:
        """Remove a leaf; the sequences that ended in it end before it from now on."""
        parent = node.parent
        for end in reversed(node.ends):
            if parent is None or parent is self.root:
                end.agents.clear()
            elif (other := parent.end_at(parent.end)) is not None:
                other.agents |= end.agents
                end.agents.clear()
            else:
                end.node, end.at = parent, parent.end
                parent.ends.append(end)
        node.ends = []
        return self._remove(node)

    def _prune(self, node: PrefixNode) -> list[SealedBlock]:
        freed: list[SealedBlock] = []
        while node.parent is not None and not node.children:
            parent = node.parent
            if node.ends:
                if not node.is_leased:
                    self._shrink(node, parent, max(end.at for end in node.ends))
                break
            # Who took a lease before a fuller block came has none on that one, and needs no node.
            if node.is_leased and all(block.leases for block in node.unbounded.values()):
                break
            freed += self._remove(node)
            node = parent
        return freed

    def _shrink(self, node: PrefixNode, parent: PrefixNode, end: int) -> None:
        """Forget the tokens of a leaf behind `end`: no published sequence reaches them."""
        tokens = node.tokens[: end - node.start]
        siblings = (child for child in parent.children if child is not node)
        # A sibling that begins with them holds all that would be left.
        if not any(sibling.tokens[: len(tokens)] == tokens for sibling in siblings):
            node.tokens = tokens
            for block in node.blocks():
                block.hi = min(block.hi, end)

    def _remove(self, node: PrefixNode) -> list[SealedBlock]:
        node.parent.children.remove(node)  # type: ignore[union-attr]
        node.parent = None
        freed = list(node.blocks())
        for block in freed:
            block.node = None
        return freed
