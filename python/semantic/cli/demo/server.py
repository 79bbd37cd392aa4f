"""A server as a subprocess: a free loopback port, a log file, its death noticed at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from semantic.cli.demo.client import ChatClient
from semantic.cli.demo.turns import DemoError

__all__ = ["ServerProcess"]

_START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_TAIL_LINES = 20


class ServerProcess:
    """A server that runs while the `with` block does.

    Args:
        name: What to call it in messages; its log is `<name>.log`.
        command: Arguments for this Python interpreter; the port is added.
        log_folder: An existing folder.
    """

    def __init__(self, name: str, command: Sequence[str], log_folder: Path) -> None:
        self.name = name
        self.log = log_folder / f"{name}.log"
        self.port = _free_port()
        self._command = [sys.executable, *command, "--host", "127.0.0.1", "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = ChatClient(f"http://127.0.0.1:{self.port}")

    def __enter__(self) -> ServerProcess:
        self.log.unlink(missing_ok=True)
        self._start()
        return self

    def kill_and_start_again(self) -> None:
        """Kill the process as a crash would, and start another one on the same port."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._start()

    def _start(self) -> None:
        # Everything is on this disk: nobody has to look anything up.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        try:
            self._wait_until_up()
            self.client.warm_up()
        except (httpx.TransportError, DemoError) as error:
            raise self._failure(error, self._stop()) from error
        except BaseException:
            self._stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        exit_status = self._stop()
        if isinstance(error, httpx.TransportError | DemoError):
            raise self._failure(error, exit_status) from error

    def _stop(self) -> int | None:
        """End the process; returns its status when it had died by itself."""
        self.client.__exit__(None, None, None)
        process = self._process
        if process is None:
            return None
        try:
            # A broken connection is noticed a moment before the process is gone.
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None

    def _failure(self, error: Exception, exit_status: int | None) -> DemoError:
        """What to tell when talking to it failed: the tail of its log above all."""
        what = f"failed ({error})" if exit_status is None else f"died with status {exit_status}"
        return DemoError(f"the server '{self.name}' {what}; its log is {self.log}\n{self._tail()}")

    def _wait_until_up(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self.client.is_up():
            if self._process.poll() is not None:
                raise DemoError("it ended while it started")
            if time.monotonic() > deadline:
                raise DemoError(f"not up within {_START_SECONDS:.0f} s")
            time.sleep(0.1)

    def _tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-_TAIL_LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
