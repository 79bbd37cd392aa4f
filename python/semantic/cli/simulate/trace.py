"""A recorded trace: who asked when, and which blocks each prompt shares with which other.

A file is gzip or plain text. Its first line is `#` and a JSON object with `block_size`, the second
names the columns, and every other line is one request. No text is in it: a request says that its
first `k` blocks are those of row `ref` and that all others are new, which is all that prefix
caching can see. The trailing partial block of a prompt is not recorded.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Request", "Run", "Trace", "TraceError", "load_trace"]

_GZIP_MAGIC = b"\x1f\x8b"
_COLUMNS = ("t", "session", "agent", "in", "n", "ref", "k")
_PREFIX_COLUMNS = ("n", "ref", "k")
_WAITS_FOR_HUMAN = "E"

Run = tuple[int, int, int]
"""(row, lo, hi): the blocks `[lo, hi)` of a prompt, first seen in that row."""


class TraceError(Exception):
    """A file that is no trace, or a trace that cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One row of a trace.

    Args:
        t_ms: When it arrived, in milliseconds; see the file's header for since when.
        session: Number of its conversation.
        agent: Number of the agent in the conversation; 0 is the main one.
        prompt_tokens: Length of the prompt as recorded.
        blocks: Full blocks of the prompt.
        ref: The row whose first blocks it shares; -1 for none.
        shared_blocks: How many leading blocks it shares with that row.
        service_ms: How long the request took, 0 where that is not recorded.
        waits: Whether the agent waits for its human after the answer.
    """

    t_ms: float
    session: int
    agent: int
    prompt_tokens: int
    blocks: int
    ref: int
    shared_blocks: int
    service_ms: float = 0.0
    waits: bool = False

    @property
    def agent_id(self) -> str:
        """A name that no agent of another session has."""
        return f"s{self.session}.{self.agent}"


@dataclass(frozen=True, slots=True)
class Trace:
    """The requests of a file, in its order.

    Args:
        name: The file's name.
        block_tokens: Tokens of a recorded block.
        requests: Each `ref` is the position of an earlier one.
    """

    name: str
    block_tokens: int
    requests: Sequence[Request]

    def runs(self, row: int, blocks: int) -> list[Run]:
        """The first `blocks` blocks of a row's prompt, as runs of blocks that came up together."""
        runs = []
        while blocks > 0:
            request = self.requests[row]
            if request.shared_blocks < blocks:
                runs.append((row, request.shared_blocks, blocks))
                blocks = request.shared_blocks
            row = request.ref
        runs.reverse()
        return runs


def load_trace(path: Path) -> Trace:
    """Read a trace, gzipped or plain.

    Raises:
        TraceError: A file that cannot be read, is no trace, or has no prefix information.
    """
    lines = _text_of(path).splitlines()
    if len(lines) < 2 or not lines[0].startswith("#"):
        raise TraceError(
            f"{path} is no trace: it must begin with # and a JSON header, then columns"
        )
    columns = next(csv.reader(lines[1:2]), [])
    _check_columns(path, columns)
    block_tokens = _block_tokens(path, lines[0])
    requests: list[Request] = []
    for number, cells in _rows(path, lines[2:], len(columns)):
        try:
            requests.append(
                _request(dict(zip(columns, cells, strict=True)), requests, block_tokens)
            )
        except ValueError as error:
            raise TraceError(f"{path}, line {number}: {error}") from error
    if not requests:
        raise TraceError(f"{path} has no requests")
    return Trace(path.name, block_tokens, requests)


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is neither gzip nor text") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [column for column in _COLUMNS if column not in columns]
    if not missing:
        return
    have = ", ".join(columns)
    if set(_PREFIX_COLUMNS) <= set(missing) and {"t", "in"} <= set(columns):
        raise TraceError(
            f"{path} has no prefix information (its columns are {have}): "
            f"nobody knows what its prompts have in common, so no cache can be simulated"
        )
    raise TraceError(f"{path} is no trace: no column {', '.join(missing)}; it has {have}")


def _block_tokens(path: Path, line: str) -> int:
    try:
        header = json.loads(line[1:])
    except ValueError as error:
        raise TraceError(f"{path}: the header is no JSON: {error}") from error
    size = header.get("block_size") if isinstance(header, dict) else None
    if type(size) is not int or size < 1:
        raise TraceError(f"{path}: the header has no block_size of at least 1 token, but {size!r}")
    return size


def _rows(path: Path, lines: Sequence[str], width: int) -> Iterator[tuple[int, list[str]]]:
    """Number of the line in the file, and its cells."""
    try:
        for number, cells in enumerate(csv.reader(lines), start=3):
            if len(cells) != width:
                raise TraceError(f"{path}, line {number}: {len(cells)} cells, not {width}")
            yield number, cells
    except csv.Error as error:
        raise TraceError(f"{path} is no CSV: {error}") from error


def _request(cells: dict[str, str], earlier: Sequence[Request], block_tokens: int) -> Request:
    request = Request(
        float(cells["t"]),
        int(cells["session"]),
        int(cells["agent"]),
        int(cells["in"]),
        int(cells["n"]),
        int(cells["ref"]),
        int(cells["k"]),
        float(cells.get("api_ms") or 0),
        cells.get("stop") == _WAITS_FOR_HUMAN,
    )
    if not (math.isfinite(request.t_ms) and 0 <= request.service_ms < math.inf):
        raise ValueError("a time is no number of milliseconds")
    if request.blocks < 0 or request.prompt_tokens < request.blocks * block_tokens:
        raise ValueError(
            f"a prompt of {request.prompt_tokens} tokens has no {request.blocks} blocks of "
            f"{block_tokens} tokens"
        )
    if not -1 <= request.ref < len(earlier):
        raise ValueError(f"ref is {request.ref}, which is no earlier row")
    most = min(request.blocks, earlier[request.ref].blocks) if request.ref >= 0 else 0
    if not 0 <= request.shared_blocks <= most:
        raise ValueError(f"k is {request.shared_blocks}, and at most {most} blocks can be shared")
    return request
