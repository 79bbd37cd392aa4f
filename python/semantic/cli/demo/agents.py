"""The agents and their conversations: who asks what, one at a time or all at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from semantic.cli.demo.client import ChatClient, Message
from semantic.cli.demo.turns import Pass, Sample, Settings, Turn

__all__ = ["agent_names", "run_pass"]

_ROLES = ("planner", "researcher", "writer", "reviewer")
_QUESTIONS = (
    "What has to be done at your desk before the ferry leaves at noon?",
    "A ship without notice asks for a berth. What do you ask her first?",
    "The mast on the pier head is silent. What do you write in the journal?",
    "Two ships need the same crane. Who waits, and who is told?",
    "There is oil on the water behind the fish hall. What happens now?",
    "What will you tell the desk that is awake tonight?",
)
_SAMPLE_SECONDS = 0.25
_QUIET_READINGS = 2
_SETTLE_SECONDS = 10.0


def agent_names(count: int) -> tuple[str, ...]:
    """Names of `count` agents: the four desks of the handbook, then numbers."""
    return tuple(_ROLES[i] if i < len(_ROLES) else f"agent-{i + 1}" for i in range(count))


class _Agent:
    """One agent's conversation; it goes on with the texts that the server returned."""

    def __init__(self, name: str, first_question: int, system_prompt: str) -> None:
        self.name = name
        self._first = first_question
        self._messages: list[Message] = [{"role": "system", "content": system_prompt}]
        self._turns = 0

    def take_turn(self, client: ChatClient, max_tokens: int) -> Turn:
        question = _QUESTIONS[(self._first + self._turns) % len(_QUESTIONS)]
        self._turns += 1
        asked = f"This is turn {self._turns} of the {self.name}. {question}"
        self._messages.append({"role": "user", "content": asked})
        answer = client.chat(self._messages, max_tokens=max_tokens)
        self._messages.append({"role": "assistant", "content": answer.text})
        return Turn(self.name, self._turns, answer)


def run_pass(
    name: str,
    client: ChatClient,
    settings: Settings,
    system_prompt: str,
    *,
    at_once: bool,
    has_stats: bool,
    on_turn: Callable[[Turn], None],
    halfway: Callable[[], None] | None = None,
) -> Pass:
    """Let every agent take all of its turns, round by round.

    Args:
        name: The name of the pass.
        client: Speaks to the server.
        settings: How many agents and turns, and how long the answers.
        system_prompt: What all agents share.
        at_once: All agents of a round at the same time, instead of one request at a time.
        has_stats: Whether the server tells the state of its memory.
        on_turn: Called after each turn, on any thread.
        halfway: Called once, when half of the rounds are over.
    """
    result = Pass(name)
    names = agent_names(settings.agents)
    agents = [_Agent(agent, first, system_prompt) for first, agent in enumerate(names)]
    start = time.perf_counter()
    lock = threading.Lock()

    def sample() -> Sample:
        return Sample(time.perf_counter() - start, client.stats())

    def turn_of(agent: _Agent) -> None:
        turn = agent.take_turn(client, settings.max_tokens)
        now = sample() if has_stats else None
        with lock:
            result.turns.append(turn)
            if now is not None:
                result.after_turn.append(now)
        on_turn(turn)

    if has_stats:
        result.at_start = sample()
    with _sampling(sample, result.over_time, wanted=has_stats):
        for number in range(settings.turns):
            if halfway is not None and number == settings.rounds_before_restart:
                halfway()
            _each(turn_of, agents, at_once=at_once)
        if has_stats:
            result.at_end = _settled(sample)
    result.after_turn.sort(key=lambda one: one.seconds)
    return result


def _settled(sample: Callable[[], Sample]) -> Sample:
    """The memory when the last turn is stored: a server stores it after its client has gone."""
    last = sample()
    quiet = 0
    deadline = time.monotonic() + _SETTLE_SECONDS
    while quiet < _QUIET_READINGS and time.monotonic() < deadline:
        time.sleep(_SAMPLE_SECONDS)
        now = sample()
        quiet = quiet + 1 if now.is_at_rest and now.stats == last.stats else 0
        last = now
    return last


def _each(turn_of: Callable[[_Agent], None], agents: Sequence[_Agent], *, at_once: bool) -> None:
    if not at_once:
        for agent in agents:
            turn_of(agent)
        return
    with ThreadPoolExecutor(len(agents)) as threads:
        # list() hands on the first error.
        list(threads.map(turn_of, agents))


@contextmanager
def _sampling(sample: Callable[[], Sample], into: list[Sample], *, wanted: bool) -> Iterator[None]:
    """Watch the memory while requests run, for the picture only: a failed reading is left out."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            try:
                into.append(sample())
            except Exception:
                return  # the requests themselves report what is wrong

    watcher = threading.Thread(target=watch, daemon=True)
    if wanted:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if wanted:
            watcher.join()
