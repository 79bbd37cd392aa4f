"""deepseek_v41's `LayerCache`: a window, compressed groups of tokens, and the group still open.

Three parts that grow differently, so three leaf caches. The class has arrays `[1, rows, dim]` and
no heads; here they have one.

* "window": the last w rows, cut after each call.
* "compressed": one row for every `ratio` tokens (keys and values in one, and index keys), float32,
  on the layers that compress.
* "open": what the tokens since the last full group will be compressed from: a chunk of `ratio`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from semantic.adapters.mlx.kv_leaf import Arrays
from semantic.adapters.mlx.leaf import Leaf, LeafShape, Run, token_tensor
from semantic.domain.errors import IncompatibleCacheError
from semantic.domain.layer_group import LayerGroup, Span

__all__ = ["ATTRIBUTES", "CompressedPart", "OpenPart", "WindowPart", "new_layer_cache", "parts_of"]

_COMPRESSED = ("compress_kv", "index_k")
_OPEN = ("pending_kv", "pending_gate")
ATTRIBUTES = frozenset({"window", "window_size", "offset", *_COMPRESSED, *_OPEN})


class _Part(Leaf):
    """A part of a `LayerCache`: some of its arrays."""

    names: tuple[str, ...]

    @property
    def offset(self) -> int:
        """Tokens that it has seen."""
        return int(self._cache.offset)

    def arrays(self) -> dict[str, mx.array]:
        """The arrays that are there, with an axis for the one head."""
        found = {name: getattr(self._cache, name) for name in self.names}
        return {name: a[:, None] for name, a in found.items() if a is not None}

    def replace(self, arrays: dict[str, mx.array]) -> None:
        """See `Leaf.replace`."""
        for name, array in arrays.items():
            setattr(self._cache, name, array[:, 0])

    def _fits_rows(self, group: LayerGroup, n_rows: int) -> bool:
        """Whether the arrays are the group's with so many rows; none may be missing but empty."""
        found = self.arrays()
        for tensor in group.token_tensors:
            rows = found.pop(tensor.name, None)
            if rows is None and n_rows:
                return False
            if rows is not None and (
                rows.shape[2] != n_rows
                or token_tensor(tensor.name, rows, stride=tensor.stride) != tensor
            ):
                return False
        return not found

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """Every position since the first row."""
        return ((0, n_tokens),)


class WindowPart(_Part):
    """The last rows of the window."""

    layer_type = "sliding_window"
    names = ("window",)

    @property
    def _window(self) -> int:
        return int(self._cache.window_size)

    def shape(self) -> LeafShape:
        """See `Leaf.shape`."""
        tensors = tuple(token_tensor(name, rows) for name, rows in self.arrays().items())
        return LeafShape(self.layer_type, tensors, window=self._window, growth="exact")

    def fits(self, group: LayerGroup, n_tokens: int) -> bool:
        """See `Leaf.fits`."""
        same = group.window == self._window and group.growth == "exact"
        return same and self._fits_rows(group, min(n_tokens, self._window))

    def runs(self, tensor: str) -> list[Run]:
        """The window, ending at the last token."""
        rows = self.arrays()[tensor]
        return [(self.offset - rows.shape[2], rows)]

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """The last `window - 1`: a restore does not know the one before."""
        return ((max(0, n_tokens - self._window + 1), n_tokens),)


class CompressedPart(_Part):
    """The full groups, one row each."""

    layer_type = "global"
    names = _COMPRESSED

    def shape(self) -> LeafShape:
        """See `Leaf.shape`; the ratio follows from how many rows the tokens became."""
        ratio = _ratio(self._cache)
        tensors = tuple(token_tensor(n, rows, stride=ratio) for n, rows in self.arrays().items())
        return LeafShape(self.layer_type, tensors, growth="exact")

    def fits(self, group: LayerGroup, n_tokens: int) -> bool:
        """See `Leaf.fits`."""
        same = group.layer_type == "global" and group.growth == "exact"
        return same and self._fits_rows(group, n_tokens // group.stride)

    def runs(self, tensor: str) -> list[Run]:
        """Every full group."""
        rows = self.arrays().get(tensor)
        return [] if rows is None else [(0, rows)]


class OpenPart(_Part):
    """The tokens of the group that is not full yet."""

    layer_type = "chunked"
    names = _OPEN

    def shape(self) -> LeafShape:
        """See `Leaf.shape`."""
        tensors = tuple(token_tensor(name, rows) for name, rows in self.arrays().items())
        return LeafShape(self.layer_type, tensors, chunk=_ratio(self._cache), growth="exact")

    def fits(self, group: LayerGroup, n_tokens: int) -> bool:
        """See `Leaf.fits`."""
        if group.chunk is None or group.growth != "exact":
            return False
        return self._fits_rows(group, n_tokens % group.chunk)

    def runs(self, tensor: str) -> list[Run]:
        """The open group, ending at the last token."""
        rows = self.arrays()[tensor]
        return [(self.offset - rows.shape[2], rows)]

    def sure(self, n_tokens: int) -> tuple[Span, ...]:
        """The open group."""
        rows = next(iter(self.arrays().values())).shape[2]
        return ((n_tokens - rows, n_tokens),)


def parts_of(cache: Any) -> list[Leaf]:
    """The parts that this layer has: not every layer compresses."""
    parts: list[Leaf] = [WindowPart(cache)]
    if cache.compress_kv is not None or cache.pending_kv is not None:
        parts.append(CompressedPart(cache))
    if cache.pending_kv is not None:
        parts.append(OpenPart(cache))
    return parts


def _ratio(cache: Any) -> int:
    """Tokens in a group: n = ratio x rows + what is still open.

    Raises:
        IncompatibleCacheError: No group is full yet.
    """
    if cache.compress_kv is None or cache.compress_kv.shape[1] == 0:
        raise IncompatibleCacheError(
            f"{cache.offset} tokens are too few to know the compression of a LayerCache"
        )
    still_open = 0 if cache.pending_kv is None else cache.pending_kv.shape[1]
    return int((cache.offset - still_open) // cache.compress_kv.shape[1])


def new_layer_cache(
    cache_class: type[Any], parts: list[tuple[LayerGroup, Arrays]], n_tokens: int
) -> Any:
    """A `LayerCache` that holds `n_tokens`."""
    window = next(group.window for group, _ in parts if group.window is not None)
    cache = cache_class(window)
    for group, arrays in parts:
        for name, rows in arrays.items():
            # Before the first full group there is no array at all.
            if rows.shape[2] or group.chunk is not None:
                setattr(cache, name, rows[:, 0])
    cache.offset = n_tokens
    return cache
