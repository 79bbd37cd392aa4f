"""How long is waited for others: for the writer a store can wait, for a lookup it hardly can."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["BUSY_SECONDS", "READ_SECONDS", "Patience", "pause"]

BUSY_SECONDS = 30.0
"""How long another process may keep this one from writing, and from opening a store."""

READ_SECONDS = 1.0
"""How long another process may keep this one from reading: it hardly ever does, for a moment."""

_PAUSE_SECONDS = 0.001, 0.01


class Patience:
    """How long each thread waits."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @property
    def left_seconds(self) -> float | None:
        """How long this thread waits at the most, in all that it asks now; None: without end."""
        until: float | None = getattr(self._thread, "until", None)
        return None if until is None else max(0.0, until - time.monotonic())

    def until(self, seconds: float) -> float:
        """When this thread gives up what it waits so long for, in monotonic time."""
        left = self.left_seconds
        return time.monotonic() + min(seconds, math.inf if left is None else left)

    @contextmanager
    def ending(self, seconds: float) -> Iterator[None]:
        """Within, this thread waits so long at the most, in all."""
        outer: float | None = getattr(self._thread, "until", None)
        self._thread.until = self.until(seconds)
        try:
            yield
        finally:
            self._thread.until = outer


def pause() -> None:
    """Sleep a moment, by chance not as long as another process that waits for this one."""
    time.sleep(random.uniform(*_PAUSE_SECONDS))
