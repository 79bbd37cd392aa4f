"""`semantic serve --store`: killed at any moment, the conversations are still there."""

from __future__ import annotations

import json
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from semantic.testing.handbook import handbook
from tests.e2e.conftest import Served
from tests.e2e.test_serve import cached_tokens

SYSTEM = ("system", handbook()[:3000])
Serve = Callable[..., tuple[Any, Any]]

STUCK = """
import threading
import mlx_lm.server
from semantic.cli.main import main

def never(self):
    print("the generation thread does not end", flush=True)
    threading.Event().wait()

mlx_lm.server.ResponseGenerator.stop_and_join = never
main()
"""
"""`semantic` with a generation thread that is busy whenever the server has to end."""


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def stored(api: Any) -> dict[str, int]:
    store: dict[str, int] = api.get("/v1/semantic/stats").json()["store"]
    return store


@contextmanager
def writing_waits(folder: Path) -> Iterator[None]:
    """Nothing can be entered in the store's catalogue, as if its disk were busy; it can be read."""
    connection = sqlite3.connect(folder / "catalogue.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


def is_settled(api: Any) -> bool:
    """Whether turns are stored and none waits. An answer is there before its turn is remembered."""
    store = stored(api)
    return store["blocks"] > 0 and not store["waiting"]


def until(is_so: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_sound(folder: Path) -> bool:
    """Whether every file of a store that nobody uses is what its name says."""
    looked = [sys.executable, "-m", "semantic.cli", "store", "verify", "--store", str(folder)]
    done = subprocess.run([*looked, "--json"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and json.loads(done.stdout)["bad"] == []


def test_b27_killed_and_started_again_every_agent_continues(serve: Serve, tmp_path: Path) -> None:
    options = ("--kv-memory", "100MB", "--store", str(tmp_path / "store"))
    first, api = serve(*options)
    talks = {agent: [SYSTEM, ("user", f"I am {agent}. What now?")] for agent in ("Ada", "Bo")}
    for talk in talks.values():
        talk.append(("assistant", text_of(api.chat(*talk, max_tokens=8))))
        talk.append(("user", "And then?"))
    until(lambda: is_settled(api))
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()

    _, api = serve(*options)
    answers = {agent: api.chat(*talk, max_tokens=8) for agent, talk in talks.items()}
    assert stored(api)["loaded_tokens"] > 0
    _, stock = serve("--prompt-cache-bytes", "1MB")
    for agent, talk in talks.items():
        assert cached_tokens(answers[agent]) > 500
        assert text_of(answers[agent]) == text_of(stock.chat(*talk, max_tokens=8))


def test_what_waits_is_stored_before_the_server_ends(serve: Serve, tmp_path: Path) -> None:
    options = ("--store", str(tmp_path / "store"), "--store-max", "1GB")
    server, api = serve(*options)
    question = (SYSTEM, ("user", "What does the planner do first?"))
    api.chat(*question)
    server.process.send_signal(signal.SIGTERM)
    assert server.ended_with(20) == 0
    assert "Traceback" not in server.said()
    _, api = serve(*options)
    assert cached_tokens(api.chat(*question)) > 500


def test_a_sealed_store_serves_and_is_looked_after_meanwhile(serve: Serve, tmp_path: Path) -> None:
    folder, key, salt = tmp_path / "store", tmp_path / "key", tmp_path / "salt"
    key.write_text("5e" * 32)
    salt.write_text("Ada's\n")
    limits = ("--store-keep", "30d", "--store-free", "1MB", "--store-daily-writes", "1GB")
    options = ("--store", str(folder), "--store-key-file", str(key), *limits)
    options += ("--store-salt-file", str(salt))
    _, api = serve(*options)
    question = (SYSTEM, ("user", "Who reads the plan?"))
    api.chat(*question)
    until(lambda: is_settled(api))
    looked = [sys.executable, "-m", "semantic.cli", "store"]
    at = ["--store", str(folder), "--key-file", str(key), "--json"]
    done = subprocess.run([*looked, "verify", *at], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["blocks"] == stored(api)["blocks"] > 0
    done = subprocess.run([*looked, "stats", *at], capture_output=True, text=True, check=True)
    assert (json.loads(done.stdout)["processes"], json.loads(done.stdout)["sealed"]) == (1, True)
    _, other = serve(*options)
    assert cached_tokens(other.chat(*question)) > 500
    salt.write_text("Bo's")
    _, foreign = serve(*options)
    assert cached_tokens(foreign.chat(*question)) == 0


def test_b27_killed_while_a_turn_waits_every_stored_prefix_is_right(
    serve: Serve, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    options = ("--kv-memory", "100MB", "--store", str(folder))
    first, api = serve(*options)
    talk = [SYSTEM, ("user", "I am Ada. What now?")]
    for number in range(2):
        # The second turn waits, and its writer is on its way again when it is killed.
        if number:
            until(lambda: is_settled(api))
        with writing_waits(folder):
            talk.append(("assistant", text_of(api.chat(*talk, max_tokens=4))))
            talk.append(("user", "And then?"))
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()

    _, api = serve(*options)
    answer = api.chat(*talk, max_tokens=4)
    assert cached_tokens(answer) > 500
    _, stock = serve("--prompt-cache-bytes", "1MB")
    assert text_of(answer) == text_of(stock.chat(*talk, max_tokens=4))
    assert is_sound(folder)


def test_a_second_interrupt_leaves_what_waits_and_the_store_is_sound(
    serve: Serve, tmp_path: Path
) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("this test run ignores the signal, and so do its children")
    folder = tmp_path / "store"
    server, api = serve("--store", str(folder))
    api.chat(SYSTEM, ("user", "Who begins?"))
    until(lambda: is_settled(api))
    n_files = len(list(folder.rglob("*.safetensors")))
    with writing_waits(folder):
        api.chat(SYSTEM, ("user", "Who comes next?"))
        server.process.send_signal(signal.SIGINT)
        until(lambda: "interrupt again to leave them" in server.said())
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.ended_with(10) == 0
    assert "were not stored" in server.said()
    assert "Traceback" not in server.said()
    assert is_sound(folder)
    assert len(list(folder.rglob("*.safetensors"))) == n_files > 0


def test_a_second_interrupt_leaves_a_busy_generation_thread_and_what_waits(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Served, "program", ("-c", STUCK))
    folder = tmp_path / "store"
    server, api = serve("--store", str(folder))
    api.chat(SYSTEM, ("user", "Who begins?"))
    until(lambda: is_settled(api))
    with writing_waits(folder):
        api.chat(SYSTEM, ("user", "Who comes next?"))
        until(lambda: stored(api)["waiting"])
        server.process.terminate()
        until(lambda: "does not end" in server.said())
        server.process.terminate()
        assert server.ended_with(5) == 1
    assert "still busy" in server.said()
    assert "were not stored" in server.said()
    assert is_sound(folder)


def test_b29_a_second_server_shares_what_the_first_has_stored_within_a_second(
    serve: Serve, tmp_path: Path
) -> None:
    options = ("--store", str(tmp_path / "store"))
    _, one = serve(*options)
    _, other = serve(*options)
    seconds = []
    for number in range(3):
        # Nobody has asked that before, not even how it begins.
        question = (("system", f"{number} {SYSTEM[1]}"), ("user", "What does the writer write?"))
        one.chat(*question, max_tokens=1)
        until(lambda: is_settled(one))
        start, blocks = time.monotonic(), stored(one)["blocks"]
        until(lambda blocks=blocks: stored(other)["blocks"] >= blocks)
        seconds.append(time.monotonic() - start)
        assert cached_tokens(other.chat(*question, max_tokens=1)) > 500
    assert statistics.median(seconds) < 1
