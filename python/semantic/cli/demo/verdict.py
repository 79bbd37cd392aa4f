"""What has to be true of a demo: texts equal to stock, what is shared is shared, and remembered."""

from __future__ import annotations

from semantic.cli.demo.turns import Pass

__all__ = ["problems"]


def problems(stock: Pass, ours: Pass, restarted: Pass | None = None) -> list[str]:
    """What went wrong one request at a time, one line each; empty when nothing did.

    Args:
        stock: The pass against stock mlx_lm.server.
        ours: The pass against ours.
        restarted: The pass against ours that was killed half-way.
    """
    wrong = [*_differing_texts(stock, ours), *_cold_first_turns(ours)]
    if restarted is not None:
        wrong += [*_differing_texts(stock, restarted), *_forgotten(ours, restarted)]
    return wrong


def _forgotten(ours: Pass, restarted: Pass) -> list[str]:
    """Turns that found less than they would have without the kill."""
    expected = ours.answers()
    return [
        f"{turn.agent}, turn {turn.number}: {turn.answer.cached_tokens} cached tokens after the"
        f" kill, {cached} without it"
        for turn in restarted.turns
        if turn.answer.cached_tokens < (cached := expected[turn.agent, turn.number].cached_tokens)
    ]


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
