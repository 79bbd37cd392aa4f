"""The catalogue of a store: which blocks there are, in one SQLite file that processes share.

The block files are the truth: a catalogue that is lost or damaged is made again from their headers.
What SQLite adds is what files cannot say at once: the tree of token blocks, the order of eviction,
whose blocks they are, and the sum of bytes, in transactions that several processes see alike.

A block is `coming` while it is written: its bytes are reserved before the first one of them reaches
the disk. It is `here` once its file has its name, and `leaving` until its file has gone. So the sum
of all rows is never less than what lies on the disk.

Keys and names are what the disk sees of them: a veil may hide what they stand for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semantic.adapters.store.database import Database, in_parts
from semantic.adapters.store.schema import NORMAL, PINNED
from semantic.adapters.store.veil import Veil
from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.policy import EvictionOrder, Hint, Priority
from semantic.domain.stored import NewBlock

__all__ = ["Catalogue", "ListedNode", "Room"]

_PRIORITIES: dict[Priority, int] = {"low": 1, "normal": NORMAL, "high": 3}

_DAY_SECONDS = 86_400

_ORDERS = {
    "lru": ("blocks_by_use", "standing"),
    "scan_resistant": ("blocks_by_reuse", "(CASE WHEN uses > 1 THEN standing ELSE 0 END)"),
}


@dataclass(frozen=True, slots=True)
class ListedNode:
    """A token block of which something is stored.

    Args:
        key: What the disk sees of its key; so for all names.
        parent: That of the token block before it, or of the namespace.
        tokens: Its tokens.
        blocks: Layer group, first valid position and end of each stored block.
    """

    key: bytes
    parent: bytes
    tokens: TokenIds
    blocks: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Room:
    """What may still be written.

    Args:
        limit: Bytes that the store may take.
        daily: Bytes that may be written in a day; None: any number.
    """

    limit: int
    daily: int | None = None


class Catalogue:
    """The rows of a store. Every method is one transaction, from any thread.

    Args:
        path: The SQLite file; None keeps it in memory.
        owner: Who writes: a name that no other process has.
        veil: What the disk sees of names and values.

    Raises:
        CatalogueDamagedError: The file is no catalogue of this version.
        CachePersistenceError: The system refuses; so for all methods.
    """

    def __init__(self, path: Path | None, owner: str, veil: Veil | None = None) -> None:
        self._owner = owner
        self._veil = veil or Veil(None)
        self.database = Database(path)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.database.close()

    # What is there -----------------------------------------------------------------------------

    def nodes(self, keys: Sequence[bytes]) -> list[ListedNode]:
        """Those of these token blocks of which something is stored."""
        return self._nodes("n.key IN ({})", keys)

    def behind(self, parents: Sequence[bytes], *, partial: bool) -> list[ListedNode]:
        """What is stored right behind these token blocks: all of it, or only partial blocks."""
        full = f" AND n.n_tokens < {BLOCK_TOKENS}" if partial else ""
        return self._nodes("n.parent IN ({})" + full, parents)

    def _nodes(self, where: str, values: Sequence[bytes]) -> list[ListedNode]:
        found: dict[bytes, tuple[bytes, bytes, list[tuple[str, int, int]]]] = {}
        for some in in_parts(values):
            rows = self.database.read(
                "SELECT n.key, n.parent, n.tokens, b.layer_group, b.lo, b.hi"
                " FROM nodes n JOIN blocks b USING (key)"
                f" WHERE b.state = 'here' AND {where.format(','.join('?' * len(some)))}",
                some,
            )
            for key, parent, tokens, group, lo, hi in rows:
                new: list[tuple[str, int, int]] = []
                node = _bytes(parent), _bytes(tokens), new
                _, _, blocks = found.setdefault(_bytes(key), node)
                blocks.append((str(group), _int(lo), _int(hi)))
        return [
            ListedNode(key, parent, self._veil.tokens(tokens), tuple(blocks))
            for key, (parent, tokens, blocks) in found.items()
        ]

    def files(self) -> set[str]:
        """The files of the blocks that are here."""
        return {str(file) for (file,) in self.database.read(_HERE)}

    def has(self, file: str) -> bool:
        """Whether there is a row for this file, in whichever state."""
        return bool(self.database.read("SELECT 1 FROM blocks WHERE file = ?", (file,)))

    def on_their_way(self) -> list[tuple[str, str, str]]:
        """The blocks that come or leave: file, state, and whose business that is."""
        rows = self.database.read("SELECT file, state, owner FROM blocks WHERE state != 'here'")
        return [(str(file), str(state), str(owner)) for file, state, owner in rows]

    def totals(self) -> tuple[int, int]:
        """Blocks that are here, and the bytes of all that may lie on the disk."""
        ((blocks,),) = self.database.read("SELECT count(*) FROM blocks WHERE state = 'here'")
        ((n_bytes,),) = self.database.read("SELECT value FROM counts WHERE name = 'bytes'")
        return _int(blocks), _int(n_bytes)

    # Coming ------------------------------------------------------------------------------------

    def reserve(
        self, blocks: Sequence[tuple[NewBlock, int]], room: Room, now: int
    ) -> tuple[list[NewBlock], int]:
        """Reserve the bytes of new blocks, where they fit.

        Args:
            blocks: The blocks, and how many bytes each file has at the most.
            room: What may be written.
            now: Seconds since 1970.

        Returns:
            Those that nobody else has or writes, and 0; or none, and the bytes that are missing.

        Raises:
            CachePersistenceError: Too much was written today.
        """
        with self.database.transaction() as run:
            new = []
            for block, n_bytes in blocks:
                where = "SELECT 1 FROM blocks WHERE file = ?"
                if run.execute(where, (self._veil.file(block.name),)).fetchone() is None:
                    new.append((block, n_bytes))
            needed = sum(n_bytes for _, n_bytes in new)
            if room.daily is not None and needed and _written(run, now) + needed > room.daily:
                raise CachePersistenceError(f"{room.daily} bytes a day are written, and no more")
            short = _count(run, "bytes") + needed - room.limit
            if short > 0 and new:
                return [], short
            run.execute("UPDATE counts SET value = value + ? WHERE name = 'written'", (needed,))
            run.executemany(
                _COMES + " VALUES (?, ?, ?, ?, ?, ?, ?, 'coming', ?)",
                [(*self._row(block, n_bytes), self._owner) for block, n_bytes in new],
            )
        return [block for block, _ in new], 0

    def arrived(self, blocks: Sequence[tuple[NewBlock, int]], agent_id: str, now: int) -> None:
        """The files of these blocks have their names, and so many bytes."""
        with self.database.transaction() as run:
            use = _next_use(run)
            self._enter_nodes(run, [block for block, _ in blocks])
            run.executemany(
                "UPDATE blocks SET state = 'here', bytes = ?, last_use = ?, used_at = ?"
                " WHERE file = ?",
                [(n_bytes, use, now, self._veil.file(b.name)) for b, n_bytes in blocks],
            )
            self._enter_agent(run, {block.namespace for block, _ in blocks}, agent_id, now)
            keys = [self._veil.key(block.name.key) for block, _ in blocks]
            self._enter_users(run, keys, agent_id)

    def adopt(self, block: NewBlock, n_bytes: int) -> None:
        """A whole file that nobody who runs has written: it is here, and goes first."""
        with self.database.transaction() as run:
            self._enter_nodes(run, [block])
            row = self._row(block, n_bytes)
            run.execute(
                _COMES.replace("INSERT", "INSERT OR IGNORE")
                + " VALUES (?, ?, ?, ?, ?, ?, ?, 'here', ?)",
                (*row, self._owner),
            )
            run.execute(
                "UPDATE blocks SET state = 'here', bytes = ? WHERE file = ? AND state = 'coming'",
                (n_bytes, row[0]),
            )

    def _row(self, block: NewBlock, n_bytes: int) -> tuple[str, bytes, str, int, int, int, bool]:
        name, key = block.name, self._veil.key(block.name.key)
        file = self._veil.file(name)
        return file, key, name.group, name.lo, name.hi, n_bytes, block.is_bounded

    def _enter_nodes(self, run: sqlite3.Cursor, blocks: Sequence[NewBlock]) -> None:
        key, seal = self._veil.key, self._veil.seal
        run.executemany(
            "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?, ?)",
            [
                (
                    key(block.name.key),
                    key(block.namespace),
                    key(block.parent),
                    seal(block.tokens.tobytes()),
                    len(block.tokens),
                )
                for block in blocks
            ],
        )

    def _enter_agent(
        self, run: sqlite3.Cursor, namespaces: set[bytes], agent_id: str, now: int
    ) -> None:
        label = self._veil.seal(agent_id.encode())
        for namespace in namespaces:
            run.execute(
                "INSERT INTO agents (namespace, agent, label, used_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET used_at = max(used_at, excluded.used_at)",
                (self._veil.key(namespace), self._veil.agent(agent_id), label, now),
            )

    def _enter_users(self, run: sqlite3.Cursor, keys: Sequence[bytes], agent_id: str) -> None:
        agent = self._veil.agent(agent_id)
        run.executemany(
            "INSERT OR IGNORE INTO users SELECT key, ? FROM nodes WHERE key = ?",
            [(agent, key) for key in keys],
        )
        run.executemany(_STAND, [(key, key) for key in keys])

    # Staying -----------------------------------------------------------------------------------

    def used(self, namespace: bytes, keys: Sequence[bytes], agent_id: str, now: int) -> None:
        """What is here of these token blocks was used: it goes last, the tail before the head."""
        with self.database.transaction() as run:
            use = _next_use(run)
            hidden = [self._veil.key(key) for key in keys]
            run.executemany(
                "UPDATE blocks SET last_use = ?, used_at = ?, uses = uses + 1 WHERE key = ?",
                [(use, now, key) for key in hidden],
            )
            self._enter_agent(run, {namespace}, agent_id, now)
            self._enter_users(run, hidden, agent_id)

    def regard(
        self,
        namespace: bytes,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """How an agent's blocks stand from now on; None leaves that as it was."""
        who = self._veil.key(namespace), self._veil.agent(agent_id)
        with self.database.transaction() as run:
            self._enter_agent(run, {namespace}, agent_id, 0)
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

    def unpin_dead(self, running: Sequence[str]) -> None:
        """A pin ends with the process that made it."""
        with self.database.transaction() as run:
            for agent, owner in run.execute("SELECT agent, owner FROM pins").fetchall():
                if owner not in running:
                    run.execute("DELETE FROM pins WHERE owner = ?", (owner,))
                    self._restand(run, agent)

    def _restand(self, run: sqlite3.Cursor, agent: bytes) -> None:
        keys = run.execute("SELECT key FROM users WHERE agent = ?", (agent,)).fetchall()
        run.executemany(_STAND, [(key, key) for (key,) in keys])

    # Leaving -----------------------------------------------------------------------------------

    def choose(self, n_bytes: int, order: EvictionOrder = "lru") -> list[str]:
        """Blocks that go next, of at least so many bytes where there are: they leave from now on.

        The least recently used of the lowest standing go first, and nothing goes before what can be
        reached through it alone: an unbounded block leaves with all that is stored of its token
        block, and when nothing is stored behind it.
        """
        index, standing = _ORDERS[order]
        with self.database.transaction() as run:
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
                    run.execute(_LEAVES, (self._owner, file))
                    chosen.append(file)
                    gone += int(size)
        return chosen

    def leave(self, files: Sequence[str]) -> list[str]:
        """Those of these that are here leave from now on, wherever they are in the order."""
        with self.database.transaction() as run:
            return [
                file
                for file in files
                if run.execute(_LEAVES + " RETURNING 1", (self._owner, file)).fetchone()
            ]

    def left(self, files: Sequence[str]) -> None:
        """The files of these have gone; so do token blocks of which nothing is left."""
        with self.database.transaction() as run:
            keys = set()
            for file in files:
                row = run.execute("DELETE FROM blocks WHERE file = ? RETURNING key", (file,))
                keys |= set(row.fetchall())
            for key in keys:
                is_left = run.execute("SELECT 1 FROM blocks WHERE key = ? LIMIT 1", key)
                if is_left.fetchone() is None:
                    run.execute("DELETE FROM nodes WHERE key = ?", key)
                    run.execute("DELETE FROM users WHERE key = ?", key)

    def older_than(self, time: int) -> list[str]:
        """The blocks that nobody has used since; pinned ones are kept."""
        where = f" AND used_at < ? AND standing < {PINNED}"
        return [str(file) for (file,) in self.database.read(_HERE + where, (time,))]

    def drop_agent(self, agent_id: str, namespace: str = "") -> None:
        """An agent wants nothing of namespaces whose names begin so, hexadecimal."""
        values = self._veil.agent(agent_id), f"{namespace.lower()}%"
        of = "agent = ? AND lower(hex(namespace)) LIKE ?"
        with self.database.transaction() as run:
            run.execute(
                "DELETE FROM users WHERE agent = ? AND key IN"
                " (SELECT key FROM nodes WHERE lower(hex(namespace)) LIKE ?)",
                values,
            )
            for table in ("agents", "pins"):
                run.execute(f"DELETE FROM {table} WHERE {of}", values)

    def only_of(self, namespace: bytes, agent_id: str) -> list[str]:
        """The blocks that only this agent has used, and that it wants no more: its name goes."""
        who = self._veil.key(namespace), self._veil.agent(agent_id)
        with self.database.transaction() as run:
            rows = run.execute(
                "SELECT b.file FROM blocks b JOIN nodes n USING (key) WHERE namespace = ?"
                " AND state = 'here' AND b.key IN (SELECT key FROM users WHERE agent = ?)"
                " AND NOT EXISTS (SELECT 1 FROM users u WHERE u.key = b.key AND u.agent != ?)",
                (*who, who[1]),
            ).fetchall()
            run.execute(
                "DELETE FROM users WHERE agent = ? AND key IN"
                " (SELECT key FROM nodes WHERE namespace = ?)",
                (who[1], who[0]),
            )
            for table in ("agents", "pins"):
                run.execute(f"DELETE FROM {table} WHERE namespace = ? AND agent = ?", who)
        return [str(file) for (file,) in rows]


_HERE = "SELECT file FROM blocks WHERE state = 'here'"
_COMES = "INSERT INTO blocks (file, key, layer_group, lo, hi, bytes, is_bounded, state, owner)"
_LEAVES = "UPDATE blocks SET state = 'leaving', owner = ? WHERE file = ? AND state = 'here'"
_STAND = (
    "UPDATE blocks SET standing ="
    f" coalesce((SELECT standing FROM standings WHERE key = ?), {NORMAL}) WHERE key = ?"
)


def _count(run: sqlite3.Cursor, name: str) -> int:
    return int(run.execute("SELECT value FROM counts WHERE name = ?", (name,)).fetchone()[0])


def _written(run: sqlite3.Cursor, now: int) -> int:
    """Bytes that were written today; another day, also an earlier one, begins at 0."""
    today = now // _DAY_SECONDS
    if _count(run, "day") != today:
        run.execute("UPDATE counts SET value = ? WHERE name = 'day'", (today,))
        run.execute("UPDATE counts SET value = 0 WHERE name = 'written'")
    return _count(run, "written")


def _next_use(run: sqlite3.Cursor) -> int:
    run.execute("UPDATE counts SET value = value + 1 WHERE name = 'uses'")
    return _count(run, "uses")


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
