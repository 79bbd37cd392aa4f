"""Which prefixes are cached, in plain Python: the oracle for the native index under "lru".

What it protects:

* A node is found by comparing its tokens, under its exact prefix.
* Order of eviction: with bounded groups, the least recently used end, and the nodes that lead
  nowhere without it; ends whose conversation has gone on go before all others. Otherwise the least
  recently used leaf. A path is touched from its tail to its head, so tails go before heads.
* What a running sequence holds is never a victim.

It knows no bytes, no pool and no MLX. It answers with the blocks that left it. Of agents it knows
names, not hints, priorities, pins or habits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.reports import HitPlan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_hit import plan_hit
from semantic.testing.reference_keys import Tokens
from semantic.testing.reference_node import (
    PrefixNode,
    SealedBlock,
    SequenceEnd,
    common_prefix,
)
from semantic.testing.reference_tree import PrefixTree

__all__ = ["ReferenceIndex"]

_KEPT_TURN_ENDS = 2
"""Recent ends of one conversation that keep their place in the order: the next turn continues from
the last one, or from the one before when the answer was tokenised differently."""


class ReferenceIndex:
    """The cached prefixes of one namespace.

    Args:
        spec: The geometry.
    """

    def __init__(self, spec: ModelCacheSpec) -> None:
        self._spec = spec
        self.tree = PrefixTree(spec)
        # Lists in the order of eviction. Nodes matter where every group is unbounded.
        self._nodes: list[PrefixNode] = []
        self._superseded: list[SequenceEnd] = []
        self._ends: list[SequenceEnd] = []

    @property
    def ends(self) -> list[SequenceEnd]:
        """Every published end, the next to go first."""
        return [*self._superseded, *self._ends]

    # Lookup ------------------------------------------------------------------------------------

    def plan(self, tokens: Tokens, limit: int) -> HitPlan:
        """The longest hit of at most `limit` tokens. Changes nothing.

        A partial block is looked for beside the deepest full one, and with bounded groups beside
        every one: an end inside a token block lives in the one sibling that took it over.
        """
        path = self.tree.full_path(tokens)
        best = plan_hit(self._spec, path, min(len(path) * BLOCK_TOKENS, limit))
        for depth in range(len(path), -1, -1):
            for child, end in self._beside(path[:depth], tokens, limit):
                if end > max(depth * BLOCK_TOKENS, best.n_tokens):
                    candidate = plan_hit(self._spec, [*path[:depth], child], end)
                    best = max(best, candidate, key=lambda plan: plan.n_tokens)
        return best

    def matched(self, tokens: Tokens, limit: int) -> int:
        """Tokens that are cached in some way, restorable or not."""
        path = self.tree.full_path(tokens)
        ends = [end for _, end in self._beside(path, tokens, limit)]
        return max([min(len(path) * BLOCK_TOKENS, limit), *ends])

    def _beside(
        self, path: Sequence[PrefixNode], tokens: Tokens, limit: int
    ) -> list[tuple[PrefixNode, int]]:
        """The children of the last node, and how far each goes along with `tokens`."""
        start = len(path) * BLOCK_TOKENS
        rest = tokens[start : start + BLOCK_TOKENS]
        children = (path[-1] if path else self.tree.root).children
        return [(c, min(start + common_prefix(c.tokens, rest), limit)) for c in children]

    # Use ---------------------------------------------------------------------------------------

    def used(self, blocks: Sequence[SealedBlock], n_tokens: int) -> None:
        """What a hit of so many tokens reads goes last from now on."""
        nodes = {block.node: None for block in blocks if block.node is not None}
        path = max((node.path for node in nodes), key=len, default=[])
        for node in reversed(path):
            self._touch_node(node)
        for end in self._serving(path, n_tokens, blocks):
            self._touch_end(end)

    def _serving(
        self, path: Sequence[PrefixNode], n_tokens: int, blocks: Sequence[SealedBlock]
    ) -> list[SequenceEnd]:
        """The ends that keep these blocks: the one at the hit's length, or else those behind it."""
        behind = [end for node in path for end in node.ends if end.at >= n_tokens]
        exact = [end for end in behind if end.at == n_tokens]
        if self.tree.bounded:
            behind = [end for end in behind if any(block in end.reads for block in blocks)]
        return exact or behind

    def _touch_node(self, node: PrefixNode) -> None:
        if not self.tree.bounded:
            if node in self._nodes:
                self._nodes.remove(node)
            self._nodes.append(node)

    def _touch_end(self, end: SequenceEnd) -> None:
        self._forget_end(end)
        self._ends.append(end)

    def _forget_end(self, end: SequenceEnd) -> None:
        for order in (self._superseded, self._ends):
            if end in order:
                order.remove(end)

    # Publication -------------------------------------------------------------------------------

    def publish(
        self,
        tokens: Tokens,
        nodes: Sequence[PrefixNode],
        captured: Sequence[SealedBlock],
        agent_id: str,
        kind: str,
    ) -> tuple[SequenceEnd, bool, bool, list[SealedBlock]]:
        """Make `tokens` findable, with the blocks that were missing beside what `nodes` hold.

        Returns:
            The end; whether it is new; whether it is for this agent; and the blocks that are not
            needed: partial ones that fuller ones have replaced, and captured ones as good as those.
        """
        path = self.tree.holders(tokens, nodes)
        surplus = self.tree.grow(path, tokens)
        surplus += [block for block in captured if not self.tree.place(block, path)]
        is_new = path[-1].end_at(len(tokens)) is None
        end = self.tree.end(path, len(tokens), kind)
        is_new_agent = agent_id not in end.agents
        end.agents.add(agent_id)
        self._touch_end(end)
        for node in reversed(path):
            self._touch_node(node)
        self._supersede_old_ends(path)
        return end, is_new, is_new_agent, surplus

    def _supersede_old_ends(self, path: Sequence[PrefixNode]) -> None:
        ends = [end for node in path for end in node.ends if end.kind != "system"]
        ends.sort(key=lambda end: end.at)
        for end in ends[:-_KEPT_TURN_ENDS]:
            self._forget_end(end)
            self._superseded.append(end)

    def settle(self, end: SequenceEnd, agent_id: str) -> list[SealedBlock]:
        """The turn is over: drop the agent's own shorter ends that this one serves as well.

        Where every position is legal, a longer sequence serves all that a shorter one did.
        """
        freed: list[SealedBlock] = []
        if not self.tree.bounded and end in self.ends:
            for node in end.node.path:
                for covered in list(node.ends):
                    if covered.at < end.at and covered.agents <= {agent_id}:
                        freed += self.drop(covered)
        return freed

    # Eviction ----------------------------------------------------------------------------------

    def evict_one(self) -> list[SealedBlock] | None:
        """Let go of the least wanted thing.

        Returns:
            The blocks that it frees, which may be none; None when nothing may go.
        """
        return self._evict_end() if self.tree.bounded else self._evict_leaf()

    def _evict_end(self) -> list[SealedBlock] | None:
        held = []
        victim = None
        for end in self.ends:
            needed = [*end.node.unbounded.values(), *end.reads]
            # One that a running sequence holds whole frees nothing; parts of it may be shared.
            if not needed or not all(block.leases for block in needed):
                victim = end
                break
            held.append(end)
        for end in held:
            self._touch_end(end)
        return None if victim is None else self.drop(victim)

    def _evict_leaf(self) -> list[SealedBlock] | None:
        while True:
            self._nodes = [node for node in self._nodes if node.parent is not None]
            if not self._nodes:
                return None
            node = self._nodes[0]
            if node.is_leased:
                self._nodes.remove(node)  # it comes back when it is released
            elif node.children:
                self._touch_node(node)
            else:
                ends = list(node.ends)
                freed = self.tree.drop_leaf(node)
                for end in ends:
                    if not end.agents:
                        self._forget_end(end)
                return freed

    def drop(self, end: SequenceEnd) -> list[SealedBlock]:
        """Forget a published end and all that nothing else needs; the freed blocks."""
        self._forget_end(end)
        return self.tree.drop(end)

    def released(self, blocks: Iterable[SealedBlock]) -> list[SealedBlock]:
        """After leases have gone, tails first: those blocks that nothing needs any more."""
        at_rest = [b for b in blocks if b.node is not None and not b.leases]
        if any(block.node not in self._nodes for block in at_rest):
            for block in at_rest:
                if block.node is not None:
                    self._touch_node(block.node)
        return self.tree.released(at_rest)
