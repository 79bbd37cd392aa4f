"""Token blocks as a catalogue lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semantic.adapters.store.database import Database, in_parts
from semantic.adapters.store.veil import Veil
from semantic.domain.native import TokenIds

__all__ = ["ListedNode", "listed"]


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


def listed(database: Database, veil: Veil, where: str, values: Sequence[bytes]) -> list[ListedNode]:
    """The token blocks of which something is here.

    Args:
        database: The catalogue's.
        veil: Reads what is sealed in it.
        where: What is true of a row `n` of `nodes`, with `{}` for the places of values.
        values: As many as there are.
    """
    found: dict[bytes, tuple[bytes, bytes, list[tuple[str, int, int]]]] = {}
    for some in in_parts(values):
        rows = database.read(
            "SELECT n.key, n.parent, n.tokens, b.layer_group, b.lo, b.hi"
            " FROM nodes n JOIN blocks b USING (key)"
            f" WHERE b.state = 'here' AND {where.format(','.join('?' * len(some)))}",
            some,
            (bytes, bytes, bytes, str, int, int),
        )
        for key, parent, tokens, group, lo, hi in rows:
            new: list[tuple[str, int, int]] = []
            _, _, blocks = found.setdefault(key, (parent, tokens, new))
            blocks.append((group, lo, hi))
    return [
        ListedNode(key, parent, veil.tokens(tokens), tuple(blocks))
        for key, (parent, tokens, blocks) in found.items()
    ]
