"""How short of memory the system, this process and the GPU are.

Every reader answers with one of three words, and `worst_of` them is what a guard goes by. What MLX
keeps of freed buffers is given up when it is asked for, so it counts nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from semantic.adapters.darwin import system_number
from semantic.adapters.machine_memory import machine_memory_bytes, process_bytes
from semantic.application.pressure import PressureGuard, PressureLevel
from semantic.application.relief import Relief
from semantic.domain.services import MemoryBudget

__all__ = [
    "guard_for",
    "macos_level",
    "process_pressure",
    "psi_level",
    "share_level",
    "system_pressure",
    "wired_pressure",
    "worst_of",
]

PSI = Path("/proc/pressure/memory")

_SOME_PERCENT = 10.0
"""Of the last ten seconds, some task waited for memory."""

_FULL_PERCENT = 5.0
"""Of the last ten seconds, all tasks did."""

_SOME_SHARE = 0.9
"""From this part of a limit on, it is near."""

_MACOS_NAME = "kern.memorystatus_vm_pressure_level"
_MACOS_LEVELS: dict[int, PressureLevel] = {1: "none", 2: "some", 4: "severe"}
"""DISPATCH_MEMORYPRESSURE_NORMAL, _WARN and _CRITICAL."""

_ORDER: tuple[PressureLevel, ...] = ("none", "some", "severe")

Reader = Callable[[], PressureLevel]


def guard_for(budget: MemoryBudget, **options: Any) -> PressureGuard:
    """A guard with every reader that this machine has, over MLX where it is installed.

    `guard.start()` makes it work; `guard.relief.if_due()` belongs between two steps of the thread
    that generates; `guard.stop()` ends it.

    Args:
        budget: What gives way.
        **options: Of `PressureGuard`: `floor_bytes`, `patience`, `cooldown_seconds`,
            `quiet_seconds`, `clock`.
    """
    readers: list[Reader] = []
    if (system := system_pressure()) is not None:
        readers.append(system)
    try:
        from semantic.adapters.mlx import memory
    except ImportError:
        return PressureGuard(budget, worst_of(readers), **options)
    relief = Relief(memory.give_up, memory.kept_bytes, clock=options.get("clock"))
    if (process := process_pressure(kept_bytes=memory.kept_bytes)) is not None:
        readers.append(process)
    if (limit := memory.wired_limit_bytes()) is not None:
        readers.append(wired_pressure(limit, memory.active_bytes))
    return PressureGuard(budget, worst_of(readers), relief, **options)


def worst_of(readers: Sequence[Reader]) -> Reader:
    """Reads all of them, and says the worst. A reader that fails is left out.

    The reader raises OSError when all of them fail.
    """

    def read() -> PressureLevel:
        levels, refusals = [], []
        for reader in readers:
            try:
                levels.append(reader())
            except OSError as error:
                refusals.append(error)
        if refusals and not levels:
            raise refusals[0]
        return max(levels, key=_ORDER.index, default="none")

    return read


def share_level(n_bytes: int, limit_bytes: int) -> PressureLevel:
    """Where so many bytes are under a limit: "some" from 90 % on, "severe" above it."""
    if n_bytes > limit_bytes:
        return "severe"
    return "some" if n_bytes > _SOME_SHARE * limit_bytes else "none"


def process_pressure(
    limit_bytes: int | None = None,
    *,
    taken_bytes: Callable[[], int] = process_bytes,
    kept_bytes: Callable[[], int] = lambda: 0,
) -> Reader | None:
    """Reads how near this process is to a limit, without what MLX keeps for later.

    Args:
        limit_bytes: The limit; None: the machine's memory, or the cgroup's.
        taken_bytes: What the process takes.
        kept_bytes: What MLX keeps of it.

    Returns:
        The reader; None where the system does not say how much memory there is.
    """
    try:
        limit = machine_memory_bytes() if limit_bytes is None else limit_bytes
    except OSError:
        return None
    return lambda: share_level(max(0, taken_bytes() - kept_bytes()), limit)


def wired_pressure(limit_bytes: int, active_bytes: Callable[[], int]) -> Reader:
    """Reads how near MLX's arrays are to what the GPU can keep resident.

    Args:
        limit_bytes: Metal's recommended working set.
        active_bytes: Bytes of all arrays, without what MLX keeps for later.
    """
    return lambda: share_level(active_bytes(), limit_bytes)


def system_pressure() -> Reader | None:
    """Reads the pressure of this machine; None where there is nothing to read."""
    if sys.platform == "darwin":
        return macos_level
    return psi_level if PSI.is_file() else None


def psi_level(path: Path = PSI) -> PressureLevel:
    """The level by Linux' pressure stall information: averages over ten seconds.

    Raises:
        OSError: It cannot be read.
    """
    shares = {}
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *fields = line.split()
        values = dict(field.partition("=")[::2] for field in fields)
        shares[kind] = float(values.get("avg10", 0.0))
    if shares.get("full", 0.0) >= _FULL_PERCENT:
        return "severe"
    return "some" if shares.get("some", 0.0) >= _SOME_PERCENT else "none"


def macos_level(library: Any = None) -> PressureLevel:
    """The level that macOS tells its processes: what a dispatch source would be woken with.

    Args:
        library: The C library, for tests.

    Raises:
        OSError: It cannot be read, or is none that we know.
    """
    level = system_number(_MACOS_NAME, library)
    if level not in _MACOS_LEVELS:
        raise OSError(f"{_MACOS_NAME} is {level}, which is no level that we know")
    return _MACOS_LEVELS[level]
