"""How much memory this machine has, and how much of it this process takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from semantic.adapters.darwin import footprint_bytes, system_number
from semantic.domain.errors import PoolConfigurationError

__all__ = ["check_fits_machine", "machine_memory_bytes", "process_bytes"]

_PROC = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")


def machine_memory_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Bytes that this process can ever have: the machine's, or less where a cgroup says so.

    Args:
        proc: The process' folder in /proc, for tests.
        cgroups: Where cgroups are mounted, for tests.

    Raises:
        OSError: The system does not say.
    """
    if sys.platform == "darwin":
        return system_number("hw.memsize")
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError) as error:
        raise OSError(f"the memory of this machine cannot be read: {error}") from error
    return min([physical, *_cgroup_limits(proc, cgroups)])


def check_fits_machine(n_bytes: int, what: str, machine_bytes: int | None = None) -> None:
    """Refuse more bytes than the machine has: they would be promised, and never be there.

    Args:
        n_bytes: Bytes that are asked for.
        what: Who asks, for the message.
        machine_bytes: The machine's memory; None: `machine_memory_bytes()`, and no refusal where
            the system does not say.

    Raises:
        PoolConfigurationError: It is more; `bytes_available` says what there is.
    """
    if machine_bytes is None:
        try:
            machine_bytes = machine_memory_bytes()
        except OSError:
            return
    if n_bytes > machine_bytes:
        raise PoolConfigurationError(
            f"{what}: {n_bytes:,} bytes are more than this machine has ({machine_bytes:,});"
            " the model's weights need room there, too",
            bytes_requested=n_bytes,
            bytes_available=machine_bytes,
        )


def process_bytes(proc: Path = _PROC) -> int:
    """What this process takes: its footprint on macOS, else its resident pages but for files'.

    Raises:
        OSError: It cannot be read.
    """
    if sys.platform == "darwin":
        return footprint_bytes()
    _, resident, of_files, *_ = map(int, (proc / "statm").read_text(encoding="ascii").split())
    return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")


def _cgroup_limits(proc: Path, cgroups: Path) -> list[int]:
    """The limits of the process' cgroup and of all above it, of either version."""
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, file = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / name.lstrip("/")
        limits += [_limit(at / file) for at in (folder, *folder.parents) if at.is_relative_to(root)]
    return [limit for limit in limits if limit is not None]


def _limit(file: Path) -> int | None:
    """What the file says; None where there is no file or no limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None
