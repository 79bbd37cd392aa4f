"""Names that would do something to a terminal: commands print what they are, and no more."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import DiskStore
from semantic.cli import store as command
from semantic.cli.store.session import printable
from tests.stored_blocks import blocks_of, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

EVIL = "\x1b]0;mine\x07\x1b[2J\r\n\x9b1m\u202eeve"
TOKENS = sequence(1, 2)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def check_harmless(text: str) -> None:
    assert {letter for letter in text if not letter.isprintable()} <= {"\n"}
    assert "eve" in text.replace("\n", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = DiskStore(tmp_path / "kv", free_floor_bytes=0)
    turn(store, TOKENS, EVIL)
    store.close()
    return tmp_path / "kv"


@pytest.mark.parametrize(
    "arguments", [("ls",), ("ls", "--blocks"), ("show", blocks_of(TOKENS)[0].name.key.hex())]
)
def test_an_agents_name_is_printed_and_not_obeyed(
    arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = run(*arguments, "--store", folder)
    assert done.exit_code == 0
    check_harmless(done.stdout)


def test_json_has_the_name_as_it_is(folder: Path) -> None:
    done = run("ls", "--store", folder, "--json")
    assert "\x1b" not in done.stdout
    assert json.loads(done.stdout)[0]["agent"] == EVIL


def test_what_lies_about_is_printed_and_not_obeyed(folder: Path) -> None:
    (folder / "blocks" / "00").mkdir(exist_ok=True)
    (folder / "blocks" / "00" / "\x1b[2Jeve.safetensors").write_bytes(b"")
    done = run("verify", "--store", folder)
    assert done.exit_code == 1
    check_harmless(done.stdout)


def test_what_an_archive_names_is_printed_and_not_obeyed(folder: Path, tmp_path: Path) -> None:
    text = {
        "format": "semantic-store-archive",
        "version": 1,
        "blocks": [{"name": EVIL, "agents": []}],
    }
    (tmp_path / "manifest").write_text(json.dumps(text))
    with tarfile.open(tmp_path / "kv.tar", "w") as tar:
        tar.add(tmp_path / "manifest", "manifest.json")
    done = run("import", tmp_path / "kv.tar", "--store", folder)
    assert done.exit_code == 1
    check_harmless(done.stdout)


def test_a_folders_name_is_printed_and_not_obeyed(tmp_path: Path) -> None:
    done = run("ls", "--store", tmp_path / "\x1b[2Jeve")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    check_harmless(done.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("agent 7 \u00fc \u65e5\u672c", "agent 7 \u00fc \u65e5\u672c"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202e\udc80", "\\u202e\\udc80"),
    ],
)
def test_what_is_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
