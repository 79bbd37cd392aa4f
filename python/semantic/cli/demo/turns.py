"""What a demo measures: answers, turns, states of the memory, passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "DemoError", "Pass", "Sample", "Settings", "Turn"]


class DemoError(Exception):
    """The demo cannot go on; the message says why and where to look."""


@dataclass(frozen=True)
class Settings:
    """How large a demo is."""

    agents: int
    turns: int
    system_tokens: int
    max_tokens: int
    kv_memory_bytes: int

    @property
    def rounds_before_restart(self) -> int:
        """After so many rounds the server that keeps a store is killed; 0: it is not."""
        return self.turns // 2


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Turn:
    """One agent's turn: the agent, the turn's number from 1, and the answer."""

    agent: str
    number: int
    answer: Answer


@dataclass(frozen=True)
class Sample:
    """What `/v1/semantic/stats` said, so many seconds after the pass began."""

    seconds: float
    stats: Mapping[str, Any]

    def class_bytes(self, name: str) -> int:
        """Bytes of one class of memory: held, live, staging, cached, free, total."""
        return int(self.stats["bytes"][name])

    def count(self, name: str) -> int:
        """A plain counter, such as requests, prompt_tokens or unshared_bytes."""
        return int(self.stats[name])

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is running, being stored or being restored."""
        return not any(self.class_bytes(name) for name in ("held", "live", "staging"))


@dataclass
class Pass:
    """All turns of one run against one server, in the order in which they ended."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    after_turn: list[Sample] = field(default_factory=list)
    over_time: list[Sample] = field(default_factory=list)
    at_start: Sample | None = None
    at_end: Sample | None = None

    def answers(self) -> dict[tuple[str, int], Answer]:
        """The answers by agent and turn."""
        return {(turn.agent, turn.number): turn.answer for turn in self.turns}

    def counted(self, name: str) -> int:
        """By how much a counter grew during the pass; the warm-up is not part of it."""
        if self.at_start is None or self.at_end is None:
            return 0
        return self.at_end.count(name) - self.at_start.count(name)
