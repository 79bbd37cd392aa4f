"""What has come of blocks that were to be removed."""

from __future__ import annotations

from dataclasses import dataclass

from semantic.domain.errors import CachePersistenceError

__all__ = ["Gone"]


@dataclass(frozen=True, slots=True)
class Gone:
    """Blocks that have gone.

    Args:
        blocks: How many.
        bytes: What their files took.
        refusal: Why others could not be removed, the last reason; None: all were.
    """

    blocks: int = 0
    bytes: int = 0
    refusal: CachePersistenceError | None = None

    def __add__(self, other: Gone) -> Gone:
        refusal = other.refusal or self.refusal
        return Gone(self.blocks + other.blocks, self.bytes + other.bytes, refusal)

    def checked(self) -> int:
        """How many blocks have gone.

        Raises:
            CachePersistenceError: None could be removed.
        """
        if self.refusal is not None and not self.blocks:
            raise self.refusal
        return self.blocks
