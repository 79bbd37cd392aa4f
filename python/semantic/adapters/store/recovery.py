"""Making a folder right again: what killed processes have left, and what files and rows contradict.

The block files are the truth. One process at a time does this: what one has finished, the next one
must not finish again. One that is stopped meanwhile goes on among others that have come since. So
who runs is asked behind each reading of rows or names: whose they are has entered before they were
made, and does not run any more where it is not among those.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from semantic.adapters.store.aside import Aside
from semantic.adapters.store.block_file import described
from semantic.adapters.store.block_files import ENDING, FANS, BlockFiles, block_files
from semantic.adapters.store.catalogue import Adopted, Catalogue
from semantic.adapters.store.database import CatalogueDamagedError
from semantic.adapters.store.kept_limit import kept_limit
from semantic.adapters.store.owner_names import owner_of_file, owner_of_workroom
from semantic.adapters.store.soundness import Soundness
from semantic.adapters.store.veil import Veil
from semantic.domain.errors import CacheCorruptionError, CachePersistenceError
from semantic.domain.native import BlockFolder
from semantic.domain.stored import BlockName

__all__ = ["Recovery"]

_log = logging.getLogger("semantic")

_MANY = 50
"""Files that are looked at in one transaction: nobody else writes meanwhile."""


class Recovery:
    """Makes a store's folder right again.

    Args:
        path: The folder.
        folder: Its block files.
        catalogue: Its catalogue.
        veil: What the disk sees of names and values.
        take_over: Removes what leaves, and is the business of nobody who runs.
        running: Asks which processes run.
        now: Seconds since 1970.

    Attributes:
        unread: What could not be read when this was last done, each with the reason. It is left
            where it is, for the reason may pass.
        unread_bytes: Bytes of those files.
        is_over: Set when the store is closed: what takes long stops.
    """

    def __init__(
        self,
        path: Path,
        folder: BlockFolder,
        catalogue: Catalogue,
        veil: Veil,
        take_over: Callable[[], object],
        running: Callable[[], Sequence[str]],
        now: Callable[[], float],
    ) -> None:
        self._path = path
        self._folder = folder
        self._catalogue = catalogue
        self._veil = veil
        self._take_over = take_over
        self._running = running
        self._now = now
        self.soundness = Soundness(catalogue, veil)
        self.unread: dict[str, str] = {}
        self.unread_bytes = 0
        self.is_over = False

    def run(self, aside_bytes: Callable[[int], int], *, is_thorough: bool = False) -> None:
        """Do all of it.

        Args:
            aside_bytes: Makes room for the files of a damaged catalogue, beside so many bytes of
                blocks.
            is_thorough: Check all rows, even of a catalogue that is large.

        Raises:
            CatalogueDamagedError: The catalogue is damaged, and others still use it.
            CachePersistenceError: The system refuses.
        """
        self.unread, self.unread_bytes = {}, 0
        is_thorough = is_thorough or self.soundness.is_cheap
        if self._is_sound(is_thorough=is_thorough):
            is_new = not self._catalogue.fact("day")  # and there may be blocks: it was lost
            self.finish()
            self._agree(is_thorough=is_thorough)
            if is_new:
                self._carry_over({})
        else:
            self._make_again(aside_bytes)

    def _is_sound(self, *, is_thorough: bool) -> bool:
        database = self._catalogue.database
        if database.is_damaged:
            return False
        try:
            if is_thorough:
                fault = self.soundness.fault()
                if fault:
                    database.condemn(fault)
        except CatalogueDamagedError as error:
            _log.warning("%s", error)
        return not database.is_damaged

    def _make_again(self, aside_bytes: Callable[[int], int]) -> None:
        with self._catalogue.database.made_again(Aside(self._path / "aside").place) as numbers:
            self._carry_over(numbers)
            there = block_files(self._path)
            aside_bytes(sum(self._size(file) for file in there.files))
            self._clean()
            self._note(there)
            self._enter(there.files)
            self._carry_over({})  # by the blocks, where the numbers could not be read
        _log.warning("%s: the catalogue was made again from the blocks", self._path)

    def _carry_over(self, numbers: Mapping[str, int]) -> None:
        """Let a new catalogue know what block files cannot tell."""
        max_bytes = kept_limit(self._path) or numbers.get("max_bytes", 0)
        self._catalogue.carry_over({**numbers, "max_bytes": max_bytes}, int(self._now()))

    def finish(self) -> bool:
        """Finish what processes that do not run any more have begun; whether that was anything."""
        self._clean()
        self._catalogue.unpin_dead(self._running)
        left = self._left_behind()
        with contextlib.suppress(CachePersistenceError):  # what cannot be removed stays reserved
            self._take_over()
        for file in [file for file, state in left if state == "coming"]:
            try:
                self._enter([file], state="coming")
            except CatalogueDamagedError:
                raise
            except CachePersistenceError as error:
                # It may have been told to be stored, should the row that said so have been lost
                # in a power cut. So it stays reserved, and is entered another time.
                _log.warning("%s: %s is not served yet: %s", self._path, file, error)
        return len(self._left_behind()) < len(left)

    def _left_behind(self) -> list[tuple[str, str]]:
        rows = self._catalogue.on_their_way()
        running = self._running()
        return [(file, state) for file, state, owner in rows if owner not in running]

    def _agree(self, *, is_thorough: bool) -> None:
        wrong = self.soundness.wrong_files() if is_thorough else set()
        differing: set[str] = set()
        # Folder by folder: sets of a million names would take twice as long, and much memory.
        for fan, end in zip(FANS, (*FANS[1:], None), strict=True):
            known = self._catalogue.files(fan if fan != FANS[0] else None, end)
            there = block_files(self._path, [fan])
            self._note(there)
            if not there.unread:
                differing.update(known - there.files, known & wrong)
                differing.update(there.files - known)
        self._enter(differing)
        if is_thorough and not self.soundness.is_sum_right():
            # One that has gone since may be written again before its row is counted.
            sizes = {file: self._size(file) for file in block_files(self._path).files}
            self.soundness.count_again({file: size for file, size in sizes.items() if size})

    def _note(self, there: BlockFiles) -> None:
        for fan, why in there.unread.items():
            self.unread[f"blocks/{fan}"] = why
            _log.warning("%s: blocks/%s cannot be read: %s", self._path, fan, why)
        for name, n_bytes in there.strangers.items():
            self._leave_alone(name, n_bytes, "it is no block")

    def _clean(self) -> None:
        """Remove the temporary files and folders of processes that do not run any more."""
        try:
            entries = list(os.scandir(self._path / "tmp"))
            running = self._running()
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                owner = (owner_of_workroom if is_folder else owner_of_file)(entry.name)
                if owner is not None and owner not in running:
                    with contextlib.suppress(FileNotFoundError):  # it may have just ended
                        (shutil.rmtree if is_folder else os.unlink)(entry.path)
        except OSError as error:
            self.unread["tmp"] = str(error)
            _log.warning("%s: leftovers cannot be removed: %s", self._path, error)

    # Entering ----------------------------------------------------------------------------------

    def enter(self, file: str) -> None:
        """Let the catalogue say of a file what its header says."""
        self._enter([file])

    def _enter(self, files: Iterable[str], *, state: Literal["coming", "here"] = "here") -> None:
        """Let the rows of files in this state, or without any, say what is there; oldest first."""
        for some in _parts(sorted(files, key=self._written_at)):
            if self.is_over:
                raise CachePersistenceError(f"{self._path} was closed meanwhile")
            self._catalogue.adopt(some, self._adopted, state=state)

    def _adopted(self, file: str) -> Adopted | None:
        """A file's block; None where there is none, or none any more."""
        if BlockName.parse(file) is None:
            return None
        try:
            opened = self._folder.open(file)
            block = None if opened is None else described(opened)
            if opened is not None and block is not None and self._veil.file(block.name) == file:
                return block, opened.n_bytes, min(self._written_at(file), int(self._now()))
        except CacheCorruptionError as error:
            _log.warning("set aside: %s", error)
        except CachePersistenceError as error:
            self._leave_alone(file, self._size(file), str(error))
            return None
        self._folder.set_aside(file)
        return None

    def _leave_alone(self, file: str, n_bytes: int, why: str) -> None:
        _log.warning("%s: %s is left alone: %s", self._path, file, why)
        if file not in self.unread:
            self.unread_bytes += n_bytes
        self.unread[file] = why

    def _file(self, file: str) -> Path:
        return self._path / "blocks" / file[:2] / f"{file}{ENDING}"

    def _written_at(self, file: str) -> int:
        with contextlib.suppress(OSError):
            return int(self._file(file).lstat().st_mtime)
        return 0

    def _size(self, file: str) -> int:
        with contextlib.suppress(OSError):
            return self._file(file).lstat().st_size
        return 0


def _parts(files: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(files), _MANY):
        yield files[at : at + _MANY]
