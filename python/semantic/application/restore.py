"""From a held hit to live caches, timed."""

from __future__ import annotations

import time

from semantic.application.resources import Resources
from semantic.application.sealed_blocks import Hold
from semantic.ports.outbound import Caches

__all__ = ["restored"]


def restored(memory: Resources, hold: Hold) -> Caches:
    """Fresh caches positioned at the end of a hit; on the thread that generates."""
    start = time.perf_counter()
    plan = hold.plan
    caches = memory.materialiser.restore(memory.spec, plan, hold.data)
    n_bytes = sum(memory.spec.bytes_per_block(group) * len(rows) for group, rows in plan.spans)
    memory.counters.step("restore", time.perf_counter() - start, n_bytes)
    return caches
