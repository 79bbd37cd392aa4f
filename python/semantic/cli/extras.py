"""Packages that a command needs and the base install does not bring."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["missing_message"]


def missing_message(command: str, *modules: str) -> str | None:
    """What to tell the user when one of `modules` is not installed, else None. Imports nothing."""
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return None
    return (
        f"semantic {command} needs {', '.join(missing)}, which this installation does not have. "
        f"Get it with: pip install 'semantic-kv[serve]'"
    )
