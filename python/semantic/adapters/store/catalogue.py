"""The catalogue of a store: which blocks there are, in one SQLite file that processes share.

The block files are the truth: a catalogue that is lost or damaged is made again from their headers.
What SQLite adds is what files cannot say at once: the tree of token blocks, the order of eviction,
whose blocks they are, and the sum of bytes, in transactions that several processes see alike.

A block is `coming` while it is written: its bytes are reserved before the first one of them reaches
the disk. It is `here` once its file has its name, and `leaving` until its file has gone. So the sum
of all rows is never less than what lies on the disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, NewBlock, StoredNode

__all__ = ["Catalogue", "CatalogueDamagedError"]

_VERSION = 1
_BUSY_SECONDS = 30.0
_TOKEN_BYTES = 8
_MANY = 500
"""Names in one statement: SQLite takes at least 999 values."""

_SCHEMA = """
CREATE TABLE nodes (
    key BLOB PRIMARY KEY,
    namespace BLOB NOT NULL,
    parent BLOB NOT NULL,
    tokens BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX nodes_by_parent ON nodes (parent);
CREATE INDEX nodes_by_namespace ON nodes (namespace);
CREATE TABLE blocks (
    key BLOB NOT NULL,
    layer_group TEXT NOT NULL,
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    is_bounded INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('coming', 'here', 'leaving')),
    owner TEXT NOT NULL,
    last_use INTEGER NOT NULL,
    PRIMARY KEY (key, layer_group, lo, hi)
) WITHOUT ROWID;
CREATE INDEX blocks_by_use ON blocks (last_use, lo DESC) WHERE state = 'here';
CREATE INDEX blocks_on_their_way ON blocks (state, owner) WHERE state != 'here';
CREATE TABLE users (
    key BLOB NOT NULL,
    agent TEXT NOT NULL,
    PRIMARY KEY (key, agent)
) WITHOUT ROWID;
CREATE INDEX users_by_agent ON users (agent);
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('bytes', 0), ('uses', 0);
CREATE TRIGGER block_came AFTER INSERT ON blocks BEGIN
    UPDATE counts SET value = value + new.bytes WHERE name = 'bytes';
END;
CREATE TRIGGER block_went AFTER DELETE ON blocks BEGIN
    UPDATE counts SET value = value - old.bytes WHERE name = 'bytes';
END;
CREATE TRIGGER block_changed AFTER UPDATE OF bytes ON blocks BEGIN
    UPDATE counts SET value = value + new.bytes - old.bytes WHERE name = 'bytes';
END;
"""

_NAME = "key = ? AND layer_group = ? AND lo = ? AND hi = ?"


class CatalogueDamagedError(Exception):
    """The file is no catalogue, or one of another version: it is to be made again."""


class Catalogue:
    """The rows of a store. Every method is one transaction, from any thread.

    Args:
        path: The SQLite file.
        owner: Who writes: a name that no other process has.

    Raises:
        CatalogueDamagedError: The file is no catalogue of this version.
        CachePersistenceError: The system refuses; so for all methods.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._owner = owner
        self._path = path
        self._lock = threading.Lock()
        # SQLite gives the files beside it the same permissions.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            with self._refusals():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise CatalogueDamagedError(str(error)) from error
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        with self._transaction() as run:
            (version,) = run.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _statements(_SCHEMA):
                    run.execute(statement)
                run.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise CatalogueDamagedError(f"version {version}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, self._refusals():
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                # What has failed may have been rolled back already.
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    def _read(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._lock, self._refusals():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What SQLite refuses is the store's refusal: a full disk, a folder that went away."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CachePersistenceError(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._connection.close()

    # What is there -----------------------------------------------------------------------------

    def nodes(self, keys: Sequence[bytes]) -> dict[bytes, StoredNode]:
        """Those of these token blocks of which something is stored, by key."""
        return {node.key: node for node in self._nodes("n.key IN ({})", keys)}

    def behind(self, parents: Sequence[bytes], *, partial: bool) -> list[StoredNode]:
        """What is stored right behind these token blocks: all of it, or only partial blocks."""
        full = f" AND length(n.tokens) < {BLOCK_TOKENS * _TOKEN_BYTES}" if partial else ""
        return self._nodes("n.parent IN ({})" + full, parents)

    def _nodes(self, where: str, values: Sequence[bytes]) -> list[StoredNode]:
        found: dict[bytes, tuple[bytes, bytes, list[BlockName]]] = {}
        for some in _in_parts(values):
            rows = self._read(
                "SELECT n.parent, n.tokens, b.key, b.layer_group, b.lo, b.hi"
                " FROM nodes n JOIN blocks b USING (key)"
                f" WHERE b.state = 'here' AND {where.format(','.join('?' * len(some)))}",
                some,
            )
            for parent, tokens, *row in rows:
                name = _name(row)
                _, _, names = found.setdefault(name.key, (_bytes(parent), _bytes(tokens), []))
                names.append(name)
        return [
            StoredNode(key, parent, _tokens(tokens), tuple(names))
            for key, (parent, tokens, names) in found.items()
        ]

    def names(self) -> set[BlockName]:
        """The blocks that are here."""
        rows = self._read("SELECT key, layer_group, lo, hi FROM blocks WHERE state = 'here'")
        return {_name(row) for row in rows}

    def on_their_way(self) -> list[tuple[BlockName, str, str]]:
        """The blocks that come or leave: name, state, and whose business that is."""
        rows = self._read(
            "SELECT key, layer_group, lo, hi, state, owner FROM blocks WHERE state != 'here'"
        )
        return [(_name(row[:4]), str(row[4]), str(row[5])) for row in rows]

    def totals(self) -> tuple[int, int]:
        """Blocks that are here, and the bytes of all that may lie on the disk."""
        ((blocks,),) = self._read("SELECT count(*) FROM blocks WHERE state = 'here'")
        ((n_bytes,),) = self._read("SELECT value FROM counts WHERE name = 'bytes'")
        return _int(blocks), _int(n_bytes)

    # Coming ------------------------------------------------------------------------------------

    def reserve(
        self, blocks: Sequence[tuple[NewBlock, int]], limit: int
    ) -> tuple[list[NewBlock], int]:
        """Reserve the bytes of new blocks, where they fit.

        Args:
            blocks: The blocks, and how many bytes each file has at the most.
            limit: Bytes that the store may take.

        Returns:
            Those that nobody else has or writes, and 0; or none, and the bytes that are missing.
        """
        with self._transaction() as run:
            new = []
            for block, n_bytes in blocks:
                where = f"SELECT 1 FROM blocks WHERE {_NAME}"
                if run.execute(where, _row(block.name)).fetchone() is None:
                    new.append((block, n_bytes))
            ((taken,),) = run.execute("SELECT value FROM counts WHERE name = 'bytes'").fetchall()
            short = int(taken) + sum(n_bytes for _, n_bytes in new) - limit
            if short > 0 and new:
                return [], short
            run.executemany(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, 'coming', ?, 0)",
                [
                    (*_row(block.name), n_bytes, block.is_bounded, self._owner)
                    for block, n_bytes in new
                ],
            )
        return [block for block, _ in new], 0

    def arrived(self, blocks: Sequence[tuple[NewBlock, int]], agent_id: str) -> None:
        """The files of these blocks have their names, and so many bytes."""
        with self._transaction() as run:
            use = _next_use(run)
            run.executemany(
                "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?)",
                [
                    (block.name.key, block.namespace, block.parent, block.tokens.tobytes())
                    for block, _ in blocks
                ],
            )
            run.executemany(
                f"UPDATE blocks SET state = 'here', bytes = ?, last_use = ? WHERE {_NAME}",
                [(n_bytes, use, *_row(block.name)) for block, n_bytes in blocks],
            )
            run.executemany(
                "INSERT OR IGNORE INTO users VALUES (?, ?)",
                [(block.name.key, agent_id) for block, _ in blocks],
            )

    def adopt(self, block: NewBlock, n_bytes: int) -> None:
        """A whole file that nobody who runs has written: it is here, and goes first."""
        with self._transaction() as run:
            run.execute(
                "INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?)",
                (block.name.key, block.namespace, block.parent, block.tokens.tobytes()),
            )
            run.execute(
                "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?, 'here', ?, 0)",
                (*_row(block.name), n_bytes, block.is_bounded, self._owner),
            )
            run.execute(
                f"UPDATE blocks SET state = 'here', bytes = ? WHERE {_NAME} AND state = 'coming'",
                (n_bytes, *_row(block.name)),
            )

    # Staying and leaving -----------------------------------------------------------------------

    def used(self, keys: Sequence[bytes], agent_id: str) -> None:
        """What is here of these token blocks was used: it goes last, the tail before the head."""
        with self._transaction() as run:
            use = _next_use(run)
            run.executemany(
                "UPDATE blocks SET last_use = ? WHERE key = ?", [(use, key) for key in keys]
            )
            run.executemany(
                "INSERT OR IGNORE INTO users SELECT key, ? FROM nodes WHERE key = ?",
                [(agent_id, key) for key in keys],
            )

    def choose(self, n_bytes: int) -> list[BlockName]:
        """Blocks that go next, of at least so many bytes where there are: they leave from now on.

        The least recently used go first, and nothing goes before what can be reached through it
        alone: an unbounded block leaves with all that is stored of its token block, and when
        nothing is stored behind it.
        """
        with self._transaction() as run:
            chosen: list[BlockName] = []
            gone = 0
            while gone < n_bytes:
                row = run.execute(
                    "SELECT key, layer_group, lo, hi, bytes, is_bounded FROM blocks b"
                    " INDEXED BY blocks_by_use"  # SQLite would sort all rows
                    " WHERE state = 'here' AND (is_bounded OR NOT EXISTS ("
                    "   SELECT 1 FROM nodes c JOIN blocks d ON d.key = c.key AND d.state = 'here'"
                    "   WHERE c.parent = b.key))"
                    " ORDER BY last_use, lo DESC LIMIT 1"
                ).fetchone()
                if row is None:
                    break
                rows = [row[:5]]
                if not row[5]:
                    rows = run.execute(
                        "SELECT key, layer_group, lo, hi, bytes FROM blocks"
                        " WHERE key = ? AND state = 'here'",
                        row[:1],
                    ).fetchall()
                for leaving in rows:
                    run.execute(
                        f"UPDATE blocks SET state = 'leaving', owner = ? WHERE {_NAME}",
                        (self._owner, *leaving[:4]),
                    )
                    chosen.append(_name(leaving[:4]))
                    gone += int(leaving[4])
        return chosen

    def leave(self, names: Sequence[BlockName]) -> list[BlockName]:
        """Those of these that are here leave from now on, wherever they are in the order."""
        leave = (
            "UPDATE blocks SET state = 'leaving', owner = ?"
            f" WHERE {_NAME} AND state = 'here' RETURNING 1"
        )
        with self._transaction() as run:
            return [
                name
                for name in names
                if run.execute(leave, (self._owner, *_row(name))).fetchone() is not None
            ]

    def left(self, names: Sequence[BlockName]) -> None:
        """The files of these have gone; so do token blocks of which nothing is left."""
        with self._transaction() as run:
            run.executemany(f"DELETE FROM blocks WHERE {_NAME}", [_row(name) for name in names])
            for key in {name.key for name in names}:
                is_left = run.execute("SELECT 1 FROM blocks WHERE key = ? LIMIT 1", (key,))
                if is_left.fetchone() is None:
                    run.execute("DELETE FROM nodes WHERE key = ?", (key,))
                    run.execute("DELETE FROM users WHERE key = ?", (key,))

    def only_of(self, namespace: bytes, agent_id: str) -> list[BlockName]:
        """The blocks that only this agent has used, and that it wants no more: its name goes."""
        with self._transaction() as run:
            mine = "SELECT key FROM users WHERE agent = ?"
            rows = run.execute(
                "SELECT b.key, layer_group, lo, hi FROM blocks b JOIN nodes n USING (key)"
                f" WHERE namespace = ? AND state = 'here' AND b.key IN ({mine}) AND NOT EXISTS"
                " (SELECT 1 FROM users u WHERE u.key = b.key AND u.agent != ?)",
                (namespace, agent_id, agent_id),
            ).fetchall()
            run.execute(
                "DELETE FROM users WHERE agent = ? AND key IN"
                " (SELECT key FROM nodes WHERE namespace = ?)",
                (agent_id, namespace),
            )
        return [_name(row) for row in rows]


def _next_use(run: sqlite3.Cursor) -> int:
    run.execute("UPDATE counts SET value = value + 1 WHERE name = 'uses'")
    return int(run.execute("SELECT value FROM counts WHERE name = 'uses'").fetchone()[0])


def _row(name: BlockName) -> tuple[bytes, str, int, int]:
    return name.key, name.group, name.lo, name.hi


def _name(row: Sequence[object]) -> BlockName:
    key, group, lo, hi = row
    return BlockName(_bytes(key), str(group), _int(lo), _int(hi))


def _tokens(packed: bytes) -> TokenIds:
    return TokenIds(memoryview(packed).cast("q"))


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _in_parts(values: Iterable[bytes]) -> Iterator[list[bytes]]:
    every = list(dict.fromkeys(values))
    for at in range(0, len(every), _MANY):
        yield every[at : at + _MANY]


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
