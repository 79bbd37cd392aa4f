from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semantic.cli.main import COMMANDS


def semantic(
    *arguments: str, expect: int, blocked: tuple[str, ...] = (), timeout: float = 60
) -> str:
    """Run the command line in its own process; modules in `blocked` are not installed there."""
    code = (
        "import sys\n"
        f"blocked = {blocked!r}\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked: raise ModuleNotFoundError(name)\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in blocked else real(name, *rest)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        f"sys.argv = ['semantic', *{list(arguments)!r}]\n"
        "from semantic.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == expect, output
    return output


def test_help_names_every_command_and_an_example() -> None:
    text = semantic("--help", expect=0)
    assert "Example: semantic serve" in text
    for command in COMMANDS:
        assert command in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert f"Example: semantic {command}" in semantic(command, "--help", expect=0)


def test_help_imports_no_heavy_package() -> None:
    heavy = ("mlx", "mlx_lm", "httpx", "matplotlib", "numpy", "tokenizers", "transformers")
    start = time.perf_counter()
    semantic("--help", expect=0, blocked=heavy)
    # 0.3 s on a slow core; the margin is for a busy machine.
    assert time.perf_counter() - start < 5


def test_version_is_one_line() -> None:
    assert semantic("--version", expect=0).startswith("semantic ")


def test_an_unknown_command_is_refused() -> None:
    assert "No such command 'sevre'" in semantic("sevre", expect=2)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_command_line_extra_a_message_says_how_to_get_it(missing: str) -> None:
    text = semantic("--help", expect=2, blocked=(missing,))
    assert "pip install 'semantic-kv[serve]'" in text
    assert missing in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("serve", "mlx"),
        ("serve", "mlx_lm"),
        ("demo", "mlx_lm"),
        ("demo", "httpx"),
        ("demo", "matplotlib"),
    ],
)
def test_without_its_extra_a_command_says_how_to_get_it(command: str, missing: str) -> None:
    text = semantic(command, expect=2, blocked=(missing,))
    assert "pip install 'semantic-kv[serve]'" in text
    assert missing in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("option", "missing"), [("--json", "numpy"), ("--plot=a.png", "matplotlib")]
)
def test_without_its_extra_a_simulation_says_how_to_get_it(option: str, missing: str) -> None:
    needed = ("x.csv", "--model", "llama-3.1-8b", "--memory", "1GB")
    text = semantic("simulate", *needed, option, expect=2, blocked=(missing,))
    assert "pip install 'semantic-kv[serve]'" in text
    assert missing in text
    assert "Traceback" not in text


def test_help_of_serve_works_without_mlx_and_says_what_is_missing() -> None:
    text = semantic("serve", "--help", expect=0, blocked=("mlx", "mlx_lm"))
    assert "--kv-memory" in text
    assert "pip install 'semantic-kv[serve]'" in text


@pytest.mark.parametrize("size", ["0", "-1", "abc", "nan", "1e400", ""])
@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_wrong_memory_size_is_refused_by_its_option(command: str, size: str) -> None:
    text = semantic(command, f"--kv-memory={size}", expect=2)
    assert "--kv-memory" in text
    assert "is no memory size" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "wrong", [("--agents", "0"), ("--turns", "-1"), ("--max-tokens", "x"), ("--system-tokens", "0")]
)
def test_the_demo_refuses_numbers_that_make_no_demo(wrong: tuple[str, str]) -> None:
    assert wrong[0] in semantic("demo", *wrong, expect=2)


def test_the_demo_says_when_its_folder_cannot_be_made(tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm", reason="the demo needs mlx-lm")
    (tmp_path / "file").write_text("in the way")
    text = semantic("demo", "--out", str(tmp_path / "file" / "out"), expect=1)
    assert "semantic demo:" in text
    assert "Traceback" not in text


def test_a_store_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    said = semantic("serve", "--model", "x", "--store-max", "1GB", expect=2)
    assert "need --store" in said
    file = tmp_path / "file"
    file.write_text("no folder")
    said = semantic("serve", "--model", "x", "--store", str(file), expect=1)
    assert said.strip() == f"semantic serve: {file}: it is no folder"
