"""The numbers that a catalogue keeps. Every function is a part of a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from semantic.adapters.store.daily import DAY_SECONDS, Daily
from semantic.adapters.store.database import whole
from semantic.adapters.store.expiry import Seen

__all__ = ["believed", "carry_over", "count", "keep", "next_use", "written"]


def count(run: sqlite3.Cursor, name: str, default: int | None = None) -> int:
    """A number that the catalogue keeps.

    Raises:
        CatalogueDamagedError: It is not there, and there is no default.
    """
    row = run.execute("SELECT value FROM counts WHERE name = ?", (name,)).fetchone()
    return whole(row[0] if row is not None else default)


def keep(run: sqlite3.Cursor, name: str, value: int) -> None:
    """Keep a number."""
    run.execute(
        "INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (name, value),
    )


def written(run: sqlite3.Cursor, now: int, at_least: int = 0) -> int:
    """Bytes that were written today, or so many; see `Daily` for when a day begins."""
    known = Daily(count(run, "day"), count(run, "last_day", 0), count(run, "written"))
    told = known.told(now)
    n_bytes = max(told.written_bytes, at_least)
    if replace(told, written_bytes=n_bytes) != known:
        keep(run, "day", told.day)
        keep(run, "last_day", told.last)
        keep(run, "written", n_bytes)
    return n_bytes


def carry_over(run: sqlite3.Cursor, numbers: Mapping[str, int], now: int) -> None:
    """Keep what another catalogue of this store has kept and block files cannot tell.

    Args:
        run: The transaction.
        numbers: As far as they are known: the limit of the last server, and what was written on
            which day.
        now: Seconds since 1970. What lies here of today was written today: what a catalogue did not
            know before is as old as its file.
    """
    is_near = abs(numbers.get("day", 0) - now // DAY_SECONDS) <= 1
    for name in ("max_bytes", "day", "written") if is_near else ("max_bytes",):
        if numbers.get(name, 0) > 0:
            keep(run, name, numbers[name])
    of_today = "SELECT coalesce(sum(bytes), 0) FROM blocks WHERE state = 'here' AND used_at >= ?"
    (n_bytes,) = run.execute(of_today, (now - now % DAY_SECONDS,)).fetchone()
    written(run, now, at_least=whole(n_bytes))


def believed(run: sqlite3.Cursor, now: int, *, is_kept: bool = True) -> int:
    """What the time is, as far as a clock that has jumped can be believed; see `Seen`.

    Args:
        run: The transaction.
        now: What the clock says.
        is_kept: Whether it is remembered that the store was in use then.
    """
    seen = Seen(count(run, "seen", 0), count(run, "doubted", 0))
    is_known = seen.at > 0
    if not is_known:
        (last,) = run.execute("SELECT max(used_at) FROM blocks WHERE state = 'here'").fetchone()
        seen = Seen(whole(last or 0) or now, 0)
    time, then = seen.told(now)
    if is_kept and (then != seen or not is_known):
        keep(run, "seen", then.at)
        keep(run, "doubted", then.doubted)
    return time


def next_use(run: sqlite3.Cursor) -> int:
    """The number of a use: later ones have larger ones."""
    run.execute("UPDATE counts SET value = value + 1 WHERE name = 'uses'")
    return count(run, "uses")
