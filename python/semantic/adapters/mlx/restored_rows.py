"""The rows of all layers of a group, joined from blocks: what a fresh buffer would hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import mlx.core as mx

from semantic.domain.growth import kept_from, rows_at_rest
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup, Span
from semantic.domain.reports import RowSpan
from semantic.domain.tensor import TokenTensor
from semantic.ports.outbound import BlockData

__all__ = ["joined_rows", "split_layers"]

_WIDE = ((8, mx.uint64), (4, mx.uint32), (2, mx.uint16), (1, mx.uint8))


def joined_rows(
    group: LayerGroup,
    tensor: TokenTensor,
    spans: Sequence[RowSpan],
    n_tokens: int,
    data: Mapping[int, BlockData],
) -> mx.array:
    """`[layers, heads, rows, dim]`, with as many rows as a fresh buffer has at `n_tokens`.

    Rows that a hit need not know are zero: they are masked, or overwritten before they are read.

    Args:
        group: The layer group.
        tensor: One tensor of its blocks.
        spans: Where its rows come from, in order of position.
        n_tokens: Tokens that the buffer is to hold.
        data: The blocks by id.
    """
    dim = tensor.dim and _words(tensor)[0]

    def zeros(rows: int) -> mx.array:
        return mx.zeros((group.n_layers, tensor.heads, rows, dim), dtype=_dtype(tensor))

    capacity = rows_at_rest(group, n_tokens)
    if dim == 0:
        return zeros(capacity)
    parts: list[mx.array] = []
    filled = 0
    for block_id, first, last in _pieces(group, tensor, spans, n_tokens):
        if block_id is None:
            parts.append(zeros(last - first))
        else:
            block = cast(mx.array, data[block_id][tensor.name])
            parts.append(_cut(_wide(tensor, block), first, last))
        filled += last - first
    if filled < capacity or not parts:
        parts.append(zeros(capacity - filled))
    joined = mx.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
    return joined.view(getattr(mx, tensor.dtype))


def _pieces(
    group: LayerGroup, tensor: TokenTensor, spans: Sequence[RowSpan], n_tokens: int
) -> Iterator[tuple[int | None, int, int]]:
    """(block, first row in it, last) for the rows in order; block None for rows not known."""
    stride = tensor.stride
    if not group.is_bounded and group.growth == "steps":
        # Whole blocks: their number times 256 is the capacity of a fresh cache, and what lies
        # beyond the offset is overwritten before it is read.
        for span in spans:
            yield span.block_id, 0, tensor.rows_per_block
        return
    for lo, hi in _held(group, n_tokens):
        position = lo
        for span in spans:
            if not lo <= span.lo < hi:
                continue
            if span.lo > position:
                yield None, 0, (span.lo - position) // stride
            base = span.lo // BLOCK_TOKENS * BLOCK_TOKENS // stride
            yield span.block_id, span.lo // stride - base, span.hi // stride - base
            position = span.hi
        if position < hi:
            yield None, 0, (hi - position) // stride


def _held(group: LayerGroup, n_tokens: int) -> tuple[Span, ...]:
    """The positions whose rows a buffer holds at `n_tokens`, in the order of its rows."""
    if group.window is not None:
        held = min(n_tokens, group.window)
        kept = min(group.keep, n_tokens)
        return (0, kept), (n_tokens - held + kept, n_tokens)
    if group.chunk is not None and group.growth == "exact":
        return ((n_tokens - n_tokens % group.chunk, n_tokens),)
    if group.chunk is not None:
        return ((kept_from(group, n_tokens), n_tokens),)
    return ((0, n_tokens),)


def _cut(block: mx.array, first: int, last: int) -> mx.array:
    whole = first == 0 and last == block.shape[2]
    return block if whole else block[:, :, first:last]


def _words(tensor: TokenTensor) -> tuple[int, mx.Dtype]:
    """How many of the widest unsigned integers that divide a row it has, and which."""
    row_bytes = tensor.bytes_per_row // tensor.heads
    size, dtype = next((size, dtype) for size, dtype in _WIDE if row_bytes % size == 0)
    return row_bytes // size, dtype


def _dtype(tensor: TokenTensor) -> mx.Dtype:
    return cast(mx.Dtype, getattr(mx, tensor.dtype)) if tensor.dim == 0 else _words(tensor)[1]


def _wide(tensor: TokenTensor, block: mx.array) -> mx.array:
    """The block viewed as the widest unsigned integers that divide a row."""
    return block.view(_words(tensor)[1])


def split_layers(joined: mx.array) -> list[mx.array]:
    """`[layers, heads, rows, dim]` cut into `[1, heads, rows, dim]` of each layer."""
    layers, heads, rows, dim = joined.shape
    if joined.size == 0:
        return [mx.zeros((1, heads, rows, dim), dtype=joined.dtype) for _ in range(layers)]
    flat = joined.reshape(-1)
    size = heads * rows * dim
    return [
        flat[layer * size : (layer + 1) * size].reshape(1, heads, rows, dim)
        for layer in range(layers)
    ]
