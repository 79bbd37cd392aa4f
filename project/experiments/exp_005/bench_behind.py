"""Does writing behind generation slow generation down?

    python project/experiments/exp_005/bench_behind.py --folder /some/disk [--record]

Turns of a conversation with and without a store, side by side in time: each round runs both, in an
order that changes. What is timed is the decoding of a turn, while the turn before is being written.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from semantic import BlockPool, CacheManager, DiskStore, Namespace
from semantic.mlx import probe
from semantic.testing.tiny_models import tiny_model

HERE = Path(__file__).parent
BASE = {
    "model_type": "llama",
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": 4096,
}
CPU = {**BASE, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512}
GPU = {**BASE, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336}
GPU |= {"num_attention_heads": 32, "head_dim": 128}


class Talk:
    """One conversation that grows, with a memory of its own."""

    def __init__(self, model: Any, store: DiskStore | None, n_prompt: int) -> None:
        self.model = model
        spec = probe(model)
        self.memory = CacheManager(
            spec,
            BlockPool(spec, total_memory=2 << 30),
            store=store,
            namespace=Namespace("bench") if store else None,
        )
        self.n_prompt = n_prompt
        self.turns = 0

    def turn(self, n_tokens: int) -> float:
        """A prompt that nobody has seen, so that all of it is written; seconds per token."""
        self.turns += 1
        prompt = [self.turns, *range(self.n_prompt - 1)]
        with self.memory.admit("a", prompt, max_new_tokens=n_tokens) as lease:
            caches = lease.materialise() or make_prompt_cache(self.model)
            logits = self.model(mx.array([prompt[lease.cached_tokens :]]), cache=caches)
            token = mx.argmax(logits[:, -1], axis=-1)
            mx.eval(token)
            tokens = [token.item()]
            start = time.perf_counter()
            for _ in range(n_tokens):
                logits = self.model(token[None], cache=caches)
                token = mx.argmax(logits[:, -1], axis=-1)
                mx.eval(token)
                tokens.append(token.item())
            seconds = time.perf_counter() - start
            lease.commit([*prompt, *tokens[:-1]], caches)
        return seconds / n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench-behind"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--switch", type=float, default=0.005, help="sys.setswitchinterval")
    args = parser.parse_args()
    sys.setswitchinterval(args.switch)
    shutil.rmtree(args.folder, ignore_errors=True)
    is_gpu = mx.default_device() == mx.Device(mx.gpu)
    model = tiny_model(GPU, dtype="bfloat16") if is_gpu else tiny_model(CPU, dtype="float32")
    store = DiskStore(args.folder, 64 << 30, free_floor_bytes=0)
    talks = {"off": Talk(model, None, args.prompt), "on": Talk(model, store, args.prompt)}
    seconds: dict[str, list[float]] = {"off": [], "on": []}
    for number in range(args.rounds + 1):
        for name in ("off", "on") if number % 2 else ("on", "off"):
            # What is timed comes right after a turn of its own kind.
            talks[name].turn(2)
            found = talks[name].turn(args.tokens)
            if number:
                seconds[name].append(found)
            talks[name].memory.flush()
    ratios = [on / off for on, off in zip(seconds["on"], seconds["off"], strict=True)]
    summary = {
        "mlx": version("mlx"),
        "device": str(mx.default_device()),
        "written_bytes": store.stats()["bytes"],
        "seconds_per_token": {k: statistics.median(v) for k, v in seconds.items()},
        "ratio": {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        },
        "failures": talks["on"].memory.stats()["failures"],
    }
    print(json.dumps(summary, indent=1))
    if args.record:
        content = {**summary, "rounds": seconds}
        (HERE / "behind.json").write_text(json.dumps(content, indent=1) + "\n")
    talks["on"].memory.close()
    store.close()
    shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
