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

from semantic.adapters.store.aside import Aside
from semantic.adapters.store.block_file import has_tensors, is_block, most_bytes, written
from semantic.adapters.store.catalogued import CataloguedStore
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.entry import alone_or_known, entered
from semantic.adapters.store.kept_limit import keep_limit
from semantic.adapters.store.limits import Limits, NoRoomError
from semantic.adapters.store.mending import Mending
from semantic.adapters.store.owner_names import workroom
from semantic.adapters.store.owners import FolderBusyError, Owners
from semantic.adapters.store.private_folder import make_private, sync_folder
from semantic.adapters.store.recovery import Recovery
from semantic.adapters.store.veil import Veil
from semantic.domain._check import whole_number
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import (
    BlockValidationError,
    CacheCorruptionError,
    CachePersistenceError,
    PoolConfigurationError,
)
from semantic.domain.native import TokenIds
from semantic.domain.policy import EvictionPolicy
from semantic.domain.stored import BlockName, NewBlock

__all__ = ["CATALOGUE_BYTES", "FREE_BYTES", "STORE_BYTES", "DiskStore"]

_log = logging.getLogger("semantic")

_UNREAD = "unread_bytes"
"""The fact that whoever has looked last keeps, for the limits of all."""

_ASIDE_PART = 16
"""What was set aside may take this part of the limit."""

STORE_BYTES = 64 << 30
"""What a store may take unless somebody says otherwise."""

FREE_BYTES = 1 << 30
"""What a store leaves free on the disk unless somebody says otherwise."""

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
        PoolConfigurationError: Limits that cannot be, another key than the folder's, or one for a
            folder that is used without.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_bytes: int = STORE_BYTES,
        *,
        free_floor_bytes: int = FREE_BYTES,
        daily_write_bytes: int | None = None,
        min_reuse: int = 1,
        policy: EvictionPolicy | None = None,
        key: bytes | None = None,
        repair: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        limits = Limits(max_bytes, daily_write_bytes, min_reuse, policy or EvictionPolicy())
        self.path = Path(path).expanduser().absolute()
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
            with _refusals(self.path), alone_or_known(self.path, self._owners) as is_alone:
                self.folder, catalogue = entered(
                    self.path,
                    self._owners,
                    veil,
                    self._mend_later,
                    is_made=repair,
                    is_alone=is_alone,
                )
        except BaseException:
            self._owners.close()
            raise
        super().__init__(catalogue, veil, limits, now)
        self._recovery = Recovery(
            self.path,
            self.folder,
            catalogue,
            veil,
            lambda: self._removals.take_over(self._owners.running),
            self._owners.running,
            now,
        )
        try:
            if repair:
                self._open(is_alone=is_alone)
        except BaseException:
            self.close()
            raise

    # Opening -----------------------------------------------------------------------------------

    def _open(self, *, is_alone: bool) -> None:
        is_whole = False
        try:
            if is_alone:
                self.put_right()
                is_whole = True
        except CatalogueDamagedError as error:
            _log.warning("everything is a miss for now: %s", error)
        except FolderBusyError as error:
            _log.warning("%s", error)
        self._repairs = True
        if not is_whole:
            _log.warning("%s: it is put right behind what goes on", self.path)
            self._mend_later()

    def put_right(self) -> None:
        """Recover as far as the system lets this be: what it refuses is named by `unread`.

        Raises:
            CatalogueDamagedError: The catalogue is damaged, and other processes still use it.
            FolderBusyError: Another process does it, and takes long.
        """
        try:
            self.recover()
        except (CatalogueDamagedError, FolderBusyError):
            raise
        except CachePersistenceError as error:
            # A full disk, say: what cannot be put right now is served as far as it is known.
            _log.warning("%s: not everything could be put right: %s", self.path, error)
            self._recovery.unread["catalogue"] = str(error)

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
            self._owners.enter()
            self._recovery.run(self._make_room_aside, is_thorough=is_thorough)
            facts = {_UNREAD: self._recovery.unread_bytes}
            if self._keeps_limit:
                facts["max_bytes"] = self.limits.max_bytes
            for fact, value in facts.items():
                if self.catalogue.fact(fact) != value:
                    self.catalogue.keep_fact(fact, value)
            self.expire()
            if (too_many := self.catalogue.fact("bytes") - self._room()) > 0:
                self.shrink(too_many)
            if self._keeps_limit:
                keep_limit(self.path, self.limits.max_bytes)

    def enter(self, file: str) -> None:
        """Let the catalogue say of a file what its header says."""
        self._recovery.enter(file)

    def _make_room_aside(self, n_bytes: int) -> int:
        most = self.limits.max_bytes
        if not self._keeps_limit:
            most = min(most, self.catalogue.fact("max_bytes") or most)
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

    def _be_known(self) -> None:
        with _refusals(self.path):
            self._owners.enter()

    def _clear_the_way(self) -> bool:
        is_cleared = super()._clear_the_way()
        owners = {owner for _, _, owner in self.catalogue.on_their_way()}
        if owners <= {self._owners.name} or owners <= set(self.running()):
            return is_cleared
        # Whoever is in there finishes it.
        with contextlib.suppress(FolderBusyError), _refusals(self.path), self._alone_to_write():
            return self._recovery.finish() or is_cleared
        return is_cleared

    def _unpin_dead(self) -> bool:
        with contextlib.suppress(FolderBusyError), _refusals(self.path), self._alone_to_write():
            return self.catalogue.unpin_dead(self._owners.running) > 0
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
        if not is_block(opened, name, tokens):
            raise CacheCorruptionError(f"{file} holds another block than its name says")
        if not has_tensors(opened, [tensor for tensor, _ in memory]):
            _log.warning("%s was written for another geometry: a miss", file)
            return False
        places = {tensor.name: (buffer, tensor.rows) for tensor, buffer in memory}
        opened.read_into([places[tensor] for tensor, _, _ in opened.tensors])
        return True

    def lies(self, file: str) -> bool:
        """Whether there is a file of that name, whatever it holds."""
        try:
            return self.folder.open(file) is not None
        except CacheCorruptionError:
            return True

    def _remove_file(self, file: str) -> None:
        # A name that no file can have stands in a damaged row.
        with contextlib.suppress(BlockValidationError):
            self.folder.remove(file)

    def _sync_removed(self, files: Sequence[str]) -> None:
        for fan in {file[:2] for file in files}:
            path = self.path / "blocks" / fan
            with _refusals(path), contextlib.suppress(FileNotFoundError):
                sync_folder(path)

    def _set_aside(self, file: str) -> None:
        self.folder.set_aside(file)

    def _most_bytes(self, block: NewBlock) -> int:
        return most_bytes(block)

    # Limits ------------------------------------------------------------------------------------

    def _room(self) -> int:
        most = self.limits.max_bytes
        unread = max(self._recovery.unread_bytes, self.catalogue.fact(_UNREAD))
        return most - self.bytes_aside(most // _ASIDE_PART) - unread - self.catalogue_bytes

    @property
    def catalogue_bytes(self) -> int:
        """What the catalogue takes of the limit: what it has beyond its own share."""
        *files, log = (_size(file) for file in self.catalogue.database.files())
        return max(0, sum(files) + max(log, _LOG_BYTES) - CATALOGUE_BYTES)

    def bytes_aside(self, most: int) -> int:
        """Bytes of what was set aside, of which so many are kept to be looked at."""
        with _refusals(self.path / "aside"):
            return Aside(self.path / "aside").n_bytes(most)

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
        path = self.path / "tmp" / workroom(self._owners.name, next(self._numbers))
        with _refusals(path):
            path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def borrowed(self, n_bytes: int) -> Iterator[None]:
        """So many bytes of the limit and the disk, for what lies in the workroom meanwhile.

        Raises:
            NoRoomError: There is no room.
        """
        self._be_known()
        self._check_room(n_bytes)
        name = f"{self._owners.name}-borrowed{next(self._numbers)}"
        with self.catalogue.database.unparted():
            while short := self.catalogue.reserve_bytes(name, n_bytes, self._room()):
                self._make_room(short)
            self._keep_room([name])
        try:
            yield
        finally:
            self.catalogue.left([name])

    def _check_room(self, n_bytes: int) -> None:
        with _refusals(self.path):
            free = os.statvfs(self.path)
        if free.f_bavail * free.f_frsize - n_bytes < self._free_floor:
            raise NoRoomError(
                f"{self.path}: writing {n_bytes} bytes would leave less than"
                f" {self._free_floor} free"
            )

    def close(self) -> None:
        """Let go of the store. Idempotent; a child leaves that to its parent."""
        if not self._closed:
            self._closed = True
            if self._owners.is_ours:
                self._recovery.is_over = True
                self._mending.close(_CLOSE_SECONDS)
            # Who is taken for dead while it writes has its blocks taken over.
            self.catalogue.close(self._owners.close)


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
