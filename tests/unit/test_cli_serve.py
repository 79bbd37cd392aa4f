"""What `launch` does with options and the server module; no model, no socket unless it says so."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

import mlx_lm.server as mlx_server
import pytest

from semantic import MemoryBudget, MemoryStore
from semantic.adapters.mlx_lm import http_server
from semantic.adapters.mlx_lm.server import ServerError, launch, options_help


class FakeCache:
    """A prompt cache that is only handed around."""

    def __init__(self, **_: int) -> None:
        self.running: list[int] = []

    def report_running(self, n_bytes: int) -> None:
        self.running.append(n_bytes)

    def memory_of(self, key: Any) -> None: ...

    @property
    def budget(self) -> MemoryBudget:
        return MemoryBudget(1 << 30)


class FakeGenerator:
    """A generator that is already done: alive for a few looks, then stopped."""

    made: list[FakeGenerator]

    def __init__(self, model_provider: Any, prompt_cache: Any) -> None:
        self.model_provider, self.prompt_cache = model_provider, prompt_cache
        self.joined = False
        type(self).made.append(self)

    def generation_available(self) -> bool:
        return False

    def stop_and_join(self) -> None:
        self.joined = True

    def join(self) -> None:
        self.joined = True

    def _next_request(self, timeout: float | None = None) -> None: ...

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> None: ...

    def _serve_single(self, request: Any, stream: Any) -> None: ...

    def _run_generate(self) -> None: ...


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeGenerator]:
    FakeGenerator.made = []
    monkeypatch.setattr(http_server, "_FAREWELL_SECONDS", 0)
    monkeypatch.setattr(mlx_server, "ResponseGenerator", FakeGenerator)
    return FakeGenerator.made


def limits_of(argv: list[str], kv_memory: int | None) -> tuple[dict[str, int], Any]:
    """The limits our cache is made with, and the options that mlx_lm.server's parser made."""
    seen: dict[str, int] = {}

    def new_cache(*, store: None = None, spec_of: Any = None, **limits: int) -> object:
        seen.update(limits)
        return FakeCache()

    with pytest.raises(ServerError, match="generation thread died"):
        launch([*argv, "--port", "0"], kv_memory=kv_memory, new_cache=new_cache)
    return seen, FakeGenerator.made[-1].model_provider.cli_args


NO_LIMIT_SEQUENCES = 1 << 31


@pytest.mark.parametrize(
    ("argv", "kv_memory", "size", "limit_bytes", "server_bytes"),
    [
        ([], None, 10, 1 << 63, None),
        (["--prompt-cache-size", "3"], None, 3, 1 << 63, None),
        (["--prompt-cache-bytes", "2GB"], None, 10, 2 * 10**9, 2 * 10**9),
        ([], 5 * 10**9, NO_LIMIT_SEQUENCES, 5 * 10**9, None),
        (["--prompt-cache-size=4"], 5 * 10**9, 4, 5 * 10**9, None),
        (["--prompt-cache-s", "4"], 5 * 10**9, 4, 5 * 10**9, None),
        (["--prompt-cache-bytes", "1GB"], 5 * 10**9, NO_LIMIT_SEQUENCES, 5 * 10**9, 10**9),
    ],
)
def test_the_limits_of_the_memory(
    made: list[FakeGenerator],
    argv: list[str],
    kv_memory: int | None,
    size: int,
    limit_bytes: int,
    server_bytes: int | None,
) -> None:
    limits, cli_args = limits_of(argv, kv_memory)
    assert limits == {"max_size": size, "max_bytes": limit_bytes}
    assert cli_args.prompt_cache_bytes == server_bytes


def test_all_other_options_go_through_and_nothing_stays_replaced(
    made: list[FakeGenerator],
) -> None:
    argv_before, run_before = sys.argv, mlx_server.run
    _, cli_args = limits_of(
        ["--model", "a folder", "--temp", "0.5", "--prefill-step-size", "99"], 10**9
    )
    assert (cli_args.model, cli_args.temp, cli_args.prefill_step_size) == ("a folder", 0.5, 99)
    assert sys.argv is argv_before
    assert mlx_server.run is run_before
    assert made[-1].joined


def test_the_servers_own_parser_refuses_what_it_does_not_know(
    made: list[FakeGenerator], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        launch(["--bogus"])
    assert caught.value.code == 2
    assert "semantic serve: error: unrecognized arguments: --bogus" in capsys.readouterr().err
    assert not made


def test_a_port_in_use_is_refused_before_anything_starts(made: list[FakeGenerator]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=rf"port {port} .* in use.* --port"):
            launch(["--port", str(port)], new_cache=FakeCache)
    assert not made


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--port", "80800"], "from 0 to 65535"),
        (["--port", "-1"], "from 0 to 65535"),
        (["--host", "no such host"], "no host name"),
        (["--host", "192.0.2.1", "--port", "0"], "no address of this machine"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_starts(
    made: list[FakeGenerator], argv: list[str], why: str
) -> None:
    with pytest.raises(ServerError, match=why):
        launch(argv, new_cache=FakeCache)
    assert not made


@pytest.mark.parametrize("argv", [["--bogus"], ["--port", "80800"], ["--port", "used"]])
def test_a_start_that_is_refused_touches_no_store(
    made: list[FakeGenerator], argv: list[str]
) -> None:
    """It would be made smaller for a limit that is never kept, or be there for nothing."""
    opened: list[MemoryStore] = []

    def open_store() -> MemoryStore:
        opened.append(MemoryStore(1 << 20))
        return opened[0]

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        words = [port if word == "used" else word for word in argv]
        with pytest.raises((SystemExit, ServerError)):
            launch(words, store=open_store, new_cache=FakeCache)
    assert not opened
    with pytest.raises(ServerError, match="generation thread died"):
        launch(["--port", "0"], store=open_store, new_cache=lambda **_: FakeCache())
    assert len(opened) == 1


def test_an_mlx_lm_without_what_we_need_is_refused_by_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OtherGenerator:
        def __init__(self, model: Any) -> None: ...

    monkeypatch.setattr(mlx_server, "ResponseGenerator", OtherGenerator)
    with pytest.raises(ServerError, match=r"mlx-lm \d+\.\d+.*lacks ResponseGenerator,.*known to"):
        launch([])


def test_a_main_that_serves_without_our_run_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx_server, "main", lambda: None)
    with pytest.raises(ServerError, match="no longer calls run"):
        launch([])


@pytest.mark.parametrize("name", ["_next_request", "_run_generate"])
def test_a_limit_is_not_promised_where_requests_cannot_be_made_to_wait(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(FakeGenerator, name)
    with pytest.raises(ServerError, match=f"lacks ResponseGenerator.{name} as"):
        launch([], kv_memory=10**9)
    with pytest.raises(ServerError, match="generation thread died"):
        launch(["--port", "0"], new_cache=FakeCache)


def test_a_group_of_machines_is_not_promised_a_limit(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = SimpleNamespace(rank=lambda: 0, size=lambda: 2)
    monkeypatch.setattr(mlx_server.mx.distributed, "init", lambda: group)
    with pytest.raises(ServerError, match="leave it out"):
        launch(["--port", "0"], kv_memory=10**9, new_cache=FakeCache)
    assert not made


def has_agents(made: list[FakeGenerator], kv_memory: int | None) -> bool:
    """Whether the prompt cache of a server can tell whose a request is."""
    with pytest.raises(ServerError, match="generation thread died"):
        launch(["--port", "0"], kv_memory=kv_memory, new_cache=lambda **_: FakeCache())
    return hasattr(made[-1].prompt_cache, "agent_of")


def test_whose_a_request_is_is_known_where_the_server_shows_it(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert has_agents(made, None)
    assert has_agents(made, 10**9)
    monkeypatch.delattr(mlx_server.BatchGenerator, "extract_cache")
    assert not has_agents(made, None)
    assert "mlx_lm.server lacks BatchGenerator.extract_cache" in caplog.text


def test_a_group_of_machines_leaves_aside_whose_a_request_is(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other ranks are not told, and have to remember and to forget the same."""
    group = SimpleNamespace(rank=lambda: 0, size=lambda: 2)
    monkeypatch.setattr(mlx_server.mx.distributed, "init", lambda: group)
    assert not has_agents(made, None)


def test_ready_is_told_with_the_port_that_was_bound(made: list[FakeGenerator]) -> None:
    ready: list[tuple[str, int]] = []
    with pytest.raises(ServerError, match="died"):
        launch(
            ["--port", "0"],
            new_cache=FakeCache,
            on_ready=lambda host, port: ready.append((host, port)),
        )
    ((host, port),) = ready
    assert host == "127.0.0.1"
    assert port > 0


def test_a_generation_thread_that_does_not_end_is_told(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(FakeGenerator, "stop_and_join", lambda self: never.wait())
    monkeypatch.setattr("semantic.adapters.mlx_lm.server._STOP_SECONDS", 0.2)
    with pytest.raises(ServerError, match="still busy") as caught:
        launch(["--port", "0"], new_cache=FakeCache)
    assert caught.value.still_running
    never.set()


class BusyWriter:
    """A writer that is never done; the test ends where it is waited for in vain."""

    waiting = 7

    def __init__(self) -> None:
        self.waits = 0

    def flush(self, timeout: float) -> bool:
        self.waits += 1
        assert self.waits < 20, "nobody gave up"
        return False


@pytest.mark.parametrize("asked", [0, 1], ids=["it ends by itself", "it was asked to end"])
def test_asked_once_more_the_server_waits_for_nothing_at_all(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """Neither for the generation thread, nor for what is still to be stored."""
    never = threading.Event()

    def ask() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def is_alive(self: FakeGenerator) -> bool:
        if asked:
            ask()
        return bool(asked)

    def stop(self: FakeGenerator) -> None:
        ask()
        never.wait()

    monkeypatch.setattr(FakeGenerator, "generation_available", is_alive)
    monkeypatch.setattr(FakeGenerator, "stop_and_join", stop)
    monkeypatch.setattr("semantic.adapters.mlx_lm.server._STOP_SECONDS", 5)
    writer = BusyWriter()
    monkeypatch.setattr(FakeCache, "writer", writer, raising=False)
    with pytest.raises(ServerError, match="still busy"):
        launch(["--port", "0"], new_cache=FakeCache)
    assert writer.waits == 1
    never.set()


def test_other_ranks_of_a_group_generate_and_do_not_listen(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = SimpleNamespace(rank=lambda: 1, size=lambda: 1)
    monkeypatch.setattr(mlx_server.mx.distributed, "init", lambda: group)
    launch(["--port", "0"], new_cache=FakeCache)
    assert made[-1].joined


def test_a_store_is_refused_for_a_model_that_several_processes_hold(
    made: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds other layers or heads, in blocks of one name."""
    group = SimpleNamespace(rank=lambda: 0, size=lambda: 2)
    monkeypatch.setattr(mlx_server.mx.distributed, "init", lambda: group)
    with pytest.raises(ServerError, match="one process"):
        launch(["--port", "0"], store=lambda: MemoryStore(1 << 20), new_cache=FakeCache)
    assert not made


def test_the_servers_own_help_is_available() -> None:
    text = options_help()
    assert "--prefill-step-size" in text
    assert "--prompt-cache-bytes" in text


@pytest.mark.parametrize("size", ["8GiB", "abc", "8XB"])
def test_a_size_that_mlx_lm_cannot_read_is_told(size: str) -> None:
    with pytest.raises(ServerError, match="it takes sizes such as 8GB"):
        launch(["--prompt-cache-bytes", size], new_cache=FakeCache)


def test_the_running_batch_is_metered() -> None:
    from semantic.adapters.mlx_lm.running_batch import metered_generator

    class Generator:
        prompt_cache_nbytes = 7

        def next(self) -> str:
            return "responses"

        def close(self) -> None:
            self.closed = True

    cache = FakeCache()
    generator = metered_generator(Generator, cache.report_running)()
    assert generator.next() == "responses"
    generator.close()
    assert generator.closed
    assert cache.running == [7, 0]
