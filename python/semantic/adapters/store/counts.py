"""The numbers that a catalogue keeps. Every function is a part of a transaction."""

from __future__ import annotations

import sqlite3

from semantic.adapters.store.database import whole

__all__ = ["count", "keep", "next_use", "written"]

_DAY_SECONDS = 86_400


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


def written(run: sqlite3.Cursor, now: int) -> int:
    """Bytes that were written today; another day, also an earlier one, begins at 0."""
    today = now // _DAY_SECONDS
    if count(run, "day") != today:
        run.execute("UPDATE counts SET value = ? WHERE name = 'day'", (today,))
        run.execute("UPDATE counts SET value = 0 WHERE name = 'written'")
    return count(run, "written")


def next_use(run: sqlite3.Cursor) -> int:
    """The number of a use: later ones have larger ones."""
    run.execute("UPDATE counts SET value = value + 1 WHERE name = 'uses'")
    return count(run, "uses")
