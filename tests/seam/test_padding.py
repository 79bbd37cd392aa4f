"""Models that take padding for tokens are found, and their prompts are not padded together."""

from __future__ import annotations

import pytest
from mlx_lm.generate import BatchGenerator

from semantic.adapters.mlx.padding import states_take_padding
from semantic.adapters.mlx_lm.unpadded_prefill import unpadded_generator
from semantic.testing.architectures import architecture_model
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import distance, feed, fresh_caches, random_tokens


@pytest.fixture(scope="module", autouse=True)
def runnable():
    with cpu_stand_ins():
        yield


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "takes"),
    [("jamba", True), ("nemotron_h", True), ("lfm2", False), ("llama", False)],
)
def test_who_takes_padding_for_tokens(name, takes, dtype):
    assert states_take_padding(architecture_model(name, dtype=dtype)) is takes


def handed_out(generator, prompts):
    """The tokens and caches of each prompt, once answered."""
    generator.insert(prompts)
    ended = {}
    while len(ended) < len(prompts):
        for response in generator.next_generated():
            if response.finish_reason is not None:
                ended[response.uid] = response
    return [(list(r.all_tokens), r.prompt_cache) for _, r in sorted(ended.items())]


@pytest.mark.parametrize("name", ["jamba", "recurrent_gemma"])
def test_what_a_batch_hands_out_is_what_each_row_alone_would_have(name):
    model = architecture_model(name)
    prompts = [random_tokens(n, seed=n) for n in (5, 60, 20)]

    def worst(generator_class):
        generator = generator_class(model, max_tokens=3)
        return max(
            distance(feed(model, [3, 5], caches), feed(model, [*tokens, 3, 5], fresh_caches(model)))
            for tokens, caches in handed_out(generator, prompts)
        )

    assert worst(BatchGenerator) > 1e-2  # mlx-lm's own batch: why this exists
    assert worst(unpadded_generator(BatchGenerator)) < 1e-4


def test_a_model_that_cannot_be_tried_is_not_padded():
    class Generator:
        def __init__(self, model):
            self.prefill_batch_size = 8

    assert unpadded_generator(Generator)(object()).prefill_batch_size == 1
