"""Whose a request is, from its body to the prompt cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from semantic.adapters.mlx_lm.http_server import handler_class
from semantic.adapters.mlx_lm.queued import queued_batch, queued_generator
from semantic.adapters.mlx_lm.request_agents import (
    RequestAgents,
    agent_of_body,
    named_batch,
    named_generator,
)
from semantic.adapters.mlx_lm.request_queue import NOT_COPIED


@pytest.mark.parametrize("body", [{}, {"user": None}, {"user": ""}, {"safety_identifier": "Ada"}])
def test_who_does_not_say_who_it_is_is_the_server(body: dict[str, Any]) -> None:
    assert agent_of_body(body) == "server"


@pytest.mark.parametrize("user", ["Ada", "ada@example.org", "Émile Ζωγράφος 7", "é" * 256])
def test_user_is_the_agent(user: str) -> None:
    assert agent_of_body({"user": user}) == user


@pytest.mark.parametrize(
    ("user", "what"),
    [
        (5, "of type str"),
        (True, "of type str"),
        (["Ada"], "of type str"),
        ({}, "of type str"),
        ("é" * 257, "not 257"),
        ("\ud800", "printable"),
        ("Ada\x1b[2J", "printable"),
        ("Ada\nBo", "printable"),
        ("\0", "printable"),
    ],
)
def test_what_is_no_name_is_refused(user: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        agent_of_body({"user": user})


class Generator:
    """What mlx_lm.server's ResponseGenerator does with a request, as far as it matters here."""

    model_provider = SimpleNamespace(tokenizer=None)

    def __init__(self, agents: RequestAgents) -> None:
        self._agents = agents

    def _next_request(self, timeout: float | None = None) -> Any:
        return None

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> str:
        return self._agents.of(None)


class Batch:
    """A batch that is filled and emptied by hand."""

    prompt_cache_nbytes = 0

    def __init__(self) -> None:
        self.n_sequences = 0
        self.finishing: list[Any] = []

    def insert_segments(self, segments: list[Any]) -> list[int]:
        uids = [self.n_sequences + n for n in range(len(segments))]
        self.n_sequences += len(segments)
        return uids

    def extract_cache(self, uids: list[int]) -> dict[int, Any]:
        return {uid: ([f"caches of {uid}"], ["tokens"]) for uid in uids}

    def next(self) -> Any:
        finished, self.finishing = self.finishing, []
        return [], [
            SimpleNamespace(uid=uid, finish_reason=reason, prompt_cache=reason and [f"all {uid}"])
            for uid, reason in finished
        ]

    def remove(self, uids: list[int]) -> dict[int, Any]:
        return {}


class Server:
    """Both, and agents that they tell."""

    def __init__(self) -> None:
        self.agents = RequestAgents()
        self.generator = named_generator(Generator, self.agents)(self.agents)
        self.batch = named_batch(Batch, self.agents)()

    def join(self, agent: str | None) -> int:
        request = SimpleNamespace() if agent is None else SimpleNamespace(agent_id=agent)
        asked_for = self.generator._tokenize(None, request, None)
        assert asked_for == self.agents.of(None) == (agent or "server")
        (uid,) = self.batch.insert_segments([["a prompt"]])
        return int(uid)

    def owners(self, *uids: int) -> list[str]:
        """Whose the copied caches of these are."""
        return [self.agents.of(caches) for caches, _ in self.batch.extract_cache(uids).values()]

    def finish(self, uid: int) -> Any:
        self.batch.finishing = [(uid, "stop")]
        _, (response,) = self.batch.next()
        return response.prompt_cache


def test_what_a_batch_gives_away_is_marked_with_its_agent() -> None:
    server = Server()
    uids = [server.join(agent) for agent in ("Ada", None, "Bo", "Ada")]
    assert server.owners(*uids) == ["Ada", "server", "Bo", "Ada"]
    ((caches, tokens),) = server.batch.extract_cache([uids[2]]).values()
    assert (caches, tokens) == (["caches of 2"], ["tokens"])
    server.batch.finishing = [(uids[2], "length"), (uids[0], None)]
    _, (finished, running) = server.batch.next()
    assert finished.prompt_cache == ["all 2"]
    assert server.agents.of(finished.prompt_cache) == "Bo"
    assert running.prompt_cache is None
    assert server.owners(*uids) == ["Ada", "server", "server", "Ada"], "Bo's is gone"


def test_nothing_is_kept_of_who_has_left_the_batch() -> None:
    server = Server()
    first, second = server.join("Ada"), server.join("Bo")
    server.batch.remove([first, 99])
    assert server.agents.of(server.finish(second)) == "Bo"
    assert server.agents._of_sequence == {}


def test_a_sequence_that_nobody_knows_is_the_servers_and_ends_nothing() -> None:
    assert Server().owners(99) == ["server"]


def test_what_was_never_in_a_batch_is_the_current_requests() -> None:
    server = Server()
    server.join("Ada")
    assert server.agents.of(["caches of a request that runs alone"]) == "Ada"


class Queue:
    """A queue that tokenises the next request, which is to wait, and has no room for copies."""

    def __init__(self, ahead: Any) -> None:
        self._ahead = ahead

    def settle(self) -> None: ...

    def first(self, compute: Any) -> None:
        compute(self._ahead, None)

    def copied(self, copies: dict[int, Any]) -> dict[int, Any]:
        return {uid: (NOT_COPIED, tokens) for uid, (_, tokens) in copies.items()}


def test_a_request_that_is_tokenised_while_it_waits_is_not_the_current_one() -> None:
    agents = RequestAgents()
    queue: Any = Queue(SimpleNamespace(agent_id="Bo"))
    generator = named_generator(queued_generator(Generator, queue, lambda: None), agents)(agents)
    agents.current = "Ada"
    assert generator._next_request() is None
    assert agents.of(None) == "Ada"


def test_a_copy_that_there_was_no_room_for_stays_what_it_is() -> None:
    queue: Any = Queue(None)
    batch = queued_batch(named_batch(Batch, RequestAgents()), queue)()
    ((caches, _),) = batch.extract_cache([7]).values()
    assert caches is NOT_COPIED


def test_the_handler_has_the_request_say_whose_it_is() -> None:
    class Handler:
        def __init__(self, body: dict[str, Any]) -> None:
            self.body = body
            self.seen: list[str] = []

        def validate_model_parameters(self) -> None:
            self.seen.append("checked")

        def handle_completion(self, request: Any, stop_words: list[str]) -> None:
            self.seen += [request.agent_id, *stop_words]

    handler = handler_class(SimpleNamespace(APIHandler=Handler), names_agents=True)({"user": "Ada"})
    handler.validate_model_parameters()
    handler.handle_completion(SimpleNamespace(), ["stop"])
    assert handler.seen == ["checked", "Ada", "stop"]
    handler = handler_class(SimpleNamespace(APIHandler=Handler), names_agents=True)({"user": 5})
    with pytest.raises(ValueError, match="of type str"):
        handler.validate_model_parameters()


def test_a_handler_that_names_nobody_leaves_the_user_to_the_server() -> None:
    class Handler:
        pass

    handler = handler_class(SimpleNamespace(APIHandler=Handler), names_agents=False)
    assert not hasattr(handler, "handle_completion")
    assert not hasattr(handler, "validate_model_parameters")
