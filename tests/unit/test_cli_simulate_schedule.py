"""Users side by side: who asks when."""

from __future__ import annotations

from semantic.cli.simulate import schedule
from tests.traces import trace_of

SECOND = 1000.0


def side_by_side(trace, users, max_tokens=1 << 20):
    """The rows; times never go back."""
    turns = schedule.side_by_side(trace, users, max_tokens)
    assert [turn.at_ms for turn in turns] == sorted(turn.at_ms for turn in turns)
    return [turn.row for turn in turns]


def as_recorded(trace, max_tokens=1 << 20):
    return [(turn.row, turn.at_ms / SECOND) for turn in schedule.as_recorded(trace, max_tokens)]


def sessions(*rows):
    """A trace from (session, seconds) or (session, seconds, seconds of service)."""
    facts = {
        "session": [row[0] for row in rows],
        "t_ms": [SECOND * row[1] for row in rows],
        "service_ms": [SECOND * row[2] if len(row) > 2 else 0.0 for row in rows],
    }
    return trace_of(["A"] * len(rows), **facts)


def test_as_recorded_is_the_order_of_the_file():
    # These times start anew with each session: requests are a second apart instead.
    assert as_recorded(sessions((0, 5), (1, 0), (0, 6))) == [(0, 0), (1, 1), (2, 2)]
    assert as_recorded(sessions((0, 5), (1, 7), (0, 9))) == [(0, 5), (1, 7), (2, 9)]


def test_a_session_ends_at_its_first_prompt_that_is_too_long():
    trace = trace_of(["AB", "ABC", "A", "X"], session=[0, 0, 0, 1])
    assert [row for row, _ in as_recorded(trace, 2 * 256)] == [0, 3]
    assert side_by_side(trace, 2, 2 * 256) == [0, 3]
    assert side_by_side(trace, 2, 3 * 256) == [0, 3, 1, 2]
    assert side_by_side(trace, 1, 255) == []


def test_requests_come_at_the_times_of_their_session():
    trace = sessions((0, 100), (0, 110), (1, 50), (1, 54))
    turns = schedule.side_by_side(trace, 1, 1 << 20)
    assert [turn.at_ms / SECOND for turn in turns] == [0, 10, 10, 14]


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
