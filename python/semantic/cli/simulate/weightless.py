"""The MLX side of a replay: caches without tensors, that know which rows they would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semantic.domain.layer_group import LayerGroup, Span
from semantic.domain.reports import HitPlan
from semantic.domain.value_objects import ModelCacheSpec
from semantic.ports.outbound import BlockData, Caches

__all__ = ["WeightlessCaches", "WeightlessMaterialiser"]


class WeightlessCaches:
    """What the caches of a sequence of `n_tokens` would have; implements `LiveCaches`."""

    def __init__(self, spec: ModelCacheSpec, n_tokens: int) -> None:
        self._spec = spec
        self._n_tokens = n_tokens

    @property
    def n_tokens(self) -> int:
        """Positions that every layer holds."""
        return self._n_tokens

    @property
    def view_bytes(self) -> int:
        """Nothing: there is no memory."""
        return 0

    def known_spans(self, group: str) -> tuple[Span, ...]:
        """All positions, or those that a ring, a chunk or a state has at the end."""
        return _kept_spans(self._spec.group(group), self._n_tokens)

    def capture(self, group: str, spans: Sequence[Span]) -> list[BlockData]:
        """A block without tensors for each span."""
        return [{} for _ in spans]


class WeightlessMaterialiser:
    """Opens and restores sequences without tensors; implements `Materialiser`."""

    def open(self, spec: ModelCacheSpec, caches: Caches, n_tokens: int) -> WeightlessCaches:
        """Caches into which `n_tokens` were put."""
        return WeightlessCaches(spec, n_tokens)

    def restore(self, spec: ModelCacheSpec, plan: HitPlan, data: Mapping[int, BlockData]) -> Caches:
        """No caches."""
        return []

    def extract(self, batch_caches: Caches, row: int) -> Caches:
        """No caches."""
        return []


def _kept_spans(group: LayerGroup, n_tokens: int) -> tuple[Span, ...]:
    """A window's ring has the last `window` rows, one more than a hit at its end reads."""
    if group.window is None:
        return group.spans_needed(n_tokens)
    if n_tokens <= group.window:
        return ((0, n_tokens),)
    spans = ((0, group.keep), (n_tokens - group.window + group.keep, n_tokens))
    return tuple((lo, hi) for lo, hi in spans if lo < hi)
