"""What happened, in numbers: requests, hits, failures by reason."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

__all__ = ["Counters", "FailureCallback", "totals"]

FailureCallback = Callable[[str, str], None]
"""Called with (reason, detail) for each failure that was turned into a miss."""

_log = logging.getLogger("semantic")

_WRITES = frozenset({"store_write", "store_behind", "store_namespace", "store_release"})
"""What goes wrong behind a request that was served as it should."""


class Counters:
    """Counts of one memory, safe to bump from any thread.

    Args:
        on_failure: Called for each counted failure; its own exceptions are logged and dropped.
    """

    def __init__(self, on_failure: FailureCallback | None = None) -> None:
        self._lock = threading.Lock()
        self._on_failure = on_failure
        # Plain numbers: every request counts here.
        self._requests = self._hits = self._view_bytes = 0
        self._prompt_tokens = self._cached_tokens = self._unrestorable_tokens = 0
        self._failures: Counter[str] = Counter()
        self._steps: dict[str, tuple[int, float, int]] = {}

    def request(self, prompt_tokens: int, cached_tokens: int, matched_tokens: int = 0) -> None:
        """One lookup: how long the prompt was, how much of it was restored, how much was there."""
        with self._lock:
            self._requests += 1
            self._prompt_tokens += prompt_tokens
            if cached_tokens:
                self._hits += 1
                self._cached_tokens += cached_tokens
            if matched_tokens > cached_tokens:
                self._unrestorable_tokens += matched_tokens - cached_tokens

    def views_released(self, n_bytes: int) -> None:
        """A capture found views in the running caches that kept so many bytes beyond `nbytes`."""
        with self._lock:
            self._view_bytes += n_bytes
        if n_bytes:
            _log.info("released %d bytes that views in the caches kept alive", n_bytes)

    def step(self, name: str, seconds: float, n_bytes: int) -> None:
        """A restore or a capture took so long, and moved so many bytes."""
        with self._lock:
            count, total, moved = self._steps.get(name, (0, 0.0, 0))
            self._steps[name] = count + 1, total + seconds, moved + n_bytes

    def failure(self, reason: str, detail: str) -> None:
        """Something went wrong: a request was served without the cache, or a turn not stored."""
        with self._lock:
            self._failures[reason] += 1
        missed = "not stored" if reason in _WRITES else "served without the cache"
        _log.warning("%s: %s: %s", missed, reason, detail)
        if self._on_failure is not None:
            try:
                self._on_failure(reason, detail)
            except Exception:
                _log.exception("the failure callback failed")

    def as_dict(self) -> dict[str, int | float | Mapping[str, object]]:
        """Counts so far: requests, hits, tokens, hit rate, failures, bytes released from views.

        `unrestorable_tokens` were cached, and could not be restored where the prompts parted;
        `steps` has count, seconds and bytes of restores and captures.
        """
        return totals([self])

    def read(self) -> tuple[Counter[str], Counter[str], dict[str, tuple[int, float, int]]]:
        """Counts, failures by reason and steps, of one moment."""
        with self._lock:
            counts = Counter(
                requests=self._requests,
                hits=self._hits,
                prompt_tokens=self._prompt_tokens,
                cached_tokens=self._cached_tokens,
                unrestorable_tokens=self._unrestorable_tokens,
                view_bytes=self._view_bytes,
            )
            return counts, self._failures.copy(), dict(self._steps)


def totals(of: Iterable[Counters]) -> dict[str, int | float | Mapping[str, object]]:
    """The counts of several memories together; see `Counters.as_dict`."""
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    steps: dict[str, tuple[int, float, int]] = {}
    for counters in of:
        more_counts, more_failures, more_steps = counters.read()
        # Not `+`: that drops what is 0.
        counts.update(more_counts)
        failures.update(more_failures)
        for name, (count, seconds, n_bytes) in more_steps.items():
            before = steps.get(name, (0, 0.0, 0))
            steps[name] = before[0] + count, before[1] + seconds, before[2] + n_bytes
    prompt_tokens = counts["prompt_tokens"]
    rate = counts["cached_tokens"] / prompt_tokens if prompt_tokens else 0.0
    return {**counts, "hit_rate": rate, "failures": dict(failures), "steps": steps}
