"""Whether an architecture's recurrent states take the padding of a batch for tokens.

mlx-lm pads the prompts of a batch to one length. Most architectures with states mask the padding;
some do not (jamba, mamba, rwkv7, recurrent_gemma and others in mlx-lm 0.32.2): all but the longest
row of the batch answer wrongly, and their states would be kept and handed to the next turn. Which
they are is found by trying.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from semantic.adapters.mlx.layout import flatten
from semantic.adapters.mlx.leaf import Leaf

__all__ = ["states_take_padding"]

_SHORT, _LONG = [1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12]
_AGREEMENT = 0.1
"""States that mask their padding differ by rounding (1e-2 at most), others by their own size."""


def states_take_padding(model: Any) -> bool:
    """Whether a row's recurrent states depend on how it was padded. Runs the model on a few tokens.

    Call it on the thread that owns the model.
    """
    alone = _leaves(_prefilled(model, [_SHORT]))
    if not any(leaf.layer_type == "state" for leaf in alone):
        return False  # nothing was evaluated
    padded = _leaves(_prefilled(model, [_SHORT, _LONG]))
    return any(
        _differ(a.arrays(), b.arrays())
        for a, b in zip(alone, padded, strict=True)
        if a.layer_type == "state"
    )


def _leaves(caches: list[Any]) -> list[Leaf]:
    return flatten(caches)[1]


def _prefilled(model: Any, prompts: Sequence[Sequence[int]]) -> list[Any]:
    """The caches of the first prompt, prefilled together with the others as BatchGenerator does."""
    each = [make_prompt_cache(model) for _ in prompts]
    if len(prompts) == 1:
        model(mx.array([list(prompts[0])]), cache=each[0])
        return list(each[0])
    batch = [caches[0].merge(list(caches)) for caches in zip(*each, strict=True)]
    lengths = [len(prompt) for prompt in prompts]
    padding = [max(lengths) - length for length in lengths]
    rows = [[*prompt, *[0] * pad] for prompt, pad in zip(prompts, padding, strict=True)]
    for cache in batch:
        cache.prepare(lengths=lengths, right_padding=padding)
    model(mx.array(rows), cache=batch)
    for cache in batch:
        cache.finalize()
    return [cache.extract(0) for cache in batch]


def _differ(alone: dict[str, mx.array], padded: dict[str, mx.array]) -> bool:
    for name, state in alone.items():
        other = padded[name]
        if state.shape != other.shape:
            return True
        scale = mx.max(mx.abs(state.astype(mx.float32)))
        difference = mx.max(mx.abs(state.astype(mx.float32) - other.astype(mx.float32)))
        if (difference > _AGREEMENT * scale).item():
            return True
    return False
