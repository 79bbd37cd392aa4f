"""Who may share with whom: namespaces, the roots of all keys (law 5).

The key of a token block depends on its namespace and on every token before it (`key.rs`). Each
field of a namespace enters its root with its own tag and length, so that a salt "x" and an adapter
"x" never collide. Roots are the same in every process and on every machine.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import blake2b

from semantic.domain.errors import BlockValidationError

__all__ = ["KEY_BYTES", "LAYOUT_VERSION", "Namespace"]

KEY_BYTES = 32
LAYOUT_VERSION = 1
"""Raised whenever a block's bytes mean something else than before."""

_FIELDS = (
    "fingerprint",
    "adapter",
    "kv_dtype",
    "kv_bits",
    "salt",
    "layout_version",
    "geometry",
)


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
        geometry: What else the rows depend on: windows, chunks, groups and quantisation of the
            layers, which a server may choose anew for the same weights. Empty where nobody says.
    """

    fingerprint: str
    adapter: str = ""
    kv_dtype: str = ""
    kv_bits: int = 0
    salt: str = ""
    layout_version: int = LAYOUT_VERSION
    geometry: str = ""

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
        for name in _FIELDS if self.geometry else _FIELDS[:-1]:
            value = str(getattr(self, name)).encode()
            digest.update(f"{name}:{len(value)}:".encode() + value)
        return digest.digest()
