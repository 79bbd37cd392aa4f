"""Who may share with whom: namespaces, and the chained keys of token blocks (law 5).

The key of a token block depends on its namespace and on every token before it. Each field enters
the hash with its own tag and length, so that a salt "x" and an adapter "x" never collide. Keys are
the same in every process and on every machine: BLAKE2b over little-endian signed 64-bit ids.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from sys import byteorder
from typing import TYPE_CHECKING

from semantic.domain.errors import BlockArgumentTypeError, BlockValidationError

__all__ = ["KEY_BYTES", "LAYOUT_VERSION", "BlockHash", "Namespace", "Tokens", "block_key", "pack"]

KEY_BYTES = 32
LAYOUT_VERSION = 1
"""Raised whenever a block's bytes mean something else than before."""

if TYPE_CHECKING:
    Tokens = array[int]
else:  # the class takes no arguments at run time before Python 3.12
    Tokens = array
"""Token ids as `array('q')`: signed 64 bit, since servers mark image patches with negative ids."""

BlockHash = Callable[[bytes, bytes], bytes]
"""(parent key, token bytes) -> key; replaced by tests that force collisions."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """What must be equal for two sequences to share blocks.

    Args:
        fingerprint: The model: configuration and weights (`semantic.mlx.namespace`).
        adapter: The adapter's fingerprint; empty without one.
        kv_dtype: Element type of the cache.
        kv_bits: Bits of a quantised cache; 0 when it is not quantised.
        salt: The tenant's secret; empty for none.
        layout_version: Version of the block layout.
    """

    fingerprint: str
    adapter: str = ""
    kv_dtype: str = ""
    kv_bits: int = 0
    salt: str = ""
    layout_version: int = LAYOUT_VERSION

    def __post_init__(self) -> None:
        if not self.fingerprint:
            raise BlockValidationError("a namespace needs the fingerprint of its model")

    @classmethod
    def private(cls) -> Namespace:
        """A fresh random namespace: nothing is shared with anyone outside."""
        return cls(fingerprint="private", salt=secrets.token_hex(16))

    @property
    def root(self) -> bytes:
        """The parent key of every first block."""
        digest = blake2b(digest_size=KEY_BYTES, person=b"semantic-root")
        for name in ("fingerprint", "adapter", "kv_dtype", "kv_bits", "salt", "layout_version"):
            value = str(getattr(self, name)).encode()
            digest.update(f"{name}:{len(value)}:".encode() + value)
        return digest.digest()


def block_key(parent: bytes, tokens: bytes) -> bytes:
    """The key of a token block: a chained BLAKE2b-256.

    Args:
        parent: Key of the block before it, or the namespace's root.
        tokens: The block's token ids, packed as little-endian signed 64-bit integers.
    """
    return blake2b(tokens, digest_size=KEY_BYTES, key=parent, person=b"semantic-block").digest()


def pack(tokens: Iterable[int]) -> Tokens:
    """Token ids as signed 64-bit integers, never narrowed.

    Raises:
        BlockArgumentTypeError: Something that is not a sequence of integers.
        BlockValidationError: An id beyond 64 bits.
    """
    if isinstance(tokens, bytes | bytearray | str):
        raise BlockArgumentTypeError(f"tokens must be integers, not {type(tokens).__name__}")
    try:
        packed = array("q", tokens)
    except TypeError as error:
        raise BlockArgumentTypeError(f"tokens must be integers: {error}") from error
    except OverflowError as error:
        raise BlockValidationError("a token id does not fit into 64 signed bits") from error
    if byteorder == "big":
        packed.byteswap()
    return packed
