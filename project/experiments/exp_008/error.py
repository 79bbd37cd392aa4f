"""What error do blocks that are quantised at rest bring into what is computed from them?

    python project/experiments/exp_008/error.py

Tiny float32 models with random weights, one per family, their head width set to 128 so that every
group size divides it. A prefix is computed, committed under each form and restored; the tail's
logits, and the likeliest next tokens while both are fed the same text, are compared with those of
the caches that never were in a block. Then the rows of a block that is not full, over turns.

Writes error.csv and turns.csv beside this file, and from them the tables between the markers of
EXP-008-quantised-at-rest.md; with --tables only these.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from semantic import BlockPool, CacheManager, ModelCacheSpec
from semantic.mlx import MlxMaterialiser, probe, spec_from_config
from semantic.testing.architectures import architectures
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.tiny_models import tiny_model

HERE = Path(__file__).parent
REPORT = HERE.parent / "EXP-008-quantised-at-rest.md"

WIDE = {"head_dim": 128}
DIVIDED = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
LATENT = {"kv_lora_rank": 128, "qk_rope_head_dim": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": WIDE,
    "qwen3": WIDE,
    "phi3": DIVIDED,
    "glm4": WIDE,
    "gemma3_text": {**WIDE, "query_pre_attn_scalar": 128, "sliding_window": 300},
    "cohere2": {**WIDE, "hidden_size": 512, "sliding_window": 300},
    "gpt_oss": {**WIDE, "sliding_window": 128},
    "mixtral": DIVIDED,
    "deepseek_v3": LATENT,
    "deepseek_v32": {**LATENT, "index_head_dim": 128},
    "qwen3_next": WIDE,
    "jamba": DIVIDED,
}
PRESETS = ("llama-3.1-8b", "gemma-3-12b", "gpt-oss-20b", "qwen2.5-14b")
FORMS = [(bits, group_size) for bits in (8, 4) for group_size in (32, 64, 128)]
PREFIXES = (512, 600)
TAILS = (1, 8)
DECODED = 32
PROMPTS = 3
TURN_TOKENS = 16
TURNS = 14

Row = dict[str, Any]


def tokens_of(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(128) for _ in range(count)]


def config_of(family: str) -> dict[str, Any]:
    return {**architectures()[family], **FAMILIES[family]}


def feed(model: Any, tokens: Sequence[int], caches: list[Any]) -> mx.array:
    """Put tokens in as generate_step does, the last one alone; the logits after it."""
    if len(tokens) > 1:
        model(mx.array([tokens[:-1]]), cache=caches)
        mx.eval([cache.state for cache in caches])
    logits = model(mx.array([tokens[-1:]]), cache=caches)[0, -1]
    mx.eval(logits)
    return logits


def memory_of(spec: ModelCacheSpec, *, keep_quantised: bool = False) -> CacheManager:
    materialiser = MlxMaterialiser(keep_quantised=keep_quantised)
    return CacheManager(spec, BlockPool(spec, total_memory=1 << 30), materialiser=materialiser)


def commit(memory: CacheManager, tokens: Sequence[int], caches: list[Any]) -> None:
    with memory.admit("a", tokens) as lease:
        assert lease.commit(tokens, caches).published_tokens == len(tokens)


def restored(memory: CacheManager, tokens: Sequence[int]) -> list[Any]:
    with memory.admit("b", [*tokens, 0]) as lease:
        assert lease.cached_tokens == len(tokens)
        caches = lease.materialise()
    assert caches is not None
    return caches


def greedy(model: Any, logits: mx.array, caches: list[Any]) -> list[int]:
    """The next tokens, each the likeliest."""
    tokens = [int(mx.argmax(logits).item())]
    while len(tokens) < DECODED:
        tokens.append(int(mx.argmax(feed(model, tokens[-1:], caches)).item()))
    return tokens


def agreeing(model: Any, logits: mx.array, caches: list[Any], text: list[int]) -> list[bool]:
    """Whether the likeliest token is the text's, at each of its tokens, the text being fed."""
    agree = []
    for token in text:
        agree.append(int(mx.argmax(logits).item()) == token)
        logits = feed(model, [token], caches)
    return agree


# The error of one restore -----------------------------------------------------------------------


class Prefix:
    """A computed prefix, and what follows when it never was in a block."""

    def __init__(self, model: Any, seed: int, length: int) -> None:
        tokens = tokens_of(seed, length + max(TAILS))
        self.tokens, self.after = tokens[:length], tokens[length:]
        self.caches = make_prompt_cache(model)
        feed(model, self.tokens, self.caches)
        self.logits = {}
        for tail in TAILS:
            caches = copy.deepcopy(self.caches)
            self.logits[tail] = feed(model, self.after[:tail], caches)
        self.text = greedy(model, self.logits[max(TAILS)], caches)


def measure(family: str) -> Iterator[Row]:
    model = tiny_model(config_of(family))
    plain = probe(model)
    forms = {(0, 0): plain} | {form: plain.quantised_at_rest(*form) for form in FORMS}
    for seed in range(PROMPTS):
        for length in PREFIXES:
            prefix = Prefix(model, seed, length)
            for (bits, group_size), spec in forms.items():
                memory = memory_of(spec)
                commit(memory, prefix.tokens, copy.deepcopy(prefix.caches))
                known = {"family": family, "bits": bits, "group_size": group_size}
                known |= {"prefix": length, "prompt": seed}
                for tail in TAILS:
                    yield known | {"tail": tail} | compared(model, memory, prefix, tail)


def compared(model: Any, memory: CacheManager, prefix: Prefix, tail: int) -> Row:
    caches = restored(memory, prefix.tokens)
    logits, expected = feed(model, prefix.after[:tail], caches), prefix.logits[tail]
    difference, scale = mx.abs(logits - expected), mx.max(mx.abs(expected))
    row: Row = {
        "max_difference": float(mx.max(difference) / scale),
        "mean_difference": float(mx.mean(difference) / scale),
        "equal_before_first_difference": "",
        "equal_of_32": "",
        "different_tokens": "",
    }
    if tail == max(TAILS):
        agree = agreeing(model, logits, caches, prefix.text)
        row["equal_before_first_difference"] = [*agree, False].index(False)
        row["equal_of_32"] = sum(agree)
        row["different_tokens"] = len(set(prefix.text))
    return row


# The rows of a block that is not full, over turns -----------------------------------------------


def turns(dtype: str) -> Iterator[Row]:
    """Each turn restores, adds a few tokens and commits: the last block is captured again."""
    model = tiny_model(config_of("llama"), dtype=dtype)
    for bits in (8, 4):
        for keep_quantised in (False, True):
            first = 256 + TURN_TOKENS
            tokens = tokens_of(0, first + TURNS * TURN_TOKENS)
            spec = probe(model).quantised_at_rest(bits)
            memory = memory_of(spec, keep_quantised=keep_quantised)
            caches = make_prompt_cache(model)
            feed(model, tokens[:first], caches)
            original = rows_of(caches, first)
            for turn in range(TURNS):
                end = first + turn * TURN_TOKENS
                commit(memory, tokens[:end], caches)
                caches = restored(memory, tokens[:end])
                error = [
                    mx.abs(a - b) for a, b in zip(rows_of(caches, first), original, strict=True)
                ]
                yield {
                    "dtype": dtype,
                    "bits": bits,
                    "group_size": 64,
                    "restored_as": "QuantizedKVCache" if keep_quantised else "KVCache",
                    "times_in_a_block": turn + 1,
                    "mean_error": part(mx.mean, error, original),
                    "max_error": part(mx.max, error, original),
                }
                feed(model, tokens[end : end + TURN_TOKENS], caches)


def rows_of(caches: list[Any], end: int) -> list[mx.array]:
    """Keys and values of the positions from 256 to `end`, in float32."""
    return [
        rows[..., 256:end, :].astype(mx.float32)
        for cache in caches
        for rows in map(plain_rows(cache), (cache.keys, cache.values))
    ]


def plain_rows(cache: Any) -> Callable[[Any], mx.array]:
    if not hasattr(cache, "bits"):
        return lambda rows: rows
    return lambda rows: mx.dequantize(*rows, group_size=cache.group_size, bits=cache.bits)


def part(of: Callable[..., mx.array], error: list[mx.array], original: list[mx.array]) -> float:
    """The mean or the largest error, as a part of the rows' mean magnitude."""
    scale = fmean(float(mx.mean(mx.abs(rows))) for rows in original)
    found = [float(of(array)) for array in error]
    return (max(found) if of is mx.max else fmean(found)) / scale


# The tables -------------------------------------------------------------------------------------


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def by_form(rows: Sequence[Row], cell: Callable[[list[Row]], str], *, plain: bool) -> str:
    forms = [(0, 0), *FORMS] if plain else FORMS
    head = ["family", *("plain" if not b else f"{b} bits / {g}" for b, g in forms)]
    lines = []
    for family in FAMILIES:
        cells = []
        for form in forms:
            mine = [r for r in rows if (r["family"], r["bits"], r["group_size"]) == (family, *form)]
            cells.append(cell(mine))
        lines.append([family, *cells])
    return table(head, lines)


def differences(rows: list[Row]) -> str:
    largest = max(row["max_difference"] for row in rows)
    return f"{largest:.2g} ({fmean(row['mean_difference'] for row in rows):.1g})"


def agreement(rows: list[Row]) -> str:
    decoded = [row for row in rows if row["equal_of_32"] != ""]
    first = fmean(row["equal_before_first_difference"] for row in decoded)
    return f"{fmean(row['equal_of_32'] for row in decoded):.1f} ({first:.1f})"


def factors() -> str:
    """How many times fewer bytes a sequence's blocks have, for models with the same answer."""
    configs = {name: (4096, preset(name)) for name in PRESETS}
    configs |= {f"tiny {family}": (600, config_of(family)) for family in FAMILIES}
    found: dict[tuple[str, ...], list[str]] = {}
    for name, (n_tokens, config) in configs.items():
        spec = spec_from_config(config, kv_dtype="bfloat16")
        plain = spec.cached_bytes(n_tokens)
        parts = [f"{plain / spec.quantised_at_rest(*f).cached_bytes(n_tokens):.2f}" for f in FORMS]
        found.setdefault(tuple(parts), []).append(name)
    head = ["bf16 caches of", *(f"{bits} bits / {group_size}" for bits, group_size in FORMS)]
    return table(head, [[", ".join(names), *parts] for parts, names in found.items()])


def preset(name: str) -> dict[str, Any]:
    file = resources.files("semantic") / "presets" / f"{name}.json"
    config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return config


def turn_table(rows: Sequence[Row]) -> str:
    shown = (1, 2, 4, 8, TURNS)
    found: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in rows:
        key = (row["dtype"], str(row["bits"]), row["restored_as"])
        found.setdefault(key, {})[row["times_in_a_block"]] = row
    head = ["dtype", "bits", "restored as", *(f"{n} times" if n > 1 else "once" for n in shown)]
    lines = [
        [*key, *(f"{by[n]['mean_error']:.2%} ({by[n]['max_error']:.1%})" for n in shown)]
        for key, by in found.items()
    ]
    return table(head, lines)


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def read_csv(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def put(name: str, text: str) -> None:
    """Replace what stands between a pair of markers of the report."""
    page = REPORT.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
    page, count = between.subn(lambda m: f"{m[1]}{text}\n{m[2]}", page)
    assert count == 1, name
    REPORT.write_text(page, encoding="utf-8")


def measure_all() -> None:
    with cpu_stand_ins():
        rows: list[Row] = []
        for family in FAMILIES:
            rows += measure(family)
            print(family, flush=True)
        over_turns = [row for dtype in ("float32", "bfloat16") for row in turns(dtype)]
    write_csv(HERE / "error.csv", rows)
    write_csv(HERE / "turns.csv", over_turns)


def write_tables() -> None:
    rows = read_csv(HERE / "error.csv")
    put("differences", by_form(rows, differences, plain=True))
    put("tokens", by_form(rows, agreement, plain=False))
    put("turns", turn_table(read_csv(HERE / "turns.csv")))
    with cpu_stand_ins():
        put("memory", factors())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true", help="from the CSV files as they are")
    if not parser.parse_args().tables:
        measure_all()
    write_tables()


if __name__ == "__main__":
    main()
