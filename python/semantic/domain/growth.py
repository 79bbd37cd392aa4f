"""How mlx-lm's buffers grow: the token rows allocated, as a function of the calls.

The rules are those of `mlx_lm.models.cache` (read in 0.32.2). `p` is the number of tokens before a
call, `S` the number in it, `rows` the token rows allocated:

* global (`KVCache`): grows when `p + S > rows`, by `256 * ceil(S / 256)` rows on top of `rows`, or
  of `p` when `p` is no multiple of 256 (the slack is cut off first).
* sliding window (`RotatingKVCache`): a call of several tokens keeps at most `w - 1` old rows and
  adds `S` (so prefill overshoots the window); a call of one token grows by up to 256 rows below the
  window, and cuts to `w` above it.
* chunked (`ChunkedKVCache`): cut to one chunk before a call, then as global.
* state: constant from the first token on, or filling up to its shape.
* exact (`ConcatenateKVCache`, deepseek_v41's `LayerCache`): the rows that are needed and no more:
  all, the window, or what the open chunk has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from semantic.domain.layer_group import LayerGroup
from semantic.domain.tensor import BLOCK_TOKENS

__all__ = [
    "DEFAULT_PREFILL_STEP",
    "Buffer",
    "buffer_of",
    "calls",
    "kept_from",
    "most_bytes",
    "prefill_steps",
    "rows_at_rest",
]

DEFAULT_PREFILL_STEP = 2048
"""mlx-lm's own default number of tokens per prefill step."""

_LEAST_PREFILL_STEP = BLOCK_TOKENS
"""Shorter steps save little memory, and cost much time."""


def prefill_steps(asked: int) -> Iterator[int]:
    """The step that was asked for, and what it may be halved to where memory is short."""
    yield asked
    step = asked
    while step > _LEAST_PREFILL_STEP:
        step = max(_LEAST_PREFILL_STEP, step // 2)
        yield step


class Buffer(Protocol):
    """The running buffers of one group, all layers together."""

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        ...

    @property
    def period(self) -> int:
        """Decoded tokens after which a size that comes and goes repeats; 0 when it only grows."""
        ...

    def restore(self, tokens: int) -> None:
        """As if `tokens` had been put in by `generate_step` at its default step."""
        ...

    def call(self, before: int, step: int) -> None:
        """One call of `step` tokens, `before` tokens being in."""
        ...

    def decode(self, before: int, tokens: int) -> None:
        """`tokens` calls of one token each."""
        ...


def _round_up(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _grown(rows: int, valid: int, step: int) -> int:
    """Rows of a buffer that holds `valid` tokens, after `step` more."""
    if valid + step <= rows:
        return rows
    return (valid if valid % BLOCK_TOKENS else rows) + _round_up(step)


@dataclass(slots=True, kw_only=True)
class _Rows:
    """`KVCache`, and what all buffers of token rows have in common."""

    period: ClassVar[int] = 0

    row_bytes: int
    rows: int = 0

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    def restore(self, tokens: int) -> None:
        self.rows = 0
        for before, step in calls(0, tokens, DEFAULT_PREFILL_STEP):
            self.call(before, step)

    def call(self, before: int, step: int) -> None:
        self.rows = _grown(self.rows, before, step)

    def decode(self, before: int, tokens: int) -> None:
        # Each growth happens at a full buffer and adds 256 rows.
        self.rows += _round_up(max(0, before + tokens - self.rows))


@dataclass(slots=True, kw_only=True)
class _Ring(_Rows):
    """`RotatingKVCache`."""

    window: int

    def call(self, before: int, step: int) -> None:
        if step == 1:
            self.decode(before, 1)
        else:
            # Rows beyond the tokens are slack of an earlier single step, cut off first.
            self.rows = min(self.rows, before, self.window - 1) + step

    def decode(self, before: int, tokens: int) -> None:
        if tokens:
            missing = max(0, before + tokens - self.rows)
            self.rows = min(self.window, self.rows + _round_up(missing))


@dataclass(slots=True, kw_only=True)
class _Chunk(_Rows):
    """`ChunkedKVCache`."""

    chunk: int
    start: int = 0

    def call(self, before: int, step: int) -> None:
        if not before:
            self.start = 0
        if before - self.start > self.chunk:
            self.start = before - self.chunk
            self.rows = self.chunk
        self.rows = _grown(self.rows, before - self.start, step)

    def decode(self, before: int, tokens: int) -> None:
        # Once the chunk is full every step cuts and grows again: no closed form is shorter.
        for position in range(before, before + min(tokens, 2 * self.chunk + BLOCK_TOKENS)):
            self.call(position, 1)


class _Exact:
    """Caches without slack: `ConcatenateKVCache`, the parts of a `LayerCache`."""

    def __init__(self, group: LayerGroup) -> None:
        self._row_bytes = group.bytes_per_row_per_layer * group.n_layers
        self._group = group
        self._tokens = 0
        self.period = group.chunk or 0

    @property
    def nbytes(self) -> int:
        return _exact_rows(self._group, self._tokens) * self._row_bytes

    def restore(self, tokens: int) -> None:
        self._tokens = tokens

    def call(self, before: int, step: int) -> None:
        self._tokens = before + step

    def decode(self, before: int, tokens: int) -> None:
        self._tokens = before + tokens


class _State:
    """`ArraysCache`."""

    period = 0

    def __init__(self, group: LayerGroup) -> None:
        self._group = group
        self._tokens = 0

    @property
    def nbytes(self) -> int:
        if not self._tokens:
            return 0
        tensors = self._group.state_tensors
        return sum(t.nbytes_at(self._tokens) for t in tensors) * self._group.n_layers

    def restore(self, tokens: int) -> None:
        self._tokens = tokens

    def call(self, before: int, step: int) -> None:
        self._tokens = before + step

    def decode(self, before: int, tokens: int) -> None:
        self._tokens = before + tokens


def _exact_rows(group: LayerGroup, tokens: int) -> int:
    if group.window is not None:
        return min(tokens, group.window)
    return (tokens % group.chunk if group.chunk else tokens) // group.stride


def buffer_of(group: LayerGroup) -> Buffer:
    """An empty buffer of the group, to be moved along."""
    row_bytes = group.bytes_per_row_per_layer * group.n_layers
    if group.layer_type == "state":
        return _State(group)
    if group.growth == "exact":
        return _Exact(group)
    if group.window is not None:
        return _Ring(row_bytes=row_bytes, window=group.window)
    if group.chunk is not None:
        return _Chunk(row_bytes=row_bytes, chunk=group.chunk)
    return _Rows(row_bytes=row_bytes)


def calls(start: int, n_tokens: int, prefill_step: int) -> Iterator[tuple[int, int]]:
    """(tokens before the call, tokens in it) for each call of generate_step.

    It feeds the first n - 1 tokens in steps of `prefill_step` and the last one alone.
    """
    for before in range(start, n_tokens - 1, prefill_step):
        yield before, min(prefill_step, n_tokens - 1 - before)
    if n_tokens > start:
        yield n_tokens - 1, 1


def rows_at_rest(group: LayerGroup, n_tokens: int) -> int:
    """Rows that generate_step allocates at its default step, and so a restored buffer has."""
    if group.growth == "exact":
        return _exact_rows(group, n_tokens)
    buffer = buffer_of(group)
    if not isinstance(buffer, _Rows):
        return 0
    buffer.restore(n_tokens)
    return buffer.rows


def kept_from(group: LayerGroup, n_tokens: int) -> int:
    """The position of the first row that a chunked buffer still has, filled as above."""
    buffer = buffer_of(group)
    if not isinstance(buffer, _Chunk):
        return n_tokens - rows_at_rest(group, n_tokens)
    buffer.restore(n_tokens)
    return buffer.start


def most_bytes(group: LayerGroup, n_tokens: int, prefill_step: int) -> int:
    """The most bytes of one row on the way to `n_tokens`, wherever its prefill is cut.

    A prompt that is prefilled in segments ends a call at any token. A buffer that is full there
    grows by whole steps of 256 rows from that token on: by up to 255 rows more than are needed.
    """
    if group.layer_type == "state" or group.growth == "exact":
        whole = buffer_of(group)
        whole.restore(n_tokens)
        open_rows = (group.chunk or 0) // group.stride * group.bytes_per_row_per_layer
        return max(whole.nbytes, open_rows * group.n_layers)
    longest = n_tokens + BLOCK_TOKENS - 1
    if group.window is not None:
        overshoot = group.window - 1 + min(prefill_step, n_tokens)
        rows = max(min(longest, group.window), min(n_tokens, overshoot))
    elif group.chunk is not None:
        rows = min(longest, group.chunk + prefill_step + BLOCK_TOKENS - 1)
    else:
        rows = longest
    return rows * group.bytes_per_row_per_layer * group.n_layers
