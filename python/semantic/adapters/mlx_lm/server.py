"""`mlx_lm.server` with our memory in it: its own options, its own routes, one route more.

Rules of this room:

- mlx_lm.server parses its own command line. We replace `run()` for the duration, nothing else.
- The port is taken before the generation thread starts: that thread is no daemon, and a failed bind
  after it would leave a process that serves nobody and never ends.
- A server whose generation thread has died ends, with an error, instead of answering 503 for ever.
- What we need is looked up by capability; a server module that lacks it is refused by version.
- MLX runs on the generation thread only. The prompt cache belongs to the generator, which drops it
  on that thread; nobody here keeps a reference.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from semantic.adapters.mlx_lm.http_server import (
    POLL_SECONDS,
    STATS_PATH,
    HttpServer,
    ServerError,
    StopRequest,
    handler_class,
    signals_ask,
)
from semantic.adapters.mlx_lm.junctions import stopping_generator
from semantic.adapters.mlx_lm.loaded_models import LoadedModels
from semantic.adapters.mlx_lm.loaded_specs import LoadedSpecs
from semantic.adapters.mlx_lm.queued import queued_batch, queued_generator
from semantic.adapters.mlx_lm.request_agents import RequestAgents, named_batch, named_generator
from semantic.adapters.mlx_lm.request_queue import RequestQueue
from semantic.adapters.mlx_lm.running_batch import metered_generator
from semantic.adapters.mlx_lm.sound_requests import sound_generator
from semantic.adapters.mlx_lm.unpadded_prefill import unpadded_generator
from semantic.adapters.pressure import guard_for
from semantic.application.pressure import PressureGuard
from semantic.ports.outbound import BlockStore

__all__ = ["DEFAULT_WAIT_SECONDS", "STATS_PATH", "ServerError", "launch", "options_help"]

_PROGRAM = "semantic serve"
_NO_LIMIT_SEQUENCES = 1 << 31
_NO_LIMIT_BYTES = 1 << 63
DEFAULT_WAIT_SECONDS = 600.0
"""The longest that a request waits for memory, unless it is said otherwise."""

_STOP_SECONDS = 10.0
_TELL_SECONDS = 2.0

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "main": (),
    "run": ("host", "port", "model_provider"),
    "ResponseGenerator": ("model_provider", "prompt_cache"),
    "ResponseGenerator.stop_and_join": (),
    "ResponseGenerator.generation_available": (),
    "BatchGenerator": ("model",),
    "BatchGenerator.next": (),
    "BatchGenerator.close": (),
    "APIHandler": ("response_generator",),
    "APIHandler.do_GET": (),
    "mx.distributed.init": (),
}
"""What the server module must have, and the parameters that we pass by that name or place."""

_NEEDED_FOR_AGENTS: Mapping[str, tuple[str, ...]] = {
    "ResponseGenerator._tokenize": ("tokenizer", "request", "args"),
    "BatchGenerator.insert_segments": (),
    "BatchGenerator.extract_cache": ("uids",),
    "BatchGenerator.remove": ("uids",),
    "APIHandler.handle_completion": ("request",),
    "APIHandler.validate_model_parameters": (),
}
"""What it must have besides for requests to say whose they are."""

_NEEDED_FOR_A_LIMIT: Mapping[str, tuple[str, ...]] = {
    **_NEEDED_FOR_AGENTS,
    "ResponseGenerator._next_request": ("timeout",),
    "ResponseGenerator._serve_single": (),
    "ResponseGenerator._run_generate": (),
    "APIHandler._set_completion_headers": ("status_code",),
}
"""What it must have besides where requests wait for memory."""

_log = logging.getLogger("semantic.serve")

CacheFactory = Callable[..., Any]


def launch(
    argv: Sequence[str],
    *,
    kv_memory: int | None = None,
    kv_wait: float = DEFAULT_WAIT_SECONDS,
    store: Callable[[], BlockStore] | None = None,
    salt: str = "",
    on_ready: Callable[[str, int], None] | None = None,
    new_cache: CacheFactory | None = None,
) -> None:
    """Run mlx_lm.server with our prompt cache on the main thread, until SIGINT or SIGTERM.

    End the process right after it, with `os._exit`: where the thread that used MLX ended a moment
    before, MLX's own teardown at a regular exit aborts now and then (mlx 0.32.4).

    Args:
        argv: Options of mlx_lm.server, without a program name.
        kv_memory: Bytes for KV caches, what runs and what is cached together: a request that does
            not fit waits for its turn. With it, bytes are the limit, and `--prompt-cache-size`
            counts only when it is given.
        kv_wait: The longest that a request waits for memory, in seconds.
        store: Opens what keeps the KV of conversations over restarts, once the options are read and
            the port is bound: a start that is refused touches no store. What waits to be stored at
            the end is stored before this returns, unless it is interrupted once more.
        salt: The tenant's secret: what is stored with another one is never read.
        on_ready: Called with host and port once the port is bound and the model begins to load.
        new_cache: Makes the prompt cache from `max_size` and `max_bytes`.

    Raises:
        ServerError: When mlx-lm lacks what we need, the address cannot be bound, the generation
            thread dies or does not stop, or a group of machines is to keep a limit or a store.
        SystemExit: When mlx_lm.server's parser refuses an option, or prints its help.
    """
    server = _server_module(_NEEDED if kv_memory is None else {**_NEEDED, **_NEEDED_FOR_A_LIMIT})
    served = False

    def run(host: str, port: int, model_provider: Any, *_: Any, **__: Any) -> None:
        nonlocal served
        served = True
        cache_limits = _limits(argv, model_provider.cli_args, kv_memory)
        if store is not None and server.mx.distributed.init().size() > 1:
            raise ServerError(
                "a store is for a model that one process holds: the parts of a distributed one "
                "would read each other's blocks"
            )
        new_queue = None
        if kv_memory is not None:
            new_queue = partial(_queue, model_provider, kv_memory, kv_wait)
        _serve(
            server,
            (host, port),
            model_provider,
            _cache_maker(
                new_cache or _our_prompt_cache,
                cache_limits,
                model_provider,
                kv_memory,
                store,
                salt,
            ),
            new_queue,
            on_ready,
        )

    with _own_command_line(argv), _replaced(server, "run", run):
        try:
            server.main()
        except (KeyError, ArithmeticError, ValueError) as error:
            if served:
                raise
            raise ServerError(
                f"mlx_lm.server could not read its options ({error!r}); it takes sizes such as "
                "8GB, 512MB or 1048576"
            ) from error
    if not served:
        raise ServerError(f"mlx-lm {_version()}: mlx_lm.server.main() no longer calls run()")


def options_help() -> str:
    """The help text of mlx_lm.server's own options.

    Raises:
        ServerError: When mlx-lm is missing or lacks what we need.
    """
    server = _server_module()
    text = io.StringIO()
    with (
        _own_command_line(["--help"]),
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        server.main()
    return text.getvalue()


def _our_prompt_cache(**options: Any) -> Any:
    # The public door: it checks that MLX is usable and says so when it is not.
    return importlib.import_module("semantic.mlx_lm").PromptCache(**options)


def _cache_maker(
    new_cache: CacheFactory,
    limits: Mapping[str, int],
    model_provider: Any,
    kv_memory: int | None,
    store: Callable[[], BlockStore] | None,
    salt: str,
) -> Callable[[], Any]:
    """What makes our cache, once the port is bound."""
    loaded = LoadedModels(model_provider, stores=store is not None, salt=salt)

    def made() -> Any:
        options: dict[str, Any] = dict(limits)
        if store is not None or kv_memory is not None:
            options["spec_of"] = LoadedSpecs(model_provider).of
        if store is not None:
            options |= {"store": store(), "namespace_of": loaded.namespace_of}
        return loaded.watching(new_cache(**options))

    return made


def _queue(
    model_provider: Any, kv_memory: int, kv_wait: float, memory_of: Callable[[Any], Any]
) -> RequestQueue:
    return RequestQueue(
        memory_of,
        lambda: model_provider.model_key,
        limit_bytes=kv_memory,
        prefill_step=model_provider.cli_args.prefill_step_size,
        wait_seconds=kv_wait,
    )


def _limits(argv: Sequence[str], cli_args: Any, kv_memory: int | None) -> dict[str, int]:
    """Our cache's limits."""
    asked_bytes: int | None = getattr(cli_args, "prompt_cache_bytes", None)
    # argparse takes any unambiguous beginning of an option.
    asked_size = any(word.startswith("--prompt-cache-s") for word in argv)
    by_bytes = kv_memory is not None and not asked_size
    max_bytes = kv_memory or asked_bytes or _NO_LIMIT_BYTES
    return {
        "max_size": _NO_LIMIT_SEQUENCES if by_bytes else cli_args.prompt_cache_size,
        "max_bytes": max_bytes,
    }


def _serve(
    server: Any,
    address: tuple[str, int],
    model_provider: Any,
    new_cache: Callable[[], Any],
    new_queue: Callable[[Callable[[Any], Any]], RequestQueue] | None,
    on_ready: Callable[[str, int], None] | None,
) -> None:
    group = server.mx.distributed.init()
    if new_queue is not None and group.size() > 1:
        raise ServerError("--kv-memory cannot be kept by a group of machines: leave it out")
    if group.rank() != 0:
        server.ResponseGenerator(model_provider, new_cache()).join()
        return
    agents = _agents(server, group)
    host, port = address
    handler = handler_class(server, names_agents=agents is not None)
    with HttpServer.bound(host, port, handler) as httpd:

        def ready() -> None:
            _log.info("Serving at http://%s:%d", host, httpd.server_port)
            if on_ready is not None:
                on_ready(host, httpd.server_port)

        _generate(server, httpd, model_provider, new_cache, new_queue, agents, ready)


def _generate(
    server: Any,
    httpd: HttpServer,
    model_provider: Any,
    new_cache: Callable[[], Any],
    new_queue: Callable[[Callable[[Any], Any]], RequestQueue] | None,
    agents: RequestAgents | None,
    ready: Callable[[], None],
) -> None:
    """Answer what comes to a port, until somebody asks for the end."""
    cache = new_cache()
    generator_class = stopping_generator(sound_generator(server.ResponseGenerator))
    batch_class = metered_generator(
        unpadded_generator(server.BatchGenerator), _weakly(cache, "report_running")
    )
    if agents is not None:
        cache.agent_of = agents.of
        batch_class = named_batch(batch_class, agents)
    guarded: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if new_queue is not None:
        queue = new_queue(_weakly(cache, "memory_of"))
        cache.queue_stats, cache.may_restore = queue.stats, queue.may_restore
        guard = guard_for(cache.budget)
        guarded = _working(guard)
        generator_class = queued_generator(generator_class, queue, guard.relief.if_due)
        batch_class = queued_batch(batch_class, queue)
    if agents is not None:
        # Outermost: the queue tokenises ahead, and not for the request that is looked up next.
        generator_class = named_generator(generator_class, agents)
    with guarded, signals_ask(httpd.stop), _replaced(server, "BatchGenerator", batch_class):
        writer = getattr(cache, "writer", None)
        httpd.generator = generator_class(model_provider, cache)
        del cache  # it is the generation thread's, which drops it there
        try:
            ready()
            httpd.serve_until_stopped()
        finally:
            httpd.stop.begin()
            try:
                _stop(httpd.generator, httpd.stop)
            finally:
                if writer is not None:
                    _drain(writer, httpd.stop)


def _agents(server: Any, group: Any) -> RequestAgents | None:
    """Whose requests are served; None where all are the server's."""
    if group.size() > 1:
        return None  # the other ranks do not hear of it, and all have to remember the same
    if lacking := _lacking(server, _NEEDED_FOR_AGENTS):
        _log.warning("whose a request is cannot be seen: mlx_lm.server lacks %s", lacking)
        return None
    return RequestAgents()


@contextlib.contextmanager
def _working(guard: PressureGuard) -> Iterator[None]:
    guard.start()
    try:
        yield
    finally:
        guard.stop()


def _weakly(cache: Any, method: str) -> Callable[[Any], Any]:
    """A method of the cache that does not keep it alive: the generation thread is to drop it."""
    reference = weakref.ref(cache)

    def call(argument: Any) -> Any:
        alive = reference()
        return None if alive is None else getattr(alive, method)(argument)

    return call


def _stop(generator: Any, request: StopRequest) -> None:
    """End the generation thread, or say that it does not end; asking twice ends the patience."""
    stopper = threading.Thread(target=generator.stop_and_join, daemon=True)
    stopper.start()
    deadline = time.monotonic() + _STOP_SECONDS
    while stopper.is_alive() and time.monotonic() < deadline and not request.is_urgent:
        stopper.join(POLL_SECONDS)
    if stopper.is_alive():
        raise ServerError(
            f"the generation thread was still busy when the server had to end (waited up to "
            f"{_STOP_SECONDS:.0f} s); the process is ended without it",
            still_running=True,
        )


def _drain(writer: Any, request: StopRequest) -> None:
    """Wait for what is still to be stored; asking twice to stop leaves it."""
    told = 0.0
    while not writer.flush(POLL_SECONDS):
        if request.is_urgent:
            _log.warning("%d turns were not stored", writer.waiting)
            return
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            _log.info("Storing %d more turns; interrupt again to leave them", writer.waiting)


def _server_module(needed: Mapping[str, tuple[str, ...]] = _NEEDED) -> Any:
    try:
        server = importlib.import_module("mlx_lm.server")
    except ImportError as error:
        raise ServerError(
            f"mlx_lm.server cannot be imported ({error}); pip install 'semantic-kv[serve]'"
        ) from error
    if lacking := _lacking(server, needed):
        raise ServerError(
            f"mlx-lm {_version()} is not one that semantic can serve with: mlx_lm.server lacks "
            f"{lacking} as we know it; mlx-lm 0.32.2 is known to work"
        )
    return server


def _lacking(server: Any, needed: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(name for name, known in needed.items() if not _has(server, name, known))


def _has(server: Any, name: str, parameters: tuple[str, ...]) -> bool:
    found = server
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        return False
    return not parameters or set(parameters) <= set(inspect.signature(found).parameters)


def _version() -> str:
    return str(getattr(importlib.import_module("mlx_lm"), "__version__", "of unknown version"))


@contextlib.contextmanager
def _own_command_line(argv: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [_PROGRAM, *argv]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
