"""What does a conversation of 70 turns with three sub-agents cost in bytes, shared and unshared?

    python project/experiments/exp_010/conversation.py

A system prompt of 4,000 tokens; the main agent's 70 turns of 400 new tokens and 200 answered ones;
every tenth turn a sub-agent starts from the system prompt and works for ten turns of its own. All
of it through the real CacheManager, without tensors. "Unshared" is what those ends would cost
apart.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

from semantic import BlockPool, CacheManager, CheckpointPolicy
from semantic.cli.plan_models import spec_of
from semantic.cli.simulate.weightless import WeightlessMaterialiser
from semantic.mlx import spec_from_config
from semantic.testing.architectures import architectures

HERE = Path(__file__).parent
SYSTEM, ASKED, ANSWERED, TURNS = 4000, 400, 200, 70
MODELS = {
    "llama-3.1-8b": lambda: spec_of("llama-3.1-8b"),
    "gemma-3-12b": lambda: spec_of("gemma-3-12b"),
    "qwen3_next, tiny (a state hybrid)": lambda: spec_from_config(architectures()["qwen3_next"]),
}


def converse(spec):
    """Bytes at the end: cached, of the ends unshared, of every turn kept whole; the tokens hit."""
    ids = itertools.count()
    pool = BlockPool(spec, total_memory=1 << 42, arrays_max=1 << 40)
    memory = CacheManager(spec, pool, materialiser=WeightlessMaterialiser())
    whole = cached_tokens = prompt_tokens = 0

    def turn(agent: str, tokens: list[int]) -> None:
        nonlocal whole, cached_tokens, prompt_tokens
        tokens += itertools.islice(ids, ASKED)
        with memory.admit(agent, tokens) as lease:
            prompt_tokens += len(tokens)
            cached_tokens += lease.cached_tokens
            if not lease.cached_tokens:
                lease.checkpoint(tokens[:SYSTEM], [])
            tokens += itertools.islice(ids, ANSWERED)
            lease.commit(tokens, [])
        whole += spec.cached_bytes(len(tokens))

    system = list(itertools.islice(ids, SYSTEM))
    main = list(system)
    for number in range(TURNS):
        turn("main", main)
        if number % 10 == 9:
            side = list(system)
            for _ in range(10):
                turn(f"side {number}", side)
    cached = pool.snapshot().cached
    ends = memory.stats()["unshared_bytes"]
    return cached, ends, whole, cached_tokens / prompt_tokens, len(main)


def main() -> None:
    rows = []
    for name, make in MODELS.items():
        spec = make()
        cached, ends, whole, rate, n_tokens = converse(spec)
        rows.append(
            {
                "model": name,
                "tokens of the main agent": n_tokens,
                "cached bytes": cached,
                "bytes of the remembered ends unshared": ends,
                "bytes of every turn kept whole": whole,
                "checkpoint bytes at 30,000 tokens": CheckpointPolicy.bytes_at(spec, 30_000),
                "token hit rate": round(rate, 4),
            }
        )
        print(rows[-1])
    with (HERE / "conversation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
