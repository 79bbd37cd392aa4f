"""Which blocks of a catalogue go, and when. Every function is a part of a transaction.

Others use blocks and pin them between the moment when these are looked for and the one when they
leave. So what made a block one of those that go is asked again in the statement that lets it leave.

Of those that make room, the least recently used of the lowest standing go first, and nothing goes
before what can be reached through it alone: an unbounded block leaves with all that is stored of
its token block, and when nothing is stored behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semantic.adapters.store.database import whole
from semantic.adapters.store.schema import PINNED
from semantic.adapters.store.users import BEGINS
from semantic.domain.policy import EvictionOrder

__all__ = [
    "ANY",
    "Condition",
    "Removal",
    "choose",
    "in_namespaces",
    "leave",
    "older_than",
    "only_of",
    "removed_later",
    "take_over",
]

Removal = Callable[[Sequence[str]], None]
"""Removes files of blocks that leave, before their rows say so for good. It asks the catalogue
nothing, and leaves what it cannot remove."""


def removed_later(files: Sequence[str]) -> None:
    """Files go once their rows have said that they leave."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What has to be true of a block that is here for it to leave.

    Args:
        where: That, in SQL, of a row of `blocks`.
        values: Of its parameters.
        narrowed: What SQLite finds such blocks by; no other one may be true of `where`.
        narrowed_values: Of its parameters.
    """

    where: str = "1"
    values: tuple[object, ...] = ()
    narrowed: str = "1"
    narrowed_values: tuple[object, ...] = ()

    @property
    def question(self) -> tuple[str, tuple[object, ...]]:
        """What asks for the files of all such blocks, and its values."""
        statement = f"SELECT file FROM blocks WHERE state = 'here' AND {self.narrowed}"
        return f"{statement} AND {self.where}", (*self.narrowed_values, *self.values)


ANY = Condition()


def older_than(time: int) -> Condition:
    """Nobody has used it since, nor pinned it."""
    return Condition(f"used_at < ? AND standing < {PINNED}", (time,))


def in_namespaces(begin: str) -> Condition:
    """It is of a namespace whose hidden name begins so, hexadecimal."""
    of_namespace = "SELECT 1 FROM nodes n WHERE n.key = blocks.key"
    return Condition(f"EXISTS ({of_namespace} AND {BEGINS.format('n.namespace')})", (begin,))


def only_of(agent: bytes, begin: str) -> Condition:
    """This agent, hidden, uses it, nobody else does, and it is of such a namespace."""
    users = "SELECT 1 FROM users u WHERE u.key = blocks.key AND u.agent"
    namespaces = in_namespaces(begin)
    return Condition(
        f"EXISTS ({users} = ?) AND NOT EXISTS ({users} != ?) AND {namespaces.where}",
        (agent, agent, *namespaces.values),
        "key IN (SELECT key FROM users WHERE agent = ?)",
        (agent,),
    )


_ORDERS = {
    "lru": ("blocks_by_use", "standing"),
    "scan_resistant": ("blocks_by_reuse", "(CASE WHEN uses > 1 THEN standing ELSE 0 END)"),
}


def leave(run: sqlite3.Cursor, owner: str, file: str, condition: Condition = ANY) -> bool:
    """A block leaves from now on, and that is this owner's business.

    False where it is not here, or the condition is not true of it any more.
    """
    statement = (
        "UPDATE blocks SET state = 'leaving', owner = ?"
        f" WHERE file = ? AND state = 'here' AND {condition.where}"
    )
    return run.execute(statement, (owner, file, *condition.values)).rowcount == 1


def take_over(run: sqlite3.Cursor, owner: str, running: Callable[[], Sequence[str]]) -> list[str]:
    """What leaves, and was the business of nobody who runs, is this owner's from now on."""
    rows = run.execute("SELECT file, owner FROM blocks WHERE state = 'leaving'").fetchall()
    runs = running()  # behind the rows: who has come since has entered before
    files = [str(file) for file, other in rows if other not in runs]
    change = "UPDATE blocks SET owner = ? WHERE file = ? AND state = 'leaving'"
    run.executemany(change, [(owner, file) for file in files])
    return files


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
