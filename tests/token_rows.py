"""Live caches whose rows are the tokens themselves: a restore that spells others is wrong KV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

TENSORS = (TokenTensor("keys", 1, 4, "float16"), TokenTensor("values", 1, 4, "float16"))
GLOBAL = LayerGroup("global", "global", (0,), TENSORS)


COMPRESSED = (TokenTensor("compress_kv", 1, 4, "float32", stride=4),)
STATE = LayerGroup("state", "state", (1,), (StateTensor("slot_0", (3, 4), "float32"),))


def window(size: int, layer: int, name: str = "sliding_window", keep: int = 0) -> LayerGroup:
    return LayerGroup(name, "sliding_window", (layer,), TENSORS, window=size, keep=keep)


def chunk(size: int, layer: int) -> LayerGroup:
    return LayerGroup("chunked", "chunked", (layer,), TENSORS, chunk=size)


SPECS = {
    "global": ModelCacheSpec((GLOBAL,)),
    "window_100": ModelCacheSpec((GLOBAL, window(100, 1))),
    "window_256": ModelCacheSpec((window(256, 1), GLOBAL)),
    "two_windows": ModelCacheSpec((GLOBAL, window(300, 1), window(700, 2, "sliding_window.1"))),
    "window_only": ModelCacheSpec((window(512, 0),)),
    "kept_front": ModelCacheSpec((GLOBAL, window(300, 1, keep=4))),
    "chunk_300": ModelCacheSpec((GLOBAL, chunk(300, 1))),
    "chunk_512": ModelCacheSpec((GLOBAL, chunk(512, 1))),
    "state": ModelCacheSpec((GLOBAL, STATE)),
    "state_only": ModelCacheSpec((replace(STATE, layers=(0,)),)),
    "state_window": ModelCacheSpec((window(100, 0), STATE)),
    "compressed": ModelCacheSpec(
        (
            LayerGroup("global", "global", (0,), COMPRESSED, growth="exact"),
            window(100, 1),
            replace(chunk(4, 2), growth="exact"),
        )
    ),
}


def read_positions(group: LayerGroup, end: int) -> list[int]:
    """What a hit at `end` must find, written down once more."""
    if group.layer_type == "state":
        return [end - 1]
    if group.layer_type == "chunked":
        return [p for p in range(end) if p // group.chunk == end // group.chunk]
    if group.layer_type == "sliding_window":
        recent = group.window - group.keep - 1
        return [p for p in range(end) if p < group.keep or p >= end - recent]
    return list(range(end))


class TokenRows:
    """Live caches of `tokens`, whose ring of each group has `overshoot` rows more than it needs."""

    def __init__(self, spec: ModelCacheSpec, tokens: Sequence[int], overshoot: int) -> None:
        self._spec = spec
        self._tokens = tokens
        self._overshoot = overshoot

    @property
    def n_tokens(self) -> int:
        return len(self._tokens)

    @property
    def view_bytes(self) -> int:
        return 0

    def known_spans(self, group: str) -> tuple[tuple[int, int], ...]:
        known = self._spec.group(group)
        if known.layer_type == "global":
            return ((0, self.n_tokens),)
        if known.layer_type == "state":
            return ((self.n_tokens - 1, self.n_tokens),)
        reads = read_positions(known, self.n_tokens)
        recent = min([p for p in reads if p >= known.keep], default=self.n_tokens)
        spans = ((0, known.keep), (max(0, recent - self._overshoot), self.n_tokens))
        return tuple((lo, hi) for lo, hi in spans if lo < hi)

    def capture(self, group: str, spans: Sequence[tuple[int, int]]) -> list[dict[str, object]]:
        known = self.known_spans(group)
        assert all(any(a <= lo < hi <= b for a, b in known) for lo, hi in spans)
        return [{"prefix": tuple(self._tokens[:hi]), "lo": lo, "hi": hi} for lo, hi in spans]
