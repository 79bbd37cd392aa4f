"""The one door to `semantic._native`: the rest of the package imports the core from here."""

from semantic._native import GroupSnapshot, MemoryBudget, Pool, PoolSnapshot

__all__ = ["GroupSnapshot", "MemoryBudget", "Pool", "PoolSnapshot"]
