"""A budget under pressure: what gives way first, how far, and when it comes back."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic import BlockPool, MemoryBudget, PoolConfigurationError, Relief
from semantic.application.pressure import PressureGuard, PressureLevel
from semantic.testing.specs import dense_spec

SPEC = dense_spec()
BLOCK = SPEC.bytes_per_block("global")


class World:
    """A machine whose pressure and time are told."""

    def __init__(self, total: int = 100 * BLOCK, **options: Any) -> None:
        self.level: PressureLevel = "none"
        self.now = 0.0
        self.given_up = 0
        self.budget = MemoryBudget(total)
        self.pool = BlockPool(SPEC, budget=self.budget)
        self.guard = PressureGuard(
            self.budget, lambda: self.level, Relief(self.give_up), clock=self, **options
        )

    def monotonic(self) -> float:
        return self.now

    def give_up(self) -> None:
        self.given_up += 1

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
    assert world.steps("none", 2) == 100
    assert not world.guard.relief.if_due()
    assert world.steps("some", 2) == 100
    assert world.given_up == 0, "MLX is called by whoever generates, not by the guard"
    assert world.guard.relief.if_due()
    assert not world.guard.relief.if_due()
    assert world.given_up == 1
    assert world.steps("none", 5) == 100
    assert world.steps("some", 2) == 100


def test_pressure_that_stays_shrinks_and_quiet_that_stays_grows() -> None:
    world = World()
    world.cached(100)
    assert world.steps("some", 3) == 75
    assert world.budget.cached == 75 * BLOCK
    assert world.steps("some", 9) == 75, "one step in ten seconds"
    assert world.steps("some") == 56
    assert world.steps("none", 59) == 56
    assert world.steps("some") == 56
    assert world.steps("none", 59) == 56, "quiet begins again"
    assert world.steps("none") == 81
    assert world.steps("none", 59) == 81
    assert world.steps("none") == 100
    assert world.steps("none", 600) == 100, "never more than it had"


def test_each_step_needs_its_own_readings() -> None:
    world = World(cooldown_seconds=0)
    assert world.steps("some", 3) == 75
    assert world.steps("some", 2) == 75
    assert world.steps("some") == 56


def test_a_spell_that_the_average_remembers_is_answered_once_in_its_window() -> None:
    world = World(total=1 << 36)
    assert world.steps("severe", 12) == (1 << 36) // 4 // BLOCK, "at once, and after ten seconds"
    assert world.steps("none", 180) == (1 << 36) // BLOCK


def test_pressure_that_comes_back_with_what_was_given_back_makes_it_wait() -> None:
    world = World()
    world.cached(100)
    assert world.steps("severe") == 50
    waited = []
    for _ in range(7):
        before = world.budget.total
        seconds = 0
        while world.budget.total == before:
            world.steps("none")
            seconds += 1
        waited.append(seconds)
        grown = world.budget.total // BLOCK
        assert world.steps("severe") == grown // 2
    assert waited == [60, 120, 240, 480, 960, 960, 960]
    assert world.steps("none", 4 * 960) == 100
    assert world.steps("none", 960) == 100, "that long it keeps all of it"
    assert world.steps("severe") == 50
    assert world.steps("none", 60) == 75, "and a passing spell costs a minute again"


def test_severe_pressure_shrinks_at_once_down_to_the_floor() -> None:
    world = World(floor_bytes=30 * BLOCK)
    world.cached(100)
    assert world.steps("severe") == 50
    assert world.steps("severe", 9) == 50
    assert world.steps("severe") == 30
    assert world.steps("severe", 50) == 30


def test_a_floor_unless_another_is_said() -> None:
    world = World(total=160 * BLOCK)
    world.cached(160)
    assert world.steps("severe", 500) == 10
    assert World(total=BLOCK).steps("severe", 500) == 1, "one block is the least of all"


def test_what_runs_is_kept() -> None:
    world = World()
    held = world.pool.allocate(70)
    world.cached(30)
    assert world.steps("severe") == 70
    assert world.steps("severe", 10) == 70
    world.pool.free(held)
    assert world.steps("severe") == 35


def test_minimums_and_a_block_of_each_pool_are_as_far_as_it_goes() -> None:
    world = World()
    promised = BlockPool(SPEC, budget=world.budget, minimum=60 * BLOCK)
    world.cached(40)
    assert world.steps("severe") == 60, "not nothing, because half is too much to ask"
    assert promised.available_memory() == 60 * BLOCK
    assert world.budget.cached == 0
    assert world.steps("severe", 30) == 60
    large = dense_spec(layers=12 * SPEC.n_layers)
    world = World(total=20 * BLOCK)
    other = BlockPool(large, budget=world.budget)
    assert other.spec.bytes_per_block("global") == 12 * BLOCK
    assert world.steps("severe", 30) == 12, "the largest block still fits"


def test_minimums_and_what_is_held_add_up() -> None:
    world = World()
    promised = BlockPool(SPEC, budget=world.budget, minimum=50 * BLOCK)
    world.pool.allocate(20)
    assert world.steps("severe") == 70
    assert promised.available_memory() == 50 * BLOCK
    assert world.budget.used == 20 * BLOCK


def test_who_resizes_meanwhile_is_obeyed() -> None:
    world = World()
    world.budget.resize(40 * BLOCK)
    assert world.steps("none", 600) == 40, "the operator's size is the most"
    assert world.steps("severe") == 20
    world.budget.resize(30 * BLOCK)
    assert world.steps("none", 600) == 30
    world.budget.resize(200 * BLOCK)
    assert world.steps("none", 600) == 200
    assert world.guard.most_bytes == 200 * BLOCK
    assert World(floor_bytes=90 * BLOCK).guard.floor_bytes == 90 * BLOCK
    floored = World(floor_bytes=90 * BLOCK)
    floored.budget.resize(50 * BLOCK)
    assert floored.steps("severe", 30) == 50, "a floor above the most is the most"


@given(st.lists(st.tuples(st.sampled_from(["none", "some", "severe"]), st.integers(1, 90))))
def test_the_budget_stays_between_its_floor_and_what_it_had(
    story: list[tuple[PressureLevel, int]],
) -> None:
    world = World(floor_bytes=20 * BLOCK)
    world.cached(40)
    world.pool.allocate(10)
    for level, seconds in story:
        before = world.budget.total
        world.steps(level, seconds)
        assert 20 * BLOCK <= world.budget.total <= 100 * BLOCK
        # One step in ten seconds, whatever is read.
        assert world.budget.total >= before // 2 ** (1 + seconds // 10) - BLOCK
        assert world.budget.used + world.budget.cached <= world.budget.total
    assert world.steps("none", 4 * 16 * 60) == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"floor_bytes": 0},
        {"floor_bytes": 101 * BLOCK},
        {"floor_bytes": 1.5},
        {"patience": 0},
        {"quiet_seconds": float("nan")},
        {"quiet_seconds": -5},
        {"quiet_seconds": float("inf")},
        {"quiet_seconds": True},
        {"cooldown_seconds": -1},
        {"cooldown_seconds": "10"},
    ],
)
def test_numbers_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(PoolConfigurationError):
        World(**wrong)
    if "floor_bytes" not in wrong and "patience" not in wrong:
        (value,) = wrong.values()
        with pytest.raises(PoolConfigurationError):
            World().guard.start(value)
        with pytest.raises(PoolConfigurationError):
            Relief(lambda: None, every_seconds=value)


def test_a_thread_of_its_own_survives_readings_that_fail(caplog: Any) -> None:
    readings = 0

    def level() -> PressureLevel:
        nonlocal readings
        readings += 1
        if readings <= 3:
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
    assert caplog.text.count("cannot be read") == 1, "said once, not at every reading"


class Mlx:
    """What MLX keeps, and the threads that gave it up."""

    def __init__(self) -> None:
        self.now = 0.0
        self.kept = 0
        self.threads: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def give_up(self) -> None:
        self.kept = 0
        self.threads.append(threading.get_ident())

    def relief(self, **options: Any) -> Relief:
        return Relief(self.give_up, lambda: self.kept, clock=self, **options)


def test_large_evictions_are_given_back_once_in_a_while() -> None:
    mlx = Mlx()
    relief = mlx.relief(most_kept_bytes=1000)
    mlx.kept = 1000
    assert not relief.if_due()
    mlx.kept = 1001
    assert relief.if_due()
    mlx.kept = 5000
    mlx.now += 9.9
    assert not relief.if_due(), "what a step needs for itself is not taken from it each time"
    mlx.now += 0.2
    assert relief.if_due()
    mlx.kept = 5000
    relief.ask()
    assert relief.if_due(), "who asks does not wait"


def test_it_is_given_up_on_the_thread_that_generates() -> None:
    mlx = Mlx()
    relief = mlx.relief()
    guard = PressureGuard(MemoryBudget(100 * BLOCK), lambda: "some", relief)
    guard.start(0.001)
    deadline = time.monotonic() + 10
    while not relief.if_due() and time.monotonic() < deadline:
        time.sleep(0.001)
    guard.stop()
    assert mlx.threads == [threading.get_ident()]
