"""What has to be true of a demo: every text equal to stock, and a shared prompt that is shared."""

from __future__ import annotations

from semantic.cli.demo.turns import Pass

__all__ = ["problems"]


def problems(stock: Pass, ours: Pass) -> list[str]:
    """What went wrong in the first pass, one line each; empty when nothing did."""
    return [*_differing_texts(stock, ours), *_cold_first_turns(ours)]


def _differing_texts(stock: Pass, ours: Pass) -> list[str]:
    expected = stock.answers()
    return [
        f"{turn.agent}, turn {turn.number}: the text differs from stock mlx_lm.server\n"
        f"    stock: {expected[turn.agent, turn.number].text!r}\n"
        f"    ours:  {turn.answer.text!r}"
        for turn in ours.turns
        if turn.answer.text != expected[turn.agent, turn.number].text
    ]


def _cold_first_turns(ours: Pass) -> list[str]:
    first_agent = ours.turns[0].agent
    return [
        f"{turn.agent}, turn 1: no cached tokens, although {first_agent} had the same system prompt"
        for turn in ours.turns
        if turn.number == 1 and turn.agent != first_agent and turn.answer.cached_tokens == 0
    ]
