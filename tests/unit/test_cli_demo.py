from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="the demo's client needs httpx")

from rich.console import Console

from semantic.cli.demo.agents import agent_names, run_pass
from semantic.cli.demo.client import ChatClient, Message
from semantic.cli.demo.picture import draw
from semantic.cli.demo.report import print_report, write_json
from semantic.cli.demo.turns import Answer, Pass, Settings, Turn
from semantic.cli.demo.verdict import problems

SETTINGS = Settings(agents=2, turns=3, system_tokens=10, max_tokens=5, kv_memory_bytes=1000)


class FakeClient(ChatClient):
    """A server of our own: answers with the length of the conversation."""

    def __init__(self) -> None:
        self.conversations: list[list[Message]] = []
        self.lock = threading.Lock()

    def chat(self, messages: Any, *, max_tokens: int) -> Answer:
        with self.lock:
            self.conversations.append(list(messages))
            cached = 7 if len(self.conversations) > 1 else 0
        return Answer(f"answer {len(messages)}", 10 * len(messages), cached, max_tokens, 0.1, 0.2)

    def stats(self) -> dict[str, Any]:
        with self.lock:
            count = len(self.conversations)
        return {
            "requests": count + 1,
            "hits": count,
            "prompt_tokens": 10 * count,
            "cached_tokens": 7 * count,
            "evicted_blocks": 0,
            "failures": {"layout": 2} if count else {},
            "bytes": {"total": 9, "free": 6, "held": 0, "live": 0, "staging": 0, "cached": 3},
            "unshared_bytes": 6,
        }


def a_pass(client: FakeClient, *, at_once: bool = False, has_stats: bool = True) -> Pass:
    return run_pass(
        "ours",
        client,
        SETTINGS,
        "the system prompt",
        at_once=at_once,
        has_stats=has_stats,
        on_turn=lambda _: None,
    )


def test_agents_have_names_for_any_number() -> None:
    assert agent_names(1) == ("planner",)
    assert len(set(agent_names(64))) == 64


def test_conversations_go_on_with_what_the_server_said() -> None:
    client = FakeClient()
    done = a_pass(client)
    assert [(turn.agent, turn.number) for turn in done.turns] == [
        (agent, number) for number in (1, 2, 3) for agent in ("planner", "researcher")
    ]
    last = client.conversations[-1]
    assert [message["role"] for message in last] == ["system", *["user", "assistant"] * 2, "user"]
    assert last[0]["content"] == "the system prompt"
    assert last[2]["content"] == "answer 2"
    assert last[4]["content"] == "answer 4"
    assert "turn 3 of the researcher" in last[5]["content"]


def test_all_at_once_is_round_by_round() -> None:
    client = FakeClient()
    done = a_pass(client, at_once=True)
    assert sorted(len(conversation) for conversation in client.conversations) == [2, 2, 4, 4, 6, 6]
    assert [turn.number for turn in done.turns] == [1, 1, 2, 2, 3, 3]


def test_the_memory_is_read_after_every_turn_and_counted_from_the_start() -> None:
    done = a_pass(FakeClient())
    assert len(done.after_turn) == 6
    assert done.counted("requests") == 6
    assert done.counted("cached_tokens") == 42
    assert a_pass(FakeClient(), has_stats=False).after_turn == []


def test_the_end_is_read_when_the_last_turn_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowToStore(FakeClient):
        readings = 0

        def stats(self) -> dict[str, Any]:
            stats = super().stats()
            self.readings += 1
            if stats["cached_tokens"] == 42 and self.readings < 40:
                stats["bytes"] |= {"held": 2, "free": 4}
            elif stats["cached_tokens"] == 42:
                stats["bytes"] |= {"cached": 5, "free": 4}
            return stats

    monkeypatch.setattr("semantic.cli.demo.agents._SAMPLE_SECONDS", 0.01)
    done = a_pass(SlowToStore())
    assert done.at_end is not None
    assert done.at_end.is_at_rest
    assert done.at_end.class_bytes("cached") == 5
    assert not done.after_turn[-1].is_at_rest


def answered(agent: str, number: int, text: str, cached: int) -> Turn:
    return Turn(agent, number, Answer(text, 10, cached, 5, 0.1, 0.2))


def test_the_verdict_is_silent_when_all_is_well() -> None:
    stock = Pass("stock", [answered("a", 1, "x", 0), answered("b", 1, "y", 0)])
    ours = Pass("ours", [answered("a", 1, "x", 0), answered("b", 1, "y", 3)])
    assert problems(stock, ours) == []


def test_the_verdict_names_every_text_that_differs() -> None:
    stock = Pass("stock", [answered("a", 1, "x", 0), answered("a", 2, "y", 0)])
    ours = Pass("ours", [answered("a", 1, "x", 0), answered("a", 2, "z", 3)])
    (problem,) = problems(stock, ours)
    assert "a, turn 2" in problem
    assert "'y'" in problem
    assert "'z'" in problem


def test_the_verdict_names_first_turns_that_found_nothing() -> None:
    turns = [answered("a", 1, "x", 0), answered("b", 1, "y", 0), answered("c", 1, "z", 1)]
    (problem,) = problems(Pass("stock", turns), Pass("ours", turns))
    assert problem.startswith("b, turn 1: no cached tokens")


def test_the_verdict_names_what_was_forgotten_in_a_restart() -> None:
    ours = Pass("ours", [answered("a", 1, "x", 0), answered("a", 2, "y", 3)])
    killed = Pass("killed", [answered("a", 1, "x", 0), answered("a", 2, "y", 2)])
    assert problems(ours, ours, ours) == []
    (problem,) = problems(ours, ours, killed)
    assert problem == "a, turn 2: 2 cached tokens after the kill, 3 without it"
    killed = Pass("killed", [answered("a", 1, "x", 0), answered("a", 2, "z", 3)])
    assert "differs from stock" in problems(ours, ours, killed)[0]


def test_the_report_shows_every_turn_and_the_totals() -> None:
    stock, ours, together = (a_pass(FakeClient()) for _ in range(3))
    console = Console(width=160, record=True, quiet=False)
    print_report(console, stock, ours, together)
    text = console.export_text()
    assert text.count("researcher") == 6
    assert "NO" not in text
    assert "6 of 6" in text
    assert "3 B (50.0 %)" in text
    assert "layout: 2" in text


def test_the_rows_are_written_whole(tmp_path: Path) -> None:
    ours = a_pass(FakeClient())
    path = tmp_path / "new" / "rows.json"
    write_json(path, SETTINGS, [ours], ["a problem"])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["settings"]["turns"] == 3
    assert content["problems"] == ["a problem"]
    assert len(content["passes"][0]["turns"]) == 6


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    path = tmp_path / "new" / "pool.png"
    draw(path, [a_pass(FakeClient()), a_pass(FakeClient(), at_once=True)])
    assert path.read_bytes().startswith(b"\x89PNG")
