"""Secrets of a store: the key that it is sealed with, and the salt of who shares what.

A small file beside the blocks says which key that is.
"""

from __future__ import annotations

import os
from pathlib import Path

from semantic.adapters.store.veil import Veil
from semantic.domain.errors import PoolConfigurationError

__all__ = ["KEY_VARIABLE", "SALT_VARIABLE", "check_key", "read_key", "read_salt"]

KEY_VARIABLE = "SEMANTIC_STORE_KEY"
"""The environment variable that may hold a store's key."""

SALT_VARIABLE = "SEMANTIC_STORE_SALT"
"""The environment variable that may hold a tenant's salt."""

_MARK = "sealed"
_KEY_BYTES = 32


def check_key(path: Path, veil: Veil) -> None:
    """Refuse another key than the folder's: with it, every block would look damaged.

    Raises:
        PoolConfigurationError: Another key, none, or one for a folder that is not sealed.
        OSError: The system refuses.
    """
    mark = path / _MARK
    try:
        found = mark.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = ""
    if found == veil.fingerprint:
        return
    if found:
        has = "another key" if veil.fingerprint else "no key"
        raise PoolConfigurationError(f"{path} is sealed, and this is {has}: use its own")
    if any((path / "blocks").glob("*/*")):
        raise PoolConfigurationError(f"{path} has blocks that are not sealed: use no key")
    new = mark.with_suffix(".new")
    with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(veil.fingerprint + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(mark)
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
