"""What has to be in a store after a fault, and the count of what is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.store_hammer import lying_at_once
from tests.stored_blocks import ROOT, blocks_of, found, read, sequence, turn

from semantic import DiskStore, SemanticError
from semantic.adapters.store.upkeep import verify
from semantic.domain.native import TokenIds
from semantic.domain.stored import NewBlock

__all__ = ["Expected", "Row", "checked", "named", "opened", "stored"]

MAX_BYTES = 1 << 30


@dataclass
class Row:
    """A line of the matrix.

    Args:
        fault: What went wrong.
        where: While what was done.
        tried: How many faults.
        wrong: Blocks that were read with anything else than what was written.
        lost: Sealed blocks that were not there, and that nobody had removed.
        left: Faults after which opening the store left something over: a temporary file, a count
            that is not true, a file that `verify` names.
        raised: Faults that ended in another exception than the project's own.
        refused: Faults that the caller was told of.
        note: What else is to be known.
    """

    fault: str
    where: str
    tried: int = 0
    wrong: int = 0
    lost: int = 0
    left: int = 0
    raised: int = 0
    refused: int = 0
    note: str = ""
    seen: list[str] = field(default_factory=list)

    def say(self, what: str) -> None:
        """Remember the first few of what is not as it has to be."""
        if len(self.seen) < 5:
            self.seen.append(what)
            print(f"    {self.fault}, {self.where}: {what}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Expected:
    """What a store has to have.

    Args:
        there: Sequences that are there with all their blocks.
        maybe: Sequences that are there as far as they are found.
        gone: Sequences of which nothing is there.
    """

    there: tuple[tuple[int, int], ...] = ()
    maybe: tuple[tuple[int, int], ...] = ()
    gone: tuple[tuple[int, int], ...] = ()


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"max_bytes": MAX_BYTES, "free_floor_bytes": 0, **options})


def named(path: Path, block: NewBlock) -> Path:
    """The file of a block that is not sealed."""
    return path / "blocks" / str(block.name)[:2] / f"{block.name}.safetensors"


def stored(store: DiskStore, which: Iterable[tuple[int, int]], row: Row) -> int:
    """Blocks of these sequences that are found and read as they were written."""
    n = 0
    for seed, n_blocks in which:
        tokens = sequence(seed, n_blocks)
        for block in blocks_of(tokens)[: found(store, tokens)]:
            try:
                n += read(store, block)
            except AssertionError:
                row.wrong += 1
                row.say(f"sequence {seed}: {block.name} is read wrongly")
    return n


def count(which: Sequence[tuple[int, int]]) -> int:
    return sum(n_blocks for _, n_blocks in which)


def compared(store: DiskStore, expected: Expected, row: Row, when: str) -> None:
    """Compare what a store serves with what it has to have."""
    missing = count(expected.there) - stored(store, expected.there, row)
    if missing:
        row.lost += missing
        row.say(f"{when}: {missing} sealed blocks are lost")
    stored(store, expected.maybe, row)
    if stored(store, expected.gone, row):
        row.wrong += 1
        row.say(f"{when}: what was removed is served")


def checked(
    path: Path,
    expected: Expected,
    row: Row,
    when: str = "opened again",
    *,
    tmp_stays: bool = False,
    **options: Any,
) -> None:
    """Open the store as the next process does, compare it with the oracle, and go on with it."""
    try:
        store = opened(path, **options)
    except Exception as error:
        row.lost += count(expected.there)
        row.say(f"{when}: it does not open: {error!r}")
        return
    try:
        compared(store, expected, row, when)
        left = [why for why, is_left in _left(store, path, tmp_stays).items() if is_left()]
        if left:
            row.left += 1
            row.say(f"{when}: {', '.join(left)}")
        turn(store, sequence(900, 1), "next")
        compared(store, Expected(there=((900, 1),)), row, f"{when}, and written to")
    except Exception as error:
        row.raised += 1
        row.say(f"{when}: {error!r}")
    finally:
        store.close()


def _left(store: DiskStore, path: Path, tmp_stays: bool) -> dict[str, Callable[[], bool]]:
    aside = sum(file.stat().st_size for file in (path / "aside").iterdir())
    limit = store.stats()["max_bytes"]
    return {
        "a temporary file is left": lambda: not tmp_stays and any((path / "tmp").iterdir()),
        "an import's folder is left": lambda: not tmp_stays and any(path.glob(".import-*")),
        "a dead owner is left": lambda: len(list((path / "owners").iterdir())) != 1,
        "the count of bytes is not true": lambda: (
            store.stats()["bytes"] + aside != lying_at_once(path)
        ),
        "there is more than may be": lambda: lying_at_once(path) > limit,
        "verify names a file": lambda: verify(store) != [],
    }


def used(store: DiskStore, seed: int, n_blocks: int, agent: str) -> None:
    """Mark a sequence as used."""
    store.used(ROOT, TokenIds(sequence(seed, n_blocks)).keys(ROOT), agent)


def is_refusal(error: BaseException) -> bool:
    """Whether that is how the project says no."""
    return isinstance(error, SemanticError)
