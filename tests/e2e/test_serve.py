from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from semantic.testing.handbook import handbook
from tests.e2e.conftest import Served, free_port

SYSTEM = ("system", handbook()[:3000])


def cached_tokens(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_two_agents_share_a_system_prompt_and_the_stats_say_so(
    serve: Callable[..., tuple[Any, Any]],
) -> None:
    _, api = serve("--kv-memory", "100MB")
    first = api.chat(SYSTEM, ("user", "What does the planner do first?"))
    second = api.chat(SYSTEM, ("user", "And what does the writer write?"))
    assert cached_tokens(first) == 0
    assert cached_tokens(second) > 500

    reply = api.get("/v1/semantic/stats")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    stats = reply.json()
    assert stats["requests"] == 2
    assert stats["hits"] == 1
    assert stats["cached_tokens"] == cached_tokens(second)
    assert stats["failures"] == {}
    classes = stats["bytes"]
    assert classes["total"] == 100_000_000
    assert classes["cached"] > 0
    parts = ("free", "held", "live", "staging", "cached")
    assert sum(classes[part] for part in parts) == classes["total"]

    reply = api.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    (model,) = stats["models"]
    counted = f'semantic_cached_tokens_total{{model="{model}"}} {float(cached_tokens(second))}'
    assert counted in reply.text
    assert "semantic_queue_admitted_total" in reply.text
    assert "gemma3-demo" in model


def test_prompts_that_part_inside_a_message_are_restored_where_they_part(
    serve: Callable[..., tuple[Any, Any]],
) -> None:
    """The demo model has sliding windows: without a stop there, nothing could be restored."""
    _, api = serve("--kv-memory", "100MB")
    questions = ("Who writes?", "Where is the ferry?", "And when does it leave?")
    answers = [api.chat(("user", handbook()[:3000] + question)) for question in questions]
    cached = [cached_tokens(answer) for answer in answers]
    assert cached[:2] == [0, 0]
    assert cached[2] > 500


def test_an_exact_repetition_gives_the_same_text_and_leaves_the_server_alive(
    serve: Callable[..., tuple[Any, Any]],
) -> None:
    _, api = serve("--kv-memory", "100MB")
    question = ("user", "When does the ferry leave?")
    answers = [api.chat(SYSTEM, question, max_tokens=8) for _ in range(3)]
    texts = {answer["choices"][0]["message"]["content"] for answer in answers}
    assert len(texts) == 1
    assert cached_tokens(answers[2]) < answers[2]["usage"]["prompt_tokens"]
    assert api.get("/health").json() == {"status": "ok"}


def test_the_other_routes_are_those_of_mlx_lm(
    serve: Callable[..., tuple[Any, Any]], model: Path
) -> None:
    _, api = serve()
    assert api.get("/health").json() == {"status": "ok"}
    assert str(model.resolve()) in api.get("/v1/models").text
    assert api.get("/v1/semantic/other").status_code == 404
    assert api.get("/v1/semantic/stats?fresh=1").status_code == 200


def test_a_second_server_on_the_port_says_so_and_ends(
    serve: Callable[..., tuple[Any, Any]], model: Path, tmp_path: Path
) -> None:
    _, api = serve()
    second = Served(tmp_path / "second.log", "--model", str(model), "--port", str(api.port))
    assert second.ended_with(30) == 1
    assert f"port {api.port} on 127.0.0.1 is in use" in second.said()
    assert "--port" in second.said()
    assert "Traceback" not in second.said()
    assert api.get("/health").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_status_0(
    serve: Callable[..., tuple[Any, Any]], number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this test run ignores the signal, and so do its children")
    server, api = serve()
    api.chat(("user", "Good morning."))
    server.process.send_signal(number)
    assert server.ended_with(5) == 0
    assert "Traceback" not in server.said()


def test_a_signal_ends_a_server_that_generates(serve: Callable[..., tuple[Any, Any]]) -> None:
    server, api = serve()
    api.chat(("user", "Good morning."))

    def endless() -> None:
        with suppress(httpx.TransportError):
            api.chat(("user", "Tell me everything."), max_tokens=100_000)

    client = threading.Thread(target=endless)
    client.start()
    time.sleep(1)
    server.process.terminate()
    assert server.ended_with(10) == 0
    client.join(10)
    assert not client.is_alive()


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path, model: Path) -> None:
    assert model
    options = ("--model", str(tmp_path), "--port", str(free_port()))
    server = Served(tmp_path / "server.log", *options)
    assert server.ended_with(60) == 1
    assert "config.json" in server.said()
    assert server.said().splitlines()[-1].startswith("semantic serve: the generation thread died")
