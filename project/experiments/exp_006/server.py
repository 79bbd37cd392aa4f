"""One server of the soak, ours or stock, that writes down what its KV caches take.

Both are mlx_lm.server with the same options. After every step of the batch the bytes of the caches
that run and of those that are cached are read on the generation thread, by mlx-lm's own `nbytes`;
twenty times a second MLX's active memory beyond that of the loaded model. The greatest values of
each tenth of a second are written.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.server as mlx_server

BUCKET_SECONDS = 0.1
EVERY_SECONDS = 0.05


class Samples:
    """The greatest values since the last line, as lines of a CSV file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii", buffering=1)
        self._file.write("seconds,running_bytes,cached_bytes,active_bytes\n")
        self._lock = threading.Lock()
        self._start = self._written = time.monotonic()
        self._most = [0, 0, 0]
        self.cache: Any = None
        self.base_bytes: int | None = None

    def step(self, running_bytes: int) -> None:
        """On the generation thread, after a step."""
        if self.base_bytes is None:
            self.base_bytes = mx.get_active_memory() - running_bytes
        cached = self.cache.nbytes
        with self._lock:
            if running_bytes + cached > self._most[0] + self._most[1]:
                self._most[:2] = running_bytes, cached
        self._write()

    def active(self) -> None:
        """Any thread."""
        while True:
            time.sleep(EVERY_SECONDS)
            if self.base_bytes is not None:
                with self._lock:
                    beyond = mx.get_active_memory() - self.base_bytes
                    self._most[2] = max(self._most[2], beyond)
                self._write()

    def _write(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._written < BUCKET_SECONDS:
                return
            self._written = now
            values = ",".join(map(str, self._most))
            self._file.write(f"{now - self._start:.2f},{values}\n")
            self._most = [0, 0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["ours", "stock"])
    parser.add_argument("--limit-bytes", type=int, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    own, argv = parser.parse_known_args()
    samples = Samples(own.samples)
    threading.Thread(target=samples.active, daemon=True).start()

    class SampledBatch(mlx_server.BatchGenerator):
        def next(self) -> Any:
            answers = super().next()
            samples.step(self.prompt_cache_nbytes)
            return answers

    mlx_server.BatchGenerator = SampledBatch
    if own.kind == "ours":
        from semantic.adapters.mlx_lm.server import launch
        from semantic.mlx_lm import PromptCache

        def new_cache(**options: Any) -> PromptCache:
            samples.cache = PromptCache(**options)
            return samples.cache

        launch(argv, kv_memory=own.limit_bytes, new_cache=new_cache)
    else:

        class SampledCache(mlx_server.LRUPromptCache):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                samples.cache = self

        mlx_server.LRUPromptCache = SampledCache
        # By bytes alone, as ours is.
        size = ["--prompt-cache-size", "100000", "--prompt-cache-bytes", str(own.limit_bytes)]
        sys.argv = ["mlx_lm.server", *argv, *size]
        mlx_server.main()
    os._exit(0)


if __name__ == "__main__":
    main()
