"""The native pool against the reference, through every program that Hypothesis thinks of."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from semantic.testing.pool_machine import PoolMachine

_FULL = bool(os.environ.get("SEMANTIC_TEST_FULL"))

TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=2000 if _FULL else 80,
    stateful_step_count=60 if _FULL else 40,
    suppress_health_check=[HealthCheck.too_slow],
)
