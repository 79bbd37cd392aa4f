"""Who says how short memory is: the system, this process, the GPU."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from semantic import MemoryBudget, PoolConfigurationError
from semantic.adapters import machine_memory, pressure
from semantic.adapters.darwin import footprint_bytes, system_number
from semantic.adapters.machine_memory import (
    check_fits_machine,
    machine_memory_bytes,
    process_bytes,
)
from semantic.adapters.pressure import (
    guard_for,
    macos_level,
    process_pressure,
    psi_level,
    share_level,
    system_pressure,
    wired_pressure,
    worst_of,
)

GIB = 1 << 30


class Libc:
    """macOS' C library, as far as it is asked here."""

    def __init__(self, footprint: int = 0, **numbers: int) -> None:
        self.numbers = numbers
        self.footprint = footprint

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: Any, new_size: int) -> int:
        assert new is None
        assert new_size == 0
        key = name.decode().replace(".", "_")
        if key not in self.numbers:
            return -1
        # As the kernel: pressure levels are ints, and the size says so.
        length = 8 if key == "hw_memsize" else 4
        assert size._obj.value >= length
        size._obj.value = length
        ctypes.memmove(value, self.numbers[key].to_bytes(length, "little"), length)
        return 0

    def proc_pid_rusage(self, pid: int, flavour: int, usage: Any) -> int:
        if not self.footprint:
            return -1
        assert (pid, flavour) == (os.getpid(), 0)
        # struct rusage_info_v0: a uuid of 16 bytes, then ten numbers; the eighth is asked for.
        assert ctypes.sizeof(usage._obj) == 16 + 10 * 8
        words = b"".join(n.to_bytes(8, "little") for n in (1, 2, 3, 4, 5, 6, 7, self.footprint))
        ctypes.memmove(ctypes.addressof(usage._obj) + 16, words, len(words))
        return 0


@pytest.mark.parametrize(("number", "level"), [(1, "none"), (2, "some"), (4, "severe")])
def test_macos_levels(number: int, level: str) -> None:
    assert macos_level(Libc(kern_memorystatus_vm_pressure_level=number)) == level


def test_what_macos_does_not_say() -> None:
    with pytest.raises(OSError, match="no level that we know"):
        macos_level(Libc(kern_memorystatus_vm_pressure_level=3))
    with pytest.raises(OSError, match="cannot be read"):
        macos_level(Libc())
    with pytest.raises(OSError, match="footprint"):
        footprint_bytes(Libc())


def test_a_mac_is_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc(footprint=5 * GIB, hw_memsize=24 * GIB)
    assert system_number("hw.memsize", libc) == 24 * GIB
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)
    assert machine_memory_bytes() == 24 * GIB
    assert process_bytes() == 5 * GIB
    assert system_pressure() is macos_level


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


def test_the_memory_of_this_machine() -> None:
    machine = machine_memory_bytes()
    assert 0 < process_bytes() < machine < 1 << 50
    block = bytearray(64 << 20)
    grown = process_bytes()
    assert grown > 64 << 20
    del block
    assert process_bytes() < grown


def test_a_cgroups_limit_is_the_machines(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    inner = groups / "a" / "b"
    inner.mkdir(parents=True)
    proc.mkdir()
    physical = machine_memory_bytes(proc, groups)
    (proc / "cgroup").write_text("0::/a/b\n")
    assert machine_memory_bytes(proc, groups) == physical, "no file, no limit"
    (inner / "memory.max").write_text("max\n")
    (groups / "a" / "memory.max").write_text(f"{GIB}\n")
    assert machine_memory_bytes(proc, groups) == GIB, "of any group above"
    (inner / "memory.max").write_text(f"{GIB // 2}\n")
    assert machine_memory_bytes(proc, groups) == GIB // 2
    (inner / "memory.max").write_text(f"{1 << 60}\n")
    assert machine_memory_bytes(proc, groups) == GIB
    old = groups / "memory" / "x"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text(f"{GIB // 4}\n")
    (proc / "cgroup").write_text("3:cpu,memory:/x\n2:cpuset:/\n")
    assert machine_memory_bytes(proc, groups) == GIB // 4


def test_more_than_the_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_fits_machine(8 * GIB, "--kv-memory", machine_bytes=8 * GIB)
    check_fits_machine(machine_memory_bytes(), "--kv-memory")
    for wrong in (8 * GIB + 1, 1 << 62):
        with pytest.raises(PoolConfigurationError, match="--kv-memory") as refusal:
            check_fits_machine(wrong, "--kv-memory", machine_bytes=8 * GIB)
        assert refusal.value.__dict__["bytes_available"] == 8 * GIB
    with pytest.raises(PoolConfigurationError, match="more than this machine has"):
        check_fits_machine(1 << 62, "--kv-memory")

    def unknown() -> int:
        raise OSError("no such call")

    monkeypatch.setattr(machine_memory, "machine_memory_bytes", unknown)
    check_fits_machine(1 << 62, "--kv-memory")


def test_shares_of_a_limit() -> None:
    assert [share_level(n, 100) for n in (0, 90, 91, 100, 101)] == [
        "none",
        "none",
        "some",
        "some",
        "severe",
    ]


def test_what_mlx_keeps_is_no_pressure() -> None:
    kept = 0
    process = process_pressure(100, taken_bytes=lambda: 95, kept_bytes=lambda: kept)
    assert process is not None
    assert process() == "some"
    kept = 20
    assert process() == "none", "its own pool raises no alarm"
    kept = 500
    assert process() == "none"
    assert wired_pressure(100, lambda: 95)() == "some"


def test_the_worst_word_counts_and_a_reader_that_fails_does_not() -> None:
    def fails() -> Any:
        raise OSError("gone")

    assert worst_of([])() == "none"
    assert worst_of([lambda: "none", lambda: "severe", lambda: "some"])() == "severe"
    assert worst_of([fails, lambda: "some"])() == "some"
    with pytest.raises(OSError, match="gone"):
        worst_of([fails, fails])()


def test_a_guard_with_all_readers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from semantic.adapters.mlx import memory

    calls = []
    monkeypatch.setattr(memory, "give_up", lambda: calls.append("given up"))
    monkeypatch.setattr(memory, "wired_limit_bytes", lambda: 1000)
    monkeypatch.setattr(memory, "active_bytes", lambda: active)
    monkeypatch.setattr(pressure, "system_pressure", lambda: None)
    active = 0
    budget = MemoryBudget(100)
    guard = guard_for(budget, quiet_seconds=0.0)
    assert guard.step() == "none"
    assert not guard.relief.if_due()
    active = 1001
    assert guard.step() == "severe"
    assert budget.total == 50
    assert guard.relief.if_due()
    assert calls == ["given up"]
    monkeypatch.setattr(pressure, "system_pressure", lambda: lambda: "some")
    active = 0
    assert guard_for(budget).step() == "some"


def test_mlx_says_what_it_takes() -> None:
    import mlx.core as mx

    from semantic.adapters.mlx import memory

    before = memory.active_bytes()
    array = mx.zeros((1 << 20,), dtype=mx.uint8)
    mx.eval(array)
    assert memory.active_bytes() >= before + (1 << 20)
    assert memory.kept_bytes() >= 0
    memory.give_up()
    assert memory.kept_bytes() == 0
    limit = memory.wired_limit_bytes()
    assert limit is None or limit > 0
