"""`semantic serve` stops a prefill where the prompt leaves what is cached."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from semantic.adapters.mlx_lm.junctions import stopping_generator
from semantic.mlx_lm import PromptCache
from semantic.testing.architectures import architecture_model
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import feed, fresh_caches, random_tokens

PROMPT = list(range(1000))


class StockGenerator:
    """What mlx_lm.server's ResponseGenerator does with a request, as far as it matters here."""

    model_provider = SimpleNamespace(model_key=("model", None, None))
    segments = ((600, "system"), (390, "user"), (10, "assistant"))

    def __init__(self, prompt_cache: Any) -> None:
        self.prompt_cache = prompt_cache

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
        parts, start = [], 0
        for length, _ in self.segments:
            parts.append(PROMPT[start : start + length])
            start += length
        return PROMPT, parts, [kind for _, kind in self.segments], "state", None


class StopsAt:
    def __init__(self, *stops: int) -> None:
        self._stops = stops

    def stops(self, model: Any, tokens: list[int]) -> tuple[int, ...]:
        assert model == StockGenerator.model_provider.model_key
        assert tokens == PROMPT
        return self._stops


def split(prompt_cache: Any) -> list[tuple[int, int, str]]:
    generator = stopping_generator(StockGenerator)(prompt_cache)
    prompt, segments, kinds, *rest = generator._tokenize(None, None, None)
    assert prompt == PROMPT
    assert [token for segment in segments for token in segment] == PROMPT
    assert rest == ["state", None]
    return [(s[0], s[-1] + 1, kind) for s, kind in zip(segments, kinds, strict=True)]


WHOLE = [(0, 600, "system"), (600, 990, "user"), (990, 1000, "assistant")]


def test_segments_end_at_the_stops() -> None:
    assert split(StopsAt()) == WHOLE
    assert split(StopsAt(256, 700)) == [
        (0, 256, "system"),
        (256, 600, "system"),
        (600, 700, "system"),
        (700, 990, "user"),
        (990, 1000, "assistant"),
    ]


def test_a_stop_where_a_segment_ends_anyway_changes_nothing() -> None:
    assert split(StopsAt(600, 990)) == WHOLE


def test_a_cache_without_stops_is_served_as_before() -> None:
    assert split(object()) == WHOLE


@pytest.mark.parametrize(
    "answer", [None, ("prompt",), ([1], [[1, 2]], ["user"]), ([1], ([1],), ["user"])]
)
def test_what_another_release_answers_is_passed_on(answer: Any) -> None:
    class Other(StockGenerator):
        def _tokenize(self, *_: Any) -> Any:
            return answer

    assert stopping_generator(Other)(StopsAt(1))._tokenize() is answer


def test_a_generator_without_segments_stays_what_it_is() -> None:
    assert stopping_generator(SimpleNamespace) is SimpleNamespace


def test_the_prompt_cache_of_a_state_hybrid_stops_where_prompts_part() -> None:
    key, tokens = ("model", None, None), random_tokens(700)
    branch = [*tokens[:600], *random_tokens(100, seed=2)]
    branch[600] = (tokens[600] + 1) % 128
    cache = PromptCache()
    with cpu_stand_ins():
        model = architecture_model("qwen3_next")
        caches = fresh_caches(model)
        assert cache.stops(key, tokens) == ()
        feed(model, tokens, caches)
        cache.insert_cache(key, tokens, caches)
        assert cache.stops(key, branch) == (592,)
        assert cache.fetch_nearest_cache(key, branch) == (None, branch)
        stopped = fresh_caches(model)
        feed(model, branch[:592], stopped)
        cache.insert_cache(key, branch[:592], stopped, cache_type="system")
        restored, rest = cache.fetch_nearest_cache(key, branch)
    assert restored is not None
    assert rest == branch[592:]
    assert cache.stops(key, branch) == ()


def test_the_prompt_cache_of_attention_layers_never_stops() -> None:
    key, tokens = ("model", None, None), random_tokens(700)
    cache = PromptCache()
    model = architecture_model("llama")
    caches = fresh_caches(model)
    feed(model, tokens, caches)
    cache.insert_cache(key, tokens, caches)
    assert cache.stops(key, [*tokens[:600], 1, 2]) == ()
    assert cache.stops(key, ["no", "tokens"]) == ()  # counted, never raised
    assert cache.stats()["failures"]
