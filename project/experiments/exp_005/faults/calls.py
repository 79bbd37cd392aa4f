"""One system call goes wrong, and after it the next: killed before it, killed within, refused."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, read, sequence, turn

from faults.oracle import Expected, Row, checked, compared, is_refusal, opened, used
from semantic import DiskStore
from semantic.adapters.store.archive import export_blocks, import_blocks
from semantic.adapters.store.listing import Listing
from semantic.adapters.store.upkeep import collect, verify

__all__ = ["call_rows", "preloaded"]

_SHIM = "FAULTY_CALLS"
FILE_BYTES = BLOCK_BYTES + 8192
READING, WRITING, REMOVING = 1, 2, 4
KINDS = {
    "killed before a call": (1, 0, WRITING | REMOVING),
    "killed within a call": (2, 0, WRITING | REMOVING),
    "EIO at a call": (3, errno.EIO, WRITING | REMOVING),
    "EIO at a read": (3, errno.EIO, READING),
    "EIO from a call on": (4, errno.EIO, READING | WRITING | REMOVING),
    "ENOSPC from a call on": (4, errno.ENOSPC, WRITING),
}
"""How, with which errno, and which calls are counted."""

DONE, REFUSED, RAISED, LOST = 0, 3, 4, 5


class _State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("at", "kind", "error", "which", "seen", "fired")]


def preloaded() -> ctypes.CDLL:
    """The library that makes calls fail; starts the process again where it is not loaded."""
    if _SHIM not in os.environ:
        library = Path(tempfile.mkdtemp()) / "calls.so"
        source = Path(__file__).with_name("calls.c")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        environment = {**os.environ, _SHIM: str(library), "LD_PRELOAD": str(library)}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    return ctypes.CDLL(os.environ[_SHIM])


@dataclass(frozen=True)
class Scene:
    """Something that is done with a store.

    Args:
        name: What.
        prepare: Makes the folder, before anything goes wrong.
        begin: Opens what has to be open, and returns what is done while calls go wrong.
        after: What the store has to have afterwards, when it was done and when it was not.
        serves: What the same process has to serve after a refusal.
    """

    name: str
    prepare: Callable[[Path], object]
    begin: Callable[[Path], tuple[DiskStore | None, Callable[[], object]]]
    after: tuple[Expected, Expected]
    serves: Expected = field(default_factory=Expected)
    max_bytes: int = 1 << 30


def _two_agents(path: Path, **options: int) -> None:
    store = opened(path, **options)
    turn(store, sequence(1, 2), "a")
    turn(store, sequence(2, 2), "b")
    used(store, 2, 2, "b")
    store.close()


def _begun(
    work: Callable[[DiskStore], object], **options: int
) -> Callable[[Path], tuple[DiskStore | None, Callable[[], object]]]:
    def begin(path: Path) -> tuple[DiskStore, Callable[[], object]]:
        store = opened(path, **options)
        return store, lambda: work(store)

    return begin


def _crashed(path: Path) -> None:
    """What killed processes leave: temporary files, reserved rows, and files without rows."""
    _two_agents(path)
    pid = os.fork()
    if not pid:
        store = opened(path)
        store.catalogue.arrived = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        turn(store, sequence(3, 2), "c")
        os._exit(1)
    os.waitpid(pid, 0)
    pid = os.fork()
    if not pid:
        store = opened(path)
        store._write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
        turn(store, sequence(4, 2), "c")
        os._exit(1)
    os.waitpid(pid, 0)
    (path / "tmp" / "0123456789abcdef-1").write_bytes(b"half a block")


def _rubbish(path: Path) -> None:
    """What garbage collection is for: something aside, something unreachable, something dead."""
    _two_agents(path)
    store = opened(path)
    turn(store, sequence(3, 3), "c")
    head = str(blocks_of(sequence(3, 3))[0].name)
    store.reject(head, "for this test")
    store.close()


def _archived(path: Path) -> None:
    _two_agents(path)
    other = opened(path.parent / "other")
    turn(other, sequence(3, 2), "c")
    archive = path.parent / "kv.tar"
    export_blocks(other, Listing(other.catalogue, other.veil).blocks(), archive)
    other.close()


def _damaged(path: Path) -> None:
    _two_agents(path)
    store = opened(path)
    turn(store, sequence(3, 1), "c")
    store.close()
    name = str(blocks_of(sequence(3, 1))[0].name)
    file = path / "blocks" / name[:2] / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _reads(store: DiskStore) -> None:
    for seed in (1, 2):
        for block in blocks_of(sequence(seed, 2)):
            read(store, block)


def _pinned(path: Path) -> tuple[DiskStore, Callable[[], object]]:
    """What cannot be removed stays, and something else goes for it; nothing that is pinned."""
    store = opened(path, max_bytes=FOUR_FILES)
    store.regard(ROOT, "b", is_pinned=True)
    return store, lambda: turn(store, sequence(3, 2), "c")


BOTH = ((1, 2), (2, 2))
FOUR_FILES = 4 * FILE_BYTES

SCENES = [
    Scene(
        "put",
        _two_agents,
        _begun(lambda store: turn(store, sequence(3, 2), "c")),
        (Expected(there=(*BOTH, (3, 2))), Expected(there=BOTH, maybe=((3, 2),))),
        Expected(there=BOTH),
    ),
    Scene(
        "evict and put",
        lambda path: _two_agents(path, max_bytes=FOUR_FILES),
        _pinned,
        (
            Expected(there=((2, 2), (3, 2)), maybe=((1, 2),)),
            Expected(there=((2, 2),), maybe=((1, 2), (3, 2))),
        ),
        Expected(there=((2, 2),)),
        FOUR_FILES,
    ),
    Scene(
        "read",
        _two_agents,
        _begun(_reads),
        (Expected(there=BOTH), Expected(there=BOTH)),
        Expected(there=BOTH),
    ),
    Scene(
        "open",
        _two_agents,
        lambda path: (None, lambda: opened(path).close()),
        (Expected(there=BOTH), Expected(there=BOTH)),
    ),
    Scene(
        "open and recover",
        _crashed,
        lambda path: (None, lambda: opened(path).close()),
        (Expected(there=(*BOTH, (3, 2))), Expected(there=BOTH, maybe=((3, 2), (4, 2)))),
    ),
    Scene(
        "open without a catalogue",
        lambda path: (_two_agents(path), (path / "catalogue.sqlite3").unlink()),
        lambda path: (None, lambda: opened(path).close()),
        (Expected(there=BOTH), Expected(there=BOTH)),
    ),
    Scene(
        "forget",
        _two_agents,
        _begun(lambda store: store.forget(ROOT, "b")),
        (Expected(there=((1, 2),), gone=((2, 2),)), Expected(there=((1, 2),), maybe=((2, 2),))),
        Expected(there=((1, 2),)),
    ),
    Scene(
        "gc",
        _rubbish,
        _begun(collect),
        (Expected(there=BOTH, gone=((3, 3),)), Expected(there=BOTH, maybe=((3, 3),))),
        Expected(there=BOTH),
    ),
    Scene(
        "verify --repair",
        _damaged,
        _begun(lambda store: verify(store, repair=True)),
        (Expected(there=BOTH, gone=((3, 1),)), Expected(there=BOTH, maybe=((3, 1),))),
        Expected(there=BOTH),
    ),
    Scene(
        "import",
        _archived,
        _begun(lambda store: import_blocks(store, store.path.parent / "kv.tar")),
        (Expected(there=(*BOTH, (3, 2))), Expected(there=BOTH, maybe=((3, 2),))),
        Expected(there=BOTH),
    ),
]


def _child(scene: Scene, path: Path, row: Row, shim: ctypes.CDLL, state: _State) -> int:
    store, work = scene.begin(path)
    shim.fault_arm(str(path).encode(), ctypes.byref(state))
    status = DONE
    try:
        work()
    except Exception as error:
        status = REFUSED if is_refusal(error) else RAISED
        if status == RAISED:
            row.say(f"call {state.at}: {error!r}")
    finally:
        shim.fault_disarm()
    if store is not None:
        was = row.lost + row.wrong
        try:
            compared(store, scene.serves, row, "the same process")
        except Exception as error:
            if is_refusal(error):
                return REFUSED  # a miss, until the store is opened again
            row.say(f"call {state.at}, in the same process: {error!r}")
            return RAISED
        if row.lost + row.wrong > was:
            return LOST
    return status


class Trials:
    """Trials of one scene, each in a folder and a process of its own.

    Args:
        scene: What is done.
        folder: Where.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._shim = preloaded()
        self._state = _State.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
        self._template, self._trial = folder / "template", folder / "trial"
        self._template.mkdir(parents=True)
        scene.prepare(self._template / "store")

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._template)

    def rows(self, stride: int, only: str) -> Iterator[Row]:
        """Every kind of fault whose name has `only`, at every `stride`-th call."""
        for fault, (kind, error, which) in KINDS.items():
            if only not in fault:
                continue
            row = Row(fault, self._scene.name)
            at = 1
            while self._one(row, _State(at, kind, error, which)):
                at += stride
            row.note = f"{self._state.seen} calls"
            if row.tried:
                yield row

    def _one(self, row: Row, state: _State) -> bool:
        """One trial; whether there were as many calls."""
        shutil.copytree(self._template, self._trial)
        ctypes.memmove(ctypes.byref(self._state), ctypes.byref(state), ctypes.sizeof(state))
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            status = RAISED
            try:
                status = _child(self._scene, self._trial / "store", row, self._shim, self._state)
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if self._state.fired:
            row.tried += 1
            row.refused += status == REFUSED
            row.raised += status == RAISED
            row.lost += status == LOST
            when = f"call {state.at}, opened again"
            expected = self._scene.after[0 if status == DONE else 1]
            options = {"max_bytes": self._scene.max_bytes}
            checked(self._trial / "store", expected, row, when, **options)
        shutil.rmtree(self._trial)
        return bool(self._state.fired)


def call_rows(folder: Path, stride: int, scene_name: str, kind: str) -> Iterator[Row]:
    """Every scene and kind whose names have these words, at every `stride`-th call."""
    for scene in SCENES:
        if scene_name in scene.name:
            trials = Trials(scene, folder)
            yield from trials.rows(stride, kind)
            trials.close()
