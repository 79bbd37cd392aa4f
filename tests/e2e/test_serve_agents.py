"""`semantic serve --store` with agents: what is stored has a name, and is shared all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from semantic.testing.handbook import handbook
from tests.e2e.test_serve import cached_tokens
from tests.e2e.test_serve_store import is_settled, text_of, until

TEXT = handbook()
SYSTEM = ("system", TEXT[:3000])
AGENTS = ("Ada", "Bo", "Zoë <zoe@example.org>", None)
Serve = Callable[..., tuple[Any, Any]]


def question(agent: str | None) -> tuple[str, str]:
    """What nobody else asks, several blocks of it, of a length that nobody else's has."""
    number = AGENTS.index(agent)
    return "user", f"I am {agent}. {TEXT[2000 * number :][: 2000 + 300 * number]}"


def of_store(folder: Path, *words: str) -> Any:
    """What a command of `semantic store` says."""
    command = [sys.executable, "-m", "semantic.cli", "store", *words]
    done = subprocess.run(
        [*command, "--store", str(folder), "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def used_by(folder: Path) -> dict[str, tuple[str, ...]]:
    """Whose the files of blocks are."""
    return {row["file"]: tuple(row["agents"]) for row in of_store(folder, "ls", "--blocks")}


def longest(folder: Path, agent: str) -> int:
    """Tokens of the longest sequence that an agent uses."""
    return max(int(row["hi"]) for row in of_store(folder, "ls", "--blocks", "--agent", agent))


@pytest.mark.parametrize("options", [(), ("--kv-memory", "100MB")], ids=["plain", "limit"])
def test_what_agents_store_can_be_forgotten_one_by_one(
    serve: Serve, tmp_path: Path, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "store"
    server, api = serve("--store", str(folder), *options)

    def ask(agent: str | None) -> dict[str, Any]:
        # Side by side in one batch, but for Bo: a seed keeps it out.
        more = {"seed": 1} if agent == "Bo" else {}
        named = {} if agent is None else {"user": agent}
        return api.chat(SYSTEM, question(agent), max_tokens=24, **more, **named)

    with ThreadPoolExecutor(len(AGENTS)) as threads:
        answers = dict(zip(AGENTS, threads.map(ask, AGENTS), strict=True))
    names = {agent or "server" for agent in AGENTS}
    # An answer is there before its turn is remembered, and an agent before its blocks are stored.
    until(lambda: {row["agent"] for row in of_store(folder, "ls")} == names)
    until(lambda: is_settled(api))
    assert api.get("/v1/semantic/stats").json()["failures"] == {}
    for agent, answer in answers.items():
        # The last token may have been answered only, not computed.
        unseen = answer["usage"]["total_tokens"] - longest(folder, agent or "server")
        assert unseen in (0, 1)
    before = used_by(folder)
    assert tuple(sorted(names)) in before.values(), "what all have in common is there once"
    metrics = api.get("/metrics").text
    assert not any(name in metrics for name in ("Ada", "Bo", "Zo"))

    forgotten = of_store(folder, "forget", "--agent", "Ada")["blocks"]
    assert forgotten == sum(agents == ("Ada",) for agents in before.values()) > 0
    after = used_by(folder)
    kept = {file: agents for file, agents in before.items() if agents != ("Ada",)}
    assert after == {
        file: tuple(agent for agent in agents if agent != "Ada") for file, agents in kept.items()
    }
    server.process.kill()
    server.process.wait()
    _, api = serve("--store", str(folder), *options)
    for asked, asking in ((None, "somebody else"), ("Ada", "Ada")):
        answer = api.chat(SYSTEM, question(asked), max_tokens=24, user=asking)
        computed = answer["usage"]["prompt_tokens"] - cached_tokens(answer)
        assert (computed < 256) == (asked is None)
        assert text_of(answer) == text_of(answers[asked])


def test_a_user_that_is_no_name_is_told_so(serve: Serve) -> None:
    served, api = serve()
    url = f"http://127.0.0.1:{api.port}"
    chat = {"messages": [{"role": "user", "content": "Who?"}]}
    for path, body in (("/v1/chat/completions", chat), ("/v1/completions", {"prompt": "Who?"})):
        for user in (5, "a" * 257, "\ud800", ["Ada"]):
            reply = httpx.post(
                url + path,
                content=json.dumps({**body, "max_tokens": 2, "user": user}),
                timeout=60,
                trust_env=False,
            )
            assert reply.status_code == 400
            assert reply.json()["error"].startswith("user must")
        named = {**body, "max_tokens": 2, "user": "Ada"}
        reply = httpx.post(url + path, json=named, timeout=60, trust_env=False)
        assert reply.status_code == 200
    assert served.process.poll() is None
