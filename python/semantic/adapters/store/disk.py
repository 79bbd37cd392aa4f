"""The store on disk: block files beside a catalogue, shared by the processes of one machine.

Blocks are written first and entered in the catalogue last, so that whatever is killed in between
leaves either nothing, or files that whoever opens the store next enters or removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from semantic.adapters.store.block_file import described, is_block, most_bytes, written
from semantic.adapters.store.catalogue import Catalogue, CatalogueDamagedError
from semantic.adapters.store.owners import Owners
from semantic.domain._check import whole_number
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import (
    CacheCorruptionError,
    CachePersistenceError,
    PoolConfigurationError,
)
from semantic.domain.native import BlockFolder, TokenIds
from semantic.domain.stored import BlockName, NewBlock, StoredNode

__all__ = ["DiskStore"]

_log = logging.getLogger("semantic")

_CATALOGUE = "catalogue.sqlite3"

_ASIDE_PART = 16
"""What was set aside may take this part of the limit."""


class DiskStore:
    """Sealed blocks in a folder, for its owner alone; see `BlockStore` for what it can do.

    Several processes may use one folder at once, on one machine.

    Args:
        path: The folder, made when it is not there.
        max_bytes: The most that all files of blocks may take, those on their way included.
        free_floor_bytes: What writing leaves free on the disk.

    Raises:
        CachePersistenceError: The folder cannot be used.
        PoolConfigurationError: Limits that cannot be.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = 64 << 30,
        *,
        free_floor_bytes: int = 1 << 30,
    ) -> None:
        self.path = Path(path).expanduser()
        self.max_bytes = whole_number(max_bytes, "max_bytes", PoolConfigurationError, at_least=1)
        self._free_floor = whole_number(
            free_floor_bytes, "free_floor_bytes", PoolConfigurationError
        )
        self._closed = False
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owners = Owners(self.path / "owners")
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            self._folder = BlockFolder(self.path, self._owners.name)
            self._catalogue = self._open_catalogue()
        except BaseException:
            self._owners.close()
            raise
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    # Opening -----------------------------------------------------------------------------------

    def _open_catalogue(self) -> Catalogue:
        path = self.path / _CATALOGUE
        try:
            return Catalogue(path, self._owners.name)
        except OSError as error:
            raise _refused(path, error) from error
        except CatalogueDamagedError as error:
            _log.warning("%s is made again from the blocks: %s", path, error)
        for file in self.path.glob(f"{_CATALOGUE}*"):
            file.unlink(missing_ok=True)
        return Catalogue(path, self._owners.name)

    def _recover(self) -> None:
        """Finish what killed processes have left, and make files and catalogue agree.

        One process at a time: what one of them has finished, the next one must not finish again.
        """
        with self._owners.alone():
            running = self._owners.running()
            known = self._catalogue.names()
            on_their_way = self._catalogue.on_their_way()
            files = set(self._folder.names())
            self._folder.clean(running)
            left = [(name, state) for name, state, owner in on_their_way if owner not in running]
            self._remove([name for name, state in left if state == "leaving"])
            coming = [name for name, state in left if state == "coming"]
            self._catalogue.left([name for name in coming if str(name) not in files])
            lost = [name for name in known if str(name) not in files]
            self._remove(self._catalogue.leave(lost))
            busy = {str(name) for name, _, _ in on_their_way} - {str(name) for name in coming}
            for text in files - busy - {str(name) for name in known}:
                self._enter(text)
            self._remove(self._catalogue.choose(self._catalogue.totals()[1] - self.max_bytes))

    def _enter(self, text: str) -> None:
        """Enter a file that the catalogue does not know, or not yet."""
        name = BlockName.parse(text)
        if name is None or str(name) != text:
            _log.warning("%s: %s is no block, and is left alone", self.path, text)
            return
        try:
            file = self._folder.open(text)
            block = None if file is None else described(file, name)
        except CacheCorruptionError as error:
            _log.warning("set aside: %s", error)
            file = block = None
        if file is not None and block is not None:
            self._catalogue.adopt(block, file.n_bytes)
        else:
            self._folder.set_aside(text)
            self._catalogue.left([name])

    # Finding -----------------------------------------------------------------------------------

    def path_of(self, namespace: bytes, keys: Sequence[bytes]) -> list[list[StoredNode]]:
        """What is stored along a prompt; see `BlockStore.path_of`."""
        exact = self._catalogue.nodes(keys)
        parents = [namespace, *keys]
        depth = next((n for n, key in enumerate(keys) if key not in exact), len(keys))
        # Ends lie in partial blocks; where the prompts part, a full one may begin alike.
        beside = self._catalogue.behind(parents, partial=True)
        beside += self._catalogue.behind(parents[depth : depth + 1], partial=False)
        path: list[list[StoredNode]] = [[] for _ in parents]
        place = {parent: n for n, parent in enumerate(parents)}
        for node in {node.key: node for node in (*exact.values(), *beside)}.values():
            if node.parent in place:
                path[place[node.parent]].append(node)
        return path

    def read(
        self, name: BlockName, tokens: TokenIds, memory: Sequence[tuple[TensorBytes, memoryview]]
    ) -> bool:
        """Read a block into fresh memory; see `BlockStore.read`."""
        try:
            file = self._folder.open(str(name))
            if file is None:
                self._remove(self._catalogue.leave([name]))
                return False
            if not is_block(file, name, tokens, [tensor for tensor, _ in memory]):
                raise CacheCorruptionError(f"{name} holds another block than its name says")
            places = {tensor.name: (buffer, tensor.rows) for tensor, buffer in memory}
            file.read_into([places[tensor] for tensor, _, _ in file.tensors])
        except CacheCorruptionError as error:
            _log.warning("set aside: %s", error)
            if self._catalogue.leave([name]):
                self._folder.set_aside(str(name))
                self._catalogue.left([name])
            return False
        return True

    def used(self, keys: Sequence[bytes], agent_id: str) -> None:
        """An agent uses these token blocks; see `BlockStore.used`."""
        self._catalogue.used(keys, agent_id)

    def stats(self) -> Mapping[str, int]:
        """Blocks and bytes that are stored, and the limit."""
        blocks, n_bytes = self._catalogue.totals()
        return {"blocks": blocks, "bytes": n_bytes, "max_bytes": self.max_bytes}

    # Writing -----------------------------------------------------------------------------------

    def put(self, blocks: Sequence[NewBlock], agent_id: str) -> int:
        """Store blocks; see `BlockStore.put`."""
        sizes = [(block, most_bytes(block)) for block in blocks]
        self._check_disk(sum(n_bytes for _, n_bytes in sizes))
        limit = self.max_bytes - self._bytes_aside()
        new, short = self._catalogue.reserve(sizes, limit)
        while short:
            victims = self._catalogue.choose(short)
            if not victims:
                raise CachePersistenceError(f"{self.path}: {short} bytes more than may be stored")
            self._remove(victims)
            new, short = self._catalogue.reserve(sizes, limit)
        try:
            n_bytes = self._folder.write([written(block) for block in new])
        except BaseException:
            # What got its name before the rest was refused is no block of ours. What cannot be
            # removed now stays reserved until this process has ended.
            with contextlib.suppress(CachePersistenceError):
                self._remove([block.name for block in new])
            raise
        self._catalogue.arrived(list(zip(new, n_bytes, strict=True)), agent_id)
        return len(new)

    def _bytes_aside(self) -> int:
        """Bytes of what was set aside, of which a little is kept to be looked at."""
        found = []
        for file in (self.path / "aside").iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process may be faster
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        n_bytes = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if n_bytes <= self.max_bytes // _ASIDE_PART:
                break
            file.unlink(missing_ok=True)
            n_bytes -= size
        return n_bytes

    def _check_disk(self, n_bytes: int) -> None:
        try:
            free = os.statvfs(self.path)
        except OSError as error:
            raise _refused(self.path, error) from error
        if free.f_bavail * free.f_frsize - n_bytes < self._free_floor:
            raise CachePersistenceError(
                f"{self.path}: writing {n_bytes} bytes would leave less than"
                f" {self._free_floor} free"
            )

    def _remove(self, names: Sequence[BlockName]) -> None:
        """Remove files of blocks that are known to leave, and then their rows."""
        for name in names:
            self._folder.remove(str(name))
        self._catalogue.left(names)

    def forget(self, namespace: bytes, agent_id: str) -> int:
        """Remove what only this agent has used; see `BlockStore.forget`."""
        names = self._catalogue.leave(self._catalogue.only_of(namespace, agent_id))
        self._remove(names)
        return len(names)

    def close(self) -> None:
        """Let go of the store. Idempotent."""
        if not self._closed:
            self._closed = True
            self._catalogue.close()
            self._owners.close()


def _refused(path: Path, error: OSError) -> CachePersistenceError:
    is_file = isinstance(error, FileExistsError | NotADirectoryError)
    why = "it is no folder" if is_file else error.strerror
    return CachePersistenceError(f"{path}: {why}", errno=error.errno)
