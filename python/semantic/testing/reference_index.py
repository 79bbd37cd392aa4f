"""Which prefixes are cached: a tree of token blocks, their sealed blocks, and an eviction order.

What it protects:

* A node is found by its chained key *and* by comparing its tokens: a collision is a miss.
* Every node leads to a checkpoint, so nothing is kept that can complete no legal hit. Where every
  group is unbounded, each position is legal and a checkpoint only marks a sequence's end.
* Order of eviction: with bounded groups, the least recently used checkpoint, and the nodes that
  lead nowhere without it. Otherwise the least recently used leaf. A path is touched from its tail
  to its head, so the oldest node is always a leaf: tails go before heads.
* What a running sequence holds is never a victim.

It knows no bytes, no pool, no MLX and no lock: its caller holds one. It answers with the
blocks that left it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.reports import HitPlan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_hit import plan_hit
from semantic.testing.reference_keys import BlockHash, Tokens, block_key
from semantic.testing.reference_node import (
    Checkpoint,
    Claim,
    PrefixNode,
    SealedBlock,
    common_prefix,
)

__all__ = ["MissingSpan", "PrefixCollisionError", "PrefixIndex"]

_KEPT_TURN_ENDS = 2
"""Recent ends of one conversation that keep their place in the order: the next turn continues from
the last one, or from the one before when the answer was tokenised differently."""


class PrefixCollisionError(Exception):
    """Two different token blocks have one key. Stays inside the application."""


@dataclass(frozen=True, slots=True)
class MissingSpan:
    """Rows that a publication needs and the index does not have."""

    group: str
    lo: int
    hi: int


class PrefixIndex:
    """The cached prefixes of one namespace.

    Args:
        spec: The geometry.
        root: Parent key of every first block: the namespace's root.
        hash_block: The key function; tests inject a weak one.
    """

    def __init__(
        self, spec: ModelCacheSpec, root: bytes, hash_block: BlockHash = block_key
    ) -> None:
        self._spec = spec
        self._hash = hash_block
        self._root = PrefixNode(root, Tokens("q"), 0)
        self._unbounded = [group for group in spec.groups if not group.is_bounded]
        self._bounded = [group for group in spec.groups if group.is_bounded]
        self._nodes: OrderedDict[PrefixNode, None] = OrderedDict()
        self._checkpoints: OrderedDict[Checkpoint, None] = OrderedDict()
        self._blocks: dict[int, SealedBlock] = {}
        self.blocks_by_kind: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        """Published ends of sequences."""
        return len(self._checkpoints)

    @property
    def checkpoints(self) -> Iterable[Checkpoint]:
        """Every published end, least recently used first."""
        return self._checkpoints.keys()

    @property
    def n_blocks(self) -> int:
        """Sealed blocks that can be found."""
        return len(self._blocks)

    def block(self, block_id: int) -> SealedBlock | None:
        """The sealed block of that id, while it can be found."""
        return self._blocks.get(block_id)

    # Lookup ------------------------------------------------------------------------------------

    def plan(self, tokens: Tokens, limit: int) -> HitPlan:
        """The longest hit of at most `limit` tokens. Changes nothing.

        A partial block is looked for beside the deepest full one, and with bounded groups beside
        every one: a checkpoint inside a token block lives in the one sibling that took it over.
        """
        path = self._full_path(tokens)
        best = plan_hit(self._spec, path, min(len(path) * BLOCK_TOKENS, limit))
        for depth in range(len(path), -1, -1):
            if min((depth + 1) * BLOCK_TOKENS, limit) <= best.n_tokens:
                break
            best = self._best_beside(path[:depth], tokens, limit, best)
            if not self._bounded:
                break
        return best

    def _best_beside(
        self, path: list[PrefixNode], tokens: Tokens, limit: int, best: HitPlan
    ) -> HitPlan:
        start = len(path) * BLOCK_TOKENS
        rest = tokens[start : start + BLOCK_TOKENS]
        for child in (path[-1] if path else self._root).children.values():
            end = min(start + common_prefix(child.tokens, rest), limit)
            if end > max(start, best.n_tokens):
                candidate = plan_hit(self._spec, [*path, child], end)
                best = max(best, candidate, key=lambda plan: plan.n_tokens)
        return best

    def touch(self, plan: HitPlan) -> None:
        """Make what a hit reads the most recently used."""
        blocks = [self._blocks[block_id] for block_id in plan.block_ids]
        nodes = dict.fromkeys(b.node for b in sorted(blocks, key=lambda b: -b.lo) if b.node)
        for node in nodes:
            self._nodes.move_to_end(node)
        for checkpoint in self._serving(nodes, plan.n_tokens, blocks):
            self._checkpoints.move_to_end(checkpoint)

    def _serving(
        self, nodes: Iterable[PrefixNode], end: int, blocks: Sequence[SealedBlock]
    ) -> list[Checkpoint]:
        """The checkpoints that keep these blocks: the one at `end`, or else those behind it."""
        later = [c for node in nodes for c in node.checkpoints.values() if c.end >= end]
        if self._bounded:
            later = [c for c in later if any(block in c.reads for block in blocks)]
        return [c for c in later if c.end == end] or later

    def _full_path(self, tokens: Tokens) -> list[PrefixNode]:
        path: list[PrefixNode] = []
        node: PrefixNode | None = self._root
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            node = self._child(node, tokens[start : start + BLOCK_TOKENS]) if node else None
            if node is None:
                break
            path.append(node)
        return path

    def _child(self, parent: PrefixNode, tokens: Tokens) -> PrefixNode | None:
        child = parent.children.get(self._hash(parent.key, tokens.tobytes()))
        return child if child is not None and child.tokens == tokens else None

    # Publication -------------------------------------------------------------------------------

    def holders(self, tokens: Tokens) -> list[PrefixNode]:
        """The nodes that hold `tokens` already, from the first on; the last may hold more."""
        path = self._full_path(tokens)
        rest = tokens[len(path) * BLOCK_TOKENS :]
        if 0 < len(rest) < BLOCK_TOKENS:
            parent = path[-1] if path else self._root
            longer = [c for c in parent.children.values() if c.tokens[: len(rest)] == rest]
            if longer:
                end = parent.end + len(rest)
                path.append(next((c for c in longer if end in c.checkpoints), longer[0]))
        return path

    def missing(self, tokens: Tokens, nodes: Sequence[PrefixNode]) -> list[MissingSpan]:
        """What has to be captured so that a hit at `len(tokens)` becomes legal.

        What a hit reads of the bounded groups comes first: without it the others serve nothing.
        """
        end = len(tokens)
        missing = []
        for group, number, lo, hi in self._reads(end):
            node = nodes[number] if number < len(nodes) else None
            if node is None or node.bounded_block(group, lo, hi) is None:
                missing.append(MissingSpan(group, lo, hi))
        for start in range(len(nodes) * BLOCK_TOKENS, end, BLOCK_TOKENS):
            hi = min(start + BLOCK_TOKENS, end)
            missing += [MissingSpan(group.name, start, hi) for group in self._unbounded]
        return missing

    def _reads(self, end: int) -> Iterator[tuple[str, int, int, int]]:
        """What a hit at `end` reads of bounded groups: (group, token block, first, last)."""
        for group in self._bounded:
            for first, last in group.spans_needed(end):
                for number in range(first // BLOCK_TOKENS, -(-last // BLOCK_TOKENS)):
                    start = number * BLOCK_TOKENS
                    yield group.name, number, max(start, first), min(start + BLOCK_TOKENS, last)

    def publish(
        self, tokens: Tokens, agent_id: str, kind: str, captured: Sequence[SealedBlock]
    ) -> tuple[Claim, list[SealedBlock]]:
        """Make `tokens` findable, with the blocks that `missing` asked for.

        Returns:
            The agent's claim on the end of `tokens`; and the blocks that are not needed (any more):
            another thread was faster, or a partial block was replaced by a fuller one.

        Raises:
            PrefixCollisionError: A key on the way belongs to other tokens; nothing changed.
        """
        self._refuse_collisions(tokens)
        surplus: list[SealedBlock] = []
        path = self.holders(tokens)
        for start in range(len(path) * BLOCK_TOKENS, len(tokens), BLOCK_TOKENS):
            parent = path[-1] if path else self._root
            path.append(self._add_node(parent, tokens[start : start + BLOCK_TOKENS], surplus))
        for block in captured:
            if not self._place(path[block.lo // BLOCK_TOKENS], block):
                surplus.append(block)
        claim = self._claim(path, len(tokens), agent_id, kind)
        for node in reversed(path):
            self._nodes.move_to_end(node)
        self._demote_old_ends(path)
        return claim, surplus

    def _refuse_collisions(self, tokens: Tokens) -> None:
        parent: PrefixNode | None = self._root
        for start in range(0, len(tokens), BLOCK_TOKENS):
            chunk = tokens[start : start + BLOCK_TOKENS]
            if parent is None:
                return
            child = parent.children.get(self._hash(parent.key, chunk.tobytes()))
            if child is not None and child.tokens != chunk:
                raise PrefixCollisionError(f"a key collides at position {start}")
            parent = child

    def _add_node(
        self, parent: PrefixNode, tokens: Tokens, surplus: list[SealedBlock]
    ) -> PrefixNode:
        key = self._hash(parent.key, tokens.tobytes())
        node = PrefixNode(key, tokens, parent.end, None if parent is self._root else parent)
        shorter = [c for c in parent.children.values() if c.tokens == tokens[: len(c.tokens)]]
        for child in shorter:
            self._absorb(node, child, surplus)
            del parent.children[child.key]
        parent.children[key] = node
        self._nodes[node] = None
        return node

    def _absorb(self, node: PrefixNode, shorter: PrefixNode, surplus: list[SealedBlock]) -> None:
        """Take over what a partial node has; fuller unbounded blocks replace its own."""
        for group, blocks in shorter.bounded.items():
            node.bounded.setdefault(group, []).extend(blocks)
            for block in blocks:
                block.node = node
        for checkpoint in shorter.checkpoints.values():
            checkpoint.node = node
            node.checkpoints[checkpoint.end] = checkpoint
        for block in shorter.unbounded.values():
            self._forget_block(block)
            surplus.append(block)
        del self._nodes[shorter]

    def _place(self, node: PrefixNode, block: SealedBlock) -> bool:
        """Give a block to its node, unless the node has one as good."""
        if not self._spec.group(block.group).is_bounded:
            if block.group in node.unbounded:
                return False
            node.unbounded[block.group] = block
        else:
            if node.bounded_block(block.group, block.lo, block.hi) is not None:
                return False
            node.bounded.setdefault(block.group, []).append(block)
        block.node = node
        self._blocks[block.block_id] = block
        self.blocks_by_kind[block.kind, block.group] += 1
        return True

    def _forget_block(self, block: SealedBlock) -> None:
        del self._blocks[block.block_id]
        self.blocks_by_kind[block.kind, block.group] -= 1
        block.node = None

    def _claim(self, path: Sequence[PrefixNode], end: int, agent_id: str, kind: str) -> Claim:
        node = path[-1]
        existing = node.checkpoints.get(end)
        if existing is not None:
            claim = Claim(existing, is_new_end=False, is_new_agent=agent_id not in existing.agents)
            existing.agents.add(agent_id)
            self._checkpoints.move_to_end(existing)
            return claim
        checkpoint = Checkpoint(node, end, {agent_id}, kind, self.reads_at(path, end))
        for block in checkpoint.reads:
            block.checkpoints += 1
        node.checkpoints[end] = checkpoint
        self._checkpoints[checkpoint] = None
        return Claim(checkpoint, is_new_end=True, is_new_agent=True)

    def reads_at(self, path: Sequence[PrefixNode], end: int) -> list[SealedBlock]:
        """The bounded blocks along `path` that a hit at `end` reads, as far as they are there."""
        found = (
            path[number].bounded_block(group, lo, hi)
            for group, number, lo, hi in self._reads(end)
            if number < len(path)
        )
        return [block for block in found if block is not None]

    def settle(self, checkpoint: Checkpoint, agent_id: str) -> None:
        """The turn is over: drop the agent's own shorter ends that this one serves as well.

        Where every position is legal, a longer sequence serves all that a shorter one did.
        """
        node: PrefixNode | None = checkpoint.node
        while node is not None and not self._bounded and checkpoint in self._checkpoints:
            for end, covered in list(node.checkpoints.items()):
                if end < checkpoint.end and covered.agents <= {agent_id}:
                    del self._checkpoints[node.checkpoints.pop(end)]
            node = node.parent

    def _demote_old_ends(self, path: Sequence[PrefixNode]) -> None:
        ends = [c for node in path for c in node.checkpoints.values() if c.kind != "system"]
        ends.sort(key=lambda checkpoint: checkpoint.end)
        for checkpoint in reversed(ends[:-_KEPT_TURN_ENDS]):
            self._checkpoints.move_to_end(checkpoint, last=False)

    # Eviction ----------------------------------------------------------------------------------

    def evict_one(self) -> list[SealedBlock] | None:
        """Let go of the least valuable thing.

        Returns:
            The blocks that it frees, which may be none; None when nothing may go.
        """
        return self._evict_checkpoint() if self._bounded else self._evict_oldest_leaf()

    def _evict_checkpoint(self) -> list[SealedBlock] | None:
        for checkpoint in self._checkpoints:
            # One that a running sequence holds whole frees nothing; parts of it may be shared.
            if not checkpoint.reads or not all(block.leases for block in checkpoint.reads):
                return self.drop(checkpoint)
        return None

    def _evict_oldest_leaf(self) -> list[SealedBlock] | None:
        for _ in range(len(self._nodes)):
            node = next(iter(self._nodes))
            if not node.children and not node.is_leased:
                return self._evict_leaf(node)
            # In use: not to be looked at again for each further victim.
            self._nodes.move_to_end(node)
        return None

    def drop(self, checkpoint: Checkpoint) -> list[SealedBlock]:
        """Forget a published end and all that nothing else needs; the freed blocks."""
        if checkpoint not in self._checkpoints:
            return []
        del self._checkpoints[checkpoint]
        del checkpoint.node.checkpoints[checkpoint.end]
        for block in checkpoint.reads:
            block.checkpoints -= 1
        unneeded = [block for block in checkpoint.reads if not block.checkpoints]
        return self.released(unneeded) + self._prune(checkpoint.node)

    def released(self, blocks: Iterable[SealedBlock]) -> list[SealedBlock]:
        """After leases or checkpoints ended: those blocks that nothing needs any more."""
        freed = []
        for block in blocks:
            node = block.node
            if node is None or block.leases:
                continue
            if block.group in node.bounded and not block.checkpoints:
                freed.append(self._remove_bounded_block(node, block))
            freed += self._prune(node)
        return freed

    def discard(self, block_ids: Iterable[int]) -> list[SealedBlock]:
        """Blocks are gone from the pool: forget all that needs them; what that frees besides."""
        gone = set(block_ids)
        freed: list[SealedBlock] = []
        for block_id in gone:
            block = self._blocks.get(block_id)
            if block is not None and block.node is not None:
                freed += self._discard_block(block, block.node)
        return [block for block in freed if block.block_id not in gone]

    def _discard_block(self, block: SealedBlock, node: PrefixNode) -> list[SealedBlock]:
        freed: list[SealedBlock] = []
        if self._bounded:
            for behind in _tails_first(node):
                for checkpoint in list(behind.checkpoints.values()):
                    if block.group in node.unbounded or block in checkpoint.reads:
                        freed += self.drop(checkpoint)
        else:
            for behind in _tails_first(node):
                freed += self._evict_leaf(behind)
        return freed

    def clear(self) -> list[SealedBlock]:
        """Forget everything that no lease holds; the freed blocks."""
        return [block for c in list(self._checkpoints) for block in self.drop(c)]

    def _evict_leaf(self, node: PrefixNode) -> list[SealedBlock]:
        for checkpoint in list(node.checkpoints.values()):
            self._shorten(checkpoint)
        return self._remove_node(node)

    def _shorten(self, checkpoint: Checkpoint) -> None:
        """The sequence loses its last node; what is left of it stays a sequence."""
        parent = checkpoint.node.parent
        del checkpoint.node.checkpoints[checkpoint.end]
        if parent is None or parent.end in parent.checkpoints:
            if parent is not None:
                parent.checkpoints[parent.end].agents |= checkpoint.agents
            del self._checkpoints[checkpoint]
            return
        checkpoint.node, checkpoint.end = parent, parent.end
        parent.checkpoints[parent.end] = checkpoint

    def _prune(self, node: PrefixNode | None) -> list[SealedBlock]:
        freed: list[SealedBlock] = []
        while node is not None and node in self._nodes and not node.children:
            if node.is_leased:
                break
            if node.checkpoints:
                self._shrink(node, max(node.checkpoints))
                break
            freed += self._remove_node(node)
            node = node.parent
        return freed

    def _shrink(self, node: PrefixNode, end: int) -> None:
        """Forget the tokens of a leaf behind `end`: no published sequence reaches them."""
        parent = node.parent or self._root
        tokens = node.tokens[: end - node.start]
        key = self._hash(parent.key, tokens.tobytes())
        if key in parent.children:
            return
        parent.children[key] = parent.children.pop(node.key)
        node.key, node.tokens = key, tokens
        for block in node.blocks():
            block.hi = min(block.hi, end)

    def _remove_node(self, node: PrefixNode) -> list[SealedBlock]:
        siblings = (node.parent or self._root).children
        del siblings[node.key]
        del self._nodes[node]
        freed = list(node.blocks())
        for block in freed:
            self._forget_block(block)
        return freed

    def _remove_bounded_block(self, node: PrefixNode, block: SealedBlock) -> SealedBlock:
        node.remove_bounded_block(block)
        self._forget_block(block)
        return block


def _tails_first(node: PrefixNode) -> Iterator[PrefixNode]:
    """The node and all behind it, children before their parents; paths may be long."""
    order, stack = [], [node]
    while stack:
        order.append(stack.pop())
        stack.extend(order[-1].children.values())
    return reversed(order)
