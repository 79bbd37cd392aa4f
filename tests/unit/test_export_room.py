"""What a killed export leaves beside its archive, and who removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import DiskStore
from semantic.adapters.store.export_room import export_room, remove_leftovers
from semantic.cli import store as command
from tests.stored_blocks import sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = DiskStore(tmp_path / "kv", free_floor_bytes=0)
    turn(store, sequence(1, 2), "a")
    store.close()
    (tmp_path / "archives").mkdir()
    return tmp_path / "kv"


def test_what_a_killed_export_leaves_goes_with_the_next(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "archives"
    code = (
        "import os\nfrom pathlib import Path\nfrom semantic import DiskStore\n"
        "from semantic.adapters.store import archive\n"
        "from semantic.adapters.store.listing import Listing\n"
        f"store = DiskStore(Path({str(folder)!r}), free_floor_bytes=0)\n"
        "archive._path = lambda *_: os.kill(os.getpid(), 9)\n"
        "rows = Listing(store.catalogue, store.veil).blocks()\n"
        f"archive.export_blocks(store, rows, Path({str(place / 'kv.tar')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = place.iterdir()
    assert left.stat().st_mode & 0o77 == 0
    assert list(left.rglob("*.safetensors")), "blocks that are not sealed"
    done = run("export", place / "kv.tar", "--store", folder)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [file.name for file in place.iterdir()] == ["kv.tar"]


def test_an_export_that_runs_keeps_what_is_its_own(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "archives"
    with export_room(place) as room:
        (room / "archive").write_bytes(b"half")
        done = run("export", place / "kv.tar", "--store", folder)
        assert (done.exit_code, done.stderr) == (0, "")
        assert (room / "archive").read_bytes() == b"half"
    assert [file.name for file in place.iterdir()] == ["kv.tar"]


def test_what_is_not_ours_for_sure_stays(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "archives"
    name = ".semantic-export-0123456789abcdef"
    theirs = [
        ".export-abc",
        ".semantic-export-abc",
        ".semantic-export-0123456789abcdeg",
        "x" + name,
    ]
    for other in theirs:
        (place / other).mkdir()
    (place / name).symlink_to(folder)
    done = run("export", place / "kv.tar", "--store", folder)
    assert done.exit_code == 0
    assert f"{name} stays" in done.stderr
    assert "it is no folder" in done.stderr
    assert {file.name for file in place.iterdir()} == {*theirs, name, "kv.tar"}
    assert run("verify", "--store", folder).exit_code == 0


def test_what_is_another_users_stays_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".semantic-export-0123456789abcdef"
    left.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1 + os.stat(left).st_uid)
    assert remove_leftovers(tmp_path) == [(left.name, "it is another user's")]
    monkeypatch.undo()
    assert remove_leftovers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_room_that_is_taken_for_a_dead_ones_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def swept(path: Path, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        made.append(path)
        if len(made) == 1:  # not locked yet
            remove_leftovers(tmp_path)

    monkeypatch.setattr(Path, "mkdir", swept)
    with export_room(tmp_path) as room:
        assert list(tmp_path.iterdir()) == [room] == made[1:]
    assert list(tmp_path.iterdir()) == []
