"""Requests that would end mlx_lm.server's generation thread, refused where it can still answer.

The server reads stop words and the sampler's options outside of what it guards: a stop word that is
no text, or a `top_k` above the vocabulary, ends the thread and with it the server (mlx-lm 0.32.2).
Tokenising is guarded, and comes before both.
"""

from __future__ import annotations

from typing import Any

__all__ = ["sound_generator"]


def sound_generator(generator_class: type[Any]) -> type[Any]:
    """A ResponseGenerator that answers such a request with its error.

    Args:
        generator_class: mlx_lm.server's ResponseGenerator. One without the methods that are
            watched, as those of older releases, is returned as it is.
    """
    if not all(hasattr(generator_class, name) for name in ("_tokenize", "_make_state_machine")):
        return generator_class

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class SoundResponseGenerator(generator_class):  # type: ignore[misc]
        """The server's generator, with a look at each request."""

        def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
            words = args.stop_words
            if any(not isinstance(word, str) for word in words):
                raise ValueError(f"stop must be text, or a list of texts, not {words!r}")
            self._make_state_machine(self.model_provider.model_key, tokenizer, words)
            n_words = getattr(tokenizer, "vocab_size", None)
            if isinstance(n_words, int) and args.sampling.top_k >= n_words:
                args.sampling.top_k = 0  # all of them
            return super()._tokenize(tokenizer, request, args)

    return SoundResponseGenerator
