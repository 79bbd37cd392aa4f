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

    def agree(self, run: sqlite3.Cursor, blocks: Sequence[NewBlock]) -> None:
        """Make what is known of blocks agree with them."""
        self.enter_nodes(run, blocks)
        for block in blocks:
            file, key, group, lo, hi, _, is_bounded = self.row(block, 0)
            row = (key, group, lo, hi, is_bounded)
            columns = "(key, layer_group, lo, hi, is_bounded)"
            run.execute(
                f"UPDATE blocks SET {columns} = (?, ?, ?, ?, ?)"
                f" WHERE file = ? AND {columns} != (?, ?, ?, ?, ?)",
                (*row, file, *row),
            )

    def enter_nodes(self, run: sqlite3.Cursor, blocks: Sequence[NewBlock]) -> None:
        """Enter the token blocks of these, or what is right of those that were entered wrongly."""
        key, seal = self._veil.key, self._veil.seal
        columns = "(namespace, parent, tokens, n_tokens)"
        new = "(excluded.namespace, excluded.parent, excluded.tokens, excluded.n_tokens)"
        run.executemany(
            f"INSERT INTO nodes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {columns} = {new}"
            f" WHERE {columns} != {new}",
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
