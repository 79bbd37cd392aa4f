"""Blocks into live caches, at copy bandwidth.

One concatenation per group and tensor joins the blocks of *all* layers along the token axis, viewed
as the widest unsigned integers that divide a row; the layers are then cut out of the flattened
result. Cut along the first axis instead, the first write of each layer takes a slow strided copy
(DESIGN §7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache

from semantic.adapters.mlx.capture import MlxLiveCaches
from semantic.domain.errors import IncompatibleCacheError
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup, TokenTensor
from semantic.domain.live_bytes import ring_rows_at_rest
from semantic.domain.reports import HitPlan, RowSpan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, Caches

__all__ = ["MlxMaterialiser"]

_WIDE = ((8, mx.uint64), (4, mx.uint32), (2, mx.uint16), (1, mx.uint8))


class MlxMaterialiser:
    """The MLX side of `ports.Materialiser`. Every call stays on the caller's thread."""

    def open(self, spec: ModelCacheSpec, caches: Caches) -> MlxLiveCaches:
        """The caches, checked against `spec`; see `Materialiser.open`."""
        return MlxLiveCaches(spec, caches)

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        """Fresh caches positioned at `plan.n_tokens`; see `Materialiser.restore`."""
        spans = dict(plan.spans)
        caches: Caches = [None] * spec.n_layers
        for group in spec.groups:
            tensors = {
                tensor.name: _layers(group, tensor, spans[group.name], plan.n_tokens, data)
                for tensor in group.token_tensors
            }
            for index, layer in enumerate(group.layers):
                cache = _new_cache(group, plan.n_tokens)
                cache.keys = tensors["keys"][index]
                cache.values = tensors["values"][index]
                caches[layer] = cache
        return caches

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        """One row of a batch's caches as the caches of a single sequence."""
        return [cache.extract(row) for cache in batch_caches]


def _new_cache(group: LayerGroup, n_tokens: int) -> Any:
    """An mlx-lm cache of the group's kind that believes it holds `n_tokens`."""
    if group.layer_type == "global":
        cache = KVCache()
    elif group.layer_type == "sliding_window":
        cache = RotatingKVCache(max_size=group.window, keep=group.keep)
        cache._idx = min(n_tokens, cast(int, group.window))
    else:
        raise IncompatibleCacheError(f"a {group.layer_type} group cannot be restored yet")
    cache.offset = n_tokens
    return cache


def _layers(
    group: LayerGroup,
    tensor: TokenTensor,
    spans: Sequence[RowSpan],
    n_tokens: int,
    data: Mapping[int, BlockData],
) -> list[mx.array]:
    """The tensor of every layer, `[1, heads, rows, dim]`, with as many rows as a fresh cache."""
    rows = [_wide(tensor, cast(mx.array, data[s.block_id][tensor.name])) for s in spans]
    if group.layer_type == "global":
        # Whole blocks: their number times 256 is the capacity of a fresh cache, and what lies
        # beyond the offset is overwritten before it is read.
        parts = rows
    else:
        window = cast(int, group.window)
        parts = [_cut(block, span) for block, span in zip(rows, spans, strict=True)]
        # The oldest row of a full ring is overwritten before it is read: it need not be known.
        missing = min(n_tokens, window) - sum(span.hi - span.lo for span in spans)
        slack = ring_rows_at_rest(n_tokens, window) - min(n_tokens, window)
        parts = [*_zeros(rows[0], missing), *parts, *_zeros(rows[0], slack)]
    joined = mx.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
    return _split(joined, tensor)


def _cut(block: mx.array, span: RowSpan) -> mx.array:
    base = span.lo // BLOCK_TOKENS * BLOCK_TOKENS
    return block[:, :, span.lo - base : span.hi - base]


def _zeros(like: mx.array, rows: int) -> list[mx.array]:
    if rows == 0:
        return []
    layers, heads, _, dim = like.shape
    return [mx.zeros((layers, heads, rows, dim), dtype=like.dtype)]


def _wide(tensor: TokenTensor, block: mx.array) -> mx.array:
    """The block viewed as the widest unsigned integers that divide a row."""
    if tensor.dim == 0:
        return block
    row_bytes = tensor.bytes_per_token // tensor.heads
    return block.view(next(dtype for size, dtype in _WIDE if row_bytes % size == 0))


def _split(joined: mx.array, tensor: TokenTensor) -> list[mx.array]:
    layers, heads, rows, wide = joined.shape
    flat = joined.reshape(-1)
    size = heads * rows * wide
    cut = [
        flat[layer * size : (layer + 1) * size].reshape(1, heads, rows, wide)
        for layer in range(layers)
    ]
    return cut if tensor.dim == 0 else [layer.view(getattr(mx, tensor.dtype)) for layer in cut]
