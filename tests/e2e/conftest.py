"""End to end: real processes, real sockets, the demo model."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder."""
    try:
        mx = importlib.import_module("mlx.core")
        mx.eval(mx.zeros(1))
    except Exception as error:
        pytest.skip(f"MLX cannot run on this platform: {error}")
    from semantic.testing.tiny_models import gemma3_demo

    return gemma3_demo(tmp_path_factory.mktemp("models"))


class Served:
    """One `semantic serve` process."""

    program: Sequence[str] = ("-m", "semantic.cli")
    """What Python runs."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        # mlx_lm.server lists a hub cache, and answers nothing at all where there is none.
        (log.parent / "hub").mkdir(exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "HF_HUB_OFFLINE": "1",
                    "HF_HUB_CACHE": str(log.parent / "hub"),
                    "XDG_CACHE_HOME": str(log.parent / "cache"),
                },
            )

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ended_with(self, seconds: float) -> int:
        """The exit status, which must come within so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s; it said:\n{self.said()}")


class Api:
    """A plain client of one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120)

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def chat(self, *messages: tuple[str, str], max_tokens: int = 4, **more: Any) -> dict[str, Any]:
        body = {
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": max_tokens,
            **more,
        }
        reply = self._http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def serve(model: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[Served, Api]]]:
    """Starts servers of the demo model that are up; they end with the test."""
    running: list[Served] = []

    def start(*options: str) -> tuple[Served, Api]:
        port = free_port()
        served = Served(
            tmp_path / f"{port}.log", "--model", str(model), "--port", str(port), *options
        )
        running.append(served)
        api = Api(port)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert served.process.poll() is None, served.said()
            try:
                if api.get("/health").status_code == 200:
                    return served, api
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail(f"not up within 60 s; it said:\n{served.said()}")

    yield start
    for served in running:
        served.process.kill()
        served.process.wait()
