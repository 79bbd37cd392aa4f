"""What of a store's names and values anybody may read: all of it, or nothing without the key."""

from __future__ import annotations

from semantic.domain.errors import PoolConfigurationError
from semantic.domain.native import StoreSecret, TokenIds
from semantic.domain.stored import BlockName

__all__ = ["Veil"]

_PROBE = b"whose key"
_TOKEN_BYTES = 8


class Veil:
    """Names and values on their way to the disk, and back.

    A hidden name is always the same and tells nothing of what it stands for; a sealed value can be
    read again, with the key.

    Args:
        key: 32 bytes; None hides nothing.

    Raises:
        PoolConfigurationError: A key of another length.
    """

    def __init__(self, key: bytes | None) -> None:
        given: object = key
        if not isinstance(given, bytes | None):
            raise PoolConfigurationError(f"a store's key is bytes, not {type(given).__name__}")
        self.secret = None if key is None else StoreSecret(key)

    @property
    def fingerprint(self) -> str:
        """Tells keys apart; empty where nothing is hidden."""
        return "" if self.secret is None else self.secret.hidden(_PROBE).hex()

    def key(self, key: bytes) -> bytes:
        """The name that the disk sees of a token block or a namespace."""
        return key if self.secret is None else self.secret.hidden(key)

    def file(self, name: BlockName) -> str:
        """The name of a block's file, without the ending."""
        return str(BlockName(self.key(name.key), name.group, name.lo, name.hi))

    def agent(self, agent_id: str) -> bytes:
        """The name that the disk sees of an agent."""
        return self.key(agent_id.encode())

    def seal(self, value: bytes) -> bytes:
        """A value as the disk sees it."""
        return value if self.secret is None else self.secret.sealed(value)

    def unseal(self, sealed: bytes) -> bytes | None:
        """The value again; None where it was changed."""
        return sealed if self.secret is None else self.secret.unsealed(sealed)

    def tokens(self, sealed: bytes) -> TokenIds:
        """Tokens that were sealed; none where they were changed: a block of none hits nothing."""
        plain = self.unseal(sealed) or b""
        return TokenIds(memoryview(plain if len(plain) % _TOKEN_BYTES == 0 else b"").cast("q"))
