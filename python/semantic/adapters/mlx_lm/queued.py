"""mlx_lm.server's generator and batch, with a `RequestQueue` between them and their requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from semantic.adapters.mlx_lm.request_queue import NOT_COPIED, RequestQueue

__all__ = ["queued_batch", "queued_generator"]

_log = logging.getLogger("semantic.serve")

_T = TypeVar("_T")


def _tell(step: Callable[..., _T], *args: Any, otherwise: _T) -> _T:
    """Tell the queue of a step; what goes wrong there never ends the generation thread."""
    try:
        return step(*args)
    except Exception:
        _log.exception("the queue of requests failed")
        return otherwise


def _ask_all(
    next_request: Callable[[float | None], Any], queue: RequestQueue, timeout: float | None
) -> bool:
    """Have all wait that have come, or that come within `timeout`; whether anybody has."""
    taken = next_request(timeout)
    has_come = taken is not None
    while taken is not None:
        queue.ask(taken)
        taken = next_request(None)
    return has_come


def _first(
    queue: RequestQueue,
    next_request: Callable[[float | None], Any],
    compute: Callable[[Any, Any], Any],
    timeout: float | None,
) -> Any:
    _ask_all(next_request, queue, None)
    first = _tell(queue.first, compute, otherwise=None)
    # Where nobody may run, the next thing that happens is a request.
    if first is None and timeout is not None and _ask_all(next_request, queue, timeout):
        first = _tell(queue.first, compute, otherwise=None)
    return first


def queued_generator(
    generator_class: type[Any], queue: RequestQueue, between: Callable[[], object]
) -> type[Any]:
    """A ResponseGenerator that takes a request only when there is memory for it.

    Args:
        generator_class: mlx_lm.server's ResponseGenerator, or what stands in for it.
        queue: Who may run.
        between: Called between the server's steps, on its thread.
    """

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class QueuedResponseGenerator(generator_class):  # type: ignore[misc]
        """The server's generator, behind a queue."""

        _runs_alone = False

        def _next_request(self, timeout: float | None = None) -> Any:
            _tell(queue.settle, otherwise=None)
            _tell(between, otherwise=None)
            return _first(queue, super()._next_request, self._tokenised_ahead, timeout)

        def _tokenised_ahead(self, request: Any, args: Any) -> Any:
            return super()._tokenize(self.model_provider.tokenizer, request, args)

        def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
            def compute() -> Any:
                return super(QueuedResponseGenerator, self)._tokenize(tokenizer, request, args)

            answer = queue.tokenised(request, args, compute)
            if self._runs_alone:
                self.cli_args.prefill_step_size = queue.prefill_step
            return answer

        def _serve_single(self, *args: Any, **options: Any) -> Any:
            asked_step = self.cli_args.prefill_step_size
            self._runs_alone = True
            try:
                return super()._serve_single(*args, **options)
            finally:
                self._runs_alone = False
                self.cli_args.prefill_step_size = asked_step
                _tell(queue.served, otherwise=None)

        def _run_generate(self) -> None:
            try:
                super()._run_generate()
            finally:
                _tell(queue.close, otherwise=None)

    return QueuedResponseGenerator


def queued_batch(generator_class: type[Any], queue: RequestQueue) -> type[Any]:
    """A BatchGenerator whose sequences are charged while they are in it.

    Prompts are prefilled one at a time: of unequal lengths and side by side they pad each other
    beyond what any of them will ever need.

    Args:
        generator_class: mlx-lm's BatchGenerator, or what stands in for it.
        queue: Who was let in.
    """

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class QueuedBatchGenerator(generator_class):  # type: ignore[misc]
        """The server's batch, charged."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self._is_open = True
            super().__init__(*args, **options)
            self.prefill_batch_size = 1

        def insert_segments(self, *args: Any, **options: Any) -> Any:
            uids = super().insert_segments(*args, **options)
            self.prefill_step_size = queue.prefill_step
            _tell(queue.inserted, uids, otherwise=None)
            return uids

        def next(self) -> Any:
            _tell(queue.settle, otherwise=None)
            prompts, generated = super().next()
            taken_bytes = self.prompt_cache_nbytes
            _tell(queue.stepped, prompts, generated, taken_bytes, otherwise=None)
            return prompts, generated

        def extract_cache(self, uids: Any) -> Any:
            copies = super().extract_cache(uids)
            return _tell(queue.copied, copies, otherwise={uid: (NOT_COPIED, []) for uid in copies})

        def remove(self, uids: Any, *args: Any, **options: Any) -> Any:
            removed = super().remove(uids, *args, **options)
            _tell(queue.removed, uids, otherwise=None)
            return removed

        def close(self) -> None:
            super().close()
            # Closed once more when it is collected, and by then another batch may run.
            if self._is_open:
                self._is_open = False
                _tell(queue.emptied, otherwise=None)

    return QueuedBatchGenerator
