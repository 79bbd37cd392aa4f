"""`semantic serve --kv-memory`: the limit holds, requests wait or are told, none is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from semantic.testing.handbook import handbook
from semantic.testing.tiny_models import gemma3_demo
from tests.e2e.conftest import Served

TEXT = handbook()
CLASSES = ("held", "live", "staging", "cached")


@contextmanager
def watched(api: Any) -> Any:
    """The most bytes of all classes that the server reports meanwhile, and its last stats."""
    seen: dict[str, Any] = {"most": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            stats = api.get("/v1/semantic/stats").json()
            parts = stats["bytes"]
            assert sum(parts[part] for part in ("free", *CLASSES)) == parts["total"]
            taken = max(sum(parts[part] for part in CLASSES), stats["running_bytes"])
            seen["most"] = max(seen["most"], taken)
            seen.update(stats)
            time.sleep(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
        time.sleep(0.1)
    finally:
        ended.set()
        thread.join()


def conversation(api: Any, number: int) -> list[int]:
    """Two turns; every other request runs alone (a seed keeps it out of the batch)."""
    messages: list[tuple[str, str]] = [("system", TEXT[:800])]
    lengths = []
    for turn in range(2):
        messages.append(("user", TEXT[300 * number :][: 200 + 300 * (number % 3)]))
        more = {"seed": 1} if (number + turn) % 3 == 0 else {}
        answer = api.chat(*messages, max_tokens=4 + 8 * turn, **more)
        messages.append(("assistant", answer["choices"][0]["message"]["content"] or "."))
        lengths.append(answer["usage"]["completion_tokens"])
    return lengths


def test_the_limit_holds_and_everybody_is_served(serve: Callable[..., tuple[Any, Any]]) -> None:
    limit = 12_000_000
    _, api = serve("--kv-memory", str(limit))
    with watched(api) as seen, ThreadPoolExecutor(6) as pool:
        served = list(pool.map(lambda number: conversation(api, number), range(6)))
    assert len(served) == 6
    assert 0 < seen["most"] <= limit
    assert seen["queue"]["admitted"] == 12
    assert seen["queue"]["waited_seconds"] > 0
    assert "undercharged" not in seen["failures"]
    stats = api.get("/v1/semantic/stats").json()
    assert stats["bytes"]["live"] == stats["bytes"]["staging"] == stats["bytes"]["held"] == 0


def test_what_cannot_be_served_is_told_so(serve: Callable[..., tuple[Any, Any]]) -> None:
    served, api = serve("--kv-memory", "4MB", "--kv-wait", "1s")
    url = f"http://127.0.0.1:{api.port}/v1/chat/completions"

    def post(text: str, max_tokens: int, **more: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, **more}
        return httpx.post(url, json=body, timeout=60, trust_env=False)

    for stream in (False, True):
        reply = post(TEXT * 2, 4, stream=stream)
        assert reply.status_code == 413
        assert "--kv-memory 4000000" in reply.json()["error"]
        assert "retry-after" not in reply.headers
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda _: post(TEXT[:50], 1200), range(3)))
    refused = [reply for reply in replies if reply.status_code != 200]
    assert len(refused) in (1, 2)
    for reply in refused:
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert "ask again later" in reply.json()["error"]
    assert post(TEXT[:50], 4).status_code == 200
    assert served.process.poll() is None


def test_models_are_switched_under_one_limit(
    serve: Callable[..., tuple[Any, Any]], model: Path, tmp_path: Path
) -> None:
    other = gemma3_demo(tmp_path / "other")
    limit = 30_000_000
    _, api = serve("--kv-memory", str(limit))

    def ask(number: int) -> dict[str, Any]:
        path = (model, other)[number % 2]
        return api.chat(("user", TEXT[:1200]), ("user", str(number)), model=str(path))

    with watched(api) as seen, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(8)))
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert len(texts) == 8
    assert 0 < seen["most"] <= limit
    again = [ask(number) for number in range(2)]
    for answer in again:  # what was cached of a model is still there when it is loaded again
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("options", "status", "what"),
    [
        (["--kv-wait", "5s"], 2, "--kv-wait"),
        (["--kv-memory", "1GB", "--kv-wait", "x"], 2, "--kv-wait"),
        (["--kv-memory", "900TB"], 1, "more than this machine has"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(
    options: list[str], status: int, what: str, tmp_path: Path
) -> None:
    served = Served(tmp_path / "log", *options)
    assert served.ended_with(60) == status
    assert what in served.said()


def test_a_request_that_would_end_the_generation_thread_is_answered(
    serve: Callable[..., tuple[Any, Any]],
) -> None:
    served, api = serve()
    url = f"http://127.0.0.1:{api.port}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2}
    reply = httpx.post(url, json={**body, "stop": [5]}, timeout=60, trust_env=False)
    assert reply.status_code == 404
    assert "stop must be text" in reply.json()["error"]
    reply = httpx.post(
        url, json={**body, "top_k": 10**6, "temperature": 1.0}, timeout=60, trust_env=False
    )
    assert reply.status_code == 200
    assert served.process.poll() is None
