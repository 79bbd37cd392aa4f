"""What is wrong with a file that processes share, told to all of them by a mark beside it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["DamageMark"]


class DamageMark:
    """Whether a file is damaged, as far as this process knows.

    Args:
        path: The file; None: there is none, and nobody else to be told.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else path.with_name(f"{path.name}-damaged")
        self._fault = ""
        self._is_ours = False

    @property
    def is_damaged(self) -> bool:
        """Whether it is known to be damaged."""
        has_mark = self._path is not None and self._path.exists()
        if self._is_ours and not has_mark:
            self._fault = ""  # another process has made it again
        return bool(self._fault) or has_mark

    @property
    def fault(self) -> str:
        """What is wrong with it, as far as this process knows."""
        return self._fault or ("it is damaged" if self.is_damaged else "")

    def blame(self, why: str) -> None:
        """This process knows what is wrong."""
        self._fault = why

    def tell(self) -> None:
        """Leave the mark, where this process alone knows what is wrong."""
        if self._fault and not self._is_ours:
            self.leave(self._fault)

    def leave(self, why: str) -> None:
        """Leave the mark, whatever was left before."""
        self._is_ours = False
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # this process knows; others will meet it themselves
            file = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with open(file, "w") as mark:
                mark.write(f"{why}\n")
            self._is_ours = True

    def remove(self) -> None:
        """The file is made again.

        Raises:
            OSError: The system refuses.
        """
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._fault = ""
