"""In which order the requests of a trace are replayed."""

from __future__ import annotations

import heapq

from semantic.cli.simulate.trace import Trace

__all__ = ["as_recorded", "side_by_side"]


def as_recorded(trace: Trace) -> list[int]:
    """The rows in the order of the file."""
    return list(range(len(trace.requests)))


def side_by_side(trace: Trace, users: int) -> list[int]:
    """The rows in the order of time when so many users work at once.

    Each takes the next session, in the order of the file, when its last one has ended: when its
    last request has arrived, and was served where the trace knows how long that took. Inside a
    session times are kept, counted from its first request. Equal times: the lower user first.

    Args:
        trace: The recorded requests.
        users: How many work at once, at least 1.
    """
    sessions: dict[int, list[int]] = {}
    for row, request in enumerate(trace.requests):
        sessions.setdefault(request.session, []).append(row)
    waiting = iter(sessions.values())
    # (time, user, position in the session, its rows, when the session started)
    turns = [(0.0, user, 0, rows, 0.0) for user, rows in zip(range(users), waiting, strict=False)]
    order = []
    while turns:
        now, user, at, rows, start = turns[0]
        order.append(rows[at])
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
