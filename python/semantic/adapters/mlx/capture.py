"""Live caches into blocks: rows read by position, stacked over the layers of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from semantic.adapters.mlx.layout import leaves_by_spec
from semantic.adapters.mlx.leaf import Leaf, Run
from semantic.adapters.mlx.views import release_views
from semantic.domain.at_rest import BIASES, PACKED, SCALES
from semantic.domain.errors import IncompatibleCacheError
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup, Span, StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["MlxLiveCaches"]

_EVALUATED_BLOCKS = 16
"""Blocks captured in one evaluation: enough to keep MLX busy, few enough to fail early."""

Block = dict[str, object]


class MlxLiveCaches:
    """The caches of one running sequence, checked against a spec and read by position.

    Args:
        spec: The geometry that the caches must have.
        caches: The list of cache entries of one sequence.
        n_tokens: How many tokens the caller put in; caches that count theirs know better.

    Raises:
        UnsupportedCacheError: A cache class that is not served.
        IncompatibleCacheError: Other layers, shapes, windows or dtypes than the spec's, or layers
            that disagree on how many tokens they hold.
    """

    def __init__(self, spec: ModelCacheSpec, caches: Sequence[Any], n_tokens: int) -> None:
        self._spec = spec
        self._leaves = leaves_by_spec(spec, caches)
        self._n_tokens = _common_length(spec, self._leaves, n_tokens)
        for group in spec.groups:
            for layer in group.layers:
                if not self._leaves[layer].fits(group, self._n_tokens):
                    raise IncompatibleCacheError(
                        f"leaf cache {layer} is not one of the spec's {group.name}: "
                        f"{self._leaves[layer].shape()}"
                    )
        self._quantised = {g.name: _runs_quantised(g, self._members(g)) for g in spec.groups}
        self._runs: dict[tuple[str, str], list[list[Run]]] = {}
        self._view_bytes = 0

    @property
    def n_tokens(self) -> int:
        """Positions that every layer holds."""
        return self._n_tokens

    @property
    def view_bytes(self) -> int:
        """Memory beyond `nbytes` that views in the captured caches kept alive, and is free now."""
        return self._view_bytes

    def known_spans(self, group: str) -> tuple[Span, ...]:
        """The positions whose rows every layer of the group is sure to have."""
        members = self._members(self._spec.group(group))
        spans = members[0].sure(self._n_tokens)
        for leaf in members[1:]:
            spans = tuple(
                (max(a, c), min(b, d))
                for a, b in spans
                for c, d in leaf.sure(self._n_tokens)
                if max(a, c) < min(b, d)
            )
        return spans

    def capture(self, group: str, spans: Sequence[Span]) -> list[Block]:
        """Copies of the rows of each span; see `LiveCaches.capture`."""
        layer_group = self._spec.group(group)
        blocks: list[Block] = []
        for at in range(0, len(spans), _EVALUATED_BLOCKS):
            some = spans[at : at + _EVALUATED_BLOCKS]
            if layer_group.layer_type == "state":
                new = [self._checkpoint(layer_group) for _ in some]
            else:
                new = [self._token_block(layer_group, lo, hi) for lo, hi in some]
            mx.eval(new)
            blocks += new
        if layer_group.layer_type == "state" or layer_group.growth == "exact":
            # Slices of what is about to be replaced would keep it alive.
            self._runs = {key: runs for key, runs in self._runs.items() if key[0] != group}
            self._view_bytes += release_views(self._members(layer_group))
        return blocks

    def _members(self, group: LayerGroup) -> list[Leaf]:
        return [self._leaves[layer] for layer in group.layers]

    def _checkpoint(self, group: LayerGroup) -> Block:
        arrays = [leaf.arrays() for leaf in self._members(group)]
        return {
            tensor.name: _full_shape(_stacked([a[tensor.name] for a in arrays]), tensor)
            for tensor in group.state_tensors
        }

    def _token_block(self, group: LayerGroup, lo: int, hi: int) -> Block:
        block: Block = {}
        for tensor in group.token_tensors:
            packed = [kept.name for kept in group.at_rest.tensors_of(tensor)]
            if packed == [tensor.name]:
                block[tensor.name] = self._stacked_rows(group, tensor, tensor.name, lo, hi)
            elif self._quantised[group.name]:
                for name in packed:
                    block[name] = self._stacked_rows(group, tensor, name, lo, hi)
            else:
                plain = self._stacked_rows(group, tensor, tensor.name, lo, hi)
                bits, group_size = group.at_rest.bits, group.at_rest.group_size
                triple = mx.quantize(plain, group_size=group_size, bits=bits)
                block.update(
                    zip((tensor.name + s for s in (PACKED, SCALES, BIASES)), triple, strict=True)
                )
        return block

    def _stacked_rows(
        self, group: LayerGroup, tensor: TokenTensor, name: str, lo: int, hi: int
    ) -> mx.array:
        """`[layers, heads, rows of a block, dim]`, zero outside of the span."""
        stride = tensor.stride
        base = lo // BLOCK_TOKENS * BLOCK_TOKENS // stride
        first, last = lo // stride, hi // stride
        front, back = first - base, tensor.rows_per_block - (last - base)
        # Operations on arrays without elements crash on MLX's CUDA backend (0.32.4).
        if first == last or tensor.dim == 0:
            shape = (group.n_layers, tensor.heads, tensor.rows_per_block, tensor.dim)
            return mx.zeros(shape, dtype=getattr(mx, tensor.dtype))
        block = _stacked([_rows(runs, first, last) for runs in self._group_runs(group, name)])
        if front or back:
            block = mx.pad(block, [(0, 0), (0, 0), (front, back), (0, 0)])
        return block

    def _group_runs(self, group: LayerGroup, name: str) -> list[list[Run]]:
        key = (group.name, name)
        if key not in self._runs:
            self._runs[key] = [leaf.runs(name) for leaf in self._members(group)]
        return self._runs[key]


def _rows(runs: Sequence[Run], first: int, last: int) -> mx.array:
    """Rows `[first, last)`, which lie in one run."""
    for start, rows in runs:
        if start <= first and last <= start + rows.shape[2]:
            return rows[:, :, first - start : last - start]
    raise IncompatibleCacheError(f"rows {first} to {last} are not there")


def _stacked(layers: list[mx.array]) -> mx.array:
    """All layers in one array, with memory of its own and no byte more.

    Concatenating one thing gives a view of it, and `mx.contiguous` still shares up to 16 KiB of
    what lies around a view; taking rows always copies.
    """
    if len(layers) > 1:
        return mx.concatenate(layers)
    return mx.take(layers[0], mx.arange(layers[0].shape[0]), axis=0)


def _full_shape(states: mx.array, tensor: StateTensor) -> mx.array:
    """States `[layers, ...]` that still fill up, padded to what they will be."""
    missing = [0, *(full - now for full, now in zip(tensor.shape, states.shape[1:], strict=True))]
    return mx.pad(states, [(0, n) for n in missing]) if any(missing) else states


def _runs_quantised(group: LayerGroup, members: Sequence[Leaf]) -> bool:
    """Whether a plain group was quantised while it ran, as its blocks are."""
    packed = {tensor.name + PACKED for tensor in group.token_tensors}
    found = {not packed.isdisjoint(leaf.arrays()) for leaf in members}
    if len(found) > 1:
        raise IncompatibleCacheError(f"some leaf caches of {group.name} are quantised, others not")
    return found.pop()


def _common_length(spec: ModelCacheSpec, leaves: Sequence[Leaf], n_tokens: int) -> int:
    """Positions that every layer holds.

    A draft model's caches may be a token behind or ahead of the target's: unbounded layers can be
    cut to what all of them have, others cannot. A state does not tell where it stands, so beside
    one the layers that count must say what the caller says.
    """
    offsets = {leaf.offset for leaf in leaves if leaf.offset is not None}
    if any(group.layer_type == "state" for group in spec.groups):
        offsets.add(n_tokens)
    if len(offsets) > 1 and any(group.is_bounded for group in spec.groups):
        raise IncompatibleCacheError(
            f"{n_tokens} tokens were put in, and layers hold {sorted(offsets)}"
        )
    return min(offsets, default=n_tokens)
