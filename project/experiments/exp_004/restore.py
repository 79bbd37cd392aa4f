"""Restored against recomputed, for every architecture: the matrix of EXP-004.

    PYTHONPATH=. .venv/bin/python project/experiments/exp_004/restore.py [NAME ...]

Writes restore.csv beside itself (or to $OUT), one row per architecture.
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import mlx.core as mx
from rich.progress import track
from tests.conftest import distance, fresh_caches, greedy, random_tokens
from tests.seam.test_every_architecture import CANNOT_BATCH, Turns, batch

from semantic.testing.architectures import architectures
from semantic.testing.stand_ins import cpu_stand_ins

CUTS = (1, 20, 31, 32, 33, 64, 255, 256, 257, 300)
TAILS = (1, 8)
FIELDS = (
    "architecture",
    "worst_same_calls",
    "worst_one_call",
    "greedy_equal_of_32",
    "batch_restored_vs_computed",
    "batch_vs_alone_in_mlx_lm",
)


def main() -> None:
    out = Path(os.environ.get("OUT", Path(__file__).parent)) / "restore.csv"
    with out.open("w", newline="") as file, cpu_stand_ins():
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for name in track(sys.argv[1:] or sorted(architectures()), "architectures"):
            table.writerow({"architecture": name, **measured(name)})
            file.flush()


def measured(name: str) -> dict[str, object]:
    """One row; an architecture that fails is named, and does not end the run."""
    try:
        return {**alone(Turns(name)), **together(name)}
    except Exception as error:
        return {"worst_same_calls": f"failed: {error!r}"[:120]}


def alone(turns: Turns) -> dict[str, object]:
    """The largest differences over all cuts and tails, as parts of the logits' scale."""
    tokens = random_tokens(max(CUTS) + max(TAILS))
    same = whole = 0.0
    for n in CUTS:
        turns.manager.clear()
        turns.commit(tokens[:n], turns.computed(tokens[:n]))
        for tail in TAILS:
            after = tokens[: n + tail]
            caches, fresh = turns.restored(after, n), turns.computed(tokens[:n])
            logits = turns.feed(after[n:], caches)
            expected = turns.feed(after[n:], fresh)
            same = max(same, distance(logits, expected))
            at_once = turns.feed(after, fresh_caches(turns.model))
            whole = max(whole, distance(logits, at_once))
    ours = greedy(turns.model, logits, caches, 32)
    theirs = greedy(turns.model, expected, fresh, 32)
    agreeing = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return {
        "worst_same_calls": f"{same:.1e}",
        "worst_one_call": f"{whole:.1e}",
        "greedy_equal_of_32": agreeing,
    }


def together(name: str) -> dict[str, object]:
    """BatchGenerator over restored and over computed caches; and over computed ones alone."""
    if name in CANNOT_BATCH:
        return {
            "batch_restored_vs_computed": f"mlx-lm cannot: {CANNOT_BATCH[name]}",
            "batch_vs_alone_in_mlx_lm": "",
        }
    turns = Turns(name)
    lengths, extra = (20, 290, 70), (1, 9, 4)
    prompts = [random_tokens(n + 9, seed=n) for n in lengths]
    tails = [p[n : n + more] for p, n, more in zip(prompts, lengths, extra, strict=True)]
    if turns.recipe.longest_call_tokens == 1:
        tails = [tail[:1] for tail in tails]
    computed = [turns.computed(p[:n]) for p, n in zip(prompts, lengths, strict=True)]
    for prompt, n, caches in zip(prompts, lengths, computed, strict=True):
        turns.commit(prompt[:n], caches)
    restored = [turns.restored(p, n) for p, n in zip(prompts, lengths, strict=True)]
    singles = [turns.computed(p[:n]) for p, n in zip(prompts, lengths, strict=True)]
    expected, found = batch(turns, computed, tails), batch(turns, restored, tails)
    worst = max(
        distance(a.logprobs, b.logprobs)
        for uid in expected
        for a, b in zip(found[uid], expected[uid], strict=True)
    )
    own = 0.0
    for caches, tail, answers in zip(singles, tails, expected.values(), strict=True):
        (by_itself,) = batch(turns, [caches], [tail]).values()
        own = max(own, distance(answers[0].logprobs, by_itself[0].logprobs))
    mx.clear_cache()
    return {
        "batch_restored_vs_computed": f"{worst:.1e}",
        "batch_vs_alone_in_mlx_lm": f"{own:.1e}",
    }


if __name__ == "__main__":
    main()
