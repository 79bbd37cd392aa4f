"""Writing blocks behind generation: one thread, and a bounded queue that keeps nobody waiting.

A turn keeps its blocks in memory until they are written, with a hold. A word costs no memory, and
is joined with what waits to be said of the same agent. Jobs are run in the order in which they
came. What cannot be written is counted, and served from memory as before. After the system has
refused, turns are let go for a while; words are said all the same, for nobody says them again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

from semantic.application.clock import SystemClock
from semantic.application.counters import Counters
from semantic.domain.errors import CachePersistenceError
from semantic.ports.outbound import BlockStore, Clock

__all__ = ["StoreJob", "StoreWriter"]

_log = logging.getLogger("semantic")

_MOST_TURNS = 64
"""Turns that may wait to be written."""

_MOST_WORDS = 1024
"""Words that may wait to be said: about as many agents, since those of one are joined."""

_PAUSE_SECONDS = 10.0
"""After the system has refused, so long no turn is written."""


class StoreJob(Protocol):
    """Something that the store is to be told."""

    @property
    def about(self) -> Hashable:
        """Whom it is about."""
        ...

    @property
    def holds_blocks(self) -> bool:
        """Whether blocks stay in memory for it: a turn, which may be given up; else a word."""
        ...

    def join(self, later: StoreJob) -> bool:
        """Say from now on what a later word about the same says too; False where it cannot."""
        ...

    def run(self, store: BlockStore) -> None:
        """Tell the store."""
        ...

    def release(self) -> None:
        """Let the blocks go: they are written, or will not be."""
        ...


class StoreWriter:
    """The way into a store, for all the memories of a process that share it.

    Args:
        store: Where blocks are kept.
        counters: What fails is counted here.
        clock: Time; None: the machine's.
    """

    def __init__(self, store: BlockStore, counters: Counters, clock: Clock | None = None) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock or SystemClock()
        self._jobs: deque[StoreJob] = deque()
        self._words: dict[Hashable, StoreJob] = {}
        """Words that wait behind the last turn: joined with these, none is said too early."""
        self._changed = threading.Condition()
        self._running: StoreJob | None = None
        self._is_closing = False
        self._paused_until = 0.0
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Turns and words that the store has not been told yet."""
        with self._changed:
            return len(self._jobs) + (self._running is not None)

    def submit(self, job: StoreJob) -> None:
        """Have a job done; one too many, or after the end, is let go. Never waits, nor raises."""
        with self._changed:
            if self._is_closing:
                refusal = "the end came first"
            elif not self._is_started():
                refusal = "the system has no thread to write with"
            elif not self._take(job):
                refusal = "too much waits to be written"
            else:
                refusal = ""
                self._changed.notify_all()
        if refusal:
            self._let_go([job], refusal)

    def _take(self, job: StoreJob) -> bool:
        word = None if job.holds_blocks else self._words.get(job.about)
        if word is not None and word.join(job):
            return True
        most = _MOST_TURNS if job.holds_blocks else _MOST_WORDS
        if sum(other.holds_blocks == job.holds_blocks for other in self._jobs) >= most:
            return False
        if job.holds_blocks:
            self._words.clear()
        else:
            self._words[job.about] = job
        self._jobs.append(job)
        return True

    def _is_started(self) -> bool:
        """Whether the thread runs; where the system refuses one, the next job asks again."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="semantic-store", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                return False
            self._thread = thread
        return True

    def let_go(self) -> bool:
        """Give up the turns that wait, so that their blocks may be evicted; whether any did."""
        turns = self._taken_out(lambda job: job.holds_blocks)
        self._let_go(turns, "memory was short")
        return bool(turns)

    def forget(self, about: Hashable, timeout: float) -> bool:
        """Give up all that waits about somebody, and let what is being written come to its end.

        Args:
            about: Whom; what is submitted later is not meant.
            timeout: Seconds to wait at the most.

        Returns:
            Whether nothing about them is being written any more.
        """
        for job in self._taken_out(lambda job: job.about == about):
            self._release(job)
        with self._changed:
            return self._changed.wait_for(
                lambda: self._running is None or self._running.about != about, timeout
            )

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is written; False when that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Write what waits, and stop; what is submitted from now on is let go. Idempotent.

        What is being written when the time is over is left to itself: it ends with its block, or
        with the process.

        Returns:
            Whether all of it was written within `timeout` seconds.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            is_done = self._changed.wait_for(self._is_idle, timeout)
        self._let_go(self._taken_out(lambda job: True), "the end came first")
        if self._thread is not None and is_done:
            self._thread.join()
        return is_done

    def _is_idle(self) -> bool:
        return not self._jobs and self._running is None

    def _taken_out(self, is_meant: Callable[[StoreJob], bool]) -> list[StoreJob]:
        """The jobs of that kind, which wait no more."""
        with self._changed:
            taken = [job for job in self._jobs if is_meant(job)]
            self._jobs = deque(job for job in self._jobs if not is_meant(job))
            self._words = {about: job for about, job in self._words.items() if not is_meant(job)}
            self._changed.notify_all()
        return taken

    def _let_go(self, jobs: list[StoreJob], why: str) -> None:
        for job in jobs:
            self._release(job)
            self._counters.failure("store_behind", why)

    def _release(self, job: StoreJob) -> None:
        try:
            job.release()
        except Exception:
            # The next turns are to be written all the same.
            _log.exception("the blocks of a turn were not let go")
            self._counters.failure("store_release", "the blocks of a turn were not let go")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closing)
                if not self._jobs:
                    return
                job = self._running = self._jobs.popleft()
                if self._words.get(job.about) is job:
                    del self._words[job.about]
            try:
                self._write(job)
            finally:
                self._release(job)
                del job
                with self._changed:
                    self._running = None
                    self._changed.notify_all()

    def _write(self, job: StoreJob) -> None:
        if job.holds_blocks and self._clock.monotonic() < self._paused_until:
            self._counters.failure("store_write", "the store refused a moment ago")
            return
        try:
            job.run(self._store)
        except CachePersistenceError as error:
            if error.errno is not None:
                self._paused_until = self._clock.monotonic() + _PAUSE_SECONDS
            self._counters.failure("store_write", str(error))
        except Exception as error:
            _log.exception("a turn was not stored")
            self._counters.failure("store_write", repr(error))
