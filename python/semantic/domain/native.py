"""The one door to `semantic._native`: the rest of the package imports the core from here."""

from semantic._native import (
    BlockFile,
    BlockFolder,
    Draft,
    GroupSnapshot,
    Hold,
    MemoryBudget,
    Pool,
    PoolSnapshot,
    PrefixIndex,
    StoreSecret,
    TokenIds,
)

__all__ = [
    "BlockFile",
    "BlockFolder",
    "Draft",
    "GroupSnapshot",
    "Hold",
    "MemoryBudget",
    "Pool",
    "PoolSnapshot",
    "PrefixIndex",
    "StoreSecret",
    "TokenIds",
]
