"""Requests that would end mlx_lm.server's generation thread are answered instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from semantic.adapters.mlx_lm.sound_requests import sound_generator


class Generator:
    model_provider = SimpleNamespace(model_key="a model")

    def __init__(self) -> None:
        self.words: list[list[str]] = []

    def _make_state_machine(self, key: str, tokenizer: Any, words: list[str]) -> None:
        if "unspeakable" in words:
            raise KeyError(words)
        self.words.append(words)

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> str:
        return "tokens"


def tokenised(top_k: int = 0, stop: list[Any] | None = None, **tokenizer: Any) -> tuple[str, int]:
    args = SimpleNamespace(stop_words=stop or [], sampling=SimpleNamespace(top_k=top_k))
    generator = sound_generator(Generator)()
    return generator._tokenize(SimpleNamespace(**tokenizer), None, args), args.sampling.top_k


def test_what_is_sound_goes_through() -> None:
    assert tokenised(top_k=9, stop=["end"], vocab_size=10) == ("tokens", 9)
    assert tokenised(top_k=9) == ("tokens", 9)


def test_a_top_k_of_all_words_is_no_limit() -> None:
    assert tokenised(top_k=10, vocab_size=10) == ("tokens", 0)


@pytest.mark.parametrize("stop", [[5], [None], ["a", ["b"]]])
def test_a_stop_word_that_is_no_text_is_refused(stop: list[Any]) -> None:
    with pytest.raises(ValueError, match="stop must be text"):
        tokenised(stop=stop)


def test_what_the_server_cannot_make_of_stop_words_is_met_where_it_answers() -> None:
    with pytest.raises(KeyError):
        tokenised(stop=["unspeakable"])


def test_an_older_server_is_left_as_it_is() -> None:
    class Older:
        pass

    assert sound_generator(Older) is Older
