"""Removing the files of blocks, and then their rows.

A row says that its block leaves before the file goes, and goes after it: whatever is killed in
between, whoever opens the store next finds the row and finishes it.

Only what is this process's business is removed. Others may have made the catalogue again since, or
have taken over what was its business, where somebody has removed the file that says that it runs:
the block may be theirs by now. So its row is looked at first, and nobody makes the catalogue again
until the file has gone: that is `Database.unparted`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.gone import Gone
from semantic.adapters.store.leaving import Removal, removed_later
from semantic.adapters.store.locks import ThreadLock
from semantic.domain.errors import CachePersistenceError

__all__ = ["Removals"]

_log = logging.getLogger("semantic")


class Removals:
    """Removes blocks that leave, and remembers what could not be removed.

    Args:
        catalogue: Which blocks there are.
        remove_file: Removes a file, which need not be there.
        sync: Returns when the names of removed files would not come back after a power cut.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        remove_file: Callable[[str], None],
        sync: Callable[[Sequence[str]], None],
    ) -> None:
        self._catalogue = catalogue
        self._remove_file = remove_file
        self._sync = sync
        self._lock = ThreadLock("a store")
        self._left_over: dict[str, str] = {}

    @property
    def stuck(self) -> Mapping[str, str]:
        """The files that could not be removed, each with the reason."""
        with self._lock:
            return {file: why for file, why in self._left_over.items() if why}

    def keep(self, files: Mapping[str, str]) -> None:
        """Remove these later, which are stuck for a reason, or just are not removed yet."""
        with self._lock:
            self._left_over.update(files)

    def again(self) -> bool:
        """Remove what could not be before; whether that was anything."""
        with self._lock:
            files, self._left_over = self._left_over, {}
        # What is refused again waits for the next time.
        with contextlib.suppress(CachePersistenceError):
            self.remove(list(files), is_forgotten=True)
        return len(self._left_over) < len(files)

    def take_over(self, running: Callable[[], Sequence[str]]) -> None:
        """Remove what processes were removing that do not run any more.

        Args:
            running: Asks which ones run.
        """
        # Perhaps they were forgetting: nobody knows any more.
        self.let_go(lambda remove: self._catalogue.take_over(running, remove), is_forgotten=True)

    def let_go(self, leave: Callable[[Removal], list[str]], *, is_forgotten: bool = False) -> Gone:
        """Have blocks leave, and remove them; see `remove`.

        Args:
            leave: Has the catalogue say that they leave; their files.
            is_forgotten: As there.
        """
        with self._catalogue.database.unparted():
            return self.remove(self._leave(leave), is_forgotten=is_forgotten)

    def _leave(self, leave: Callable[[Removal], list[str]]) -> list[str]:
        """On a disk that is full, files make the room that their rows need.

        They go within the transaction. Should that fail all the same, a row whose file has gone is
        a miss.
        """
        try:
            return leave(removed_later)
        except CachePersistenceError as error:
            if error.errno is None:
                raise
        with contextlib.suppress(CachePersistenceError):
            return leave(self._remove_first)
        return leave(removed_later)

    def _remove_first(self, files: Sequence[str]) -> None:
        for file in files:
            with contextlib.suppress(CachePersistenceError):
                self._remove_file(file)

    def remove(self, files: Sequence[str], *, is_forgotten: bool = False) -> Gone:
        """Remove files of blocks that come or leave, and then their rows; within `unparted`.

        Args:
            files: Their names.
            is_forgotten: Nothing of them comes back, not after a power cut either, and the names of
                agents of whom nothing is left go, however they stand.

        Raises:
            CachePersistenceError: The catalogue cannot be asked or told: what has not been told is
                kept for later.
        """
        if not files:
            return Gone()
        gone: list[str] = []
        refusal: CachePersistenceError | None = None
        left_over = dict.fromkeys(files, "")
        try:
            left_over = dict.fromkeys(self._catalogue.ours(files), "")
            for file in left_over:
                try:
                    self._remove_file(file)
                except CachePersistenceError as error:
                    refusal = error
                    left_over[file] = str(error)
                else:
                    gone.append(file)
            if is_forgotten:
                self._sync(gone)
            n_bytes = self._catalogue.left(gone, is_forgotten=is_forgotten)
            for file in gone:
                del left_over[file]
        finally:
            self.keep(left_over)
        if refusal is not None:
            _log.warning("a block could not be removed: %s", refusal)
        return Gone(len(gone), n_bytes, refusal)
