"""`semantic simulate`: recorded requests replayed through the real index and pool, no tensors."""

from semantic.cli.simulate.command import register

__all__ = ["register"]
