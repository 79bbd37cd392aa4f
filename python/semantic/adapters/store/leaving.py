"""Which blocks of a catalogue go next. Every function is a part of a transaction.

The least recently used of the lowest standing go first, and nothing goes before what can be
reached through it alone: an unbounded block leaves with all that is stored of its token block, and
when nothing is stored behind it.
"""

from __future__ import annotations

import sqlite3

from semantic.adapters.store.database import whole
from semantic.adapters.store.schema import PINNED
from semantic.domain.policy import EvictionOrder

__all__ = ["choose", "leave"]

_ORDERS = {
    "lru": ("blocks_by_use", "standing"),
    "scan_resistant": ("blocks_by_reuse", "(CASE WHEN uses > 1 THEN standing ELSE 0 END)"),
}


def leave(run: sqlite3.Cursor, owner: str, file: str) -> bool:
    """A block leaves from now on, and that is this owner's business; False where it is not here."""
    statement = "UPDATE blocks SET state = 'leaving', owner = ? WHERE file = ? AND state = 'here'"
    return run.execute(statement, (owner, file)).rowcount == 1


def choose(run: sqlite3.Cursor, owner: str, n_bytes: int, order: EvictionOrder) -> list[str]:
    """Blocks of at least so many bytes where there are: they leave from now on."""
    index, standing = _ORDERS[order]
    chosen: list[str] = []
    gone = 0
    while gone < n_bytes:
        row = run.execute(
            "SELECT file, bytes, key, is_bounded FROM blocks b"
            f" INDEXED BY {index}"  # SQLite would sort all rows
            f" WHERE state = 'here' AND standing < {PINNED}"
            " AND (is_bounded OR NOT EXISTS ("
            "   SELECT 1 FROM nodes c JOIN blocks d ON d.key = c.key AND d.state = 'here'"
            "   WHERE c.parent = b.key))"
            f" ORDER BY {standing}, last_use, lo DESC LIMIT 1"
        ).fetchone()
        if row is None:
            break
        rows = [row[:2]]
        if not row[3]:
            together = "SELECT file, bytes FROM blocks WHERE key = ? AND state = 'here'"
            rows = run.execute(together, (row[2],)).fetchall()
        for file, size in rows:
            leave(run, owner, file)
            chosen.append(file)
            gone += whole(size)
    return chosen
