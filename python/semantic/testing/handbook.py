"""The text that ships with the package: what the test tokenizer learns from, and what agents share.

It is prose of our own, so that a tokenizer trained on it splits ordinary English into ordinary
words, and a system prompt cut from it looks like one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files

__all__ = ["handbook", "handbook_prompt"]


@cache
def handbook() -> str:
    """The whole handbook, paragraphs separated by an empty line."""
    return files("semantic.testing").joinpath("handbook.txt").read_text(encoding="utf-8").strip()


def handbook_prompt(at_least_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """The shortest run of whole paragraphs with at least so many tokens.

    The handbook starts again, with a numbered heading, when it is too short.

    Args:
        at_least_tokens: The length that the text has to reach.
        count_tokens: How many tokens a text has, by the tokenizer that will read it.

    Raises:
        ValueError: When `at_least_tokens` is not positive.
    """
    if at_least_tokens < 1:
        raise ValueError(f"a prompt needs at least 1 token, not {at_least_tokens}")
    paragraphs = handbook().split("\n\n")
    text = ""
    number = 0
    while True:
        number += 1
        for index, paragraph in enumerate(paragraphs):
            heading = f"Reading number {number}.\n\n" if index == 0 and number > 1 else ""
            text += ("\n\n" if text else "") + heading + paragraph
            if count_tokens(text) >= at_least_tokens:
                return text
