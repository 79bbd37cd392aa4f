"""Whether a file is still the one that was looked at, without reading it."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["SETTLED_AFTER_NS", "FileIdentity"]

SETTLED_AFTER_NS = 2_000_000_000
"""The coarsest clock of a file system in use, FAT's: two changes within it may look like one."""


class FileIdentity(NamedTuple):
    """What the system says of a file; another content has another identity.

    Size and modification time can be set to what they were. The time of the last change of the
    inode cannot: the system's clock sets it at every write, rename and `utime`.
    """

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity in a `stat` of the file itself, not of a link to it."""
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def is_settled(self, now_ns: int) -> bool:
        """Whether a change after `now_ns` is sure to show: it cannot have the same time."""
        return max(self.modified_ns, self.changed_ns) + SETTLED_AFTER_NS <= now_ns
