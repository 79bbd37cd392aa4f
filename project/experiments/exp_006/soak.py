"""Is a limit of KV memory kept under a day's load, and is anybody lost?

    python project/experiments/exp_006/soak.py --seconds 240 --out DIR
    python project/experiments/exp_006/draw.py DIR

Clients with growing conversations come and go: most share a system prompt, some stream and hang up
half-way, some ask alone (a seed), some ask for more than there will ever be. The same load, by the
same seed, goes to stock mlx_lm.server and to ours, one after the other, each told the same limit.

Exits with 1 when ours took a byte more than its limit, by its own ledger or by mlx-lm's `nbytes`,
when a request was lost, or when something is still charged at the end.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from semantic.testing.handbook import handbook
from semantic.testing.tiny_models import GEMMA3_DEMO, chat_model

HERE = Path(__file__).parent
MODEL = {
    **GEMMA3_DEMO,
    "num_hidden_layers": 6,
    "sliding_window_pattern": 2,
    "sliding_window": 128,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
"""Much cache for little work: 3 global layers and 3 windows, 3 KiB a token."""
TEXT = handbook()
SYSTEM = TEXT[:2000]
CLASSES = ("held", "live", "staging", "cached")
PATIENCE_SECONDS = 300.0
PREFILL_STEP = 256


class Load:
    """Clients until the time is over, and what became of their requests."""

    def __init__(self, port: int, clients: int, seconds: float) -> None:
        self.port = port
        self.ends = time.monotonic() + seconds
        self.outcomes: Counter[str] = Counter()
        self.lost: list[str] = []
        self.turn_seconds: list[float] = []
        self._lock = threading.Lock()
        self.threads = [
            threading.Thread(target=self._client, args=(number,)) for number in range(clients)
        ]

    def run(self) -> None:
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()

    def _client(self, number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < self.ends:
            self._session(dice)

    def _session(self, dice: random.Random) -> None:
        messages = []
        if dice.random() < 0.8:
            messages.append({"role": "system", "content": SYSTEM})
        for _ in range(dice.randint(1, 8)):
            if time.monotonic() >= self.ends:
                return
            start = dice.randrange(len(TEXT) - 2000)
            question = TEXT[start : start + dice.randint(20, 1800)]
            messages.append({"role": "user", "content": question})
            body: dict[str, Any] = {"messages": messages, "max_tokens": dice.choice([2, 8, 24, 48])}
            if dice.random() < 0.1:
                body["seed"] = 7
            if dice.random() < 0.01:
                body["messages"] = [{"role": "user", "content": TEXT * 8}]
            hangs_up = dice.random() < 0.1
            begun = time.monotonic()
            answer = self._ask(body, hangs_up, dice)
            with self._lock:
                self.turn_seconds.append(time.monotonic() - begun)
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer or "."})
            time.sleep(dice.random() * 0.05)

    def _ask(self, body: dict[str, Any], hangs_up: bool, dice: random.Random) -> str | None:
        """The answer's text; None where the session ends."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                status, retry_after, text = self._post(body, hangs_up, dice)
            except (OSError, http.client.HTTPException, ValueError) as error:
                return self._count("lost", repr(error))
            if status == 200:
                self._count("hung up" if hangs_up else "served")
                return None if hangs_up else text
            if status == 503 and retry_after and time.monotonic() < until:
                self._count("asked to come back")
                time.sleep(float(retry_after))
                continue
            return self._count("too large" if status == 413 else "lost", f"{status}: {text[:200]}")

    def _post(
        self, body: dict[str, Any], hangs_up: bool, dice: random.Random
    ) -> tuple[int, str | None, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            sent = json.dumps({**body, "stream": hangs_up})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", sent, headers)
            reply = connection.getresponse()
            if reply.status == 200 and hangs_up:
                reply.read(dice.randint(1, 400))
                return 200, None, ""
            payload = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            return reply.status, reply.getheader("Retry-After"), payload.decode()
        content = json.loads(payload)["choices"][0]["message"]["content"]
        return 200, None, content or ""

    def _count(self, outcome: str, detail: str = "") -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome == "lost":
                self.lost.append(detail)


class Watch:
    """Our server's own ledger, read over HTTP all the time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.most_bytes = 0
        self.last: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def stats(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/v1/semantic/stats")
            return dict(json.loads(connection.getresponse().read()))
        finally:
            connection.close()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.last = self.stats()
            taken = sum(self.last["bytes"][name] for name in CLASSES)
            self.most_bytes = max(self.most_bytes, taken)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def started(kind: str, model: Path, samples: Path, limit_bytes: int) -> tuple[Any, int]:
    """A server that answers."""
    port = free_port()
    hub = samples.parent / "hub"
    hub.mkdir(exist_ok=True)
    options = ["--model", str(model), "--port", str(port), "--log-level", "ERROR"]
    options += ["--prefill-step-size", str(PREFILL_STEP), "--decode-concurrency", "16"]
    own = ["--limit-bytes", str(limit_bytes), "--samples", str(samples)]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), kind, *own, *options],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)},
        stdout=(samples.parent / f"{kind}.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    while True:
        if process.poll() is not None:
            raise SystemExit((samples.parent / f"{kind}.log").read_text())
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            time.sleep(0.1)


def soak(kind: str, model: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    samples = out / f"{kind}.csv"
    process, port = started(kind, model, samples, options.limit_bytes)
    Load(port, options.clients, options.warm_seconds).run()
    load = Load(port, options.clients, options.seconds)
    result: dict[str, Any] = {"server": kind, "limit_bytes": options.limit_bytes}
    if kind == "ours":
        with Watch(port) as watch:
            load.run()
            time.sleep(1)
        stats = watch.stats()
        result["ledger_most_bytes"] = watch.most_bytes
        result["left_charged_bytes"] = sum(stats["bytes"][name] for name in CLASSES[:3])
        result["queue"] = stats["queue"]
        result["failures"] = stats["failures"]
        result["hit_rate"] = round(stats["hit_rate"], 4)
    else:
        load.run()
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
    rows = [tuple(map(float, row)) for row in list(csv.reader(samples.open()))[1:]]
    result["most_bytes"] = int(max(row[1] + row[2] for row in rows))
    result["most_active_bytes"] = int(max(row[3] for row in rows))
    result["bytes_over_the_limit"] = max(0, result["most_bytes"] - options.limit_bytes)
    result["requests"] = dict(load.outcomes)
    result["lost"] = load.lost[:10]
    result["median_turn_seconds"] = round(statistics.median(load.turn_seconds), 3)
    result["turns"] = len(load.turn_seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120, help="of load for each server")
    parser.add_argument(
        "--warm-seconds", type=float, default=10, help="of load before, which is not counted"
    )
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--limit-bytes", type=int, default=40_000_000)
    parser.add_argument("--servers", default="stock,ours", help="which, in this order")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = chat_model(folder, MODEL, name="soak")
        results = [soak(kind, model, options.out, options) for kind in options.servers.split(",")]
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "command": " ".join(sys.argv),
        "seconds": options.seconds,
        "clients": options.clients,
        "results": results,
    }
    (options.out / "summary.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    bad = [
        result
        for result in results
        if result["server"] == "ours"
        and (
            result["bytes_over_the_limit"]
            or result["ledger_most_bytes"] > options.limit_bytes
            or result["left_charged_bytes"]
            or result["lost"]
            or "undercharged" in result["failures"]
        )
    ]
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
