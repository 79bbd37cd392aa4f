"""`live_batch_peak_bytes` is never less than what mlx-lm's batch takes, and not much more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator

from semantic.mlx import probe
from semantic.testing.architectures import architecture_model, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import random_tokens, require
from tests.seam.test_every_architecture import CANNOT_BATCH, NAMES

IN_CI = ["llama", "gemma3_text", "gpt_oss", "qwen3_next", "deepseek_v3"]


@pytest.fixture(scope="module", autouse=True)
def runnable() -> Iterator[None]:
    with cpu_stand_ins():
        yield


def segments(dice: random.Random, tokens: list[int]) -> list[list[int]]:
    """The prompt, cut where a server might cut it."""
    cuts = sorted(dice.sample(range(1, len(tokens)), min(3, len(tokens) - 1)))
    return [tokens[a:b] for a, b in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_CI else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
        if name not in CANNOT_BATCH
    ],
)
def test_a_batch_never_takes_more_than_its_peak(name: str) -> None:
    require(name, batched=True)
    model: Any = architecture_model(name)
    spec = probe(model)
    dice = random.Random(name)
    step = min(256, recipe_of(name).longest_call_tokens or 256)
    batch = BatchGenerator(model, prefill_step_size=step, prefill_batch_size=1)
    ends: dict[int, int] = {}
    nearest = 0.0
    waiting = 7
    # Some models take one token in a call.
    for _ in range(400 if step > 1 else 7 * 800):
        if waiting and (not ends or dice.random() < 0.2):
            waiting -= 1
            length, new = dice.choice([3, 40, 255, 300, 700]), dice.choice([1, 5, 40])
            (uid,) = batch.insert_segments(
                [segments(dice, random_tokens(length, seed=waiting))], max_tokens=[new]
            )
            ends[uid] = length + new + 1
        most = spec.live_batch_peak_bytes(list(ends.values()), step)
        _, generated = batch.next()
        taken = batch.prompt_cache_nbytes
        assert taken <= most, ends
        nearest = max(nearest, taken / most)
        for response in generated:
            if response.finish_reason is not None:
                del ends[response.uid]
        if not ends and not waiting:
            break
    mx.clear_cache()
    assert not ends
    # Far above what is ever taken it would be no use. Windows of a few tokens are the worst case:
    # a prefill of 256 overshoots them for a moment.
    assert nearest > 0.4
