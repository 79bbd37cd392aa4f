"""Block files that are not what they were; permissions, and clocks."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.stored_blocks import BLOCK_BYTES, GROUP, blocks_of, content, read, sequence, turn

from faults.catalogue import catalogue_rows
from faults.oracle import Expected, Row, checked, is_refusal, named, opened, stored
from semantic import DiskStore, EvictionPolicy, Namespace
from semantic.domain.block_bytes import tensors_of_block
from semantic.domain.errors import CacheCorruptionError
from semantic.domain.native import BlockFolder, StoreSecret

__all__ = ["file_rows"]

KEY = bytes(range(32))
(TENSOR,) = tensors_of_block(GROUP, 0, 256)
YEAR = 365 * 86_400
_NOBODY = 65_534


class OneFile:
    """A store with one block, whose file is changed and read again and again."""

    def __init__(self, path: Path, key: bytes | None) -> None:
        store = opened(path, key=key)
        (self.block,) = blocks_of(sequence(1, 1))
        turn(store, sequence(1, 1), "a")
        self.name = store.file_of(self.block.name)
        store.close()
        secret = None if key is None else StoreSecret(key)
        self._folder = BlockFolder(path, "matrix", secret)
        self.path = path / "blocks" / self.name[:2] / f"{self.name}.safetensors"
        self.bytes = self.path.read_bytes()
        self._memory = bytearray(BLOCK_BYTES)

    def attempt(self, row: Row, what: str) -> None:
        """Read the file as it is now: it has to be refused as damaged."""
        row.tried += 1
        try:
            file = self._folder.open(self.name)
            if file is not None:
                file.read_into([(memoryview(self._memory), TENSOR.rows)])
        except CacheCorruptionError:
            row.refused += 1
        except Exception as error:
            row.raised += 1
            row.say(f"{what}: {error!r}")
        else:
            row.wrong += 1
            row.say(f"{what}: it was taken for a block")

    def is_whole(self, row: Row) -> None:
        """With its own bytes again, it is read."""
        self.path.write_bytes(self.bytes)
        file = self._folder.open(self.name)
        assert file is not None
        file.read_into([(memoryview(self._memory), TENSOR.rows)])
        if self._memory != content(self.block.name.key):
            row.wrong += 1


def _bits(one: OneFile, row: Row, places: Sequence[int], bits: Sequence[int]) -> Row:
    with one.path.open("r+b", buffering=0) as file:
        for at in places:
            for bit in bits:
                os.pwrite(file.fileno(), bytes([one.bytes[at] ^ 1 << bit]), at)
                one.attempt(row, f"bit {bit} of byte {at}")
            os.pwrite(file.fileno(), one.bytes[at : at + 1], at)
    one.is_whole(row)
    return row


def _one_file(folder: Path, stride: int) -> Iterator[Row]:
    for kind, key in (("a plain file", None), ("a sealed file", KEY)):
        one = OneFile(folder / kind.replace(" ", "-"), key)
        size = len(one.bytes)
        front = size - BLOCK_BYTES if key is None else 35
        part = "header" if key is None else "magic and nonce"
        rest = "payload" if key is None else "records"
        row = Row("a flipped bit", f"{kind}: {part}", note="every bit")
        yield _bits(one, row, range(front), range(8))
        places = range(front, size, stride)
        row = Row("a flipped bit", f"{kind}: {rest}", note="one bit of every byte")
        yield _bits(one, row, places, [3])
        edges = [front, size // 2, size - 1]
        row = Row("a flipped bit", f"{kind}: {rest}, first, middle and last byte")
        yield _bits(one, row, edges, range(8))
        row = Row("cut short", kind, note="every length")
        for n_bytes in range(size - 1, -1, -stride):
            os.truncate(one.path, n_bytes)
            one.attempt(row, f"{n_bytes} bytes")
        one.is_whole(row)
        yield row
        row = Row("made longer", kind)
        for more in (1, 7, 8, 16, 4096, 65_536, 65_552, 1 << 20):
            one.path.write_bytes(one.bytes + bytes(more))
            one.attempt(row, f"{more} bytes more")
        one.is_whole(row)
        yield row


def _through_the_store(folder: Path, n: int) -> Row:
    """Damage below a store that serves: a miss, set aside, and nothing else is lost."""
    row = Row("a damaged file", "served by an open store", note="random damage, set aside")
    random_ = random.Random(5)
    store = opened(folder)
    turn(store, sequence(1, 2), "a")
    damage: list[Callable[[bytes], bytes]] = [
        lambda b: b[: random_.randrange(len(b))],
        lambda b: _flipped(b, random_.randrange(len(b) * 8)),
        lambda b: b + b"x",
        lambda b: b"",
        lambda b: bytes(len(b)),
        lambda b: b.replace(b'"version":"1"', b'"version":"2"'),
    ]
    (block,) = blocks_of(sequence(2, 1))
    for number in range(n):
        turn(store, sequence(2, 1), "b")
        file = named(folder, block)
        file.write_bytes(damage[number % len(damage)](file.read_bytes()))
        row.tried += 1
        try:
            row.wrong += read(store, block)
        except AssertionError:
            row.wrong += 1
        is_aside = not file.exists() and any((folder / "aside").iterdir())
        row.left += not is_aside
        row.lost += 2 - stored(store, ((1, 2),), row)
    store.close()
    checked(folder, Expected(there=((1, 2),)), row)
    return row


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _foreign(folder: Path) -> Row:
    """Files of other versions, of other blocks, of other namespaces, and of nobody."""
    row = Row("a foreign file", "opened again")
    store = opened(folder)
    turn(store, sequence(1, 2), "a")
    turn(store, sequence(2, 2), "b")
    other = Namespace("other").root
    turn(store, sequence(3, 1), "b", other)
    store.close()
    victim, neighbour = blocks_of(sequence(2, 2))[1], blocks_of(sequence(1, 2))[0]
    foreign = blocks_of(sequence(3, 1), other)[0]
    whole = named(folder, victim).read_bytes()
    taken_for = [
        whole.replace(b'"version":"1"', b'"version":"2"'),
        whole.replace(b"semantic-block", b"semantic-blocc"),
        named(folder, neighbour).read_bytes(),
        named(folder, foreign).read_bytes(),
        b"\2\0\0\0\0\0\0\0{}",
        b"semantic-sealed1" + bytes(100),
        b"GIF89a",
    ]
    for number, data in enumerate(taken_for):
        trial = folder.parent / f"foreign-{number}"
        shutil.copytree(folder, trial)
        named(trial, victim).write_bytes(data)
        row.tried += 1
        store = opened(trial)
        try:
            row.wrong += read(store, victim)
        except AssertionError:
            row.wrong += 1
        store.close()
        checked(trial, Expected(there=((1, 2), (2, 1))), row, f"foreign file {number}")
        shutil.rmtree(trial)
    return row


def _permissions(folder: Path) -> Row:
    """Parts of the folder that may not be written, or not be read, by who is not root."""
    row = Row("wrong permissions", "put, then opened again", note="as nobody, uid 65534")
    folder.chmod(0o755)
    (folder / "nobody").mkdir(mode=0o755)
    if os.geteuid():
        row.note = "as whoever runs this"
    else:
        os.chown(folder / "nobody", _NOBODY, _NOBODY)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if not os.geteuid():
                os.setuid(_NOBODY)
            status = _without_permission(folder / "nobody")
        finally:
            os._exit(status)
    told = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    row.tried = 2 * len(_PARTS)
    # The child tells what went wrong in the bits of its exit status.
    row.lost, row.wrong, row.raised = int(told & 2 > 0), int(told & 4 > 0), int(told & 1 > 0)
    return row


_PARTS = ("", "blocks", "tmp", "aside", "owners", "catalogue.sqlite3", "a block")


def _without_permission(folder: Path) -> int:
    row = Row("wrong permissions", "")
    for number, part in enumerate(_PARTS):
        for mode in (0o000, 0o500):
            path = folder / f"{number}-{mode}"
            store = opened(path)
            turn(store, sequence(1, 1), "a")
            store.close()
            target = named(path, blocks_of(sequence(1, 1))[0]) if part == "a block" else path / part
            was = target.stat().st_mode
            target.chmod(mode)
            _attempt(path, row, f"{part} {mode:o}")
            target.chmod(was)
            checked(path, Expected(there=((1, 1),), maybe=((2, 1),)), row, f"{part} {mode:o}")
    is_open = [file for file in folder.rglob("*") if file.stat().st_mode & 0o077]
    row.wrong += len(is_open)
    return bool(row.raised) | 2 * bool(row.lost) | 4 * bool(row.wrong)


def _attempt(path: Path, row: Row, when: str) -> None:
    """Open a store and write to it, which may be refused."""
    with contextlib.ExitStack() as stack:
        try:
            store = opened(path)
            stack.callback(store.close)
            turn(store, sequence(2, 1), "a")
        except Exception as error:
            if not is_refusal(error):
                row.raised += 1
                row.say(f"{when}: {error!r}")


def _clocks(folder: Path) -> Row:
    """A clock that jumps between two turns, and back: what is used is never too old."""
    row = Row("a clock that jumps", "between turns", note="with and without a time to live")
    jumps = (-50 * YEAR, -86_401, -1, 0, 1, 86_401, 50 * YEAR, -1e18, 9e18)
    for number, jump in enumerate(jumps):
        for policy in (None, EvictionPolicy(time_to_live=3600)):
            now = [1.7e9]
            path = folder / f"{number}-{policy is None}"

            def clock(now: list[float] = now) -> float:
                return now[0]

            options = {"now": clock, "policy": policy, "max_bytes": 1 << 30}
            store: DiskStore = opened(path, **options)
            turn(store, sequence(1, 2), "a")
            now[0] += jump
            turn(store, sequence(2, 2), "b")
            store.close()
            row.tried += 1
            # A clock is believed for a day: years ahead of it nothing is forgotten.
            is_old = policy is not None and 3600 < jump < 2 * 86_400
            old = ((1, 2),)
            expected = Expected(there=((2, 2), *(() if is_old else old)), maybe=old)
            checked(path, expected, row, f"a jump of {jump} s", **options)
    return row


def file_rows(folder: Path, stride: int) -> Iterator[Row]:
    """All rows; `stride` leaves out places, and fewer random ones are tried."""
    n = max(12, 240 // stride)
    yield from _one_file(folder / "one", stride)
    yield _through_the_store(folder / "served", n)
    yield _foreign(folder / "foreign" / "store")
    yield from catalogue_rows(folder / "catalogue", n)
    yield _permissions(folder)
    yield _clocks(folder / "clock")
