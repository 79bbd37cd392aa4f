"""What a store does when the system itself fails it: full disks, read-only ones, wrong clocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore, EvictionPolicy
from semantic.adapters.store.upkeep import verify
from semantic.cli import store as command
from semantic.domain.native import TokenIds
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, read, sequence, turn

ROOT_FOLDER = Path(__file__).parents[2]

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def on_a_disk_of_its_own(work: Callable[[Path], None], tmp_path: Path, size: str) -> None:
    """Run a function of this module on a tmpfs of that size, in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here: a file system of its own needs Linux")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(tmp_path)]
    apart = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*apart, *mount], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a tmpfs in a namespace of their own")
    _python([*apart, "sh", "-c", f'{" ".join(mount)} && exec "$@"', "sh"], work, tmp_path)


def _python(prefix: list[str], work: Callable[[Path], None], path: Path) -> None:
    """Run a function of this module in another process, behind such a prefix."""
    if shutil.which(prefix[0]) is None:
        pytest.skip(f"no {prefix[0]} here: a namespace of one's own needs Linux")
    name = work.__name__
    code = f"from pathlib import Path; from {__name__} import {name}; {name}(Path({str(path)!r}))"
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        cwd=ROOT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def whole(store: DiskStore, seed: int, n_blocks: int) -> int:
    """Blocks of a sequence that are found; each is read and compared."""
    tokens = sequence(seed, n_blocks)
    n = found(store, tokens)
    assert all(read(store, block) for block in blocks_of(tokens)[:n])
    return n


def fill_a_small_disk(path: Path) -> None:
    store = opened(path)
    (path / "others").touch()
    stored = []
    for seed in range(100):
        try:
            turn(store, sequence(seed, 2), "a")
        except CachePersistenceError:
            break
        stored.append(seed)
    assert 3 < len(stored) < 90
    assert [whole(store, seed, 2) for seed in stored] == [2] * len(stored)
    assert whole(store, len(stored), 2) == 0
    # A disk that others fill up entirely: nothing can be said to the catalogue either.
    fill(path)
    for _ in range(3):
        with pytest.raises(CachePersistenceError, match=r"full|space"):
            turn(store, sequence(50, 2), "a")
        assert [whole(store, seed, 2) for seed in stored] == [2] * len(stored)
    store.close()
    (path / "others").unlink()
    store = opened(path)
    assert [whole(store, seed, 2) for seed in stored] == [2] * len(stored)
    store.forget_older(-1000)
    turn(store, sequence(50, 2), "a")
    assert whole(store, 50, 2) == 2
    assert verify(store) == []
    assert list((path / "tmp").iterdir()) == []
    store.close()


def forget_on_a_full_disk(path: Path) -> None:
    """The files make the room that their rows need."""

    def run(*words: object) -> None:
        done = CliRunner().invoke(APP, ["store", *map(str, words)])
        assert done.exit_code == 0, done.output

    ways: list[Callable[[DiskStore], object]] = [
        lambda store: store.forget(ROOT, "a"),
        lambda store: store.forget_older(-1000),
        lambda store: store.shrink(1 << 30),
        lambda store: store.remove(store.older_files(-1000)),
        lambda store: run("forget", "--agent", "a", "--store", store.path),
        lambda store: run("forget", "--namespace", ROOT.hex()[:4], "--store", store.path),
        lambda store: run("gc", "--max", "1KB", "--store", store.path),
    ]
    for number, way in enumerate(ways):
        store = opened(path / str(number))
        for seed in range(8):
            turn(store, sequence(seed, 2), "a")
        store.catalogue.database.truncate()
        fill(path)
        with pytest.raises(CachePersistenceError, match="full"):
            store.catalogue.keep_fact("anything", 1)
        way(store)
        assert [found(store, sequence(seed, 2)) for seed in range(8)] == [0] * 8, number
        assert list((path / str(number) / "blocks").rglob("*.safetensors")) == [], number
        assert store.stats()["bytes"] == 0
        assert verify(store) == []
        store.close()
        (path / "others").unlink()


def serve_from_a_full_disk(path: Path) -> None:
    """Where not even the index of the catalogue's log fits, there is one at a time."""
    store = opened(path / "kv")
    turn(store, sequence(1, 2), "a")
    store.close()
    fill(path)
    stores = [opened(path / "kv"), opened(path / "kv")]
    assert [store.catalogue.database._is_alone for store in stores] == [True, True]
    for store in stores:
        assert whole(store, 1, 2) == 2
        assert whole(store, 2, 1) == 0
        with pytest.raises(CachePersistenceError, match="full"):
            store.used(ROOT, TokenIds(sequence(1, 2)).keys(ROOT), "b")
        with pytest.raises(CachePersistenceError, match="would leave less"):
            turn(store, sequence(2, 1), "a")
    (path / "others").unlink()
    for store in stores:
        turn(store, sequence(2, 1), "a")
        assert (whole(store, 1, 2), whole(store, 2, 1)) == (2, 1)
    assert [store.catalogue.database._is_alone for store in stores] == [False, False]
    assert verify(stores[0]) == []
    for store in stores:
        store.close()


def fill(path: Path) -> None:
    """Leave nothing free on a disk, whose owner may go on."""
    with (path / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def turn_read_only(path: Path) -> None:
    store = opened(path)
    turn(store, sequence(1, 2), "a")
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
    with pytest.raises(CachePersistenceError, match=r"ead-?only"):
        opened(path)
    # A snapshot or a backup can be looked at all the same.
    for words in (["ls"], ["ls", "--blocks"], ["stats"], ["verify"]):
        done = CliRunner().invoke(APP, ["store", *words, "--store", str(path)])
        assert done.exit_code == 0, (words, done.output)
    done = CliRunner().invoke(APP, ["store", "forget", "--agent", "a", "--store", str(path)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "ead-only" in done.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)
    store = opened(path)
    assert turn(store, sequence(2, 1), "a") == 1
    assert (whole(store, 1, 2), whole(store, 2, 1)) == (2, 1)
    assert verify(store) == []
    store.close()


def test_b30_a_full_disk_loses_nothing_and_serves_on(tmp_path: Path) -> None:
    on_a_disk_of_its_own(fill_a_small_disk, tmp_path, "2m")


def test_b30_what_is_forgotten_on_a_full_disk_goes(tmp_path: Path) -> None:
    on_a_disk_of_its_own(forget_on_a_full_disk, tmp_path, "4m")


def test_b30_a_store_is_opened_on_a_full_disk(tmp_path: Path) -> None:
    on_a_disk_of_its_own(serve_from_a_full_disk, tmp_path, "3m")


def test_b30_a_disk_that_is_read_only_is_said_so(tmp_path: Path) -> None:
    on_a_disk_of_its_own(turn_read_only, tmp_path, "4m")


def test_b30_a_file_that_may_not_grow_is_refused(tmp_path: Path) -> None:
    _python(["env"], put_too_much, tmp_path)


def put_too_much(path: Path) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = opened(path)
    turn(store, sequence(1, 1), "a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK_BYTES // 2, resource.RLIM_INFINITY))
    with pytest.raises(CachePersistenceError):
        store.put(blocks_of(sequence(2, 1)), "a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert whole(store, 1, 1) == 1
    assert turn(store, sequence(2, 1), "a") == 1
    store.close()


@pytest.mark.parametrize("jump", [-20 * 365 * 86_400, 20 * 365 * 86_400, -1e18, 9e18])
def test_a_clock_that_jumps_takes_nothing_away(jump: float, tmp_path: Path) -> None:
    now = 1.7e9
    store = opened(tmp_path, now=lambda: now)
    turn(store, sequence(1, 2), "a")
    now += jump
    turn(store, sequence(2, 2), "b")
    store.close()
    store = opened(tmp_path, now=lambda: now)
    assert (whole(store, 1, 2), whole(store, 2, 2)) == (2, 2)
    turn(store, sequence(3, 1), "c")
    now = 1.7e9
    turn(store, sequence(4, 1), "c")
    assert verify(store) == []
    store.close()


def test_what_is_too_old_goes_only_when_that_is_asked_for(tmp_path: Path) -> None:
    now = 1.7e9
    store = opened(tmp_path, now=lambda: now)
    turn(store, sequence(1, 2), "a")
    now += 100
    store.close()
    store = opened(tmp_path, now=lambda: now, policy=EvictionPolicy(time_to_live=99))
    assert found(store, sequence(1, 2)) == 0
    store.close()


def write_what_may_not_be_written(path: Path) -> None:
    for number, part in enumerate(("", "blocks", "tmp", "catalogue.sqlite3")):
        folder = path / str(number)
        store = opened(folder)
        turn(store, sequence(1, 1), "a")
        store.close()
        mode = (folder / part).stat().st_mode
        (folder / part).chmod(0o400 if part.endswith("3") else 0o500)
        with pytest.raises(CachePersistenceError):
            turn(opened(folder), sequence(2, 1), "a")
        (folder / part).chmod(mode)
        store = opened(folder)
        assert whole(store, 1, 1) == 1
        store.close()


def test_b30_what_may_not_be_written_is_said(tmp_path: Path) -> None:
    if os.geteuid():
        write_what_may_not_be_written(tmp_path)
    else:
        # Root may write whatever it likes; in a namespace that knows no root it may not.
        _python(["unshare", "--user"], write_what_may_not_be_written, tmp_path)


@pytest.mark.parametrize("scene", ["put", "import"])
def test_b27_killed_at_a_system_call_nothing_is_wrong_or_lost(scene: str, tmp_path: Path) -> None:
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("what makes calls fail is loaded before Linux's libc, and has to be compiled")
    script = ROOT_FOLDER / "project/experiments/exp_005/fault_matrix.py"
    what = ["--only", "calls", "--kind", "killed", "--scene", scene, "--quick"]
    done = subprocess.run(
        [sys.executable, str(script), *what, "--folder", str(tmp_path / "matrix")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    total = done.stdout.splitlines()[-1]
    tried = int(total.replace("*", "").replace(",", "").split("|")[3])
    assert tried > 8, total
