"""Secrets of a store: the key that it is sealed with, and the salt of who shares what.

A small file beside the blocks says which key that is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from semantic.adapters.store.database import CatalogueDamagedError, Database
from semantic.adapters.store.small_file import write_small
from semantic.adapters.store.veil import Veil
from semantic.domain.errors import PoolConfigurationError, SemanticError
from semantic.domain.native import BlockFolder
from semantic.domain.stored import BlockName

__all__ = [
    "KEY_VARIABLE",
    "SALT_VARIABLE",
    "check_key",
    "check_unsealed",
    "check_unused",
    "mark_sealed",
    "read_key",
    "read_salt",
]

KEY_VARIABLE = "SEMANTIC_STORE_KEY"
"""The environment variable that may hold a store's key."""

SALT_VARIABLE = "SEMANTIC_STORE_SALT"
"""The environment variable that may hold a tenant's salt."""

_MARK = "sealed"
_KEY_BYTES = 32

_MAGIC = b"semantic-sealed1"
"""What every sealed file begins with."""

_LOOKS = 16
"""Files that are looked at where there is no mark: most of them would have to be damaged."""


def check_key(path: Path, veil: Veil, *, is_marked: bool = True) -> bool:
    """Refuse another key than the folder's: with it, every block would look damaged.

    Where the mark is lost or damaged, the block files say what it should be.

    Args:
        path: The folder.
        veil: What the key makes of names.
        is_marked: Whether the mark is written where it is missing, and the files say what it is.

    Returns:
        Whether neither the mark nor a file says yet that the folder is sealed, and it is to be.

    Raises:
        PoolConfigurationError: Another key, none, or one for a folder that is not sealed.
        OSError: The system refuses.
    """
    mark = path / _MARK
    try:
        found = mark.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        found = ""
    if found == veil.fingerprint and found:
        return False
    some = list(islice((path / "blocks").glob("*/*"), _LOOKS))
    # Most of them: a file of another store may have strayed into this one.
    fronts = [_front(file) for file in some]
    n_sealed = sum(front == _MAGIC for front in fronts)
    is_sealed = n_sealed > sum(front[8:9] == b"{" for front in fronts)
    if not found and not is_sealed and not veil.fingerprint:
        return False
    if some and not is_sealed and not found:
        raise PoolConfigurationError(
            f"{path} has blocks that are not sealed: use no key, nor {KEY_VARIABLE}"
        )
    if not veil.fingerprint:
        raise PoolConfigurationError(
            f"{path} is sealed: it needs its key, from a file or from {KEY_VARIABLE}"
        )
    if not found and not is_sealed:
        return True
    if not _opens(path, some, veil):
        raise PoolConfigurationError(f"{path} is sealed, and this is another key: use its own")
    if is_marked:
        mark_sealed(path, veil)
    return False


def check_unused(path: Path, n_others: int) -> None:
    """Refuse to seal a folder, of which nothing says that it is, while it is used without a key.

    Args:
        path: The folder.
        n_others: How many other processes use it: none of them can have this key.

    Raises:
        PoolConfigurationError: There are some.
    """
    if n_others:
        raise PoolConfigurationError(
            f"{path} is in use without a key: end what uses it first, or use no key"
        )


def check_unsealed(path: Path, veil: Veil, database: Database) -> None:
    """Refuse to seal a folder, of which nothing says that it is, that was used without a key.

    Args:
        path: The folder.
        veil: What the key makes of values.
        database: Its catalogue, in which a store may have names though it has no blocks.

    Raises:
        PoolConfigurationError: It was.
        CachePersistenceError: The system refuses.
    """
    try:
        ((tokens, label),) = database.read(_VALUES)
    except CatalogueDamagedError:
        return  # it is made again from the blocks, and there are none
    if any(isinstance(value, bytes) and veil.unseal(value) is None for value in (tokens, label)):
        raise PoolConfigurationError(
            f"{path} has a catalogue that is not sealed with this key: use no key, or a folder of"
            " its own"
        )


_VALUES = "SELECT (SELECT tokens FROM nodes LIMIT 1), (SELECT label FROM agents LIMIT 1)"


def mark_sealed(path: Path, veil: Veil) -> None:
    """Write down which key a folder is sealed with, so that it survives a power cut."""
    write_small(path / _MARK, veil.fingerprint)


def _front(file: Path) -> bytes:
    """What tells sealed files from plain ones, whose header begins with a brace."""
    try:
        if not file.is_file():
            return b""  # to open a pipe is to wait
        with file.open("rb") as opened:
            return opened.read(len(_MAGIC))
    except OSError:
        return b""


def _opens(path: Path, files: Iterable[Path], veil: Veil) -> bool:
    """Whether the key opens one of these files."""
    folder = BlockFolder(path, "key", veil.secret)
    for file in files:
        if BlockName.parse(file.stem) is None:
            continue
        try:
            if folder.open(file.stem) is not None:
                return True
        except SemanticError:
            continue
    return False


def read_key(file: Path | None) -> bytes | None:
    """A key from a file or, without one, from the environment; None where there is none.

    Raises:
        PoolConfigurationError: A file that cannot be read, or what is no key: 64 hexadecimal
            digits, as `openssl rand -hex 32` makes them, or 32 bytes in a file.
    """
    if file is None:
        text = os.environ.get(KEY_VARIABLE, "")
        return _key(text.encode(), KEY_VARIABLE) if text else None
    try:
        return _key(file.read_bytes(), str(file))
    except OSError as error:
        raise PoolConfigurationError(f"{file}: {error.strerror}") from error


def read_salt(file: Path | None) -> str:
    """A tenant's salt from a file or, without one, from the environment; empty where there is none.

    Space around it does not count.

    Raises:
        PoolConfigurationError: A file that cannot be read, or holds no text.
    """
    if file is None:
        return os.environ.get(SALT_VARIABLE, "").strip()
    try:
        salt = file.read_bytes().decode().strip()
    except OSError as error:
        raise PoolConfigurationError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PoolConfigurationError(f"{file} holds no salt: text in UTF-8") from error
    if not salt:
        raise PoolConfigurationError(f"{file} holds no salt: it is empty")
    return salt


def _key(text: bytes, source: str) -> bytes:
    if len(text) == _KEY_BYTES:
        return text
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise PoolConfigurationError(
            f"{source} holds no key: 64 hexadecimal digits, such as `openssl rand -hex 32` makes"
        )
    return key
