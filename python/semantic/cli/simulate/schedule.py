"""Which requests of a trace are replayed, in which order, and when."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from semantic.cli.simulate.trace import Trace

__all__ = ["Turn", "as_recorded", "side_by_side"]

_STEP_MS = 1000.0
"""Between two requests of a trace without times of its own."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a replay.

    Args:
        row: Its row in the trace.
        at_ms: When it arrives, counted from the start of the replay.
    """

    row: int
    at_ms: float


def as_recorded(trace: Trace, max_tokens: int) -> list[Turn]:
    """The requests in the order of the file, at their times where these never go back.

    Args:
        trace: The recorded requests.
        max_tokens: The longest prompt; see `side_by_side`.
    """
    kept = {row for rows in _sessions(trace, max_tokens).values() for row in rows}
    rows = sorted(kept)
    times = [trace.requests[row].t_ms for row in rows]
    if times != sorted(times) or len(set(times)) < len(times) // 2:
        times = [_STEP_MS * number for number in range(len(rows))]
    return [Turn(row, at_ms) for row, at_ms in zip(rows, times, strict=True)]


def side_by_side(trace: Trace, users: int, max_tokens: int) -> list[Turn]:
    """The requests in the order of time when so many users work at once.

    Each takes the next session, in the order of the file, when its last one has ended: when its
    last request has arrived, and was served where the trace knows how long that took. Inside a
    session times are kept, counted from its first request. Equal times: the lower user first.

    A session ends at its first prompt beyond `max_tokens`: no context holds it, and what an agent
    would have done instead is in no trace.

    Args:
        trace: The recorded requests.
        users: How many work at once, at least 1.
        max_tokens: The longest prompt.
    """
    waiting = iter(_sessions(trace, max_tokens).values())
    # (time, user, position in the session, its rows, when the session started)
    turns = [(0.0, user, 0, rows, 0.0) for user, rows in zip(range(users), waiting, strict=False)]
    order = []
    while turns:
        now, user, at, rows, start = turns[0]
        order.append(Turn(rows[at], now))
        if at + 1 < len(rows):
            # A clock that was set back while it was recorded does not turn requests around.
            elapsed = trace.requests[rows[at + 1]].t_ms - trace.requests[rows[0]].t_ms
            then = max(now, start + elapsed)
            heapq.heapreplace(turns, (then, user, at + 1, rows, start))
        elif (following := next(waiting, None)) is not None:
            now += trace.requests[rows[at]].service_ms
            heapq.heapreplace(turns, (now, user, 0, following, now))
        else:
            heapq.heappop(turns)
    return order


def _sessions(trace: Trace, max_tokens: int) -> dict[int, Sequence[int]]:
    """The rows of each session, up to its first prompt that is too long."""
    sessions: dict[int, list[int]] = {}
    ended = set()
    for row, request in enumerate(trace.requests):
        if request.prompt_tokens > max_tokens:
            ended.add(request.session)
        if request.session not in ended:
            sessions.setdefault(request.session, []).append(row)
    return dict(sessions)
