"""Blocks as rows of a catalogue."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from semantic.adapters.store.veil import Veil
from semantic.domain.stored import NewBlock

__all__ = ["Row", "Rows"]

Row = tuple[str, bytes, str, int, int, int, bool]
"""File, key, layer group, first valid position and end, bytes, and whether it is bounded."""


class Rows:
    """What is written of blocks. Every method that takes a cursor is a part of a transaction.

    Args:
        veil: What the disk sees of names and values.
    """

    def __init__(self, veil: Veil) -> None:
        self._veil = veil

    def row(self, block: NewBlock, n_bytes: int) -> Row:
        """The row of a block, with so many bytes."""
        name, key = block.name, self._veil.key(block.name.key)
        file = self._veil.file(name)
        return file, key, name.group, name.lo, name.hi, n_bytes, block.is_bounded

    def agree(
        self,
        run: sqlite3.Cursor,
        blocks: Sequence[NewBlock],
        *,
        beside: Sequence[NewBlock] = (),
        are_files: bool = False,
    ) -> None:
        """Make what is known of blocks agree with them; see `enter_nodes`."""
        self.enter_nodes(run, blocks, beside=beside, are_files=are_files)
        for block in blocks:
            file, key, group, lo, hi, _, is_bounded = self.row(block, 0)
            row = (key, group, lo, hi, is_bounded)
            columns = "(key, layer_group, lo, hi, is_bounded)"
            run.execute(
                f"UPDATE blocks SET {columns} = (?, ?, ?, ?, ?)"
                f" WHERE file = ? AND {columns} != (?, ?, ?, ?, ?)",
                (*row, file, *row),
            )

    def enter_nodes(
        self,
        run: sqlite3.Cursor,
        blocks: Sequence[NewBlock],
        *,
        beside: Sequence[NewBlock] = (),
        are_files: bool = False,
    ) -> None:
        """Enter the token blocks of these, or what is right of those that were entered wrongly.

        A key tells its parent and its tokens, and not its namespace. So a token block that is known
        keeps that, unless its parent says so, too: nobody is to take it from whose it is.

        Args:
            run: The transaction.
            blocks: The blocks.
            beside: Others that come with them: parents, maybe.
            are_files: Whether they lie here, so that they say what is right.
        """
        key, seal = self._veil.key, self._veil.seal
        said = {(block.name.key, block.namespace) for block in beside}
        columns = "(namespace, parent, tokens, n_tokens)"
        new = "(excluded.namespace, excluded.parent, excluded.tokens, excluded.n_tokens)"
        right = f"({_NAMESPACE}, excluded.parent, excluded.tokens, excluded.n_tokens)"
        run.executemany(
            "INSERT INTO nodes VALUES (?1, ?2, ?3, ?4, ?5)"
            f" ON CONFLICT DO UPDATE SET {columns} = {right} WHERE {columns} != {new}",
            [
                (
                    key(block.name.key),
                    key(block.namespace),
                    key(block.parent),
                    seal(block.tokens.tobytes()),
                    len(block.tokens),
                    are_files or (block.parent, block.namespace) in said,
                )
                for block in blocks
            ],
        )


_NAMESPACE = """CASE
    WHEN ?6 OR EXISTS (SELECT 1 FROM nodes p
        WHERE p.key = excluded.parent AND p.namespace = excluded.namespace)
    OR (excluded.parent = excluded.namespace
        AND NOT EXISTS (SELECT 1 FROM nodes p WHERE p.key = excluded.parent))
    THEN excluded.namespace ELSE nodes.namespace END"""
"""The right one of a known token block: what is said, where its parent is of the same or it is the
first of its prompt."""
