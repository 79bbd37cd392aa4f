"""Which length of a prompt a store can restore, and from which blocks (law 4).

The same rule as in memory: one length that is valid for every group. Unbounded groups need their
rows from the first position on, bounded ones what a hit at that length reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup, Span
from semantic.domain.native import TokenIds
from semantic.domain.stored import BlockName, StoredNode

__all__ = ["StoredHit", "stored_hit"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """What of a stored block a prompt can use: positions `[lo, hi)`."""

    name: BlockName
    node: StoredNode
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class StoredHit:
    """A length that a store can restore.

    Args:
        n_tokens: The length; 0 is a miss.
        blocks: For each group the blocks that it reads, and the positions that each gives.
    """

    n_tokens: int
    blocks: tuple[tuple[str, tuple[tuple[BlockName, StoredNode, Span], ...]], ...] = ()


def stored_hit(
    groups: Sequence[LayerGroup],
    path: Sequence[Sequence[StoredNode]],
    tokens: TokenIds,
    limit: int,
) -> StoredHit:
    """The longest length of at most `limit` tokens that every group can be restored at.

    Args:
        groups: The layer groups.
        path: For each token block of the prompt, what is stored behind the block before it.
        tokens: The prompt.
        limit: The longest length that is wanted.
    """
    pieces = {group.name: sorted(_pieces(group, path, tokens), key=_order) for group in groups}
    reach = limit
    for group in groups:
        if not group.is_bounded:
            reach = min(reach, _covered(pieces[group.name], 0))
    ends = {reach} | {
        end
        for group in groups
        if group.is_bounded
        for end in _ends(group, pieces[group.name], reach)
    }
    for end in sorted(ends, reverse=True):
        read = [(group, _read(group, pieces[group.name], end)) for group in groups]
        if end > 0 and all(rows is not None for _, rows in read):
            blocks = tuple((group.name, tuple(rows or ())) for group, rows in read)
            return StoredHit(end, blocks)
    return StoredHit(0)


def _order(piece: _Piece) -> tuple[int, int]:
    return piece.lo, -piece.hi


def _pieces(
    group: LayerGroup, path: Sequence[Sequence[StoredNode]], tokens: TokenIds
) -> Iterator[_Piece]:
    for number, nodes in enumerate(path):
        start = number * BLOCK_TOKENS
        for node in nodes:
            common = start + _common(node.tokens, tokens[start : start + BLOCK_TOKENS])
            for name in node.blocks:
                # A state is what it is at its end, and nowhere else.
                hi = name.hi if group.layer_type == "state" else min(name.hi, common)
                if name.group == group.name and name.lo < hi <= common:
                    yield _Piece(name, node, name.lo, hi)


def _common(one: TokenIds, other: TokenIds) -> int:
    if one == other:
        return len(one)
    pairs = zip(one.tolist(), other.tolist(), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _covered(pieces: Sequence[_Piece], start: int) -> int:
    """The end of the gapless positions from `start` on."""
    for piece in pieces:
        if piece.lo <= start < piece.hi:
            start = piece.hi
    return start


def _ends(group: LayerGroup, pieces: Sequence[_Piece], limit: int) -> Iterator[int]:
    """Where a bounded group may allow a hit: at the end of a piece, or where a chunk is over."""
    for piece in pieces:
        if piece.hi <= limit:
            yield piece.hi
    if group.chunk is not None:
        yield from range(0, limit + 1, group.chunk)


def _read(
    group: LayerGroup, pieces: Sequence[_Piece], end: int
) -> list[tuple[BlockName, StoredNode, Span]] | None:
    """What a hit at `end` reads of a group, in order; None when something is not there."""
    read: list[tuple[BlockName, StoredNode, Span]] = []
    for first, last in group.spans_needed(end):
        position = first
        while position < last:
            here = [p for p in pieces if p.lo <= position < p.hi and _serves(group, p, end)]
            if not here:
                return None
            best = max(here, key=lambda piece: piece.hi)
            stop = min(best.hi, last)
            if stop < last and stop % BLOCK_TOKENS:
                # Its token block goes on in another stored one: a block is read from one only.
                return None
            read.append((best.name, best.node, (position, stop)))
            position = stop
    return read


def _serves(group: LayerGroup, piece: _Piece, end: int) -> bool:
    return group.layer_type != "state" or piece.hi == end
