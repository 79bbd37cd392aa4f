"""The store in memory: for tests, and for blocks of models that are not loaded."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence

from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.catalogued import CataloguedStore
from semantic.adapters.store.limits import Limits
from semantic.adapters.store.veil import Veil
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.native import TokenIds
from semantic.domain.policy import EvictionPolicy
from semantic.domain.stored import BlockName, NewBlock

__all__ = ["MemoryStore"]


class MemoryStore(CataloguedStore):
    """Sealed blocks in memory, until it is closed; see `BlockStore` for what it can do.

    Args:
        max_bytes: The most that all blocks may take, headers and catalogue not counted.
        min_reuse: Of how many turns a token block has to be a part before it is kept.
        policy: What goes first; None: tail-first least recently used.

    Raises:
        PoolConfigurationError: Limits that cannot be.
    """

    def __init__(
        self, max_bytes: int, *, min_reuse: int = 1, policy: EvictionPolicy | None = None
    ) -> None:
        limits = Limits(max_bytes, min_reuse=min_reuse, policy=policy or EvictionPolicy())
        super().__init__(Catalogue(None, secrets.token_hex(8)), Veil(None), limits)
        self._lock = threading.Lock()
        self._tensors: dict[str, dict[TensorBytes, bytes]] = {}

    def _write(self, blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        copies = {
            file: {tensor: bytes(memory) for tensor, memory in block.tensors}
            for file, block in blocks
        }
        with self._lock:
            self._tensors.update(copies)
        return [sum(map(len, tensors.values())) for tensors in copies.values()]

    def _read(
        self,
        file: str,
        name: BlockName,
        tokens: TokenIds,
        memory: Sequence[tuple[TensorBytes, memoryview]],
    ) -> bool:
        with self._lock:
            tensors = self._tensors.get(file)
        # Tensors of another geometry are another block.
        if tensors is None or {tensor for tensor, _ in memory} != set(tensors):
            return False
        for tensor, buffer in memory:
            buffer.cast("B")[:] = tensors[tensor]
        return True

    def lies(self, file: str) -> bool:
        """Whether there are bytes under that name."""
        with self._lock:
            return file in self._tensors

    def _remove_file(self, file: str) -> None:
        with self._lock:
            self._tensors.pop(file, None)

    _set_aside = _remove_file

    def _most_bytes(self, block: NewBlock) -> int:
        return sum(memory.nbytes for _, memory in block.tensors)

    def close(self) -> None:
        """Forget everything. Idempotent."""
        super().close()
        with self._lock:
            self._tensors.clear()
