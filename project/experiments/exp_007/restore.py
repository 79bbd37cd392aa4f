"""How fast are capture and restore, and what is left of the wait for the first token?

Builds a full-size model from a preset with random bf16 weights, fills a prompt, commits, restores
it, compares with (a) recomputing from scratch, (b) `copy.deepcopy` of a whole private cache and
(c) MLX's own copy of as many bytes. Medians over the repeats; every figure of one model comes from
one process. Prints one JSON object per model.

    python restore.py --models llama-3.1-8b gemma-3-12b --tokens 32768 --repeats 7
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from importlib import metadata, resources

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes

from semantic import BlockPool, CacheManager
from semantic.mlx import probe

VOCABULARY = 31_000


def build(preset: str):
    file = resources.files("semantic") / "presets" / f"{preset}.json"
    config = json.loads(file.read_text("utf-8"))
    config.pop("quantization_config", None)
    mx.random.seed(0)
    model_class, args_class = _get_classes(config=config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    return model


def prefill(model, tokens, caches, step=2048):
    for at in range(0, len(tokens), step):
        model(mx.array([tokens[at : at + step]]), cache=caches)
        mx.eval([c.state for c in caches])


def first_token(model, token, caches):
    mx.eval(mx.argmax(model(mx.array([[token]]), cache=caches)[0, -1]))


def timed(work, repeats, prepare=lambda: None):
    seconds = []
    for _ in range(repeats):
        prepared = prepare()
        mx.synchronize()
        start = time.perf_counter()
        kept = work(prepared) if prepared is not None else work()
        mx.synchronize()
        seconds.append(time.perf_counter() - start)
        del kept, prepared
    return seconds


def summary(seconds, n_bytes=None):
    median = statistics.median(seconds)
    result = {"median_ms": median * 1e3, "min_ms": min(seconds) * 1e3, "max_ms": max(seconds) * 1e3}
    if n_bytes is not None:
        result["GB_per_s_read_and_written"] = 2 * n_bytes / median / 1e9
    return result


def measure(preset: str, n_tokens: int, repeats: int) -> dict:
    model = build(preset)
    spec = probe(model)
    memory = CacheManager(spec, BlockPool(spec, total_memory=48 << 30))
    tokens = [(7 * i * i + 3 * i) % VOCABULARY for i in range(n_tokens + 1)]

    caches = make_prompt_cache(model)
    prefill(model, tokens[:512], make_prompt_cache(model))  # warm the kernels
    cold = timed(lambda: prefill(model, tokens[:-1], make_prompt_cache(model)), 2)
    prefill(model, tokens[:-1], caches)
    first_token(model, tokens[-1], copy.deepcopy(caches))

    def commit():
        memory.clear()
        with memory.admit("a", tokens[:-1]) as lease:
            report = lease.commit(tokens[:-1], caches)
        assert report.published_tokens == n_tokens, report

    captured = timed(commit, repeats)
    cached = memory.pool.snapshot().cached

    def restore():
        with memory.admit("b", tokens) as lease:
            assert lease.cached_tokens == n_tokens
            return lease.materialise()

    def evaluated():
        restored = restore()
        mx.eval([(c.keys, c.values) for c in restored])
        return restored

    restored = evaluated()
    restored_bytes = sum(c.nbytes for c in restored)
    assert restored_bytes == spec.live_bytes(n_tokens)
    del restored
    flat = mx.random.uniform(shape=(restored_bytes // 4,))
    mx.eval(flat)
    return {
        "model": preset,
        "tokens": n_tokens,
        "repeats": repeats,
        "restored_bytes": restored_bytes,
        "cached_bytes": cached,
        "cold_prefill": summary(cold),
        "commit": summary(captured, cached),
        "plan_and_hold_only": summary(timed(restore, repeats)),
        "restore": summary(timed(evaluated, repeats), restored_bytes),
        "mlx_copy": summary(
            timed(lambda: mx.eval(x := mx.contiguous(flat + 0)) or x, repeats), restored_bytes
        ),
        "first_token_after_restore": summary(
            timed(lambda: first_token(model, tokens[-1], restore()), repeats)
        ),
        "first_token_after_deepcopy": summary(
            timed(lambda: first_token(model, tokens[-1], copy.deepcopy(caches)), repeats)
        ),
        "peak_memory_bytes": mx.get_peak_memory(),
        "device": str(mx.device_info().get("device_name", mx.default_device())),
        "versions": {n: metadata.version(n) for n in ("mlx", "mlx-lm")}
        | {"python": platform.python_version()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["llama-3.1-8b", "gemma-3-12b"])
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    for preset in arguments.models:
        print(json.dumps(measure(preset, arguments.tokens, arguments.repeats)), flush=True)
        mx.clear_cache()


if __name__ == "__main__":
    main()
