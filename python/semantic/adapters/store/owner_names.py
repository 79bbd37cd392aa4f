"""Names of the processes that use a store, and of what is theirs alone.

What is called otherwise is no process's: whoever has a folder for a store may have other things in
it.
"""

from __future__ import annotations

import re
import secrets

__all__ = ["is_owner", "new_owner", "owner_of_file", "owner_of_workroom", "workroom"]

_OWNER = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"([0-9a-f]{16})-[0-9]+")
_WORKROOM = re.compile(r"([0-9a-f]{16})-work[0-9]+")


def new_owner() -> str:
    """A name that no other process has."""
    return secrets.token_hex(8)


def is_owner(name: str) -> bool:
    """Whether this is the name of a process that uses a store."""
    return _OWNER.fullmatch(name) is not None


def workroom(owner: str, number: int) -> str:
    """The name of a folder for temporary files of this process."""
    return f"{owner}-work{number}"


def owner_of_file(name: str) -> str | None:
    """Whose temporary file has this name; None for something else."""
    found = _FILE.fullmatch(name)
    return None if found is None else found[1]


def owner_of_workroom(name: str) -> str | None:
    """Whose folder for temporary files has this name; None for something else."""
    found = _WORKROOM.fullmatch(name)
    return None if found is None else found[1]
