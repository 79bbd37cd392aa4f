"""`semantic store`: look into a folder of stored blocks, and look after it."""

from semantic.cli.store.command import register

__all__ = ["register"]
