"""Bytes of mlx-lm's contiguous cache buffers, as a function of how tokens were put in.

What each kind of cache allocates in a call is in `growth`; here whole sequences are walked through.
"""

from __future__ import annotations

from collections.abc import Sequence

from semantic.domain._check import whole_number
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.growth import DEFAULT_PREFILL_STEP, buffer_of, calls, most_bytes
from semantic.domain.layer_group import LayerGroup

__all__ = ["DEFAULT_PREFILL_STEP", "at_rest", "batch", "batch_peak", "peak"]


class _Buffers:
    """The buffers of all groups of one sequence, moved along together."""

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self._buffers = [buffer_of(group) for group in groups]
        self.largest = 0

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers)

    def restore(self, tokens: int) -> None:
        for buffer in self._buffers:
            buffer.restore(tokens)
        self._look()

    def call(self, before: int, step: int) -> None:
        for buffer in self._buffers:
            buffer.call(before, step)
        self._look()

    def decode(self, before: int, tokens: int) -> None:
        """Decode; what comes and goes is looked at for one period before the end."""
        closely = min(tokens, max(buffer.period for buffer in self._buffers))
        quickly = tokens - closely
        for buffer in self._buffers:
            buffer.decode(before, quickly)
        self._look()
        for position in range(before + quickly, before + tokens):
            self.call(position, 1)

    def _look(self) -> None:
        self.largest = max(self.largest, self.nbytes)


def _check(n_tokens: int, prefill_step: int) -> None:
    error = ModelSpecValidationError
    whole_number(n_tokens, "n_tokens", error, at_least=1, attribute="n_tokens")
    whole_number(prefill_step, "prefill_step", error, at_least=1, attribute="prefill_step")


def at_rest(groups: Sequence[LayerGroup], n_tokens: int, prefill_step: int) -> int:
    """Bytes of the buffers once `n_tokens` are in."""
    _check(n_tokens, prefill_step)
    buffers = _Buffers(groups)
    for before, step in calls(0, n_tokens, prefill_step):
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
    for before, step in calls(cached_tokens, n_tokens, prefill_step):
        buffers.call(before, step)
    buffers.decode(n_tokens, new_tokens)
    return buffers.largest


def batch(groups: Sequence[LayerGroup], lengths: Sequence[int], prefill_step: int) -> int:
    """Bytes of a padded batch: every row is as long as the longest."""
    return at_rest(groups, _longest(lengths), prefill_step) * len(lengths)


def batch_peak(groups: Sequence[LayerGroup], lengths: Sequence[int], prefill_step: int) -> int:
    """The most bytes on the way to a batch of these lengths, whatever its order of events."""
    longest = _longest(lengths)
    _check(longest, prefill_step)
    return sum(most_bytes(group, longest, prefill_step) for group in groups) * len(lengths)


def _longest(lengths: Sequence[int]) -> int:
    if not lengths:
        raise ModelSpecValidationError("lengths must not be empty", attribute="lengths")
    for length in lengths:
        whole_number(length, "lengths", ModelSpecValidationError, at_least=1, attribute="lengths")
    return max(lengths)
