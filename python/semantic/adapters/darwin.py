"""What macOS says of memory, through its C library."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any

__all__ = ["footprint_bytes", "system_number"]

_RUSAGE_INFO_V0 = 0


class _Usage(ctypes.Structure):
    """`struct rusage_info_v0` of <sys/resource.h>."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        ("user_time", ctypes.c_uint64),
        ("system_time", ctypes.c_uint64),
        ("idle_wakeups", ctypes.c_uint64),
        ("interrupt_wakeups", ctypes.c_uint64),
        ("pageins", ctypes.c_uint64),
        ("wired_size", ctypes.c_uint64),
        ("resident_size", ctypes.c_uint64),
        ("phys_footprint", ctypes.c_uint64),
        ("start_abstime", ctypes.c_uint64),
        ("exit_abstime", ctypes.c_uint64),
    )


def system_number(name: str, library: Any = None) -> int:
    """A number that `sysctl` knows, of 4 or 8 bytes.

    Args:
        name: Such as `hw.memsize`.
        library: The C library, for tests.

    Raises:
        OSError: There is no such number.
    """
    value = ctypes.c_uint64(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    arguments = (name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    if _c(library).sysctlbyname(*arguments):
        raise OSError(ctypes.get_errno(), f"{name} cannot be read")
    # Shorter numbers fill the front of it, and Macs are little-endian.
    return value.value


def footprint_bytes(library: Any = None) -> int:
    """What this process is charged with: dirty and compressed pages, GPU buffers included.

    Raises:
        OSError: It cannot be read.
    """
    usage = _Usage()
    if _c(library).proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V0, ctypes.byref(usage)):
        raise OSError(ctypes.get_errno(), "the footprint of this process cannot be read")
    return int(usage.phys_footprint)


def _c(library: Any) -> Any:
    return library or ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
