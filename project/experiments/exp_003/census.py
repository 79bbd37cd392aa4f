"""EXP-003: the cache of every architecture that mlx-lm has, from its spec alone.

    python project/experiments/exp_003/census.py [--out DIR]

Probes the tiny configurations of `semantic.testing.architectures` and writes

    census.csv                      a row for each architecture
    ../EXP-003-cache-census.md      its tables, between their markers

The geometry needs no evaluation. The last table does: it fills the caches of the architectures
that may keep views, and asks MLX what is allocated.
"""

from __future__ import annotations

import argparse
import csv
import gc
import platform
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map_with_path
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache
from mlx_lm.utils import _get_classes

from semantic import BlockPool, CacheManager, ModelCacheSpec
from semantic.adapters.mlx.layout import plain_entries
from semantic.adapters.mlx.lazy_forward import shapes_only
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.layer_group import LayerGroup
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model, architectures, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.tiny_models import lazy_model

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "EXP-003-cache-census.md"
DTYPES = ("bfloat16", "float32", "float16")
SHORT = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}
PROMPT, DECODED = 600, 3

Row = dict[str, Any]


# --- geometry, never evaluated ------------------------------------------------------------------
def converted(model: Any, dtype: str) -> Any:
    """The model with its parameters in `dtype`, but for those that `mlx_lm.convert` keeps."""
    casts = getattr(model, "cast_predicate", lambda path: True)

    def cast(path: str, parameter: mx.array) -> mx.array:
        if casts(path) and mx.issubdtype(parameter.dtype, mx.floating):
            return parameter.astype(getattr(mx, dtype))
        return parameter

    model.update(tree_map_with_path(cast, model.parameters()))
    return model


def class_of(entry: CacheEntry) -> str:
    """The class of an entry without its module; of a list, with those of its children."""
    name = entry.class_name.rsplit(".", maxsplit=1)[-1]
    if not entry.children:
        return name
    return f"{name}({'+'.join(class_of(child) for child in entry.children)})"


def family(spec: ModelCacheSpec) -> str:
    entries = spec.entries or plain_entries(spec)
    return " + ".join(sorted({class_of(entry) for entry in entries}))


def shapes(group: LayerGroup) -> str:
    """Heads x widths of rows, or the shapes of states."""
    if group.state_tensors:
        return ", ".join("x".join(map(str, t.shape)) for t in group.state_tensors)
    heads = group.token_tensors[0].heads
    widths = "/".join(str(dim) for dim in dict.fromkeys(t.dim for t in group.token_tensors))
    return f"{heads}x{widths}"


def bound(group: LayerGroup) -> str:
    span = group.window or group.chunk
    return "" if span is None else f" {span}"


def dtypes(spec: ModelCacheSpec) -> list[str]:
    return sorted({t.dtype for group in spec.groups for t in group.tensors})


def described(groups: Iterable[LayerGroup]) -> str:
    return "; ".join(f"{g.n_layers} {g.layer_type}{bound(g)}: {shapes(g)}" for g in groups)


def per_token(groups: Iterable[LayerGroup]) -> int:
    return sum(group.bytes_per_token_per_layer * group.n_layers for group in groups)


def key_value_differ(group: LayerGroup) -> bool:
    dims = {t.name: t.dim for t in group.token_tensors}
    return dims.get("keys") != dims.get("values")


def trimmable(model: Any, name: str) -> bool:
    caches = make_prompt_cache(model)
    with shapes_only(model):
        for count in calls(name):
            model(mx.zeros((1, count), dtype=mx.int32), cache=caches)
    return bool(can_trim_prompt_cache(caches))


def calls(name: str, *, decoded: int = DECODED) -> list[int]:
    """Tokens of each call: the prompt at once where the model can, then one by one."""
    longest = recipe_of(name).longest_call_tokens or PROMPT
    return [longest] * (PROMPT // longest) + [1] * decoded


def geometry(name: str, config: dict[str, Any]) -> Row:
    models = {d: converted(lazy_model(config, dtype="float32"), d) for d in DTYPES}
    specs = {dtype: probe(model) for dtype, model in models.items()}
    spec, model = specs["bfloat16"], models["bfloat16"]
    growing = [g for g in spec.groups if g.token_tensors]
    return {
        "model_type": name,
        "module": _get_classes(config)[0].__module__.removeprefix("mlx_lm.models."),
        "family": family(spec),
        "layers": len(model.layers),
        "entries": spec.n_entries,
        "leaf_caches": spec.n_layers,
        "groups": len(spec.groups),
        "layout": described(spec.groups),
        **{f"dtypes_{SHORT[d]}": " ".join(dtypes(s)) for d, s in specs.items()},
        "mixed_dtypes": len(dtypes(spec)) > 1,
        "bytes_per_token": per_token(growing),
        "bytes_per_token_for_good": per_token(g for g in growing if not g.is_bounded),
        "state_bytes": sum(g.bytes_per_block for g in spec.groups if g.layer_type == "state"),
        "entries_differ_from_layers": spec.n_entries != len(model.layers),
        "keys_differ_from_values": any(map(key_value_differ, growing)),
        "bounded_groups": " ".join(g.name for g in spec.groups if g.is_bounded),
        "trimmable": trimmable(model, name),
    }


# --- what views keep alive, measured ------------------------------------------------------------
def may_keep_views(row: Row) -> bool:
    """Plain key-value buffers are written into, so they are arrays of their own."""
    return bool(row["bounded_groups"])


def held_memory(name: str) -> Row:
    """Bytes of the caches, what MLX holds for them, and what a commit says and does about it."""
    model = converted(architecture_model(name), "bfloat16")
    mx.eval(model.parameters())
    spec = probe(model)
    rng = random.Random(0)
    tokens = [rng.randrange(128) for _ in range(PROMPT + DECODED)]
    found: Row = {}
    for decoded in (0, DECODED):
        at = PROMPT + decoded
        manager = CacheManager(spec, BlockPool(spec, total_memory=1 << 30))
        gc.collect()
        before = mx.get_active_memory()
        caches = run(model, tokens, calls(name, decoded=decoded))
        found[f"nbytes_{at}"] = sum(cache.nbytes for cache in caches)
        found[f"held_{at}"] = mx.get_active_memory() - before
        with manager.admit("a", tokens[:at]) as lease:
            lease.commit(tokens[:at], caches)
        del lease
        found[f"view_bytes_{at}"] = manager.stats()["view_bytes"]
        manager.clear()
        gc.collect()
        found[f"held_after_commit_{at}"] = mx.get_active_memory() - before
        del caches
    return found


def run(model: Any, tokens: Sequence[int], counts: Iterable[int]) -> list[Any]:
    caches = list(make_prompt_cache(model))
    at = 0
    for count in counts:
        logits = model(mx.array([tokens[at : at + count]]), cache=caches)
        mx.eval(logits, [cache.state for cache in caches])
        at += count
    del logits
    gc.collect()
    return caches


# --- tables -------------------------------------------------------------------------------------
def table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def collected(rows: Iterable[Row], *fields: str) -> list[tuple[str, list[str]]]:
    """The architectures that agree in these fields, most first."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        found.setdefault(tuple(row[f] for f in fields), []).append(row["model_type"])
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [(" | ".join(map(str, key)), names) for key, names in ordered]


def families(rows: list[Row]) -> str:
    found = collected(rows, "family")
    lines = [(key, len(names), ", ".join(names)) for key, names in found]
    return table(("family", "count", "model types"), [*lines, ("all", len(rows), "")])


def layouts(rows: list[Row]) -> str:
    fields = ("layers", "entries", "leaf_caches", "groups", "layout", "bytes_per_token")
    found = collected(rows, *fields, "bytes_per_token_for_good", "state_bytes")
    heads = ("layers", "entries", "leaves", "groups", "layout", "B/token", "for good", "states B")
    lines = [(key, ", ".join(names)) for key, names in found]
    return table((*heads, "model types"), lines)


def entry_counts(rows: list[Row]) -> str:
    fields = ("model_type", "layers", "entries", "leaf_caches")
    lines = [[r[f] for f in fields] for r in rows if r["entries_differ_from_layers"]]
    return table(("model type", "layers", "entries", "leaf caches"), lines)


def widths(rows: list[Row]) -> str:
    kinds = ("global", "sliding_window", "chunked")
    lines = []
    for row in rows:
        parts = [p for p in row["layout"].split("; ") if p.split(" ")[1].rstrip(":") in kinds]
        different = len({p.rsplit(" ", maxsplit=1)[-1] for p in parts}) > 1
        if row["keys_differ_from_values"] or different:
            yes = "yes" if row["keys_differ_from_values"] else ""
            lines.append((row["model_type"], yes, "yes" if different else "", "; ".join(parts)))
    return table(("model type", "K != V", "layers differ", "layers: heads x widths"), lines)


def element_types(rows: list[Row]) -> str:
    names = [f"dtypes_{SHORT[dtype]}" for dtype in DTYPES]
    expected = dict(zip(names, DTYPES, strict=True))
    odd = [row for row in rows if any(row[n] != expected[n] for n in names)]
    lines = [(key, ", ".join(models)) for key, models in collected(odd, *names)]
    return table((*(f"{SHORT[d]} weights" for d in DTYPES), "model types"), lines)


def trimming(rows: list[Row]) -> str:
    count = Counter((row["trimmable"], bool(row["bounded_groups"])) for row in rows)
    lines = [
        (f"{'a' if bounded else 'no'} bounded group", count[True, bounded], count[False, bounded])
        for bounded in (False, True)
    ]
    at = PROMPT + DECODED
    return table((f"after {at} tokens", "trimmable", "not trimmable"), lines)


def views(rows: list[Row]) -> str:
    at, later = PROMPT, PROMPT + DECODED
    measured = [row for row in rows if row.get(f"nbytes_{at}") is not None]
    kept = [row for row in measured if row[f"held_{at}"] > 2 * row[f"nbytes_{at}"]]
    kept.sort(key=lambda row: -row[f"held_{at}"] / row[f"nbytes_{at}"])
    fields = [f"{f}_{n}" for n in (at, later) for f in MEASURED]
    lines = [[row["model_type"], *(f"{row[f]:,}" for f in fields)] for row in kept]
    heads = [f"{f.replace('_', ' ')} @{n}" for n in (at, later) for f in MEASURED]
    return table(("model type", *heads), lines)


MEASURED = ("nbytes", "held", "view_bytes", "held_after_commit")
TABLES: dict[str, Callable[[list[Row]], str]] = {
    "families": families,
    "layouts": layouts,
    "entries": entry_counts,
    "widths": widths,
    "dtypes": element_types,
    "trimming": trimming,
    "views": views,
}


def rewritten(text: str, rows: list[Row]) -> str:
    """The document with its tables as they are now."""
    versions = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, Python "
    made = {name: make(rows) for name, make in TABLES.items()}
    made["versions"] = f"{versions}{platform.python_version()}, {platform.system()} CPU."
    for name, content in made.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, rf"\g<1>{content}\n\g<2>", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{DOCUMENT.name} has {count} places for the table {name!r}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    with cpu_stand_ins():
        rows = [geometry(name, config) for name, config in architectures().items()]
        mx.enable_compile()  # compiled steps keep views that separate ones drop
        for row in filter(may_keep_views, rows):
            row |= held_memory(row["model_type"])
    out.mkdir(parents=True, exist_ok=True)
    fields = list(dict.fromkeys(field for row in rows for field in row))
    with (out / "census.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), rows))
    print(f"{len(rows)} architectures")


if __name__ == "__main__":
    main()
