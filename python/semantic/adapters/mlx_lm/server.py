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
import errno
import importlib
import inspect
import io
import json
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import urlsplit

from semantic.domain.errors import SemanticError

__all__ = ["STATS_PATH", "ServerError", "launch", "options_help"]

STATS_PATH = "/v1/semantic/stats"
_PROGRAM = "semantic serve"
_NO_LIMIT_SEQUENCES = 1 << 31
_NO_LIMIT_BYTES = 1 << 63
_STOP_SECONDS = 10.0

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "main": (),
    "run": ("host", "port", "model_provider"),
    "ResponseGenerator": ("model_provider", "prompt_cache"),
    "ResponseGenerator.stop_and_join": (),
    "ResponseGenerator.generation_available": (),
    "APIHandler": ("response_generator",),
    "APIHandler.do_GET": (),
    "mx.distributed.init": (),
}
"""What the server module must have, and the parameters that we pass by that name or place."""

_log = logging.getLogger("semantic.serve")

CacheFactory = Callable[..., Any]


class ServerError(SemanticError):
    """The server cannot start, or has to end.

    Attributes:
        still_running: Whether its generation thread is stuck, so that only the end of the process
            ends it.
    """

    still_running: bool = False


def launch(
    argv: Sequence[str],
    *,
    kv_memory: int | None = None,
    on_ready: Callable[[str, int], None] | None = None,
    new_cache: CacheFactory | None = None,
) -> None:
    """Run mlx_lm.server on this thread until SIGINT or SIGTERM, with our prompt cache in it.

    Args:
        argv: Options of mlx_lm.server, without a program name.
        kv_memory: Bytes for KV caches. Also the server's `--prompt-cache-bytes` unless that is
            given, so that our cache makes room for what the running batch holds. With it, bytes
            are the limit, and `--prompt-cache-size` counts only when it is given.
        on_ready: Called with host and port once the port is bound and the model begins to load.
        new_cache: Makes the prompt cache from `max_size` and `max_bytes`.

    Raises:
        ServerError: When mlx-lm lacks what we need, the address cannot be bound, or the generation
            thread dies or does not stop.
        SystemExit: When mlx_lm.server's parser refuses an option, or prints its help.
    """
    server = _server_module()
    served = False

    def run(host: str, port: int, model_provider: Any, *_: Any, **__: Any) -> None:
        nonlocal served
        served = True
        cache_limits = _limits(argv, model_provider.cli_args, kv_memory)
        make_cache = new_cache or _our_prompt_cache
        _serve(server, host, port, model_provider, lambda: make_cache(**cache_limits), on_ready)

    with _own_command_line(argv), _sigterm_interrupts(), _replaced(server, "run", run):
        try:
            server.main()
        except KeyboardInterrupt:
            return
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


def _our_prompt_cache(**limits: int) -> Any:
    # The public door: it checks that MLX is usable and says so when it is not.
    return importlib.import_module("semantic.mlx_lm").PromptCache(**limits)


def _limits(argv: Sequence[str], cli_args: Any, kv_memory: int | None) -> dict[str, int]:
    """Our cache's limits; tells the server's own byte limit on the way."""
    asked_bytes: int | None = getattr(cli_args, "prompt_cache_bytes", None)
    if asked_bytes is None:
        cli_args.prompt_cache_bytes = kv_memory
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
    host: str,
    port: int,
    model_provider: Any,
    new_cache: Callable[[], Any],
    on_ready: Callable[[str, int], None] | None,
) -> None:
    if server.mx.distributed.init().rank() != 0:
        server.ResponseGenerator(model_provider, new_cache()).join()
        return
    with _HttpServer.bound(host, port, _handler_class(server)) as httpd:
        httpd.generator = server.ResponseGenerator(model_provider, new_cache())
        try:
            _log.info("Serving at http://%s:%d", host, httpd.server_port)
            if on_ready is not None:
                on_ready(host, httpd.server_port)
            httpd.serve_forever()
        finally:
            _stop(httpd.generator)


def _stop(generator: Any) -> None:
    """End the generation thread, or say that it does not end."""
    stopper = threading.Thread(target=generator.stop_and_join, daemon=True)
    stopper.start()
    with contextlib.suppress(KeyboardInterrupt):  # asked twice: do not wait any longer
        stopper.join(_STOP_SECONDS)
    if stopper.is_alive():
        raise ServerError(
            f"the generation thread was still busy when the server had to end (waited up to "
            f"{_STOP_SECONDS:.0f} s); the process is ended without it",
            still_running=True,
        )


class _HttpServer(ThreadingHTTPServer):
    """The HTTP server: bound at birth, given its generator later, ends when that dies."""

    request_queue_size = 128
    generator: Any = None

    def __init__(self, family: socket.AddressFamily, address: Any, handler: Any) -> None:
        self.address_family = family
        super().__init__(address, handler)

    @classmethod
    def bound(cls, host: str, port: int, handler: Any) -> _HttpServer:
        if not 0 <= port <= 65535:
            raise ServerError(f"--port {port}: a port is a number from 0 to 65535")
        try:
            found = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            return cls(family, address, handler)
        except OSError as error:
            _refuse_address(host, port, error)

    def finish_request(self, request: Any, client_address: Any) -> None:
        handler: Any = self.RequestHandlerClass
        handler(self.generator, request, client_address, self)

    def service_actions(self) -> None:
        if not self.generator.generation_available():
            raise ServerError(
                "the generation thread died, so nothing can be answered any more; "
                "the reason is in the log above (a model that cannot be loaded, most often)"
            )


def _refuse_address(host: str, port: int, error: OSError) -> NoReturn:
    if isinstance(error, socket.gaierror):
        why = f"{host!r} is no host name or address; try --host 127.0.0.1"
    elif error.errno == errno.EADDRINUSE:
        why = (
            f"port {port} on {host} is in use, perhaps by another server of yours; "
            f"stop that one, or choose another port with --port"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        why = f"{host} is no address of this machine; try --host 127.0.0.1"
    elif error.errno == errno.EACCES:
        why = f"port {port} needs more rights than this process has; choose one above 1023"
    else:
        why = f"cannot listen on {host}:{port}: {error}"
    raise ServerError(why, host=host, port=port) from error


def _handler_class(server: Any) -> Any:
    def do_get(self: Any) -> None:
        if urlsplit(self.path).path == STATS_PATH:
            _send_stats(self)
        else:
            server.APIHandler.do_GET(self)

    return type("SemanticAPIHandler", (server.APIHandler,), {"do_GET": do_get})


def _send_stats(handler: Any) -> None:
    # The generator drops its cache when it stops.
    cache = getattr(handler.response_generator, "prompt_cache", None)
    status, answer = 200, {}
    try:
        if cache is None:
            status, answer = 503, {"error": "the server is shutting down"}
        else:
            answer = dict(cache.stats())
    except Exception as error:
        _log.exception("the prompt cache could not report its state")
        status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
    body = json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler._set_cors_headers()
    handler.end_headers()
    handler.wfile.write(body)


def _server_module() -> Any:
    try:
        server = importlib.import_module("mlx_lm.server")
    except ImportError as error:
        raise ServerError(
            f"mlx_lm.server cannot be imported ({error}); pip install 'semantic-kv[serve]'"
        ) from error
    lacking = [name for name, parameters in _NEEDED.items() if not _has(server, name, parameters)]
    if lacking:
        raise ServerError(
            f"mlx-lm {_version()} is not one that semantic can serve with: mlx_lm.server lacks "
            f"{', '.join(lacking)} as we know it; mlx-lm 0.32.2 is known to work"
        )
    return server


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


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the server as Ctrl-C does; signals belong to the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
