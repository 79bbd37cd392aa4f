"""A client of the OpenAI-style API, small enough to read.

Proxies named in the environment are not used: the servers are on this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import httpx

from semantic.cli.demo.turns import Answer, DemoError

__all__ = ["ChatClient"]

Message = dict[str, str]

_READ_SECONDS = 300.0


class ChatClient:
    """Speaks to one server. Safe to share between threads.

    Args:
        base_url: Such as `http://127.0.0.1:8080`.
    """

    def __init__(self, base_url: str) -> None:
        timeout = httpx.Timeout(_READ_SECONDS, connect=10.0)
        self._http = httpx.Client(base_url=base_url, trust_env=False, timeout=timeout)

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def is_up(self) -> bool:
        """Whether the server answers at all."""
        try:
            return self._http.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def warm_up(self) -> None:
        """Wait until the model is loaded, with a prompt that shares no token with a chat.

        Raises:
            DemoError: When the server refuses.
            httpx.TransportError: When the connection breaks.
        """
        body = {"prompt": "Good morning", "max_tokens": 1, "temperature": 0.0}
        reply = self._http.post("/v1/completions", json=body)
        if reply.status_code != 200:
            raise DemoError(f"the server refused a warm-up request: {_why(reply)}")

    def stats(self) -> dict[str, Any]:
        """The state of the memory.

        Raises:
            DemoError: When the server has no such route.
            httpx.TransportError: When the connection breaks.
        """
        reply = self._http.get("/v1/semantic/stats")
        if reply.status_code != 200:
            raise DemoError(f"the server did not tell its state: {_why(reply)}")
        stats: dict[str, Any] = reply.json()
        return stats

    def chat(self, messages: Sequence[Message], *, max_tokens: int) -> Answer:
        """Send a conversation, greedily, and read the streamed answer.

        Raises:
            DemoError: When the server refuses, or ends its answer early.
            httpx.TransportError: When the connection breaks.
        """
        body = {
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        start = time.perf_counter()
        first: float | None = None
        text = ""
        usage: dict[str, Any] = {}
        with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                reply.read()
                raise DemoError(f"the server refused a chat: {_why(reply)}")
            for event in _events(reply.iter_lines()):
                piece = _content(event)
                if piece and first is None:
                    first = time.perf_counter() - start
                text += piece
                usage = event.get("usage") or usage
        total = time.perf_counter() - start
        if not usage:
            raise DemoError("the server's answer ended without its token counts")
        return Answer(
            text=text,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
            completion_tokens=usage["completion_tokens"],
            first_token_seconds=total if first is None else first,
            total_seconds=total,
        )


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events up to `[DONE]`; comments keep the connection alive and say nothing."""
    for line in lines:
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise DemoError("the server's answer ended in the middle")


def _content(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def _why(reply: httpx.Response) -> str:
    try:
        return f"{reply.status_code}, {reply.json()['error']}"
    except (ValueError, KeyError, TypeError):
        return f"{reply.status_code}, {reply.text[:200]!r}"
