"""Small traces for tests: a prompt is a word, and each letter of it one block."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semantic.cli.simulate.trace import Request, Trace

COLUMNS = ("t", "session", "agent", "in", "out", "n", "ref", "k")


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many leading items are equal."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))


def requests_of(prompts: Sequence[str], block_tokens: int = 256, **facts: Any) -> list[Request]:
    """Rows of one session, a second apart, each with the longest match over all earlier ones."""
    rows: list[Request] = []
    for number, prompt in enumerate(prompts):
        shared = [common_length(prompt, earlier) for earlier in prompts[:number]]
        k = max(shared, default=0)
        row = {
            "t_ms": 1000.0 * number,
            "session": 0,
            "agent": 0,
            "prompt_tokens": len(prompt) * block_tokens,
            "blocks": len(prompt),
            "ref": shared.index(k) if k else -1,
            "shared_blocks": k,
        }
        each = {name: fact[number] for name, fact in facts.items()}
        rows.append(Request(**(row | each)))
    return rows


def trace_of(prompts: Sequence[str], block_tokens: int = 256, **facts: Any) -> Trace:
    """A trace of these prompts; `facts` are lists, one value for each row."""
    return Trace("words", block_tokens, requests_of(prompts, block_tokens, **facts))


def csv_of(trace: Trace, **header: Any) -> str:
    """The text of a trace's file."""
    lines = [
        "#" + json.dumps({"block_size": trace.block_tokens, "scope": "session", **header}),
        ",".join((*COLUMNS, "api_ms", "stop")),
    ]
    for r in trace.requests:
        stop = "E" if r.waits else "T"
        cells = (r.t_ms, r.session, r.agent, r.prompt_tokens, 7, r.blocks, r.ref, r.shared_blocks)
        lines.append(",".join(map(str, (*cells, r.service_ms, stop))))
    return "\n".join(lines) + "\n"


def write_trace(path: Path, trace: Trace) -> Path:
    """A trace file, gzipped when its name says so."""
    text = csv_of(trace).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
