"""The one door to `semantic._native`: the rest of the package imports the core from here."""

from semantic._native import MemoryBudget, Pool, PoolSnapshot

__all__ = ["MemoryBudget", "Pool", "PoolSnapshot"]
