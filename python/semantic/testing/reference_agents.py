"""What is known of agents, and how their blocks stand, in plain Python: the oracle for policies.

Of an agent that has never asked only a priority is remembered. Nobody else is ever forgotten here:
a name that is said to have ended stays ended until it asks again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from semantic.domain.policy import EvictionOrder, Hint, Priority

__all__ = ["GONE", "ReferenceAgent", "ReferenceAgents", "Standing"]

GONE = 3
"""The class of what nobody is expected to ask for."""

_CLASSES: dict[Priority, int] = {"low": 2, "normal": 1, "high": 0}


class Standing(NamedTuple):
    """How the blocks of an agent compare: the higher class goes first, then who is away longer."""

    class_number: int = 1
    floor_ms: int = 0
    bonus_ms: int = 0

    def away_ms(self, idle_ms: int) -> int:
        """How long nobody will ask, as far as can be told of what was not used for so long."""
        return max(self.floor_ms, idle_ms + self.bonus_ms)


@dataclass(slots=True)
class ReferenceAgent:
    """One agent: what was said of it, and its habits."""

    hint: Hint = "active"
    priority: Priority = "normal"
    requests: int = 0
    gap_ms: int = 20_000
    left_at_ms: int | None = None

    def arrive(self, now_ms: int) -> None:
        """It asks: its usual gap moves towards the one that is just over."""
        if self.left_at_ms is not None:
            gap_ms = min(now_ms - self.left_at_ms, 30_000)
            self.gap_ms = (7 * self.gap_ms + 3 * gap_ms) // 10
        self.left_at_ms = None
        self.requests += 1
        self.hint = "active"


class ReferenceAgents:
    """All agents of a namespace.

    Args:
        order: The order of eviction.
    """

    def __init__(self, order: EvictionOrder) -> None:
        self.order = order
        self._by_name: dict[str, ReferenceAgent] = {}

    def named(self, name: str) -> ReferenceAgent:
        """The agent of that name."""
        return self._by_name.setdefault(name, ReferenceAgent())

    def known(self, name: str) -> ReferenceAgent | None:
        """The agent of that name, of whom there is something to remember."""
        agent = self.named(name)
        if agent.requests or agent.priority != "normal":
            return agent
        del self._by_name[name]
        return None

    def standing(self, users: Collection[str]) -> Standing:
        """How something stands that these agents have used."""
        agents = [self.named(name) for name in users]
        if len(agents) == 1:
            return self._alone(agents[0])
        expected = [agent for agent in agents if agent.hint != "ended"]
        if not expected:
            return Standing(GONE)
        if len(expected) == 1:
            alone = self._alone(expected[0])
            if alone.class_number != GONE:
                return alone
        return Standing(min(_CLASSES[agent.priority] for agent in expected))

    def _alone(self, agent: ReferenceAgent) -> Standing:
        class_number = GONE if agent.hint == "ended" else _CLASSES[agent.priority]
        if self.order == "lru":
            return Standing(class_number, 0, 100_000 if agent.hint == "waiting" else 0)
        if agent.requests <= 1:
            is_scan = self.order == "scan_resistant"
            return Standing(GONE) if is_scan else Standing(class_number, 120_000)
        return Standing(class_number, agent.gap_ms * (10 if agent.hint == "waiting" else 1))
