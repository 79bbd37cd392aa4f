"""Users side by side: who asks when."""

from __future__ import annotations

from semantic.cli.simulate.schedule import as_recorded, side_by_side
from tests.traces import trace_of

SECOND = 1000.0


def sessions(*rows):
    """A trace from (session, seconds) or (session, seconds, seconds of service)."""
    facts = {
        "session": [row[0] for row in rows],
        "t_ms": [SECOND * row[1] for row in rows],
        "service_ms": [SECOND * row[2] if len(row) > 2 else 0.0 for row in rows],
    }
    return trace_of(["A"] * len(rows), **facts)


def test_as_recorded_is_the_order_of_the_file():
    assert as_recorded(sessions((0, 5), (1, 0), (0, 6))) == [0, 1, 2]


def test_one_user_takes_one_session_after_the_other():
    # The file's rows of two sessions alternate; times are counted from each one's first request.
    assert side_by_side(sessions((7, 100), (3, 0), (7, 101), (3, 9)), 1) == [0, 2, 1, 3]


def test_two_users_meet_in_time():
    trace = sessions((0, 0), (0, 10), (1, 50), (1, 54), (1, 62))
    #                 0       10       0        4        12
    assert side_by_side(trace, 2) == [0, 2, 3, 1, 4]


def test_the_next_session_is_taken_when_the_last_one_was_served():
    # User 0 is free at 2, or at 8 with its service time; user 1's second request comes at 5.
    quick = sessions((0, 0), (0, 2), (1, 0), (1, 5), (2, 0))
    slow = sessions((0, 0), (0, 2, 6), (1, 0), (1, 5), (2, 0))
    assert side_by_side(quick, 2) == [0, 2, 1, 4, 3]
    assert side_by_side(slow, 2) == [0, 2, 1, 3, 4]


def test_more_users_than_sessions_and_equal_times():
    trace = sessions((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1))
    assert side_by_side(trace, 50) == [0, 1, 2, 3, 4, 5]


def test_a_clock_that_was_set_back_keeps_the_order_of_a_session():
    trace = sessions((0, 5), (0, 3), (0, 6), (1, 0), (1, 0.5))
    assert side_by_side(trace, 2) == [0, 1, 3, 4, 2]
