"""Rules about agents that the library does not have, and what a rule could do that knew more.

    python project/experiments/exp_010/rules.py TRACES

A small simulator of the Claude Code trace, 16 users on 43 GiB, with hints: blocks of 64 tokens,
tails before heads, what a running request needs stays. `lru` and `resident` are the library's, for
comparison with `hit_rates.csv`. Writes `rules.csv`.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from semantic.cli.simulate.replay import _hints
from semantic.cli.simulate.schedule import side_by_side
from semantic.cli.simulate.segments import Segments, cut
from semantic.cli.simulate.trace import load_trace
from semantic.cli.simulate.workload import Workload

HERE = Path(__file__).parent
UNIT = 64
CAPACITY = 43 * 8192 // UNIT
GONE = 3
NEVER = math.inf


@dataclass(slots=True)
class Agent:
    hint: str = "active"
    requests: int = 0
    gap_ms: float = 20_000
    left_ms: float = 0
    next_ms: float = NEVER
    told_ms: float = NEVER
    context: int = 0
    is_resident: bool = False
    resident_ms: float = 0

    @property
    def usual_ms(self) -> float:
        if self.requests <= 1:
            return 120_000
        return self.gap_ms * (10 if self.hint == "waiting" else 1)


Worth = tuple[int, float]
Rule = Callable[[Agent, float, float], Worth]
"""(agent, ms since the use, now) -> class and how long until it is back: the largest goes."""


def lru(agent: Agent, idle: float, now: float) -> Worth:
    return 1, idle + (100_000 if agent.hint == "waiting" else 0)


def resident(agent: Agent, idle: float, now: float) -> Worth:
    return 1, max(agent.usual_ms, idle)


def oracle(agent: Agent, idle: float, now: float) -> Worth:
    return (1, agent.next_ms - now) if agent.next_ms < NEVER else (GONE, idle)


def noisy_oracle(agent: Agent, idle: float, now: float) -> Worth:
    """Knows the length of an absence up to a factor; afterwards it is as long again as it was."""
    if agent.next_ms == NEVER:
        return GONE, idle
    left = agent.told_ms - now
    return 1, left if left > 0 else max(1000, now - agent.left_ms)


def by_size(power: float) -> Rule:
    return lambda agent, idle, now: (1, max(agent.usual_ms, idle) * agent.context**power)


def chosen(agent: Agent, idle: float, now: float) -> Worth:
    return (1 if agent.is_resident else 2), max(agent.usual_ms, idle)


def choose_fitting(stickiness: float) -> Callable[[Sequence[Agent], float], None]:
    """Residents are those soonest back whose contexts fit; one that is in counts as sooner."""

    def prepare(agents: Sequence[Agent], now: float) -> None:
        def away(agent: Agent) -> float:
            usual = max(agent.usual_ms, now - agent.left_ms)
            return usual / stickiness if agent.is_resident else usual

        room = CAPACITY
        for agent in sorted(agents, key=away):
            agent.is_resident = agent.context <= room
            room -= agent.context if agent.is_resident else 0

    return prepare


def rotate(epoch_ms: float) -> Callable[[Sequence[Agent], float], None]:
    """Each epoch others are resident: those that were so longest ago, unless they seem lost."""
    ends = 0.0

    def prepare(agents: Sequence[Agent], now: float) -> None:
        nonlocal ends
        here = [a for a in agents if max(a.usual_ms, now - a.left_ms) < 60_000]
        if now >= ends:
            ends = now + epoch_ms
            for agent in agents:
                agent.resident_ms = now if agent.is_resident else agent.resident_ms
                agent.is_resident = False
        room = CAPACITY - sum(agent.context for agent in here if agent.is_resident)
        for agent in sorted(here, key=lambda agent: agent.resident_ms):
            if not agent.is_resident and agent.context <= room:
                agent.is_resident = True
                room -= agent.context

    return prepare


@dataclass(frozen=True, slots=True)
class Study:
    rule: Rule
    declines: bool = True
    prepare: Callable[[Sequence[Agent], float], None] | None = None
    whole: bool = False  # an agent that has begun to go goes whole
    left_first: bool = False  # what its agent's last prompt has left goes first
    noise: float = 0.0  # standard deviation of the logarithm of what is told


STUDIES: dict[str, Study] = {
    "lru": Study(lru, declines=False),
    "resident": Study(resident),
    "resident, does not decline": Study(resident, declines=False),
    "resident, left branches first": Study(resident, left_first=True),
    "resident, begun agents whole": Study(resident, whole=True),
    "resident, by the root of the size": Study(by_size(0.5)),
    "resident, by the size": Study(by_size(1.0)),
    **{
        f"a set that fits, stickiness {factor}": Study(chosen, prepare=choose_fitting(factor))
        for factor in (1, 1.5, 2, 4)
    },
    **{
        f"rotation every {seconds} s": Study(chosen, prepare=rotate(1000.0 * seconds))
        for seconds in (60, 300, 1200)
    },
    "knows when each agent is back": Study(oracle),
    **{
        f"knows it up to a factor of e^{noise}": Study(noisy_oracle, noise=noise)
        for noise in (0.4, 0.8, 1.0, 1.2)
    },
}


class Cache:
    """Of each segment the first blocks may be here; only what leads nowhere goes."""

    def __init__(self, workload: Workload, segments: Segments, study: Study) -> None:
        self._study = study
        self._lengths = segments.lengths
        n = len(segments.lengths)
        self._present, self._children, self._used = [0] * n, [0] * n, [0.0] * n
        self._number, self._last_row = [0] * n, [-1] * n
        self._users: list[list[Agent]] = [[] for _ in range(n)]
        self._parent = [-1] * n
        for path in segments.paths:
            for parent, child in pairwise(path):
                self._parent[child] = parent
        self._here: set[int] = set()
        self._last_of: dict[int, int] = {}
        self._free, self._uses = CAPACITY, 0
        self._going: Agent | None = None

    def hit(self, path: Sequence[int]) -> int:
        hit = 0
        for segment in path:
            hit += self._present[segment]
            if self._present[segment] < self._lengths[segment]:
                break
        return hit

    def use(self, path: Sequence[int], agent: Agent, row: int, now: float) -> None:
        here = [segment for segment in path if self._present[segment]]
        for segment in reversed(here):
            self._uses += 1
            self._number[segment], self._used[segment] = self._uses, now
            if all(user is not agent for user in self._users[segment]):
                self._users[segment].append(agent)
        for segment in path:
            self._last_row[segment] = row
        self._last_of[id(agent)] = row

    def keep(self, path: Sequence[int], agent: Agent, now: float) -> None:
        missing = sum(self._lengths[s] - self._present[s] for s in path)
        held = set(path)
        own = (GONE, 0.0) if agent.hint == "ended" else self._study.rule(agent, 0.0, now)
        while self._free < missing:
            may_go = [s for s in self._here if not self._children[s] and s not in held]
            if not may_go:
                break
            worth, _, victim = max((self._worth(s, now), -self._number[s], s) for s in may_go)
            if self._study.declines and worth < own:
                break
            self._drop(victim, missing - self._free)
        for segment in path:
            more = min(self._lengths[segment] - self._present[segment], self._free)
            if more and not self._present[segment]:
                self._here.add(segment)
                if self._parent[segment] >= 0:
                    self._children[self._parent[segment]] += 1
            self._present[segment] += more
            self._free -= more
            if self._present[segment] < self._lengths[segment]:
                break

    def _drop(self, victim: int, wanted: int) -> None:
        gone = min(wanted, self._present[victim])
        self._present[victim] -= gone
        self._free += gone
        users = self._users[victim]
        self._going = users[0] if len(users) == 1 else None
        if not self._present[victim]:
            self._here.remove(victim)
            if self._parent[victim] >= 0:
                self._children[self._parent[victim]] -= 1

    def _worth(self, segment: int, now: float) -> Worth:
        users, idle = self._users[segment], now - self._used[segment]
        expected = [user for user in users if user.hint != "ended"]
        if not expected:
            return GONE, idle
        if self._study.left_first and all(
            self._last_row[segment] < self._last_of[id(user)] for user in users
        ):
            return 2, idle
        if len(expected) > 1 and self._study.rule in (lru, resident):
            return 1, idle
        if self._study.whole and len(users) == 1 and users[0] is self._going:
            return 2, idle
        return min(self._study.rule(user, idle, now) for user in expected)


def simulate(workload: Workload, segments: Segments, study: Study) -> float:
    cache, draw = Cache(workload, segments, study), random.Random(1)
    hints, agents = _hints(workload), dict[str, Agent]()
    requests = [workload.request(turn.row) for turn in workload.turns]
    following, back = dict[str, float](), [NEVER] * len(requests)
    for place in range(len(requests) - 1, -1, -1):
        back[place] = following.get(requests[place].agent_id, NEVER)
        following[requests[place].agent_id] = workload.turns[place].at_ms
    cached = 0
    for place, (turn, path) in enumerate(zip(workload.turns, segments.paths, strict=True)):
        name, now = requests[place].agent_id, turn.at_ms
        agent = agents.setdefault(name, Agent())
        if agent.requests:
            agent.gap_ms = 0.7 * agent.gap_ms + 0.3 * min(now - agent.left_ms, 30_000)
        agent.requests, agent.hint, agent.left_ms = agent.requests + 1, "active", now
        agent.context = sum(segments.lengths[segment] for segment in path)
        agent.next_ms = back[place]
        agent.told_ms = now + max(500, agent.next_ms - now) * math.exp(draw.gauss(0, study.noise))
        cached += min(cache.hit(path) * UNIT, segments.limits[place])
        cache.use(path, agent, place, now)
        for other, hint in hints.get(turn.row, {}).items():
            agents.setdefault(other, Agent()).hint = hint
        if study.prepare is not None:
            here = [a for a in agents.values() if a.hint != "ended" and a.requests]
            study.prepare(here, now)
        cache.keep(path, agent, now)
        cache.use(path, agent, place, now)
    return cached / workload.prompt_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    options = parser.parse_args()
    trace = load_trace(options.traces / "claude_code.csv.gz")
    workload = Workload(trace, side_by_side(trace, 16, 128 << 10))
    segments = cut(workload, UNIT)
    with (HERE / "rules.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("rule", "token_hit_rate"))
        for name, study in STUDIES.items():
            rate = round(simulate(workload, segments, study), 4)
            print(f"{name:<40} {rate}", flush=True)
            writer.writerow((name, rate))
            file.flush()


if __name__ == "__main__":
    main()
