"""The tables of a store's catalogue."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

__all__ = ["NORMAL", "PINNED", "STANDING", "VERSION", "statements"]

VERSION = 2

NORMAL, PINNED = 2, 4
"""Standings, lowest first: 0 nobody expected back, 1 low, 2 normal, 3 high, 4 pinned. That of a
block is the highest of its users'."""

STANDING = f"""(CASE
        WHEN EXISTS (SELECT 1 FROM pins p WHERE p.namespace = a.namespace AND p.agent = a.agent)
        THEN {PINNED} WHEN a.is_ended THEN 0 ELSE a.priority END)"""
"""How a row `a` of `agents` stands."""

_SCHEMA = f"""
CREATE TABLE nodes (
    key BLOB PRIMARY KEY,
    namespace BLOB NOT NULL,
    parent BLOB NOT NULL,
    tokens BLOB NOT NULL,
    n_tokens INTEGER NOT NULL
);
CREATE INDEX nodes_by_parent ON nodes (parent, n_tokens);
CREATE INDEX nodes_by_namespace ON nodes (namespace);
CREATE TABLE blocks (
    file TEXT PRIMARY KEY,
    key BLOB NOT NULL,
    layer_group TEXT NOT NULL,
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    is_bounded INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('coming', 'here', 'leaving')),
    owner TEXT NOT NULL,
    standing INTEGER NOT NULL DEFAULT {NORMAL},
    uses INTEGER NOT NULL DEFAULT 0,
    last_use INTEGER NOT NULL DEFAULT 0,
    used_at INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX blocks_by_key ON blocks (key);
CREATE INDEX blocks_by_use ON blocks (standing, last_use, lo DESC)
    WHERE state = 'here' AND standing < {PINNED};
CREATE INDEX blocks_by_reuse ON blocks
    ((CASE WHEN uses > 1 THEN standing ELSE 0 END), last_use, lo DESC)
    WHERE state = 'here' AND standing < {PINNED};
CREATE INDEX blocks_by_time ON blocks (used_at) WHERE state = 'here';
CREATE INDEX blocks_on_their_way ON blocks (state, owner) WHERE state != 'here';
CREATE TABLE users (
    key BLOB NOT NULL,
    agent BLOB NOT NULL,
    PRIMARY KEY (key, agent)
) WITHOUT ROWID;
CREATE INDEX users_by_agent ON users (agent);
CREATE TABLE agents (
    namespace BLOB NOT NULL,
    agent BLOB NOT NULL,
    label BLOB NOT NULL,
    priority INTEGER NOT NULL DEFAULT {NORMAL},
    is_ended INTEGER NOT NULL DEFAULT 0,
    used_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, agent)
) WITHOUT ROWID;
CREATE TABLE pins (
    namespace BLOB NOT NULL,
    agent BLOB NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (namespace, agent, owner)
) WITHOUT ROWID;
CREATE VIEW standings AS
    SELECT u.key, max{STANDING} AS standing
    FROM users u JOIN nodes n USING (key)
    JOIN agents a ON a.namespace = n.namespace AND a.agent = u.agent GROUP BY u.key;
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('bytes', 0), ('uses', 0), ('day', 0), ('written', 0);
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


def statements() -> Iterator[str]:
    """What makes the tables; `executescript` would end the transaction."""
    statement = ""
    for line in _SCHEMA.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    yield f"PRAGMA user_version = {VERSION}"
