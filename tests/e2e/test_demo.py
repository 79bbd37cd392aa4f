from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semantic.cli.demo.server import ServerProcess
from semantic.cli.demo.turns import DemoError


def test_a_short_demo_is_green_and_leaves_its_numbers(model: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out", tmp_path / "rows" / "rows.json"
    size = ("--agents", "2", "--turns", "2", "--system-tokens", "700", "--max-tokens", "8")
    places = ("--cache-dir", str(model.parent), "--out", str(out), "--json", str(rows))
    done = subprocess.run(
        [sys.executable, "-m", "semantic.cli", "demo", *size, *places],
        capture_output=True,
        text=True,
        timeout=300,
        # A proxy that does not exist must not matter.
        env={**os.environ, "COLUMNS": "160", "HTTP_PROXY": "http://127.0.0.1:9"},
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Every text equals stock" in said
    assert (out / "pool.png").read_bytes().startswith(b"\x89PNG")
    assert {log.name for log in out.glob("*.log")} == {
        "stock.log",
        "semantic.log",
        "semantic-at-once.log",
        "semantic-killed.log",
    }

    content = json.loads(rows.read_text(encoding="utf-8"))
    assert content["problems"] == []
    stock, ours, together, killed = content["passes"]
    assert [len(one["turns"]) for one in (stock, ours, together, killed)] == [4, 4, 4, 4]
    texts = [turn["text"] for turn in stock["turns"]]
    assert [turn["text"] for turn in ours["turns"]] == texts
    assert [turn["text"] for turn in killed["turns"]] == texts
    assert all(turn["completion_tokens"] == 8 for turn in ours["turns"])
    first, *later = ours["turns"]
    assert first["prompt_tokens"] > 700
    assert first["cached_tokens"] == 0
    assert all(turn["cached_tokens"] > 600 for turn in later)
    assert len(ours["after_turn"]) == 4


STARTS_AND_DIES = "import sys; print('no such luck'); sys.exit(3)"

DIES_AT_A_CHAT = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def answer(self):
        if 'chat' in self.path:
            print('out of luck', flush=True)
            os._exit(7)
        self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.send_response(200)
        self.end_headers()
    do_GET = do_POST = answer
HTTPServer(('127.0.0.1', int(sys.argv[-1])), Handler).serve_forever()
"""

ENDS_IN_THE_MIDDLE = DIES_AT_A_CHAT.replace(
    "            os._exit(7)\n",
    "            self.send_response(200)\n            self.end_headers()\n            return\n",
)


def test_a_server_that_dies_while_it_starts_is_told_with_its_log(tmp_path: Path) -> None:
    start = time.monotonic()
    with (
        pytest.raises(DemoError, match=r"(?s)'mine' died with status 3.*mine\.log.*no such luck"),
        ServerProcess("mine", ["-c", STARTS_AND_DIES], tmp_path),
    ):
        pass
    assert time.monotonic() - start < 10


def test_a_server_that_dies_in_a_request_is_told_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with (
        pytest.raises(DemoError, match=r"(?s)'mine' died with status 7.*mine\.log.*out of luck"),
        ServerProcess("mine", ["-c", DIES_AT_A_CHAT], tmp_path) as server,
    ):
        server.client.chat([{"role": "user", "content": "hello"}], max_tokens=1)
    assert time.monotonic() - start < 10


def test_an_answer_that_ends_early_is_no_answer(tmp_path: Path) -> None:
    with (
        pytest.raises(DemoError, match=r"(?s)ended in the middle.*mine\.log"),
        ServerProcess("mine", ["-c", ENDS_IN_THE_MIDDLE], tmp_path) as server,
    ):
        server.client.chat([{"role": "user", "content": "hello"}], max_tokens=1)
