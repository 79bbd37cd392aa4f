"""Writing blocks behind generation: one thread, and a queue that never keeps anybody waiting.

A job keeps its blocks in memory until they are written, with a hold. What cannot be written is
counted, and served from memory as before.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Protocol

from semantic.application.clock import SystemClock
from semantic.application.counters import Counters
from semantic.domain.errors import CachePersistenceError
from semantic.ports.outbound import BlockStore, Clock

__all__ = ["StoreJob", "StoreWriter"]

_log = logging.getLogger("semantic")

_MOST_JOBS = 64
"""Turns that may wait to be written."""

_PAUSE_SECONDS = 10.0
"""After the system has refused, so long nothing is written."""


class StoreJob(Protocol):
    """Something that the store is to be told."""

    @property
    def holds_blocks(self) -> bool:
        """Whether blocks stay in memory for it; such a job may be given up."""
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
        self._changed = threading.Condition()
        self._is_writing = False
        self._is_closing = False
        self._paused_until = 0.0
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Turns that are not written yet."""
        with self._changed:
            return len(self._jobs) + self._is_writing

    def submit(self, job: StoreJob) -> None:
        """Have a job written; one too many, or after the end, is let go. Never waits."""
        with self._changed:
            has_room = not job.holds_blocks or len(self._jobs) < _MOST_JOBS
            is_taken = has_room and not self._is_closing
            if is_taken:
                self._jobs.append(job)
                self._start()
                self._changed.notify_all()
        if not is_taken:
            job.release()
            self._counters.failure("store_behind", "too much waits to be written")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="semantic-store", daemon=True)
            self._thread.start()

    def let_go(self) -> bool:
        """Give up what waits, so that its blocks may be evicted; whether anything did."""
        with self._changed:
            jobs = [job for job in self._jobs if job.holds_blocks]
            self._jobs = deque(job for job in self._jobs if not job.holds_blocks)
            self._changed.notify_all()
        for job in jobs:
            job.release()
            self._counters.failure("store_behind", "memory was short")
        return bool(jobs)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is written; False when that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._is_writing, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Write what waits, and stop. Idempotent.

        Returns:
            Whether all of it was written within `timeout` seconds.
        """
        is_done = self.flush(timeout)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self.let_go()
        with self._changed:
            self._jobs.clear()
            self._changed.notify_all()
        if self._thread is not None and is_done:
            self._thread.join()
        return is_done

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closing)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._is_writing = True
            try:
                self._write(job)
            finally:
                job.release()
                del job
                with self._changed:
                    self._is_writing = False
                    self._changed.notify_all()

    def _write(self, job: StoreJob) -> None:
        if self._clock.monotonic() < self._paused_until:
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
