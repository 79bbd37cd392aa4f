"""SHA-256 of large files: from what is remembered, else by reading all of their bytes.

Files are read side by side, for one core hashes slower than a disk reads; the GIL is released
meanwhile. A file that changes under the reader has no digest.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from hashlib import sha256
from pathlib import Path

from semantic.adapters.fingerprint.file_identity import FileIdentity
from semantic.adapters.fingerprint.remembered import RememberedDigests
from semantic.domain.errors import BlockValidationError

__all__ = ["digests_of"]

_CHUNK_BYTES = 4 << 20
_MOST_THREADS = 4
_TELL_AFTER_SECONDS = 2.0
_TELL_EVERY_SECONDS = 5.0

_log = logging.getLogger("semantic")


def digests_of(
    files: Mapping[Path, FileIdentity], remembered: RememberedDigests
) -> dict[Path, str]:
    """The SHA-256 of each file, in hexadecimal digits.

    Args:
        files: The files, as they were seen.
        remembered: Digests of earlier reads; what is read here is added.

    Raises:
        BlockValidationError: A file that changed since it was seen, or cannot be read.
    """
    digests = {}
    for path, identity in files.items():
        known = remembered.get(identity)
        if known is not None:
            digests[path] = known
    unknown = {path: identity for path, identity in files.items() if path not in digests}
    if unknown:
        digests |= _read_all(unknown, remembered)
    return digests


def _read_all(files: Mapping[Path, FileIdentity], remembered: RememberedDigests) -> dict[Path, str]:
    largest_first = sorted(files, key=lambda path: files[path].size_bytes, reverse=True)
    progress = _Progress(sum(identity.size_bytes for identity in files.values()))
    n_threads = min(_MOST_THREADS, os.cpu_count() or 1, len(files))
    with ThreadPoolExecutor(n_threads, "semantic-fingerprint") as pool:
        reads = {
            path: pool.submit(_read, path, files[path], remembered, progress)
            for path in largest_first
        }
        try:
            for read in wait(reads.values(), return_when=FIRST_EXCEPTION).done:
                read.result()
            digests = {path: read.result() for path, read in reads.items()}
        except BaseException:
            # One file is enough to fail; an interrupt is not to wait for gigabytes.
            progress.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress.end()
    return digests


def _read(
    path: Path, identity: FileIdentity, remembered: RememberedDigests, progress: _Progress
) -> str:
    now_ns = time.time_ns()
    digest, chunk = sha256(), memoryview(bytearray(min(_CHUNK_BYTES, identity.size_bytes + 1)))
    try:
        with open(path, "rb", buffering=0) as file:
            before = FileIdentity.of(os.fstat(file.fileno()))
            while not progress.stop.is_set() and (n_bytes := file.readinto(chunk)):
                digest.update(chunk[:n_bytes])
                progress.add(n_bytes)
            after = FileIdentity.of(os.fstat(file.fileno()))
    except OSError as error:
        raise BlockValidationError(f"{path} cannot be read: {error.strerror}") from error
    if not before == after == identity or progress.stop.is_set():
        raise BlockValidationError(f"{path} changed while it was read")
    if identity.is_settled(now_ns):
        remembered.put(identity, digest.hexdigest())
    return digest.hexdigest()


class _Progress:
    """Tells how far reading is, once it takes long.

    Args:
        total_bytes: What there is to read.
    """

    def __init__(self, total_bytes: int) -> None:
        self.stop = threading.Event()
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._tell_at = self._started + _TELL_AFTER_SECONDS
        self._told = False

    def add(self, n_bytes: int) -> None:
        """So many bytes more were read."""
        with self._lock:
            self._done_bytes += n_bytes
            now = time.monotonic()
            if now < self._tell_at:
                return
            self._tell_at = now + _TELL_EVERY_SECONDS
            self._told = True
            done_bytes = self._done_bytes
        _log.info(
            "Reading the model's weights to know them, once while they stay as they are: "
            "%.1f of %.1f GB",
            done_bytes / 1e9,
            self._total_bytes / 1e9,
        )

    def end(self) -> None:
        """All of it was read."""
        if self._told:
            seconds = time.monotonic() - self._started
            _log.info("Read %.1f GB of weights in %.0f s", self._total_bytes / 1e9, seconds)
