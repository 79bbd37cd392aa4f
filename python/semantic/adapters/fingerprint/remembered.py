"""The digests of files that were read before, remembered under their identities.

One small file for each digest, so that processes never rewrite what others remember. It is named by
the identity, replaced in one step, and holds a check of both: after a crash, or when anything else
happened to it, it is not believed. Nothing here raises: what is not remembered is read again.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from hashlib import blake2b
from pathlib import Path

from semantic.adapters.fingerprint.file_identity import FileIdentity

__all__ = ["RememberedDigests", "cache_folder"]

_MOST_FILES = 4096
_MOST_BYTES = 256
_DIGEST_CHARACTERS = 64

_log = logging.getLogger("semantic")


def cache_folder() -> Path | None:
    """Where digests are remembered by default; None for a user without a home.

    `$XDG_CACHE_HOME/semantic/fingerprints`, else below `~/Library/Caches` on macOS and `~/.cache`
    elsewhere.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not chosen.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:
            return None
        chosen = home / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return chosen / "semantic" / "fingerprints"


class RememberedDigests:
    """SHA-256 digests by file identity, over restarts.

    Args:
        folder: Where they lie; None remembers nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, identity: FileIdentity) -> str | None:
        """The digest, in hexadecimal digits; None where it is not known for sure."""
        if self._folder is None:
            return None
        name = _name(identity)
        try:
            text = _own_text(self._folder / name)
        except (OSError, ValueError):
            return None
        digest = text[:_DIGEST_CHARACTERS]
        return digest if text == _line(name, digest) else None

    def put(self, identity: FileIdentity, digest: str) -> None:
        """Remember a digest, where the system allows it."""
        if self._folder is None:
            return
        name = _name(identity)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._folder / name, _line(name, digest))
            self._forget_oldest(self._folder)
        except OSError as error:
            _log.debug("a digest is not remembered: %s", error)

    def _forget_oldest(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            files = [entry.path for entry in entries]
        if len(files) > _MOST_FILES:
            files.sort(key=os.path.getmtime)
            for path in files[: len(files) - _MOST_FILES]:
                os.unlink(path)


def _name(identity: FileIdentity) -> str:
    return "-".join(map(str, identity))


def _line(name: str, digest: str) -> str:
    check = blake2b(f"{name} {digest}".encode(), digest_size=16, person=b"semantic-digest")
    return f"{digest} {check.hexdigest()}\n"


def _own_text(path: Path) -> str:
    """What this user alone can have written there."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or writable:
            raise PermissionError(f"{path} may be somebody else's")
        return file.read(_MOST_BYTES).decode("ascii")


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # made with 0600
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
