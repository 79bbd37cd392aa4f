"""A budget that gives way when memory is short, and comes back when it is not.

First what MLX keeps for later is given up, which costs nobody anything. Only pressure that stays
shrinks the budget, one step in a window of time: what says how short memory is looks back some
seconds, and would be heard twice. Only quiet that stays lets it grow again, step by step; where
what was given back brings the pressure back, the next quiet has to be longer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from semantic.application.clock import SystemClock
from semantic.application.relief import Relief
from semantic.domain._check import seconds, whole_number
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

_FLOOR_PART = 16
"""Unless said otherwise, a budget keeps this part: less serves nobody and helps nobody else."""

_LONGEST_QUIET = 16
"""So many times longer, at the most, than the first."""

_FLOORS = 4
"""Minimums, one block of the largest pool, and what is held may each stand in the way once."""


class PressureGuard:
    """Resizes a budget by the pressure on memory.

    `step` may be called from any thread, by whoever has a loop; `start` makes one. It never calls
    MLX: `relief` is asked, and answers on the thread that generates.

    Whoever else resizes the budget meanwhile is obeyed: that is the most from then on.

    Args:
        budget: The budget; its total now is the most that it will have.
        level: Reads the pressure.
        relief: Gives up what MLX keeps for later; None: nothing does.
        floor_bytes: The least that the budget is shrunk to, besides the minimums of its pools and
            a block of each; None: a sixteenth of the most.
        patience: Readings of some pressure in a row before anything shrinks.
        cooldown_seconds: So long after a step nothing shrinks any further.
        quiet_seconds: So long there has to be no pressure before a step of growth; twice as long
            after each growth that brought pressure back, until it has all back and keeps it.
        clock: Time, for tests.

    Raises:
        PoolConfigurationError: A floor above the budget, or numbers that cannot be.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        level: Callable[[], PressureLevel],
        relief: Relief | None = None,
        *,
        floor_bytes: int | None = None,
        patience: int = 3,
        cooldown_seconds: float = 10.0,
        quiet_seconds: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        error = PoolConfigurationError
        if floor_bytes is not None:
            whole_number(floor_bytes, "floor_bytes", error, at_least=1)
            if floor_bytes > budget.total:
                raise error(f"a floor of {floor_bytes} bytes is above the budget")
        self._floor_bytes = floor_bytes
        self._patience = whole_number(patience, "patience", error, at_least=1)
        self._cooldown_seconds = seconds(cooldown_seconds, "cooldown_seconds", error)
        self._quiet_seconds = seconds(quiet_seconds, "quiet_seconds", error)
        self.budget = budget
        self.relief = relief or Relief(lambda: None)
        """What MLX keeps: to be asked, between two steps, by the thread that generates."""
        self._level = level
        self._clock = clock or SystemClock()
        self._most_bytes = self._own_bytes = budget.total
        self._pressed = 0
        self._needed_quiet_seconds = self._quiet_seconds
        self._has_grown = False
        self._quiet_since = self._clock.monotonic()
        self._shrunk_at = float("-inf")
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def most_bytes(self) -> int:
        """What the budget has when nothing presses."""
        return self._most_bytes

    @property
    def floor_bytes(self) -> int:
        """The least that it is shrunk to."""
        part = max(1, self._most_bytes // _FLOOR_PART)
        return part if self._floor_bytes is None else min(self._floor_bytes, self._most_bytes)

    def step(self) -> PressureLevel:
        """Read the pressure once, and act on it."""
        level = self._level()
        now = self._clock.monotonic()
        if self.budget.total != self._own_bytes:
            # Somebody who knows more than we do has resized it.
            self._most_bytes = self._own_bytes = self.budget.total
        if level == "none":
            self._pressed = 0
            if now - self._quiet_since >= self._needed_quiet_seconds:
                self._quiet_since = now
                self._grow()
            return level
        self._quiet_since = now
        self._pressed += 1
        self.relief.ask()
        is_felt = level == "severe" or self._pressed >= self._patience
        if is_felt and now - self._shrunk_at >= self._cooldown_seconds:
            self._pressed = 0
            if self._shrink(_KEPT[level]):
                self._shrunk_at = now
        return level

    def _shrink(self, kept: float) -> bool:
        """Shrink by a step, as far as the pools let it; whether there was anything to take."""
        wanted = max(self.floor_bytes, int(self.budget.total * kept))
        for _ in range(_FLOORS):
            if wanted >= self.budget.total:
                return False
            try:
                self.budget.resize(wanted)
            except PoolExhaustedError as error:
                # What runs cannot be evicted.
                wanted += max(1, error.bytes_short)
            except PoolConfigurationError as error:
                # Minimums are promised, and a pool without room for a block serves nobody.
                wanted = max(wanted + 1, error.bytes_needed)
            else:
                self._own_bytes = wanted
                if self._has_grown:
                    longest = _LONGEST_QUIET * self._quiet_seconds
                    self._needed_quiet_seconds = min(2 * self._needed_quiet_seconds, longest)
                    self._has_grown = False
                _log.warning("memory is short: the KV budget is %d bytes now", wanted)
                return True
        return False

    def _grow(self) -> None:
        total = self.budget.total
        if total >= self._most_bytes:
            self._needed_quiet_seconds = self._quiet_seconds
            self._has_grown = False
            return
        wanted = min(self._most_bytes, total + max(1, int(self._most_bytes * _GROWTH)))
        try:
            self.budget.resize(wanted)
        except SemanticError as error:
            _log.warning("the KV budget stays at %d bytes: %s", total, error)
        else:
            self._own_bytes = wanted
            self._has_grown = True
            _log.info("memory is back: the KV budget is %d bytes now", wanted)

    def start(self, every_seconds: float = 1.0) -> None:
        """Step on a thread of its own until `stop`.

        Raises:
            PoolConfigurationError: `every_seconds` is no time that can pass.
        """
        seconds(every_seconds, "every_seconds", PoolConfigurationError)
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
        is_read = True
        while not self._ended.wait(every_seconds):
            try:
                self.step()
            except Exception:
                if is_read:  # said once, not every second
                    _log.exception("the memory pressure cannot be read")
                is_read = False
            else:
                is_read = True
