"""Stores as one file: blocks and who uses them, to be carried to another machine.

A tar file with `manifest.json` and block files as `project/architecture/block-file-format.md` has
them, never sealed: whoever receives it seals with a key of their own.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semantic.adapters.store.block_file import described, memory_of, written
from semantic.adapters.store.block_files import ENDING
from semantic.adapters.store.disk import DiskStore
from semantic.adapters.store.export_room import export_room, remove_leftovers
from semantic.adapters.store.limits import NoRoomError
from semantic.adapters.store.listing import BlockRow
from semantic.adapters.store.private_folder import sync_folder
from semantic.domain.errors import (
    BlockValidationError,
    CacheCorruptionError,
    CachePersistenceError,
)
from semantic.domain.native import BlockFolder
from semantic.domain.stored import BlockName, NewBlock

__all__ = ["Exchanged", "export_blocks", "import_blocks"]

_FORMAT = "semantic-store-archive"
_VERSION = 1
_MANIFEST = "manifest.json"
_LENGTH_BYTES, _LONGEST_HEADER = 8, 1 << 20
"""Of a block file's header."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What was carried.

    Args:
        blocks: Blocks.
        bytes: Bytes of their files.
        known: Blocks that were there already.
        bad: Names and faults of blocks that were left out.
        left: Names of what killed exports have left in the archive's folder and could not be
            removed, and why; it may hold blocks that are not sealed.
    """

    blocks: int
    bytes: int
    known: int
    bad: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...] = ()


Progress = Callable[[Sequence[Any]], Iterable[Any]]


def export_blocks(
    store: DiskStore, rows: Sequence[BlockRow], target: Path, progress: Progress = iter
) -> Exchanged:
    """Write blocks into one file, which is there entirely or not at all.

    Args:
        store: Where they are.
        rows: The blocks, heads before tails.
        target: The file; one that is there is replaced.
        progress: Shows how far it has come.

    Raises:
        CachePersistenceError: The system refuses, or something else than a file is there.
    """
    bad, names = [], []
    n_bytes = 0
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        raise CachePersistenceError(f"{target}: it is no file")
    left = remove_leftovers(target.parent)
    try:
        with export_room(target.parent) as room:
            plain = BlockFolder(room / "plain", "export")
            with tarfile.open(room / "archive", "w") as tar:
                for row in progress(rows):
                    try:
                        block = _loaded(store.folder, row.file)
                    except (CacheCorruptionError, CachePersistenceError) as error:
                        # A disk that begins to fail is when an archive is wanted.
                        bad.append((row.file, str(error)))
                        continue
                    if block is None:
                        continue  # another process has removed it
                    name = str(block.name)
                    (size,) = plain.write([written(name, block)])
                    tar.add(_path(room / "plain", name), name + ENDING, filter=_plain)
                    plain.remove(name)
                    names.append({"name": name, "agents": row.agents})
                    n_bytes += size
                _add_manifest(tar, names)
            _publish(room / "archive", target)
    except OSError as error:
        raise CachePersistenceError(f"{target}: {error.strerror}", errno=error.errno) from error
    return Exchanged(len(names), n_bytes, 0, tuple(bad), tuple(left))


def import_blocks(store: DiskStore, source: Path, progress: Progress = iter) -> Exchanged:
    """Put the blocks of a file into a store, each verified before.

    They make room as what is written does, but not by those that came before them: what is too much
    for the store is left out.

    Args:
        store: Where they go, within its limits at every moment.
        source: What `export_blocks` has written.
        progress: Shows how far it has come.

    Raises:
        CacheCorruptionError: The file is no archive, or of another version.
        CachePersistenceError: The system refuses.
    """
    try:
        done = _Import(store, source.stat().st_size)
        with tarfile.open(source, "r:") as tar, store.workroom() as room:
            folder = BlockFolder(room, "import")
            try:
                for entry in progress(_manifest(tar, source)):
                    done.take(entry, tar, folder, room)
            finally:
                done.enter_users()
    except tarfile.TarError as error:
        raise CacheCorruptionError(f"{source} is no archive of a store: {error}") from error
    except OSError as error:
        raise CachePersistenceError(f"{source}: {error.strerror}", errno=error.errno) from error
    return done.carried()


class _Import:
    """What has been carried into a store so far.

    Args:
        store: The store.
        archive_bytes: Bytes of the whole archive.
    """

    def __init__(self, store: DiskStore, archive_bytes: int) -> None:
        self._store = store
        self._archive_bytes = archive_bytes
        self._bad: list[tuple[str, str]] = []
        self._blocks = self._known = self._bytes = self._file_bytes = 0
        self._users: dict[tuple[bytes, str], list[bytes]] = {}

    def take(
        self, entry: dict[str, Any], tar: tarfile.TarFile, folder: BlockFolder, room: Path
    ) -> None:
        """Put one block of the manifest into the store; what cannot be is left out."""
        name, agents = entry["name"], entry["agents"] or [""]
        try:
            member = _member(tar, name, self._archive_bytes)
            known = self._stored(name)
            if known is not None and _namespace_of(tar, member) == known.namespace.hex():
                # Nothing has to make room for it.
                self._known += 1
                self._note(known, agents)
                return
            # Its temporary file and itself: more would take the place of what came before it.
            if self._file_bytes + 2 * member.size > self._store.limits.max_bytes:
                raise NoRoomError("it is more than the store may take")
            with self._store.borrowed(member.size):
                block = _carried(tar, member, folder, room, name)
            if not _belongs(self._store, block):
                raise CacheCorruptionError("what is stored of its prompt has another namespace")
            is_new = bool(self._store.put([block], agents[0]))
        except (BlockValidationError, CacheCorruptionError, NoRoomError) as error:
            self._bad.append((name, str(error)))
            return
        self._known += not is_new
        if is_new:
            self._blocks += 1
            self._bytes += sum(memory.nbytes for _, memory in block.tensors)
            self._file_bytes += member.size
        self._note(block, agents)

    def _stored(self, file: str) -> NewBlock | None:
        """The block of that name in the store, by its header."""
        name = BlockName.parse(file)
        stored = "" if name is None else self._store.file_of(name)
        if not stored or not self._store.catalogue.files(stored, f"{stored}~"):
            return None
        try:
            opened = self._store.folder.open(stored)
            return None if opened is None else described(opened)
        except (CacheCorruptionError, CachePersistenceError):
            return None

    def _note(self, block: NewBlock, agents: Sequence[str]) -> None:
        for agent in agents:
            self._users.setdefault((block.namespace, agent), []).append(block.name.key)

    def enter_users(self) -> None:
        """Let the store know whose the blocks are."""
        for (namespace, agent), keys in self._users.items():
            self._store.used(namespace, list(dict.fromkeys(keys)), agent)

    def carried(self) -> Exchanged:
        """What that was."""
        return Exchanged(self._blocks, self._bytes, self._known, tuple(self._bad))


def _publish(archive: Path, target: Path) -> None:
    """Give an archive its name, for its owner alone, so that it survives a power cut."""
    archive.chmod(0o600)
    with archive.open("rb") as file:
        os.fsync(file.fileno())
    archive.replace(target)
    sync_folder(target.parent)


def _add_manifest(tar: tarfile.TarFile, names: Sequence[dict[str, Any]]) -> None:
    text = json.dumps({"format": _FORMAT, "version": _VERSION, "blocks": names}).encode()
    info = tarfile.TarInfo(_MANIFEST)
    info.size, info.mode = len(text), 0o600
    tar.addfile(info, io.BytesIO(text))


def _manifest(tar: tarfile.TarFile, source: Path) -> list[dict[str, Any]]:
    try:
        file = tar.extractfile(_MANIFEST)
        said = json.load(file) if file is not None else {}
        if said["format"] != _FORMAT:
            raise CacheCorruptionError(f"{source} is no archive of a store")
        if said["version"] != _VERSION:
            raise CacheCorruptionError(
                f"{source} is of version {said['version']!r}, which this release does not read"
            )
        return [
            {"name": _text(entry["name"]), "agents": _agents(entry)} for entry in said["blocks"]
        ]
    except KeyError as error:
        raise CacheCorruptionError(f"{source} is no archive of a store: {error.args[0]}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise CacheCorruptionError(
            f"{source} is no archive of a store: its {_MANIFEST} is damaged"
        ) from error


def _agents(entry: dict[str, Any]) -> list[str]:
    agents = entry["agents"]
    if not isinstance(agents, list):
        raise TypeError("agents are a list")
    return [_text(agent) for agent in agents]


def _text(value: object) -> str:
    """A name, which has to be text that can be stored."""
    if not isinstance(value, str):
        raise TypeError("a name is text")
    value.encode()
    return value


def _member(tar: tarfile.TarFile, name: str, archive_bytes: int) -> tarfile.TarInfo:
    """Where a block is in the archive, all of it."""
    parsed = BlockName.parse(name)
    if parsed is None:
        raise CacheCorruptionError("it names no block")
    try:
        member = tar.getmember(name + ENDING)
    except KeyError:
        raise CacheCorruptionError("it is not in the archive") from None
    # Room is made for what a member says that it has: it has to be there.
    if not member.isreg() or member.issparse():
        raise CacheCorruptionError("it is no file in the archive")
    if not 0 <= member.size <= archive_bytes - member.offset_data:
        raise CacheCorruptionError("it is not entirely in the archive")
    return member


def _namespace_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> object:
    """What a member says of its namespace, unverified; None where it says nothing."""
    content = tar.extractfile(member)
    assert content is not None
    try:
        length = int.from_bytes(content.read(_LENGTH_BYTES), "little")
        said = json.loads(content.read(min(length, _LONGEST_HEADER)))
        return said["__metadata__"]["namespace"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _carried(
    tar: tarfile.TarFile, member: tarfile.TarInfo, folder: BlockFolder, room: Path, name: str
) -> NewBlock:
    """A block of the archive, verified."""
    content = tar.extractfile(member)
    assert content is not None
    path = _path(room, name)
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
        block = _loaded(folder, name)
    except CacheCorruptionError as error:
        # Where it lay is gone when this is read.
        raise CacheCorruptionError(str(error).removeprefix(f"{path}: ")) from error
    finally:
        path.unlink(missing_ok=True)
    if block is None or str(block.name) != name:
        raise CacheCorruptionError("it holds another block than its name says")
    return block


def _belongs(store: DiskStore, block: NewBlock) -> bool:
    """Whether what is known of a block's token block and its parent is of the same namespace.

    The names in a block file tell everything of each other but that.
    """
    names = (block.name.key, block.parent, block.namespace)
    return not store.catalogue.database.read(
        "SELECT 1 FROM nodes WHERE key IN (?, ?) AND namespace != ? LIMIT 1",
        [store.veil.key(name) for name in names],
    )


def _loaded(folder: BlockFolder, file: str) -> NewBlock | None:
    """A block with its tensors, in memory; None when it is not there."""
    opened = folder.open(file)
    if opened is None:
        return None
    block = described(opened)
    if block is None:
        raise CacheCorruptionError("it contradicts itself")
    tensors = memory_of(opened)
    opened.read_into([(memory, tensor.rows) for tensor, memory in tensors])
    return NewBlock(
        block.name,
        block.parent,
        block.namespace,
        block.tokens,
        block.layer_type,
        block.is_bounded,
        tensors,
    )


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of whose file it was."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _path(root: Path, name: str) -> Path:
    return root / "blocks" / name[:2] / (name + ENDING)
