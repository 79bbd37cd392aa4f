"""What does a fully cached prompt cost at admission, from a Python list to the lease and back?

    python project/experiments/exp_011/bench_admit.py [--rounds 400] [--record]

Ours: `CacheManager.admit` and `Lease.release` (list conversion, lookup with every token compared,
hold, live bytes charged, order of use; and all of it given back). The peer: `peer.py`, hashing
included. Interleaved in one run; medians and quartiles in microseconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from peer import PeerManager

from semantic import BlockPool, CacheManager
from semantic.cli.simulate.weightless import WeightlessMaterialiser
from semantic.domain.native import TokenIds
from semantic.mlx import spec_from_config

HERE = Path(__file__).parent
PRESET = Path(sys.modules["semantic"].__file__).parent / "presets" / "llama-3.1-8b.json"
LENGTHS = (512, 2048, 8192, 32768, 131072)


def memory_of(tokens: list[int]) -> CacheManager:
    spec = spec_from_config(PRESET)
    pool = BlockPool(spec, total_memory=128 << 30)
    memory = CacheManager(spec, pool, materialiser=WeightlessMaterialiser())
    with memory.admit("a", tokens) as lease:
        lease.commit(tokens, [])
    return memory


def microseconds(work, *given) -> float:
    start = perf_counter()
    work(*given)
    return (perf_counter() - start) * 1e6


def rows(rounds: int):
    for length in LENGTHS:
        tokens = [100_000 + n for n in range(length)]
        prompt = [*tokens, 1]
        memory, peer = memory_of(tokens), PeerManager(2 * length // 256 + 8)
        peer.admit("first", tokens)
        peer.release("first")
        assert peer.admit("again", prompt) == length
        peer.release("again")
        ready = TokenIds(prompt)

        def ours(given, memory=memory, length=length) -> None:
            lease = memory.admit("a", given)
            assert lease.cached_tokens == length
            lease.release()

        def theirs(given, peer=peer) -> None:
            peer.admit("r", given)
            peer.release("r")

        for _ in range(max(20, min(rounds, rounds * 8192 // length))):
            yield length, "semantic, from a list", microseconds(ours, prompt)
            yield length, "semantic, from TokenIds", microseconds(ours, ready)
            yield length, "list to TokenIds", microseconds(TokenIds, prompt)
            yield length, "pure-Python peer", microseconds(theirs, prompt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--record", action="store_true", help="write rows.csv and summary.json")
    options = parser.parse_args()
    measured: dict[tuple[int, str], list[float]] = {}
    for length, name, us in rows(options.rounds):
        measured.setdefault((length, name), []).append(us)
    summary = []
    for (length, name), times in measured.items():
        low, median, high = statistics.quantiles(times, n=4)
        summary.append(
            {"tokens": length, "what": name, "median_us": round(median, 2)}
            | {"quartiles_us": [round(low, 2), round(high, 2)], "n": len(times)}
        )
        print(f"{length:>7} {name:<26} {median:9.1f} us  ({low:.1f} to {high:.1f}, n={len(times)})")
    if options.record:
        about = {"machine": platform.processor() or platform.machine(), "python": sys.version}
        about |= {"semantic": version("semantic-kv")}
        (HERE / "summary.json").write_text(json.dumps({"about": about, "rows": summary}, indent=1))
        with (HERE / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["tokens", "what", "microseconds"])
            for (length, name), times in measured.items():
                writer.writerows((length, name, round(us, 2)) for us in times)


if __name__ == "__main__":
    main()
