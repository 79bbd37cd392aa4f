"""Putting a store right behind what goes on: a thread that tries until it is done, and ends."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from semantic.adapters.store.locks import ThreadLock
from semantic.domain.errors import CachePersistenceError

__all__ = ["Mending"]

_log = logging.getLogger("semantic")

_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""Between two attempts: others may still use what is to be made again."""


class Mending:
    """What puts a store right when somebody asks for it.

    Args:
        name: The store's, for the log.
        recover: One attempt; what it raises is tried again.
        is_left: Whether there is something left to put right after an attempt that succeeded.
    """

    def __init__(self, name: str, recover: Callable[[], None], is_left: Callable[[], bool]) -> None:
        self._name = name
        self._recover = recover
        self._is_left = is_left
        self._lock = ThreadLock(name)
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Have it put right, unless it is being done. Never waits."""
        with self._lock:
            if self._thread is None and not self.is_over():
                thread = threading.Thread(target=self._run, name="semantic-mend", daemon=True)
                # Where the system has no thread now, whoever meets the damage next asks again.
                with contextlib.suppress(RuntimeError, MemoryError):
                    thread.start()
                    self._thread = thread

    def wait(self, timeout: float) -> None:
        """Wait until what was asked for is done, or so many seconds."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def is_over(self) -> bool:
        """Whether nothing is to be put right any more."""
        return self._ending.is_set()

    def close(self, timeout: float) -> None:
        """Try no more, and wait so many seconds for an attempt that goes on. Idempotent."""
        self._ending.set()
        self.wait(timeout)

    def _run(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._ending.wait(pause):
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                self._recover()
            except CachePersistenceError as error:
                _log.debug("not yet: %s", error)
                continue
            except Exception:
                # Nobody else would try again: all would be a miss for as long as the process runs.
                _log.exception("%s could not be put right; it is tried again", self._name)
                continue
            with self._lock:
                # What was met since has found this thread, and started none.
                if not self._is_left():
                    self._thread = None
                    return
