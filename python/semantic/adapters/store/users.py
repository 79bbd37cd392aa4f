"""Who uses the blocks of a catalogue, and how that makes them stand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from semantic.adapters.store.schema import NORMAL, STANDING
from semantic.adapters.store.veil import Veil
from semantic.domain.policy import Hint, Priority

__all__ = ["BEGINS", "Users", "stand"]

_PRIORITIES: dict[Priority, int] = {"low": 1, "normal": NORMAL, "high": 3}

BEGINS = "instr(lower(hex({})), lower(?)) = 1"
"""Whether a name begins with these hexadecimal digits; each does with none."""

_STAND = (
    "UPDATE blocks SET standing ="
    f" coalesce((SELECT standing FROM standings WHERE key = ?), {NORMAL}) WHERE key = ?"
)

_JOIN = f"""
    UPDATE blocks SET standing = max(s.standing,
        iif(EXISTS (SELECT 1 FROM users WHERE key = :key AND agent != :agent), blocks.standing, 0))
    FROM (SELECT {STANDING} AS standing FROM nodes n
        JOIN agents a ON a.namespace = n.namespace AND a.agent = :agent WHERE n.key = :key) s
    WHERE blocks.key = :key AND blocks.standing != s.standing
"""

_NOBODYS = (
    " NOT EXISTS (SELECT 1 FROM pins p WHERE p.namespace = agents.namespace"
    "   AND p.agent = agents.agent)"
    " AND NOT EXISTS (SELECT 1 FROM users u JOIN nodes n USING (key)"
    "   WHERE u.agent = agents.agent AND n.namespace = agents.namespace)"
)
"""An agent of whom nothing is stored, and who has pinned nothing."""


class Users:
    """The agents of a catalogue. Every method is a part of a transaction.

    Args:
        owner: Who pins: a name that no other process has.
        veil: What the disk sees of names.
    """

    def __init__(self, owner: str, veil: Veil) -> None:
        self._owner = owner
        self._veil = veil

    def enter_agent(
        self, run: sqlite3.Cursor, namespaces: Iterable[bytes], agent_id: str, now: int
    ) -> None:
        """An agent is heard of in these namespaces."""
        label = self._veil.seal(agent_id.encode())
        for namespace in namespaces:
            run.execute(
                "INSERT INTO agents (namespace, agent, label, used_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET used_at = max(used_at, excluded.used_at),"
                " label = excluded.label",
                (self._veil.key(namespace), self._veil.agent(agent_id), label, now),
            )

    def enter(self, run: sqlite3.Cursor, keys: Sequence[bytes], agent_id: str) -> None:
        """An agent uses what is known of these token blocks, hidden keys.

        Their blocks stand no worse for it. Its other users, who may be thousands, are not asked.
        """
        self.note(run, keys, agent_id)
        agent = self._veil.agent(agent_id)
        run.executemany(_JOIN, [{"agent": agent, "key": key} for key in keys])

    def note(self, run: sqlite3.Cursor, keys: Sequence[bytes], agent_id: str) -> None:
        """As `enter`, and their blocks stand as they did."""
        agent = self._veil.agent(agent_id)
        run.executemany(
            "INSERT OR IGNORE INTO users SELECT key, ? FROM nodes WHERE key = ?",
            [(agent, key) for key in keys],
        )

    def regard(
        self,
        run: sqlite3.Cursor,
        namespace: bytes,
        agent_id: str,
        hint: Hint | None,
        priority: Priority | None,
        is_pinned: bool | None,
    ) -> None:
        """How an agent's blocks stand from now on; None leaves that as it was."""
        who = self._veil.key(namespace), self._veil.agent(agent_id)
        self.enter_agent(run, [namespace], agent_id, 0)
        where = " WHERE namespace = ? AND agent = ?"
        if hint is not None:
            run.execute("UPDATE agents SET is_ended = ?" + where, (hint == "ended", *who))
        if priority is not None:
            value = _PRIORITIES[priority]
            run.execute("UPDATE agents SET priority = ?" + where, (value, *who))
        if is_pinned:
            run.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", (*who, self._owner))
        elif is_pinned is not None:
            run.execute("DELETE FROM pins" + where + " AND owner = ?", (*who, self._owner))
        self._restand(run, who[1])

    def unpin_dead(self, run: sqlite3.Cursor, running: Callable[[], Sequence[str]]) -> int:
        """A pin ends with the process that made it; how many such there were."""
        pins = run.execute("SELECT agent, owner FROM pins").fetchall()
        runs = running()  # behind the pins: who has come since has entered before
        dead = [(agent, owner) for agent, owner in pins if owner not in runs]
        for agent, owner in dead:
            run.execute("DELETE FROM pins WHERE owner = ?", (owner,))
            self._restand(run, agent)
        return len(dead)

    def _restand(self, run: sqlite3.Cursor, agent: bytes) -> None:
        stand(run, [key for (key,) in run.execute(_KEYS, (agent,)).fetchall()])

    # Forgetting --------------------------------------------------------------------------------

    def leave(self, run: sqlite3.Cursor, key: bytes, *, is_forgotten: bool) -> None:
        """A token block has gone, and so have those agents of whom nothing else is stored.

        Args:
            run: The transaction.
            key: The hidden key.
            is_forgotten: No name may stay; else those with a priority of their own do.
        """
        gone = run.execute("DELETE FROM users WHERE key = ? RETURNING agent", (key,)).fetchall()
        for (agent,) in gone:
            self.drop_idle(run, agent, is_forgotten=is_forgotten)

    def drop_idle(
        self, run: sqlite3.Cursor, agent: bytes | None = None, *, is_forgotten: bool = False
    ) -> None:
        """Forget this agent, hidden, or all, wherever nothing of it is stored or pinned."""
        where = "" if is_forgotten else f" priority = {NORMAL} AND"
        if agent is None:
            run.execute(f"DELETE FROM agents WHERE{where}{_NOBODYS}")
        else:
            run.execute(f"DELETE FROM agents WHERE agent = ? AND{where}{_NOBODYS}", (agent,))

    def drop_shared(
        self, run: sqlite3.Cursor, agent_id: str, namespace: str, after: bytes, most: int
    ) -> bytes | None:
        """An agent wants nothing of so many token blocks that others use as well.

        Args:
            run: The transaction.
            agent_id: The agent.
            namespace: What the hidden names of their namespaces begin with, hexadecimal.
            after: Of those behind this hidden key.
            most: How many.

        Returns:
            The last one's key; None: there was none.
        """
        agent = self._veil.agent(agent_id)
        rows = run.execute(
            "SELECT u.key FROM users u CROSS JOIN nodes n USING (key)"
            f" WHERE u.agent = ? AND u.key > ? AND {BEGINS.format('n.namespace')}"
            " AND EXISTS (SELECT 1 FROM users o WHERE o.key = u.key AND o.agent != ?)"
            " ORDER BY u.key LIMIT ?",
            (agent, after, namespace, agent, most),
        ).fetchall()
        keys = [key for (key,) in rows]
        where = "DELETE FROM users WHERE key = ? AND agent = ?"
        run.executemany(where, [(key, agent) for key in keys])
        stand(run, keys)
        return keys[-1] if keys else None

    def drop(self, run: sqlite3.Cursor, agent_id: str, namespace: str) -> None:
        """An agent wants nothing of namespaces whose hidden names begin so, hexadecimal."""
        agent = self._veil.agent(agent_id)
        keys = [key for (key,) in run.execute(_KEYS, (agent,)).fetchall()]
        run.execute(
            "DELETE FROM users WHERE agent = ? AND key IN (SELECT key FROM nodes WHERE"
            f" {BEGINS.format('namespace')})",
            (agent, namespace),
        )
        for table in ("agents", "pins"):
            run.execute(
                f"DELETE FROM {table} WHERE agent = ? AND {BEGINS.format('namespace')}",
                (agent, namespace),
            )
        stand(run, keys)


_KEYS = "SELECT key FROM users WHERE agent = ?"


def stand(run: sqlite3.Cursor, keys: Iterable[bytes]) -> None:
    """Let the blocks of these token blocks, hidden keys, stand as the best of their users."""
    run.executemany(_STAND, [(key, key) for key in keys])
