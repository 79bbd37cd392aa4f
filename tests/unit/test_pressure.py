"""A budget under pressure: what gives way first, how far, and when it comes back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic import BlockPool, MemoryBudget, PoolConfigurationError
from semantic.adapters.pressure import psi_level, system_pressure
from semantic.application.pressure import PressureGuard, PressureLevel
from semantic.testing.specs import dense_spec

SPEC = dense_spec()
BLOCK = SPEC.bytes_per_block("global")


class World:
    """A machine whose pressure and time are told."""

    def __init__(self, total: int = 100 * BLOCK, **options: Any) -> None:
        self.level: PressureLevel = "none"
        self.now = 0.0
        self.relieved = 0
        self.budget = MemoryBudget(total)
        self.pool = BlockPool(SPEC, budget=self.budget)
        options = {"patience": 3, "quiet_seconds": 60.0, **options}
        self.guard = PressureGuard(
            self.budget, lambda: self.level, self.relieve, clock=self, **options
        )

    def monotonic(self) -> float:
        return self.now

    def relieve(self) -> None:
        self.relieved += 1

    def steps(self, level: PressureLevel, n: int = 1) -> int:
        self.level = level
        for _ in range(n):
            self.now += 1
            self.guard.step()
        self.pool.check()
        return self.budget.total // BLOCK

    def cached(self, n: int) -> None:
        self.pool.publish(self.pool.stage("global", n))


def test_what_mlx_keeps_goes_first_and_passing_pressure_costs_nothing() -> None:
    world = World()
    assert world.steps("some", 2) == 100
    assert world.relieved == 2
    assert world.steps("none", 5) == 100
    assert world.steps("some", 2) == 100


def test_pressure_that_stays_shrinks_and_quiet_that_stays_grows() -> None:
    world = World()
    world.cached(100)
    assert world.steps("some", 3) == 75
    assert world.budget.cached == 75 * BLOCK
    assert world.steps("some", 3) == 56
    assert world.steps("none", 59) == 56
    assert world.steps("some") == 56
    assert world.steps("none", 59) == 56, "quiet begins again"
    assert world.steps("none") == 81
    assert world.steps("none", 59) == 81
    assert world.steps("none") == 100
    assert world.steps("none", 600) == 100, "never more than it had"


def test_severe_pressure_shrinks_at_once_down_to_the_floor() -> None:
    world = World(floor_bytes=30 * BLOCK)
    world.cached(100)
    assert world.steps("severe") == 50
    assert world.steps("severe") == 30
    assert world.steps("severe", 5) == 30


def test_what_runs_is_kept() -> None:
    world = World()
    held = world.pool.allocate(70)
    world.cached(30)
    assert world.steps("severe") == 70
    assert world.steps("severe") == 70
    world.pool.free(held)
    assert world.steps("severe") == 35


def test_minimums_are_kept() -> None:
    world = World()
    promised = BlockPool(SPEC, budget=world.budget, minimum=90 * BLOCK)
    assert world.steps("severe") == 100
    assert promised.available_memory() >= 90 * BLOCK


@given(st.lists(st.tuples(st.sampled_from(["none", "some", "severe"]), st.integers(1, 90))))
def test_the_budget_stays_between_its_floor_and_what_it_had(
    story: list[tuple[PressureLevel, int]],
) -> None:
    world = World(floor_bytes=20 * BLOCK)
    world.cached(40)
    world.pool.allocate(10)
    for level, seconds in story:
        world.steps(level, seconds)
        assert 20 * BLOCK <= world.budget.total <= 100 * BLOCK
        assert world.budget.used + world.budget.cached <= world.budget.total
    assert world.steps("none", 400) == 100


@pytest.mark.parametrize(
    "wrong", [{"floor_bytes": 0}, {"floor_bytes": 101 * BLOCK}, {"patience": 0}]
)
def test_numbers_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(PoolConfigurationError):
        World(**wrong)


def test_a_thread_of_its_own_survives_readings_that_fail() -> None:
    readings = 0

    def level() -> PressureLevel:
        nonlocal readings
        readings += 1
        if readings == 1:
            raise OSError("gone")
        return "severe"

    budget = MemoryBudget(100 * BLOCK)
    guard = PressureGuard(budget, level)
    guard.start(0.01)
    guard.start(0.01)
    deadline = time.monotonic() + 10
    while budget.total == 100 * BLOCK and time.monotonic() < deadline:
        time.sleep(0.01)
    guard.stop()
    guard.stop()
    assert budget.total < 100 * BLOCK


@pytest.mark.parametrize(
    ("some", "full", "level"),
    [(0.0, 0.0, "none"), (9.99, 4.99, "none"), (10.0, 0.0, "some"), (60.0, 5.0, "severe")],
)
def test_linux_pressure(some: float, full: float, level: str, tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_text(
        f"some avg10={some:.2f} avg60=0.00 avg300=0.00 total=0\n"
        f"full avg10={full:.2f} avg60=0.00 avg300=0.00 total=0\n"
    )
    assert psi_level(file) == level


def test_the_pressure_of_this_machine_can_be_read_or_there_is_none() -> None:
    level = system_pressure()
    assert level is None or level() in ("none", "some", "severe")
