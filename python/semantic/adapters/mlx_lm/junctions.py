"""Prompts that leave what is cached, prefilled with a stop where they leave it.

A window or a recurrent state can be restored only where it was captured. mlx_lm.server captures at
the ends of a prompt's segments; where a prompt parts ways with the cached ones, one more segment
ends, so that the next prompt that comes this way is restored there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["stopping_generator"]

_KIND = "system"
"""What is known of such a segment: conversations start with it."""


def stopping_generator(generator_class: type[Any]) -> type[Any]:
    """A ResponseGenerator whose prompts have segments that end at its prompt cache's `stops`.

    Args:
        generator_class: mlx_lm.server's ResponseGenerator. One that does not split prompts into
            segments, as those of older releases, is returned as it is.
    """
    if not hasattr(generator_class, "_tokenize"):
        return generator_class

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class StoppingResponseGenerator(generator_class):  # type: ignore[misc]
        """The server's generator, with stops where prompts leave what is cached."""

        def _tokenize(self, *args: Any, **options: Any) -> Any:
            answer = super()._tokenize(*args, **options)
            stops = getattr(self.prompt_cache, "stops", None)
            if stops is None or not _has_segments(answer):
                return answer
            prompt, segments, kinds, *rest = answer
            ends = stops(self.model_provider.model_key, prompt)
            return (prompt, *_split(segments, kinds, ends), *rest)

    return StoppingResponseGenerator


def _has_segments(answer: Any) -> bool:
    if not isinstance(answer, tuple) or len(answer) < 3:
        return False
    prompt, segments, kinds = answer[:3]
    if not isinstance(segments, list) or not isinstance(kinds, list):
        return False
    return len(segments) == len(kinds) and sum(map(len, segments)) == len(prompt)


def _split(
    segments: Sequence[Sequence[int]], kinds: Sequence[str], ends: Sequence[int]
) -> tuple[list[Sequence[int]], list[str]]:
    """The segments, with one more end at each of `ends`."""
    parts: list[Sequence[int]] = []
    names: list[str] = []
    start = 0
    for segment, kind in zip(segments, kinds, strict=True):
        begin = 0
        for end in ends:
            if begin < end - start < len(segment):
                parts.append(segment[begin : end - start])
                names.append(_KIND)
                begin = end - start
        parts.append(segment[begin:])
        names.append(kind)
        start += len(segment)
    return parts, names
