"""Bytes of mlx-lm's contiguous cache buffers, as a function of how tokens were put in.

The rules are those of `mlx_lm.models.cache` (read in 0.32.2). `p` is the number of tokens before a
call, `S` the number in it, `rows` the token rows allocated:

* global (`KVCache`): grows when `p + S > rows`, by `256 * ceil(S / 256)` rows on top of `rows`, or
  of `p` when `p` is no multiple of 256 (the slack is cut off first).
* sliding window (`RotatingKVCache`): a call of several tokens keeps at most `w - 1` old rows and
  adds `S` (so prefill overshoots the window); a call of one token grows by up to 256 rows below the
  window, and cuts to `w` above it.
* chunked (`ChunkedKVCache`): cut to one chunk before a call, then as global.
* state: constant from the first token on.

`generate_step` feeds the first n - 1 tokens in steps of `prefill_step` and the last one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic.domain._check import whole_number
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup

__all__ = ["DEFAULT_PREFILL_STEP", "at_rest", "batch", "peak", "ring_rows_at_rest"]

DEFAULT_PREFILL_STEP = 2048
"""mlx-lm's own default number of tokens per prefill step."""


def _round_up(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _grown(rows: int, valid: int, step: int) -> int:
    """Rows of a buffer that holds `valid` tokens, after `step` more."""
    if valid + step <= rows:
        return rows
    return (valid if valid % BLOCK_TOKENS else rows) + _round_up(step)


@dataclass(slots=True)
class _GlobalRows:
    rows: int = 0

    def restore(self, tokens: int) -> None:
        self.rows = _round_up(tokens)

    def call(self, before: int, step: int) -> None:
        self.rows = _grown(self.rows, before, step)

    def decode(self, before: int, tokens: int) -> None:
        # Each growth happens at a full buffer and adds 256 rows.
        self.rows += _round_up(max(0, before + tokens - self.rows))


@dataclass(slots=True)
class _RingRows:
    window: int
    rows: int = 0

    def restore(self, tokens: int) -> None:
        self.rows = ring_rows_at_rest(tokens, self.window)

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


@dataclass(slots=True)
class _ChunkedRows:
    chunk: int
    rows: int = 0
    start: int = 0

    def restore(self, tokens: int) -> None:
        self.start = max(0, tokens - self.chunk)
        self.rows = _round_up(tokens - self.start)

    def call(self, before: int, step: int) -> None:
        if before - self.start > self.chunk:
            self.start = before - self.chunk
            self.rows = self.chunk
        self.rows = _grown(self.rows, before - self.start, step)

    def decode(self, before: int, tokens: int) -> None:
        # Once the chunk is full every step cuts and grows again: no closed form is shorter.
        for position in range(before, before + min(tokens, 2 * self.chunk + BLOCK_TOKENS)):
            self.call(position, 1)


@dataclass(slots=True)
class _StateRows:
    """A state has no rows: present (1) from the first token on."""

    rows: int = 0

    def restore(self, tokens: int) -> None:
        self.rows = 1

    def call(self, before: int, step: int) -> None:
        self.rows = 1

    def decode(self, before: int, tokens: int) -> None:
        self.rows = 1


_Rows = _GlobalRows | _RingRows | _ChunkedRows | _StateRows


class _Buffers:
    """The buffers of all groups of one sequence, moved along together."""

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self._groups = [(_rows_of(group), _row_bytes(group)) for group in groups]

    @property
    def nbytes(self) -> int:
        return sum(rows.rows * row_bytes for rows, row_bytes in self._groups)

    def restore(self, tokens: int) -> None:
        for rows, _ in self._groups:
            rows.restore(tokens)

    def call(self, before: int, step: int) -> None:
        for rows, _ in self._groups:
            rows.call(before, step)

    def decode(self, before: int, tokens: int) -> None:
        for rows, _ in self._groups:
            rows.decode(before, tokens)


def _rows_of(group: LayerGroup) -> _Rows:
    if group.layer_type == "sliding_window" and group.window is not None:
        return _RingRows(group.window)
    if group.layer_type == "chunked" and group.chunk is not None:
        return _ChunkedRows(group.chunk)
    return _StateRows() if group.layer_type == "state" else _GlobalRows()


def _row_bytes(group: LayerGroup) -> int:
    if group.layer_type == "state":
        return group.bytes_per_block
    return group.bytes_per_token_per_layer * group.n_layers


def _steps(start: int, n_tokens: int, prefill_step: int) -> Iterator[tuple[int, int]]:
    """(tokens before the call, tokens in it) for each call of generate_step."""
    for before in range(start, n_tokens - 1, prefill_step):
        yield before, min(prefill_step, n_tokens - 1 - before)
    if n_tokens > start:
        yield n_tokens - 1, 1


def _check(n_tokens: int, prefill_step: int) -> None:
    error = ModelSpecValidationError
    whole_number(n_tokens, "n_tokens", error, at_least=1, attribute="n_tokens")
    whole_number(prefill_step, "prefill_step", error, at_least=1, attribute="prefill_step")


def at_rest(groups: Sequence[LayerGroup], n_tokens: int, prefill_step: int) -> int:
    """Bytes of the buffers once `n_tokens` are in."""
    _check(n_tokens, prefill_step)
    buffers = _Buffers(groups)
    for before, step in _steps(0, n_tokens, prefill_step):
        buffers.call(before, step)
    return buffers.nbytes


def peak(
    groups: Sequence[LayerGroup],
    n_tokens: int,
    prefill_step: int,
    cached_tokens: int = 0,
    new_tokens: int = 0,
) -> int:
    """The largest bytes on the way to a prompt of `n_tokens` and `new_tokens` decoded ones."""
    _check(n_tokens, prefill_step)
    whole_number(
        cached_tokens, "cached_tokens", ModelSpecValidationError, attribute="cached_tokens"
    )
    whole_number(new_tokens, "new_tokens", ModelSpecValidationError, attribute="new_tokens")
    buffers = _Buffers(groups)
    if cached_tokens:
        buffers.restore(cached_tokens)
    largest = buffers.nbytes
    for before, step in _steps(cached_tokens, n_tokens, prefill_step):
        buffers.call(before, step)
        largest = max(largest, buffers.nbytes)
    buffers.decode(n_tokens, new_tokens)
    return max(largest, buffers.nbytes)


def batch(groups: Sequence[LayerGroup], lengths: Sequence[int], prefill_step: int) -> int:
    """Bytes of a padded batch: every row is as long as the longest."""
    if not lengths:
        raise ModelSpecValidationError("lengths must not be empty", attribute="lengths")
    for length in lengths:
        whole_number(length, "lengths", ModelSpecValidationError, at_least=1, attribute="lengths")
    return at_rest(groups, max(lengths), prefill_step) * len(lengths)


def ring_rows_at_rest(n_tokens: int, window: int) -> int:
    """Rows of a ring that generate_step filled at its default step, and so of a restored one."""
    ring = _RingRows(window)
    for before, step in _steps(0, n_tokens, DEFAULT_PREFILL_STEP):
        ring.call(before, step)
    return ring.rows
