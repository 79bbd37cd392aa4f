"""EXP-015: what does it cost to know a model by all of its bytes, the first time and later?

Run: python project/experiments/exp_015/bench_fingerprint.py [--record] [--gigabytes 2]
BLAKE3 is measured where its wheel is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semantic.adapters.fingerprint import file_identity
from semantic.adapters.fingerprint.model_files import MODEL_CONFIG, fingerprint

HERE = Path(__file__).parent
ROUNDS = 7
SHARDS = 4
CHUNK = os.urandom(4 << 20)


def hashes() -> dict[str, Callable[[], Any]]:
    """Candidates; each gives a new digest that works on one thread."""
    found: dict[str, Callable[[], Any]] = {
        "SHA-256 (hashlib)": hashlib.sha256,
        "BLAKE2b (hashlib)": hashlib.blake2b,
        "SHA-512 (hashlib)": hashlib.sha512,
    }
    try:
        blake3 = importlib.import_module("blake3")
    except ImportError:
        return found
    return found | {"BLAKE3 (wheel)": lambda: blake3.blake3(max_threads=1)}


def gigabytes_per_cpu_second(new: Callable[[], Any]) -> float:
    """Bytes in memory, hashed on one thread."""
    digest, start = new(), time.thread_time()
    for _ in range(32):
        digest.update(CHUNK)
    digest.hexdigest()
    return float(32 * len(CHUNK) / 1e9 / (time.thread_time() - start))


def start(folder: Path) -> dict[str, float]:
    """One start of a server: wall and processor seconds of its fingerprint."""
    wall, cpu = time.perf_counter(), time.process_time()
    fingerprint(folder, MODEL_CONFIG)
    return {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def starts(gigabytes: float) -> dict[str, Any]:
    """A model of four shards in the page cache, started for the first time and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        (folder / MODEL_CONFIG).write_text("{}")
        for shard in range(SHARDS):
            with (folder / f"model-{shard}.safetensors").open("wb") as file:
                for _ in range(int(gigabytes * 1e9) // SHARDS // len(CHUNK)):
                    file.write(CHUNK)
        time.sleep(file_identity.SETTLED_AFTER_NS / 1e9 + 0.1)
        n_bytes = sum(file.stat().st_size for file in folder.iterdir())
        first, later = [], []
        for _ in range(ROUNDS):
            shutil.rmtree(f"{name}/cache", ignore_errors=True)
            first.append(start(folder))
            later.append(start(folder))
    return {"bytes": n_bytes, "first": first, "later": later}


def main() -> None:
    """Measure, print medians, and keep the raw numbers when asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--gigabytes", type=float, default=2)
    options = parser.parse_args()
    rates = {name: [] for name in hashes()}
    for _ in range(ROUNDS):
        for name, new in hashes().items():
            rates[name].append(gigabytes_per_cpu_second(new))
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.2f} GB per second of a core")
    measured = starts(options.gigabytes)
    for which in ("first", "later"):
        for unit in ("wall_seconds", "cpu_seconds"):
            median = statistics.median(one[unit] for one in measured[which])
            print(f"{which} start of {measured['bytes'] / 1e9:.1f} GB, {unit}: {median:.4f}")
    if options.record:
        machine = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        raw = {"machine": machine, "gigabytes_per_cpu_second": rates, "starts": measured}
        (HERE / "rows.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
