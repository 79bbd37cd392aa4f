"""Whose a request is: the `user` of its body, brought to where blocks are found and published.

mlx_lm.server asks its prompt cache with a model and tokens, and does not say for whom. What it
looks up is for the request that it has tokenised last. What it inserts comes out of its batch,
where several agents' sequences are side by side: those caches are marked with their agent.

A name tells whose blocks are whose. It neither opens nor closes anything: who shares is decided by
namespace and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["SERVER_AGENT", "RequestAgents", "agent_of_body", "named_batch", "named_generator"]

SERVER_AGENT = "server"
"""Whoever does not say who it is."""

_MOST_CHARACTERS = 256


def agent_of_body(body: Mapping[str, Any]) -> str:
    """The agent that a request's body names.

    Args:
        body: The body of a completion, as OpenAI's API has it: `user` is the agent.

    Raises:
        ValueError: `user` is no name.
    """
    user = body.get("user")
    if user is None or user == "":
        return SERVER_AGENT
    if not isinstance(user, str):
        raise ValueError("user must be of type str")
    if len(user) > _MOST_CHARACTERS:
        raise ValueError(f"user must have at most {_MOST_CHARACTERS} characters, not {len(user)}")
    # Names are stored, and printed by `semantic store ls`: half a surrogate pair cannot be, and
    # control characters are not for other people's terminals.
    if not user.isprintable():
        raise ValueError("user must consist of printable characters")
    return user


class _AgentCaches(list[Any]):
    """A sequence's caches, out of a batch, and whose they are."""

    def __init__(self, caches: Iterable[Any], agent_id: str) -> None:
        super().__init__(caches)
        self.agent_id = agent_id


class RequestAgents:
    """Whose requests a server is at; for its generation thread only."""

    def __init__(self) -> None:
        self.current = SERVER_AGENT
        """The agent of the request that was tokenised last."""
        self._of_sequence: dict[int, str] = {}

    def of(self, caches: list[Any] | None) -> str:
        """Whose caches these are; the current request's, where they were in no batch, or None."""
        return caches.agent_id if isinstance(caches, _AgentCaches) else self.current

    def inserted(self, uids: Iterable[int]) -> None:
        """The request that was tokenised last is in the batch."""
        self._of_sequence.update(dict.fromkeys(uids, self.current))

    def copied(self, copies: Mapping[int, Any]) -> dict[int, Any]:
        """The copied rows, their caches marked."""
        return {uid: (self._marked(uid, row), *rest) for uid, (row, *rest) in copies.items()}

    def stepped(self, generated: Iterable[Any]) -> None:
        """The batch has computed a step: the caches of who finished are marked."""
        for response in generated:
            if response.finish_reason is not None:
                response.prompt_cache = self._marked(response.uid, response.prompt_cache)
                self.removed([response.uid])

    def removed(self, uids: Iterable[int]) -> None:
        """Sequences are in the batch no more."""
        for uid in uids:
            self._of_sequence.pop(uid, None)

    def _marked(self, uid: int, caches: Iterable[Any]) -> list[Any]:
        return _AgentCaches(caches, self._of_sequence.get(uid, SERVER_AGENT))


def named_generator(generator_class: type[Any], agents: RequestAgents) -> type[Any]:
    """A ResponseGenerator that tells `agents` whose request it is at.

    Args:
        generator_class: mlx_lm.server's ResponseGenerator, or what stands in for it. Its requests
            have an `agent_id` where it is known.
        agents: Told on the generation thread.
    """

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class NamedResponseGenerator(generator_class):  # type: ignore[misc]
        """The server's generator, that says for whom it works."""

        def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
            agents.current = getattr(request, "agent_id", SERVER_AGENT)
            return super()._tokenize(tokenizer, request, args)

    return NamedResponseGenerator


def named_batch(generator_class: type[Any], agents: RequestAgents) -> type[Any]:
    """A BatchGenerator that marks the caches it gives away with their agent.

    Args:
        generator_class: mlx-lm's BatchGenerator, or what stands in for it.
        agents: Knows whose sequence comes in.
    """

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class NamedBatchGenerator(generator_class):  # type: ignore[misc]
        """The server's batch, that knows whose its sequences are."""

        def insert_segments(self, *args: Any, **options: Any) -> Any:
            uids = super().insert_segments(*args, **options)
            agents.inserted(uids)
            return uids

        def extract_cache(self, uids: Any) -> Any:
            return agents.copied(super().extract_cache(uids))

        def next(self) -> Any:
            prompts, generated = super().next()
            agents.stepped(generated)
            return prompts, generated

        def remove(self, uids: Any, *args: Any, **options: Any) -> Any:
            removed = super().remove(uids, *args, **options)
            agents.removed(uids)
            return removed

    return NamedBatchGenerator
