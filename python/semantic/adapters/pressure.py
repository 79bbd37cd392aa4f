"""How short of memory the system is: Linux' PSI, or macOS' own level."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Callable
from pathlib import Path

from semantic.application.pressure import PressureLevel

__all__ = ["macos_level", "psi_level", "system_pressure"]

PSI = Path("/proc/pressure/memory")

_SOME_PERCENT = 10.0
"""Of the last ten seconds, some task waited for memory."""

_FULL_PERCENT = 5.0
"""Of the last ten seconds, all tasks did."""

_MACOS_NAME = b"kern.memorystatus_vm_pressure_level"
_MACOS_LEVELS: dict[int, PressureLevel] = {1: "none", 2: "some", 4: "severe"}
"""DISPATCH_MEMORYPRESSURE_NORMAL, _WARN and _CRITICAL."""


def system_pressure() -> Callable[[], PressureLevel] | None:
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


def macos_level() -> PressureLevel:
    """The level that macOS tells its processes.

    Raises:
        OSError: It cannot be read.
    """
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    if library.sysctlbyname(_MACOS_NAME, ctypes.byref(value), ctypes.byref(size), None, 0):
        raise OSError(ctypes.get_errno(), "the memory pressure level cannot be read")
    return _MACOS_LEVELS.get(value.value, "severe")
