"""Live caches into blocks: rows read by position, stacked over the layers of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from semantic.adapters.mlx.leaf import TENSOR_NAMES, kind_of, linear_rows, spec_of_caches
from semantic.domain.errors import IncompatibleCacheError
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["MlxLiveCaches"]


class MlxLiveCaches:
    """The caches of one running sequence, checked against a spec and read by position.

    Args:
        spec: The geometry that the caches must have.
        caches: The list of cache entries of one sequence.

    Raises:
        UnsupportedCacheError: A cache class that is not served.
        IncompatibleCacheError: Other layers, shapes, windows or dtypes than the spec's, or layers
            that disagree on how many tokens they hold.
    """

    def __init__(self, spec: ModelCacheSpec, caches: Sequence[Any]) -> None:
        for cache in caches:
            kind_of(cache)
        found = spec_of_caches(caches)
        if found.groups != spec.groups:
            raise IncompatibleCacheError(
                f"the caches are not those of the spec: {_names(found)} instead of {_names(spec)}"
            )
        self._spec = spec
        self._caches = caches
        self._n_tokens = _common_length(spec, caches)
        self._linear: dict[tuple[str, str], list[mx.array]] = {}

    @property
    def n_tokens(self) -> int:
        """Positions that every layer holds."""
        return self._n_tokens

    def first_position(self, group: str) -> int:
        """The first position whose rows the group is sure to have.

        A ring may hold more rows than a hit reads, but only the last window - 1 can be trusted:
        older ones may be a batch's padding, or the row that a restore did not know.
        """
        layer_group = self._spec.group(group)
        rows = min(layer.shape[2] for layer in self._rows(layer_group, TENSOR_NAMES[0]))
        if layer_group.window is not None:
            rows = min(rows, layer_group.window - 1)
        return self._n_tokens - rows

    def capture(self, group: str, spans: Sequence[tuple[int, int]]) -> list[dict[str, object]]:
        """Copies of the rows of each span; see `LiveCaches.capture`."""
        layer_group = self._spec.group(group)
        blocks: list[dict[str, object]] = [
            {name: self._block(layer_group, name, lo, hi) for name in TENSOR_NAMES}
            for lo, hi in spans
        ]
        mx.eval(blocks)
        return blocks

    def _block(self, group: LayerGroup, tensor: str, lo: int, hi: int) -> mx.array:
        base = lo // BLOCK_TOKENS * BLOCK_TOKENS
        slices = []
        for layer in self._rows(group, tensor):
            first = self._n_tokens - layer.shape[2]
            slices.append(layer[:, :, lo - first : hi - first])
        block = mx.concatenate(slices, axis=0)
        if hi - lo < BLOCK_TOKENS:
            front, back = lo - base, base + BLOCK_TOKENS - hi
            block = mx.pad(block, [(0, 0), (0, 0), (front, back), (0, 0)])
        # A group of one layer concatenates to a view, which would keep the whole buffer alive.
        return mx.contiguous(block) if group.n_layers == 1 else block

    def _rows(self, group: LayerGroup, tensor: str) -> list[mx.array]:
        key = (group.name, tensor)
        if key not in self._linear:
            members = [self._caches[layer] for layer in group.layers]
            rows = [linear_rows(cache, getattr(cache, tensor)) for cache in members]
            if group.window is None:
                rows = [layer[:, :, : self._n_tokens] for layer in rows]
            self._linear[key] = rows
        return self._linear[key]


def _common_length(spec: ModelCacheSpec, caches: Sequence[Any]) -> int:
    """Positions that every layer holds.

    A draft model's caches may be a token behind or ahead of the target's: unbounded layers can be
    cut to what all of them have, rings cannot.
    """
    offsets = sorted({int(cache.offset) for cache in caches})
    if len(offsets) > 1 and any(group.window is not None for group in spec.groups):
        raise IncompatibleCacheError(f"layers disagree on their length: {offsets}")
    return offsets[0]


def _names(spec: ModelCacheSpec) -> str:
    return ", ".join(
        f"{group.n_layers} x {group.layer_type}"
        + (f"({group.window})" if group.window else "")
        + "".join(f" {t.heads}x{t.dim} {t.dtype}" for t in group.token_tensors)
        for group in spec.groups
    )
