"""Processes that share a folder which is too small for all, and a watch over what lies in it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semantic import CachePersistenceError, DiskStore
from semantic.adapters.store.upkeep import collect, verify
from semantic.domain.native import TokenIds
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, read, sequence

__all__ = ["LIMIT", "Hammered", "Watch", "hammered", "lying_at_once"]

LIMIT = 24 * (BLOCK_BYTES + 8192)

_OTHER = ("catalogue.sqlite3", "limit", "owners", "recovery.lock", "sealed")
"""What is in a folder and is no block: the limit does not count it."""


@dataclass
class Hammered:
    """What was done, and what was seen meanwhile.

    Args:
        exits: Exit statuses of the processes that nobody killed.
        killed: Processes that were.
        done: How often what was done by those that were not.
        looks: How often the disk was measured.
        most_bytes: The most that was seen to lie there at once.
    """

    exits: list[int | None]
    killed: int
    looks: int
    most_bytes: int
    done: Counter[str] = field(default_factory=Counter)


def lying_at_once(path: Path) -> int:
    """Bytes of blocks, temporary files included, that lay in a folder at one moment.

    Files come and go while they are counted. Those that two walks have seen were all there between
    the two, so what lies there is never taken for more than it is.
    """
    first, second = _files(path), _files(path)
    return sum(min(size, second[file]) for file, size in first.items() if file in second)


def _files(path: Path) -> dict[tuple[int, int], int]:
    """The bytes of each file, by what a rename leaves as it is."""
    found = {}
    for folder, inner, names in os.walk(path):
        if Path(folder) == path:
            inner[:] = [name for name in inner if not name.startswith(_OTHER)]
            names = [name for name in names if not name.startswith(_OTHER)]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(os.path.join(folder, name))
                found[status.st_ino, status.st_mtime_ns] = status.st_size
    return found


class Watch:
    """Measures a folder again and again, until the block that it guards ends."""

    def __init__(self, path: Path) -> None:
        self.looks = 0
        self.most_bytes = 0
        self._path = path
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.005):
            self.looks += 1
            self.most_bytes = max(self.most_bytes, lying_at_once(self._path))


def _hammer(path: str, report: str, seed: int, seconds: float) -> None:
    """Write, read, forget, collect and verify, as one of several processes."""
    store = DiskStore(Path(path), LIMIT, free_floor_bytes=0)
    done: Counter[str] = Counter()
    agent = f"agent-{seed}"
    # Nobody may remove what is pinned, whatever else is done.
    kept = blocks_of(sequence(1000 + seed, 1))
    with contextlib.suppress(CachePersistenceError):
        store.put(kept, f"keeper-{seed}")
        store.regard(ROOT, f"keeper-{seed}", is_pinned=True)
    is_kept = read(store, kept[0])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done["turns"] += 1
        tokens = sequence((seed + done["turns"]) % 5, 1 + done["turns"] % 5)
        blocks = blocks_of(tokens)
        try:
            done["written"] += store.put(blocks, agent)
        except CachePersistenceError as error:
            # What the others write at this moment is in nobody's power to evict.
            if "more than may be stored" not in str(error):
                raise
            done["no room"] += 1
        done["read"] += sum(read(store, block) for block in blocks)
        store.used(ROOT, TokenIds(tokens).keys(ROOT), agent)
        assert store.stats()["bytes"] <= LIMIT
        assert not is_kept or read(store, kept[0]), "a pinned block is lost"
        done["kept"] += is_kept
        if done["turns"] % 7 == 0:
            done["forgotten"] += store.forget(ROOT, agent)
        if done["turns"] % 11 == seed % 11:
            collect(store, max_bytes=LIMIT * 3 // 4)
            done["collected"] += 1
        if done["turns"] % 13 == seed % 13:
            bad = verify(store)
            assert bad == [], bad
            done["verified"] += 1
    store.close()
    Path(report).write_text(json.dumps(done))
    os._exit(0)


def hammered(path: Path, n_processes: int, seconds: float) -> Hammered:
    """Let so many processes hammer a folder, and kill others that begin meanwhile."""
    folder = path / "store"
    DiskStore(folder, LIMIT, free_floor_bytes=0).close()
    spawn = multiprocessing.get_context("spawn")

    def start(seed: int, for_seconds: float) -> Any:
        arguments = (str(folder), str(path / f"report-{seed}"), seed, for_seconds)
        process = spawn.Process(target=_hammer, args=arguments)
        process.start()
        return process

    killed = 0
    with Watch(folder) as watch:
        steady = [start(seed, seconds) for seed in range(n_processes - 1)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            victim = start(100 + killed, 600)
            time.sleep(1.0 + 0.13 * (killed % 5))
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            killed += 1
        for process in steady:
            process.join(120)
    exits = [process.exitcode for process in steady]
    done: Counter[str] = Counter()
    for report in path.glob("report-*"):
        done.update(json.loads(report.read_text()))
    return Hammered(exits, killed, watch.looks, watch.most_bytes, done)
