"""The store on disk: block files beside a catalogue, shared by the processes of one machine.

Blocks are written first and entered in the catalogue last, so that whatever is killed in between
leaves either nothing, or files that whoever opens the store next enters or removes.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from semantic.adapters.store.block_file import is_block, most_bytes, written
from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.catalogued import CataloguedStore
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.limits import Limits
from semantic.adapters.store.mending import Mending
from semantic.adapters.store.owners import FolderBusyError, Owners
from semantic.adapters.store.private_folder import make_private
from semantic.adapters.store.recovery import Recovery
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

__all__ = ["CATALOGUE_BYTES", "STORE_BYTES", "DiskStore"]

_log = logging.getLogger("semantic")

_CATALOGUE = "catalogue.sqlite3"

_ASIDE_PART = 16
"""What was set aside may take this part of the limit."""

STORE_BYTES = 64 << 30
"""What a store may take unless somebody says otherwise."""

CATALOGUE_BYTES = 16 << 20
"""What the catalogue may take beside the limit; what it takes beyond that counts."""

_LOG_BYTES = 8 << 20
"""What of that its log is taken for, however long it is: it grows while blocks are written."""

_CLOSE_SECONDS = 10.0
"""How long closing waits for what is being put right behind what went on."""

_WRITER_SECONDS = 1.0
"""How long a write waits for another process that puts the folder right: that one does its work."""


class DiskStore(CataloguedStore):
    """Sealed blocks in a folder, for its owner alone; see `BlockStore` for what it can do.

    Several processes may use one folder at once, on one machine.

    Args:
        path: The folder, made when it is not there.
        max_bytes: The most that all files may take, those on their way and set aside included, and
            what the catalogue takes beyond its first 16 MiB.
        free_floor_bytes: What writing leaves free on the disk.
        daily_write_bytes: The most that is written in a day, UTC, for disks that wear; None: any
            number.
        min_reuse: Of how many turns a token block has to be a part before it is written: 2 writes
            nothing of a conversation that never comes back.
        policy: What goes first, "lru" or "scan_resistant", and when it goes even if there is room;
            None: tail-first least recently used.
        repair: Finish what killed processes have left, and make files and catalogue agree; else
            the folder has to be there, and nothing of it is changed at opening. A damaged catalogue
            is made again here, or behind what goes on as soon as no other process uses it; until
            then everything is a miss. Behind what goes on, too, where another process does the same
            for more than some seconds.
        key: 32 bytes that seal all files, tokens and names; None leaves them readable. A folder is
            sealed with one key or not at all.
        now: Seconds since 1970, for tests.

    Raises:
        CachePersistenceError: The folder cannot be used, or is not for its owner alone.
        PoolConfigurationError: Limits that cannot be, or another key than the folder's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = STORE_BYTES,
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
        self._repairs = False
        self._keeps_limit = repair
        self._mending = Mending(
            str(self.path),
            lambda: self.recover(),
            lambda: self.catalogue.database.is_damaged,
        )
        self._numbers = itertools.count()
        veil = Veil(key)
        with _refusals(self.path):
            if repair:
                make_private(self.path)
            elif not (self.path / "blocks").is_dir():
                raise CachePersistenceError(f"{self.path}: there is no store")
            self._owners = Owners(self.path / "owners")
        try:
            with _refusals(self.path), self._alone_or_known() as is_alone:
                check_key(self.path, veil, is_marked=repair and is_alone)
            self.folder = BlockFolder(self.path, self._owners.name, veil.secret)
            catalogue = Catalogue(
                self.path / _CATALOGUE,
                self._owners.name,
                veil,
                is_made=repair,
                damaged=self._mend_later,
            )
        except BaseException:
            self._owners.close()
            raise
        super().__init__(catalogue, veil, limits, now)
        self._recovery = Recovery(self.path, self.folder, catalogue, veil, self._remove, now)
        try:
            if repair:
                self._open(is_alone=is_alone)
        except BaseException:
            self.close()
            raise

    # Opening -----------------------------------------------------------------------------------

    @contextmanager
    def _alone_or_known(self) -> Iterator[bool]:
        """Whether no other process is in the folder, which it must not be in a new one.

        Who is there first says with which key it is sealed.
        """
        with contextlib.ExitStack() as inside:
            try:
                inside.enter_context(self._owners.alone())
            except FolderBusyError:
                if not (self.path / _CATALOGUE).exists():
                    raise
                yield False
            else:
                yield True

    def _open(self, *, is_alone: bool) -> None:
        try:
            if is_alone:
                self.recover()
            is_whole = is_alone
        except CatalogueDamagedError as error:
            _log.warning("everything is a miss for now: %s", error)
            is_whole = False
        except FolderBusyError:
            is_whole = False
        except CachePersistenceError as error:
            # A full disk, say: what cannot be put right now is served as far as it is known.
            _log.warning("%s: not everything could be put right: %s", self.path, error)
            self._recovery.unread["catalogue"] = str(error)
            is_whole = True
        self._repairs = True
        if not is_whole:
            _log.warning("%s: it is put right behind what goes on", self.path)
            self._mend_later()

    def recover(self, *, is_thorough: bool = False) -> None:
        """Finish what killed processes have left, and make files and catalogue agree.

        Args:
            is_thorough: Check all rows, however many there are.

        Raises:
            CachePersistenceError: The system refuses, or the catalogue is damaged and other
                processes still use it.
        """
        self.catalogue.database.is_made = True
        with _refusals(self.path), self._owners.alone(is_over=self._mending.is_over):
            running = self._owners.running()
            self._recovery.run(running, self._make_room_aside, is_thorough=is_thorough)
            if self._keeps_limit and self.catalogue.fact("max_bytes") != self.limits.max_bytes:
                self.catalogue.keep_fact("max_bytes", self.limits.max_bytes)
            self.expire()
            self.shrink(self.catalogue.fact("bytes") - self._room())

    def enter(self, file: str) -> None:
        """Let the catalogue say of a file what its header says."""
        self._recovery.enter(file)

    def _make_room_aside(self, n_bytes: int) -> int:
        most = self.limits.max_bytes
        return self.bytes_aside(max(0, min(most // _ASIDE_PART, most - n_bytes)))

    def _mend_later(self) -> None:
        """Recover behind what goes on. Never waits."""
        if self._repairs:
            self._mending.ask()

    def is_whole(self, timeout: float = 0.0) -> bool:
        """Whether the catalogue can be used; waits so many seconds while it is made again."""
        if self.catalogue.database.is_damaged:
            self._mending.wait(timeout)
        return not self.catalogue.database.is_damaged

    @property
    def unread(self) -> Mapping[str, str]:
        """What could not be read when the store was opened, each with the reason."""
        return dict(self._recovery.unread)

    def stats(self) -> Mapping[str, int]:
        """Blocks and bytes that are stored, the limit, and files that could not be read.

        While the catalogue is damaged nothing is known to be stored.
        """
        try:
            stats = super().stats()
        except CatalogueDamagedError:
            stats = {"blocks": 0, "bytes": 0, "max_bytes": self.limits.max_bytes}
        return {**stats, "unread": len(self._recovery.unread)}

    def running(self) -> list[str]:
        """The processes that use the folder, this one among them."""
        with _refusals(self.path):
            return self._owners.running()

    def _clear_the_way(self) -> bool:
        is_cleared = super()._clear_the_way()
        owners = {owner for _, _, owner in self.catalogue.on_their_way()}
        if owners <= {self._owners.name} or owners <= set(self.running()):
            return is_cleared
        # Whoever is in there finishes it.
        with contextlib.suppress(FolderBusyError), _refusals(self.path), self._alone_to_write():
            return self._recovery.finish(self._owners.running()) or is_cleared
        return is_cleared

    def _unpin_dead(self) -> bool:
        with contextlib.suppress(FolderBusyError), _refusals(self.path), self._alone_to_write():
            return self.catalogue.unpin_dead(self._owners.running()) > 0
        return False

    def _alone_to_write(self) -> contextlib.AbstractContextManager[None]:
        return self._owners.alone(_WRITER_SECONDS, self._mending.is_over)

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
        opened.read_into([places[tensor] for tensor, _, _ in opened.tensors])
        return True

    def lies(self, file: str) -> bool:
        """Whether there is a file of that name, whatever it holds."""
        return self.folder.open(file) is not None

    def _remove_file(self, file: str) -> None:
        # A name that no file can have stands in a damaged row.
        with contextlib.suppress(BlockValidationError):
            self.folder.remove(file)

    def _sync_removed(self, files: Sequence[str]) -> None:
        for fan in {file[:2] for file in files}:
            path = self.path / "blocks" / fan
            with _refusals(path), contextlib.suppress(FileNotFoundError):
                folder = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def _set_aside(self, file: str) -> None:
        self.folder.set_aside(file)

    def _most_bytes(self, block: NewBlock) -> int:
        return most_bytes(block)

    # Limits ------------------------------------------------------------------------------------

    def _room(self) -> int:
        most = self.limits.max_bytes
        others = self.bytes_aside(most // _ASIDE_PART) + self._recovery.unread_bytes
        return most - others - self.catalogue_bytes

    @property
    def catalogue_bytes(self) -> int:
        """What the catalogue takes of the limit: what it has beyond its own share."""
        *files, log = (_size(file) for file in self.catalogue.database.files())
        return max(0, sum(files) + max(log, _LOG_BYTES) - CATALOGUE_BYTES)

    def bytes_aside(self, most: int) -> int:
        """Bytes of what was set aside, of which so many are kept to be looked at."""
        found = []
        with _refusals(self.path / "aside"):
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

    def clear_aside(self) -> int:
        """Remove what was set aside; how many bytes that were."""
        return self.bytes_aside(sys.maxsize) - self.bytes_aside(0)

    def scrub(self) -> None:
        """Let nothing be found any more of what was forgotten, nor of what was set aside.

        Nobody knows any more whose that was.
        """
        super().scrub()
        self.clear_aside()

    @contextmanager
    def workroom(self) -> Iterator[Path]:
        """A folder for temporary files; what a killed process leaves there is removed."""
        path = self.path / "tmp" / f"{self._owners.name}-work{next(self._numbers)}"
        with _refusals(path):
            path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def borrowed(self, n_bytes: int) -> Iterator[None]:
        """So many bytes of the limit, for what lies in the workroom meanwhile.

        Raises:
            CachePersistenceError: There is no room.
        """
        name = f"{self._owners.name}-borrowed{next(self._numbers)}"
        while short := self.catalogue.reserve_bytes(name, n_bytes, self._room()):
            self._make_room(short)
        try:
            yield
        finally:
            self.catalogue.left([name])

    def _check_room(self, n_bytes: int) -> None:
        with _refusals(self.path):
            free = os.statvfs(self.path)
        if free.f_bavail * free.f_frsize - n_bytes < self._free_floor:
            raise CachePersistenceError(
                f"{self.path}: writing {n_bytes} bytes would leave less than"
                f" {self._free_floor} free"
            )

    def close(self) -> None:
        """Let go of the store. Idempotent."""
        if not self._closed:
            self._closed = True
            self._recovery.is_over = True
            self._mending.close(_CLOSE_SECONDS)
            super().close()
            self._owners.close()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the system refuses is the store's refusal."""
    try:
        yield
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        why = "it is no folder" if is_file else error.strerror
        raise CachePersistenceError(f"{path}: {why}", errno=error.errno) from error


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
