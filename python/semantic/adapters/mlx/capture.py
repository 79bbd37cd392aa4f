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
        offsets = {int(cache.offset) for cache in caches}
        if len(offsets) != 1:
            raise IncompatibleCacheError(f"layers disagree on their length: {sorted(offsets)}")
        self._spec = spec
        self._caches = caches
        self._n_tokens = offsets.pop()
        self._linear: dict[tuple[str, str], list[mx.array]] = {}

    @property
    def n_tokens(self) -> int:
        """Positions that every layer holds."""
        return self._n_tokens

    def first_position(self, group: str) -> int:
        """The first position whose rows the group still has."""
        rows = self._rows(self._spec.group(group), TENSOR_NAMES[0])
        return self._n_tokens - min(layer.shape[2] for layer in rows)

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
            self._linear[key] = [linear_rows(c, getattr(c, tensor)) for c in members]
        return self._linear[key]


def _names(spec: ModelCacheSpec) -> str:
    return ", ".join(
        f"{group.n_layers} x {group.layer_type}"
        + (f"({group.window})" if group.window else "")
        + "".join(f" {t.heads}x{t.dim} {t.dtype}" for t in group.token_tensors)
        for group in spec.groups
    )
