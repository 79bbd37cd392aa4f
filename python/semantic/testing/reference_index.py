"""Which prefixes are cached, in plain Python: the oracle for the native index.

What it protects:

* A node is found by comparing its tokens, under its exact prefix.
* What goes next is the least wanted leaf or, with bounded groups, the least wanted end, with the
  nodes that lead nowhere without it. Wanted is what stands well with those who have used it, then
  what was used last. Ends whose conversation has gone on go before all others.
* A path is touched from its tail to its head, so tails go before heads.
* What a running sequence holds is never a victim, and keeps its place meanwhile.

It knows no bytes, no pool, no pins and no MLX. It answers with the blocks that left it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.policy import EvictionOrder
from semantic.domain.reports import HitPlan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_agents import GONE, ReferenceAgents, Standing
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
        order: The order of eviction.
    """

    def __init__(self, spec: ModelCacheSpec, order: EvictionOrder = "lru") -> None:
        self._spec = spec
        self.tree = PrefixTree(spec)
        self.agents = ReferenceAgents(order)
        self.now_ms = 0
        self._uses = 0

    @property
    def ends(self) -> list[SequenceEnd]:
        """Every published end, the least recently used first."""
        ends = [end for node in self.tree.nodes() for end in node.ends]
        return sorted(ends, key=lambda end: end.use_number)

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
        """The children of the last node, and how far each goes along with `tokens`.

        Of several that go equally far the first is taken: the nearest before `tokens` in the order
        of tokens where every position is legal, else the nearest behind.
        """
        start = len(path) * BLOCK_TOKENS
        rest = tokens[start : start + BLOCK_TOKENS]
        children = sorted((path[-1] if path else self.tree.root).children, key=lambda c: c.tokens)
        before = [child for child in reversed(children) if child.tokens < rest]
        behind = [child for child in children if child.tokens >= rest]
        nearest = behind + before if self.tree.bounded else before + behind
        return [(c, min(start + common_prefix(c.tokens, rest), limit)) for c in nearest]

    # Use ---------------------------------------------------------------------------------------

    def used(self, blocks: Sequence[SealedBlock], n_tokens: int, agent_id: str) -> None:
        """An agent asks: what a hit of so many tokens reads goes last from now on."""
        self.agents.named(agent_id).arrive(self.now_ms)
        nodes = {block.node: None for block in blocks if block.node is not None}
        path = max((node.path for node in nodes), key=len, default=[])
        for node in reversed(path):
            node.users.add(agent_id)
            self._touch(node)
        for end in self._serving(path, n_tokens, blocks):
            end.is_superseded = False
            self._touch(end)

    def _serving(
        self, path: Sequence[PrefixNode], n_tokens: int, blocks: Sequence[SealedBlock]
    ) -> list[SequenceEnd]:
        """The ends that keep these blocks: the one at the hit's length, or else those behind it."""
        behind = [end for node in path for end in node.ends if end.at >= n_tokens]
        exact = [end for end in behind if end.at == n_tokens]
        if self.tree.bounded:
            behind = [end for end in behind if any(block in end.reads for block in blocks)]
        return exact or behind

    def _touch(self, used: PrefixNode | SequenceEnd) -> None:
        self._uses += 1
        used.use_number, used.used_at_ms = self._uses, self.now_ms

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
        for node in path:
            node.users.add(agent_id)
        surplus += [block for block in captured if not self.tree.place(block, path)]
        is_new = path[-1].end_at(len(tokens)) is None
        end = self.tree.end(path, len(tokens), kind)
        is_new_agent = agent_id not in end.agents
        end.agents.add(agent_id)
        end.is_superseded = False
        self._touch(end)
        for node in reversed(path):
            self._touch(node)
        self._supersede_old_ends(path)
        return end, is_new, is_new_agent, surplus

    def _supersede_old_ends(self, path: Sequence[PrefixNode]) -> None:
        ends = [end for node in path for end in node.ends if end.kind != "system"]
        ends.sort(key=lambda end: end.at)
        for end in ends[:-_KEPT_TURN_ENDS]:
            end.is_superseded = True
            self._touch(end)

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
        may_go = self._may_go()
        return self._drop_either(max(may_go, key=self._dispensable)) if may_go else None

    def least_worth(self) -> tuple[int, int] | None:
        """How little the next to go is worth: its class, and how long nobody will ask for it."""
        return max((self._dispensable(unit)[:2] for unit in self._may_go()), default=None)

    def worth_to(self, agent_id: str) -> tuple[int, int]:
        """How little something new is worth to an agent."""
        standing = self.agents.standing([agent_id])
        return standing.class_number, standing.away_ms(0)

    def expire(self, before_ms: int) -> list[SealedBlock]:
        """What was last used before that time goes, and what could be reached through it alone."""
        freed: list[SealedBlock] = []
        while due := [unit for unit in self._may_go() if unit.used_at_ms < before_ms]:
            freed += self._drop_either(due[0])
        return freed

    def _may_go(self) -> list[PrefixNode] | list[SequenceEnd]:
        if not self.tree.bounded:
            return [n for n in self.tree.nodes() if not n.children and not n.is_leased]
        return [end for end in self.ends if not _is_held(end)]

    def _dispensable(self, unit: PrefixNode | SequenceEnd) -> tuple[int, int, int]:
        if isinstance(unit, PrefixNode):
            standing = self.agents.standing(unit.users)
        elif unit.is_superseded:
            standing = Standing(GONE)
        else:
            standing = self.agents.standing(unit.node.users)
        away_ms = standing.away_ms(self.now_ms - unit.used_at_ms)
        return standing.class_number, away_ms, -unit.use_number

    def _drop_either(self, unit: PrefixNode | SequenceEnd) -> list[SealedBlock]:
        return self.tree.drop_leaf(unit) if isinstance(unit, PrefixNode) else self.drop(unit)

    def drop(self, end: SequenceEnd) -> list[SealedBlock]:
        """Forget a published end and all that nothing else needs; the freed blocks."""
        return self.tree.drop(end)

    def released(self, blocks: Iterable[SealedBlock]) -> list[SealedBlock]:
        """After leases have gone, tails first: those blocks that nothing needs any more."""
        return self.tree.released([b for b in blocks if b.node is not None and not b.leases])


def _is_held(end: SequenceEnd) -> bool:
    """Whether a running sequence holds it whole, so that it frees nothing; parts may be shared."""
    needed = [*end.node.unbounded.values(), *end.reads]
    return bool(needed) and all(block.leases for block in needed)
