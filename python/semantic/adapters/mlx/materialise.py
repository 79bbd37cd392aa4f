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

from semantic.adapters.mlx.cache_class import Parts, class_named
from semantic.adapters.mlx.capture import MlxLiveCaches
from semantic.adapters.mlx.layout import plain_entries
from semantic.adapters.mlx.restored_rows import joined_rows, split_layers
from semantic.domain.at_rest import BIASES, PACKED, SCALES
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor
from semantic.domain.reports import HitPlan, RowSpan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, Caches

__all__ = ["MlxMaterialiser"]

_QUANTISED = "mlx_lm.models.cache.QuantizedKVCache"
"""The only class of its kind: what is plain may be a fork's own."""


class MlxMaterialiser:
    """The MLX side of `ports.Materialiser`. Every call stays on the caller's thread.

    Args:
        keep_quantised: Restore blocks that are quantised at rest into `QuantizedKVCache`s, which
            read them as they are, where keys and values both are; else they become plain again.
            As with mlx-lm's own `kv_bits`, the model's attention must be able to: with sinks
            (gpt_oss) or latent keys (deepseek_v3) mlx-lm raises.
    """

    def __init__(self, *, keep_quantised: bool = False) -> None:
        self._keep_quantised = keep_quantised

    def open(self, spec: ModelCacheSpec, caches: Caches, n_tokens: int) -> MlxLiveCaches:
        """The caches, checked against `spec`; see `Materialiser.open`."""
        return MlxLiveCaches(spec, caches, n_tokens)

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        """Fresh caches positioned at `plan.n_tokens`; see `Materialiser.restore`."""
        spans = dict(plan.spans)
        leaves: dict[int, tuple[LayerGroup, dict[str, mx.array]]] = {}
        for group in spec.groups:
            arrays = self._arrays(group, spans.get(group.name, ()), plan.n_tokens, data)
            for index, layer in enumerate(group.layers):
                leaves[layer] = (group, {name: layers[index] for name, layers in arrays.items()})
        entries = spec.entries or plain_entries(spec)
        return [self._build(entry, leaves, plan.n_tokens) for entry in entries]

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        """One row of a batch's caches as the caches of a single sequence."""
        return [cache.extract(row) for cache in batch_caches]

    def _arrays(
        self,
        group: LayerGroup,
        spans: Sequence[RowSpan],
        n_tokens: int,
        data: Mapping[int, BlockData],
    ) -> dict[str, list[mx.array]]:
        """The tensors of every layer, by name."""
        if group.layer_type == "state":
            checkpoint = data[spans[0].block_id]
            return {t.name: _states(checkpoint, t, n_tokens) for t in group.state_tensors}
        arrays: dict[str, list[mx.array]] = {}
        for tensor in group.token_tensors:
            rows = {
                kept.name: joined_rows(group, kept, spans, n_tokens, data)
                for kept in group.at_rest.tensors_of(tensor)
            }
            if len(rows) > 1 and not self._stays_quantised(group):
                rows = {tensor.name: _dequantised(group, tensor, rows)}
            arrays |= {name: split_layers(joined) for name, joined in rows.items()}
        return arrays

    def _stays_quantised(self, group: LayerGroup) -> bool:
        all_are = all(group.at_rest.quantises(tensor) for tensor in group.token_tensors)
        is_plain = group.layer_type == "global" and group.growth == "steps"
        return self._keep_quantised and all_are and is_plain

    def _build(
        self,
        entry: CacheEntry,
        leaves: Mapping[int, tuple[LayerGroup, dict[str, mx.array]]],
        n_tokens: int,
    ) -> Any:
        parts: Parts = [leaves[leaf] for leaf in entry.leaves]
        name = entry.class_name
        if any(self._stays_quantised(group) for group, _ in parts):
            name = _QUANTISED
        cache_class, served = class_named(name)
        if entry.children or served is None:
            return cache_class(*(self._build(c, leaves, n_tokens) for c in entry.children))
        return served.build(cache_class, parts, n_tokens) if parts else cache_class()


def _states(checkpoint: BlockData, tensor: StateTensor, n_tokens: int) -> list[mx.array]:
    """The state of each layer, `[1, ...]`, as large as `n_tokens` made it."""
    states = cast(mx.array, checkpoint[tensor.name])
    cut = tuple(slice(0, size) for size in tensor.shape_at(n_tokens))
    return [states[(slice(layer, layer + 1), *cut)] for layer in range(states.shape[0])]


def _dequantised(group: LayerGroup, tensor: TokenTensor, rows: Mapping[str, mx.array]) -> mx.array:
    packed, scales, biases = (rows[tensor.name + suffix] for suffix in (PACKED, SCALES, BIASES))
    if not packed.size:  # MLX refuses to dequantise nothing
        return mx.zeros((*packed.shape[:-1], tensor.dim), dtype=scales.dtype)
    bits, group_size = group.at_rest.bits, group.at_rest.group_size
    return mx.dequantize(packed, scales, biases, group_size=group_size, bits=bits)
