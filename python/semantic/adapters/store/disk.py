"""The store on disk: block files beside a catalogue, shared by the processes of one machine.

Blocks are written first and entered in the catalogue last, so that whatever is killed in between
leaves either nothing, or files that whoever opens the store next enters or removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from semantic.adapters.store.block_file import described, is_block, most_bytes, written
from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.catalogued import CataloguedStore
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.limits import Limits
from semantic.adapters.store.owners import Owners
from semantic.adapters.store.sealing import check_key
from semantic.adapters.store.veil import Veil
from semantic.domain._check import whole_number
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import (
    BlockValidationError,
    CacheCorruptionError,
    CachePersistenceError,
    PoolConfigurationError,
)
from semantic.domain.native import BlockFolder, TokenIds
from semantic.domain.policy import EvictionPolicy
from semantic.domain.stored import BlockName, NewBlock

__all__ = ["DiskStore"]

_log = logging.getLogger("semantic")

_CATALOGUE = "catalogue.sqlite3"

_ASIDE_PART = 16
"""What was set aside may take this part of the limit."""


class DiskStore(CataloguedStore):
    """Sealed blocks in a folder, for its owner alone; see `BlockStore` for what it can do.

    Several processes may use one folder at once, on one machine.

    Args:
        path: The folder, made when it is not there.
        max_bytes: The most that all files of blocks may take, those on their way included.
        free_floor_bytes: What writing leaves free on the disk.
        daily_write_bytes: The most that is written in a day, UTC, for disks that wear; None: any
            number.
        min_reuse: Of how many turns a token block has to be a part before it is written: 2 writes
            nothing of a conversation that never comes back.
        policy: What goes first, "lru" or "scan_resistant", and when it goes even if there is room;
            None: tail-first least recently used.
        repair: Finish what killed processes have left, and make files and catalogue agree; else
            the folder has to be there, and stays as it is.
        key: 32 bytes that seal all files, tokens and names; None leaves them readable. A folder is
            sealed with one key or not at all.
        now: Seconds since 1970, for tests.

    Raises:
        CachePersistenceError: The folder cannot be used.
        PoolConfigurationError: Limits that cannot be, or another key than the folder's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = 64 << 30,
        *,
        free_floor_bytes: int = 1 << 30,
        daily_write_bytes: int | None = None,
        min_reuse: int = 1,
        policy: EvictionPolicy | None = None,
        key: bytes | None = None,
        repair: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        limits = Limits(max_bytes, daily_write_bytes, min_reuse, policy or EvictionPolicy())
        self.path = Path(path).expanduser()
        self._free_floor = whole_number(
            free_floor_bytes, "free_floor_bytes", PoolConfigurationError
        )
        self._closed = False
        veil = Veil(key)
        try:
            if repair:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not (self.path / "blocks").is_dir():
                raise CachePersistenceError(f"{self.path}: there is no store")
            self._owners = Owners(self.path / "owners")
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            with self._owners.alone():
                check_key(self.path, veil)
            self.folder = BlockFolder(self.path, self._owners.name, veil.secret)
            super().__init__(self._open_catalogue(veil), veil, limits, now)
        except OSError as error:
            self._owners.close()
            raise _refused(self.path, error) from error
        except BaseException:
            self._owners.close()
            raise
        try:
            if repair:
                self.recover()
        except BaseException:
            self.close()
            raise

    # Opening -----------------------------------------------------------------------------------

    def _open_catalogue(self, veil: Veil) -> Catalogue:
        path = self.path / _CATALOGUE
        try:
            return Catalogue(path, self._owners.name, veil)
        except CatalogueDamagedError as error:
            _log.warning("%s is made again from the blocks: %s", path, error)
        for file in self.path.glob(f"{_CATALOGUE}*"):
            file.unlink(missing_ok=True)
        return Catalogue(path, self._owners.name, veil)

    def recover(self) -> None:
        """Finish what killed processes have left, and make files and catalogue agree.

        One process at a time: what one of them has finished, the next one must not finish again.
        """
        with self._owners.alone():
            running = self._owners.running()
            known = self.catalogue.files()
            on_their_way = self.catalogue.on_their_way()
            files = set(self.folder.names())
            self.folder.clean(running)
            self.catalogue.unpin_dead(running)
            left = [(file, state) for file, state, owner in on_their_way if owner not in running]
            self._remove([file for file, state in left if state == "leaving"])
            coming = [file for file, state in left if state == "coming"]
            self.catalogue.left([file for file in coming if file not in files])
            self._remove(self.catalogue.leave(list(known - files)))
            busy = {file for file, _, _ in on_their_way} - set(coming)
            for file in files - busy - known:
                try:
                    self._enter(file)
                except CachePersistenceError:
                    if file not in coming:
                        raise
                    # The disk may be full. Nobody was told that this one is stored.
                    self.folder.remove(file)
            self.expire()
            self.shrink(self.catalogue.totals()[1] - self.limits.max_bytes)

    def running(self) -> list[str]:
        """The processes that use the folder, this one among them."""
        return self._owners.running()

    def clear_aside(self) -> int:
        """Remove what was set aside; how many bytes that were."""
        return self.bytes_aside(sys.maxsize) - self.bytes_aside(0)

    def _enter(self, file: str) -> None:
        """Enter a file that the catalogue does not know, or not yet."""
        name = BlockName.parse(file)
        if name is None or str(name) != file:
            _log.warning("%s: %s is no block, and is left alone", self.path, file)
            return
        try:
            opened = self.folder.open(file)
            block = None if opened is None else described(opened)
        except CacheCorruptionError as error:
            _log.warning("set aside: %s", error)
            opened = block = None
        if opened is not None and block is not None and self.file_of(block.name) == file:
            self.catalogue.adopt(block, opened.n_bytes)
        else:
            self.folder.set_aside(file)
            self.catalogue.left([file])

    # Files -------------------------------------------------------------------------------------

    def _write(self, blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        return self.folder.write([written(file, block) for file, block in blocks])

    def _read(
        self,
        file: str,
        name: BlockName,
        tokens: TokenIds,
        memory: Sequence[tuple[TensorBytes, memoryview]],
    ) -> bool:
        opened = self.folder.open(file)
        if opened is None:
            return False
        if not is_block(opened, name, tokens, [tensor for tensor, _ in memory]):
            raise CacheCorruptionError(f"{file} holds another block than its name says")
        places = {tensor.name: (buffer, tensor.rows) for tensor, buffer in memory}
        try:
            opened.read_into([places[tensor] for tensor, _, _ in opened.tensors])
        except BlockValidationError as error:
            raise CacheCorruptionError(f"{file} contradicts itself: {error}") from error
        return True

    def _remove_file(self, file: str) -> None:
        self.folder.remove(file)

    def _set_aside(self, file: str) -> None:
        self.folder.set_aside(file)

    def _most_bytes(self, block: NewBlock) -> int:
        return most_bytes(block)

    # Limits ------------------------------------------------------------------------------------

    def _room(self) -> int:
        return self.limits.max_bytes - self.bytes_aside(self.limits.max_bytes // _ASIDE_PART)

    def bytes_aside(self, most: int) -> int:
        """Bytes of what was set aside, of which so many are kept to be looked at."""
        found = []
        for file in (self.path / "aside").iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process may be faster
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        n_bytes = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if n_bytes <= most:
                break
            file.unlink(missing_ok=True)
            n_bytes -= size
        return n_bytes

    def _check_room(self, n_bytes: int) -> None:
        try:
            free = os.statvfs(self.path)
        except OSError as error:
            raise _refused(self.path, error) from error
        if free.f_bavail * free.f_frsize - n_bytes < self._free_floor:
            raise CachePersistenceError(
                f"{self.path}: writing {n_bytes} bytes would leave less than"
                f" {self._free_floor} free"
            )

    def close(self) -> None:
        """Let go of the store. Idempotent."""
        if not self._closed:
            self._closed = True
            super().close()
            self._owners.close()


def _refused(path: Path, error: OSError) -> CachePersistenceError:
    is_file = isinstance(error, FileExistsError | NotADirectoryError)
    why = "it is no folder" if is_file else error.strerror
    return CachePersistenceError(f"{path}: {why}", errno=error.errno)
