"""Values in a catalogue that nobody writes there: SQLite takes any, commands name them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import DiskStore
from semantic.adapters.store import soundness
from semantic.cli import store as command
from tests.stored_blocks import found, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

WRONG = (
    "UPDATE blocks SET used_at = 'x'",
    "UPDATE blocks SET key = 'text'",
    "UPDATE blocks SET layer_group = x'00ff'",
    "UPDATE blocks SET bytes = 'x'",
    "UPDATE blocks SET bytes = -9",
    "UPDATE blocks SET lo = 0.5",
    "UPDATE blocks SET standing = 'x'",
    "UPDATE blocks SET standing = -9",
    "UPDATE blocks SET standing = 9",
    "UPDATE blocks SET uses = 'x'",
    "UPDATE nodes SET n_tokens = 'abc'",
    "UPDATE nodes SET namespace = 'abc'",
    "UPDATE users SET key = hex(key)",
    "UPDATE users SET agent = 7",
    "UPDATE agents SET label = 'text'",
    "UPDATE agents SET priority = 9",
    "UPDATE counts SET value = 'q' WHERE name = 'written'",
    "UPDATE counts SET value = 'q' WHERE name = 'day'",
)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def filled(path: Path, wrong: str) -> None:
    store = DiskStore(path, free_floor_bytes=0)
    turn(store, sequence(1, 2), "a")
    store.close()
    with contextlib.closing(sqlite3.connect(path / "catalogue.sqlite3")) as catalogue:
        catalogue.execute(wrong)
        catalogue.commit()


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_said_in_a_line_and_verify_mends_it(
    wrong: str, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:  # too large to be checked whenever it is opened
        monkeypatch.setattr(soundness, "_FULL_CHECK_BYTES", 0)
    folder = tmp_path / "kv"
    filled(folder, wrong)
    for arguments in (("ls",), ("ls", "--blocks"), ("stats",), ("export", tmp_path / "kv.tar")):
        done = run(*arguments, "--store", folder)
        assert done.exit_code in (0, 1, 2), arguments
        assert done.exception is None or isinstance(done.exception, SystemExit), arguments
        if done.exit_code:
            assert done.stderr.count("\n") == 1, arguments
        if done.exit_code == 2:
            assert "semantic store verify --repair" in done.stderr, arguments
    assert run("verify", "--store", folder).exit_code == 1
    assert run("verify", "--repair", "--store", folder).exit_code == 0
    assert run("verify", "--store", folder).exit_code == 0
    for arguments in (("ls",), ("ls", "--blocks"), ("stats",), ("export", tmp_path / "kv.tar")):
        assert run(*arguments, "--store", folder).exit_code == 0
    store = DiskStore(folder, free_floor_bytes=0)
    assert found(store, sequence(1, 2)) == 2
    store.close()


@pytest.mark.parametrize(
    ("wrong", "arguments"),
    [
        ("UPDATE blocks SET used_at = 'x'", ("ls",)),
        ("UPDATE blocks SET standing = -9", ("ls", "--blocks")),
        ("UPDATE counts SET value = 'q' WHERE name = 'written'", ("stats",)),
        ("UPDATE agents SET label = 'text'", ("ls",)),
    ],
)
def test_what_a_command_cannot_say_ends_with_status_2(
    wrong: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    filled(tmp_path, wrong)
    done = run(*arguments, "--store", tmp_path)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "catalogue.sqlite3" in done.stderr


@pytest.mark.parametrize("wrong", WRONG)
def test_opening_makes_a_catalogue_of_wrong_values_again(wrong: str, tmp_path: Path) -> None:
    filled(tmp_path, wrong)
    store = DiskStore(tmp_path, free_floor_bytes=0)
    assert store.is_whole()
    assert found(store, sequence(1, 2)) == 2
    assert turn(store, sequence(2, 1), "b") == 1
    assert store.stats()["unread"] == 0
    store.close()
    assert run("verify", "--store", tmp_path).exit_code == 0
