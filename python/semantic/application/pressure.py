"""A budget that gives way when the system is short of memory, and comes back when it is not.

First what MLX keeps for later is given up, which costs nobody anything. Only pressure that stays
shrinks the budget, and only quiet that stays lets it grow again, step by step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from semantic.application.clock import SystemClock
from semantic.domain._check import whole_number
from semantic.domain.errors import PoolConfigurationError, PoolExhaustedError, SemanticError
from semantic.domain.services import MemoryBudget
from semantic.ports.outbound import Clock

__all__ = ["PressureGuard", "PressureLevel"]

_log = logging.getLogger("semantic")

PressureLevel = Literal["none", "some", "severe"]

_KEPT = {"some": 0.75, "severe": 0.5}
"""What a step leaves of the budget."""

_GROWTH = 0.25
"""What a step gives back, as a part of the whole budget."""


class PressureGuard:
    """Resizes a budget by the system's memory pressure.

    `step` may be called from any thread, by whoever has a loop; `start` makes one.

    Args:
        budget: The budget; its total now is the most that it will have.
        level: Reads the system's pressure.
        relieve: Gives up what is kept for later: `mx.clear_cache`.
        floor_bytes: The least that the budget is shrunk to.
        patience: Readings of some pressure in a row before anything shrinks.
        quiet_seconds: So long there has to be none before a step of growth.
        clock: Time, for tests.

    Raises:
        PoolConfigurationError: A floor above the budget, or numbers that cannot be.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        level: Callable[[], PressureLevel],
        relieve: Callable[[], None] = lambda: None,
        *,
        floor_bytes: int = 1,
        patience: int = 3,
        quiet_seconds: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        name = "floor_bytes"
        self._floor = whole_number(floor_bytes, name, PoolConfigurationError, at_least=1)
        self._patience = whole_number(patience, "patience", PoolConfigurationError, at_least=1)
        if floor_bytes > budget.total:
            raise PoolConfigurationError(f"a floor of {floor_bytes} bytes is above the budget")
        self.budget = budget
        self.most_bytes = budget.total
        self._level = level
        self._relieve = relieve
        self._quiet_seconds = quiet_seconds
        self._clock = clock or SystemClock()
        self._pressed = 0
        self._quiet_since = self._clock.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self) -> PressureLevel:
        """Read the pressure once, and act on it."""
        level = self._level()
        now = self._clock.monotonic()
        if level == "none":
            self._pressed = 0
            if now - self._quiet_since >= self._quiet_seconds:
                self._quiet_since = now
                self._grow()
            return level
        self._quiet_since = now
        self._pressed += 1
        self._relieve()
        if level == "severe" or self._pressed % self._patience == 0:
            self._shrink(_KEPT[level])
        return level

    def _shrink(self, kept: float) -> None:
        wanted = max(self._floor, int(self.budget.total * kept))
        if wanted >= self.budget.total:
            return
        try:
            self.budget.resize(wanted)
        except PoolExhaustedError as error:
            # What runs cannot be evicted: as far as it goes.
            self._resize(min(self.budget.total, wanted + error.bytes_short))
        except PoolConfigurationError:
            return  # minimums, or a block, need what there is
        _log.warning("memory is short: the KV budget is %d bytes now", self.budget.total)
        self._relieve()

    def _grow(self) -> None:
        if self.budget.total < self.most_bytes:
            step = max(1, int(self.most_bytes * _GROWTH))
            self._resize(min(self.most_bytes, self.budget.total + step))
            _log.info("memory is back: the KV budget is %d bytes now", self.budget.total)

    def _resize(self, total: int) -> None:
        try:
            self.budget.resize(total)
        except SemanticError as error:
            _log.warning("the KV budget stays at %d bytes: %s", self.budget.total, error)

    def start(self, every_seconds: float = 1.0) -> None:
        """Step on a thread of its own until `stop`."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(
                target=self._run, args=(every_seconds,), name="semantic-pressure", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End that thread. Idempotent; the budget stays as it is."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, every_seconds: float) -> None:
        while not self._ended.wait(every_seconds):
            try:
                self.step()
            except Exception:
                _log.exception("the memory pressure could not be read")
