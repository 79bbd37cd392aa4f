"""The HTTP side of `semantic serve`: the socket, two routes more, and the wish to end.

The port is bound at birth and the generator comes later. Signals set a flag that the serving loop
reads: an exception thrown into any line of ours could leave the generation thread behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import urlsplit

from semantic.adapters.mlx_lm.request_agents import agent_of_body
from semantic.adapters.mlx_lm.request_queue import RequestRefused
from semantic.domain.errors import SemanticError

__all__ = [
    "METRICS_PATH",
    "POLL_SECONDS",
    "STATS_PATH",
    "HttpServer",
    "ServerError",
    "StopRequest",
    "handler_class",
    "signals_ask",
]

STATS_PATH = "/v1/semantic/stats"
METRICS_PATH = "/metrics"
POLL_SECONDS = 0.1
_FAREWELL_SECONDS = 1.5

_log = logging.getLogger("semantic.serve")


class ServerError(SemanticError):
    """The server cannot start, or has to end.

    Attributes:
        still_running: Whether its generation thread is stuck, so that only the end of the process
            ends it.
    """

    still_running: bool = False


class StopRequest:
    """How often somebody asked the server to end: twice ends all patience.

    What the server still waits for once it ends may be many things, one after the other: asking
    again means all of them.
    """

    def __init__(self) -> None:
        self.times = 0

    @property
    def is_urgent(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return self.times > 1

    def ask(self, *_: object) -> None:
        """Ask once more; also a signal handler."""
        self.times += 1

    def begin(self) -> None:
        """The server ends, also where nobody has asked for it."""
        if not self.times:
            self.ask()


class _StopError(Exception):
    """Leaves the serving loop."""


class HttpServer(ThreadingHTTPServer):
    """The HTTP server: bound at birth, given its generator later, ends when that dies."""

    request_queue_size = 128
    generator: Any = None

    def __init__(self, family: socket.AddressFamily, address: Any, handler: Any) -> None:
        self.address_family = family
        self.stop = StopRequest()
        super().__init__(address, handler)

    @classmethod
    def bound(cls, host: str, port: int, handler: Any) -> HttpServer:
        """A server that listens already.

        Raises:
            ServerError: When the address cannot be listened on; says what to do.
        """
        if not 0 <= port <= 65535:
            raise ServerError(f"--port {port}: a port is a number from 0 to 65535")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            return cls(family, address, handler)
        except OSError as error:
            _refuse_address(host, port, error)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handle one request, as mlx_lm.server's handlers want it: with the generator."""
        handler: Any = self.RequestHandlerClass
        handler(self.generator, request, client_address, self)

    def serve_until_stopped(self) -> None:
        """Serve until `stop` is asked.

        Raises:
            ServerError: When the generation thread has died.
        """
        with contextlib.suppress(_StopError):
            self.serve_forever(poll_interval=POLL_SECONDS)

    def service_actions(self) -> None:
        """Look up from the socket, several times a second."""
        if self.stop.times:
            raise _StopError
        if not self.generator.generation_available():
            # Requests in flight look at the thread once a second, and tell their clients.
            time.sleep(_FAREWELL_SECONDS)
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


def handler_class(server: Any, *, names_agents: bool) -> Any:
    """The request handler of the module `mlx_lm.server`, two routes more, and refusals.

    Args:
        server: The module.
        names_agents: Whether requests say whose they are.
    """

    def set_completion_headers(self: Any, status_code: int = 200) -> None:
        # mlx_lm.server answers 404 to whatever keeps a request from being generated.
        refusal = sys.exception()
        if not isinstance(refusal, RequestRefused):
            server.APIHandler._set_completion_headers(self, status_code)
            return
        server.APIHandler._set_completion_headers(self, refusal.status)
        if refusal.retry_after_seconds is not None:
            self.send_header("Retry-After", str(refusal.retry_after_seconds))

    def do_get(self: Any) -> None:
        path = urlsplit(self.path).path
        if path == STATS_PATH:
            _send(self, _stats)
        elif path == METRICS_PATH:
            _send(self, _metrics)
        else:
            server.APIHandler.do_GET(self)

    methods = {"do_GET": do_get, "_set_completion_headers": set_completion_headers}
    if names_agents:
        methods |= _naming_methods(server)
    return type("SemanticAPIHandler", (server.APIHandler,), methods)


def _naming_methods(server: Any) -> dict[str, Callable[..., None]]:
    """What has a request say whose it is, in a handler of the module `mlx_lm.server`."""

    def validate_model_parameters(self: Any) -> None:
        server.APIHandler.validate_model_parameters(self)
        self.agent_id = agent_of_body(self.body)

    def handle_completion(self: Any, request: Any, *args: Any, **options: Any) -> None:
        request.agent_id = self.agent_id
        server.APIHandler.handle_completion(self, request, *args, **options)

    return {
        "handle_completion": handle_completion,
        "validate_model_parameters": validate_model_parameters,
    }


_Answer = tuple[str, bytes]


def _stats(cache: Any) -> _Answer:
    return "application/json", json.dumps(dict(cache.stats())).encode()


def _metrics(cache: Any) -> _Answer:
    # Imported when first asked for: a server without this route needs no Prometheus client.
    from semantic.adapters.metrics import CONTENT_TYPE, exposition

    return CONTENT_TYPE, exposition(cache.stats)


def _send(handler: Any, answer_of: Callable[[Any], _Answer]) -> None:
    # The generator drops its cache when it stops.
    cache = getattr(handler.response_generator, "prompt_cache", None)
    status, kind = 200, "application/json"
    try:
        if cache is None:
            status, body = 503, _error("the server is shutting down")
        else:
            kind, body = answer_of(cache)
    except Exception as error:
        _log.exception("the prompt cache could not report its state")
        status, body = 500, _error(f"{type(error).__name__}: {error}")
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler._set_cors_headers()
    handler.end_headers()
    handler.wfile.write(body)


def _error(text: str) -> bytes:
    return json.dumps({"error": text}).encode()


@contextlib.contextmanager
def signals_ask(request: StopRequest) -> Iterator[None]:
    """SIGINT and SIGTERM ask for the end; only the main thread may listen to them."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # Whoever started us deaf to a signal (`nohup`, `&`) meant it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, request.ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
