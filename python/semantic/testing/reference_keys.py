"""Tokens and keys again, as plainly as Python allows: the oracle for the native ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b
from sys import byteorder
from typing import TYPE_CHECKING

from semantic.domain.identity import KEY_BYTES

__all__ = ["Tokens", "block_key", "pack"]

if TYPE_CHECKING:
    Tokens = array[int]
else:  # the class takes no arguments at run time before Python 3.12
    Tokens = array
"""Token ids as `array('q')`: signed 64 bit, since servers mark image patches with negative ids."""


def block_key(parent: bytes, tokens: bytes) -> bytes:
    """The key of a token block: a chained BLAKE2b-256.

    Args:
        parent: Key of the block before it, or the namespace's root.
        tokens: The block's token ids, packed as little-endian signed 64-bit integers.
    """
    return blake2b(tokens, digest_size=KEY_BYTES, key=parent, person=b"semantic-block").digest()


def pack(tokens: Iterable[int]) -> Tokens:
    """Token ids as signed 64-bit integers, never narrowed; keys are made of their bytes."""
    packed = array("q", tokens)
    if byteorder == "big":
        packed.byteswap()
    return packed
