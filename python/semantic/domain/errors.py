"""Every error that semantic raises.

The tree::

    SemanticError
    ├── PoolExhaustedError                        the budget has too few bytes
    ├── BlockOperationError (ValueError)          a refused operation on blocks; nothing changed
    │   └── BlockArgumentTypeError (TypeError)    … because an argument has the wrong type
    ├── PoolConfigurationError (ValueError)       a pool or budget that cannot be
    ├── ModelSpecValidationError (ValueError)     geometry that cannot be derived exactly
    ├── BlockValidationError (ValueError)         an entity or value that contradicts itself
    ├── IncompatibleCacheError (ValueError)       caches that are not those of the spec
    ├── CacheCorruptionError                      stored bytes that fail their check
    ├── CachePersistenceError                     a store that cannot read or write
    ├── UnsupportedCacheError                     a cache class, or a machine, without support here
    └── AgentNotFoundError (KeyError)             an agent that holds nothing here

Errors carry their numbers as attributes, so that a caller never parses a message, and survive
pickling. The native module imports these classes: a refusal is one class in both languages.
"""

from __future__ import annotations

__all__ = [
    "AgentNotFoundError",
    "BlockArgumentTypeError",
    "BlockOperationError",
    "BlockValidationError",
    "CacheCorruptionError",
    "CachePersistenceError",
    "IncompatibleCacheError",
    "ModelSpecValidationError",
    "PoolConfigurationError",
    "PoolExhaustedError",
    "SemanticError",
    "UnsupportedCacheError",
]


class SemanticError(Exception):
    """The root: `except SemanticError` catches all that this package raises on purpose.

    Args:
        message: What was wrong and what to do about it.
        **facts: The numbers and names behind the message; each becomes an attribute.
    """

    def __init__(self, message: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.__dict__.update(facts)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # BaseException would call the class with `args` alone and lose the facts.
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(kind: type[SemanticError], message: str, facts: dict[str, object]) -> SemanticError:
    error = kind(message)
    error.__dict__.update(facts)
    return error


class PoolExhaustedError(SemanticError):
    """The budget has too few bytes, and nothing was taken.

    Attributes:
        bytes_requested: What the whole request would have cost.
        bytes_available: What was free or evictable.
        bytes_short: The difference: what has to be released first.
        bytes_ahead: What those need who wait already, and come first.
        can_ever_fit: False when waiting cannot help: it is more than the pool could ever have.
    """

    bytes_requested: int = 0
    bytes_available: int = 0
    bytes_short: int = 0
    bytes_ahead: int = 0
    can_ever_fit: bool = True


class BlockOperationError(SemanticError, ValueError):
    """A refused operation on blocks; the pool is as it was.

    Attributes:
        block_id: The id at fault, or None when the request as a whole is at fault.
    """

    block_id: int | None = None


class BlockArgumentTypeError(BlockOperationError, TypeError):
    """An argument of the wrong type, such as a bool or a float where a count is meant."""


class PoolConfigurationError(SemanticError, ValueError):
    """A pool or a budget that cannot exist, or cannot be changed while something is held.

    Attributes:
        bytes_needed: What a budget has to have at least, where it was too small; else 0.
    """

    bytes_needed: int = 0


class ModelSpecValidationError(SemanticError, ValueError):
    """Geometry that cannot be derived exactly.

    Attributes:
        attribute: The field at fault, in the config's own name.
    """

    attribute: str = ""


class BlockValidationError(SemanticError, ValueError):
    """An entity or value object whose fields contradict each other."""


class IncompatibleCacheError(SemanticError, ValueError):
    """Caches whose layers, shapes, dtype or length are not those that the spec describes."""


class CacheCorruptionError(SemanticError):
    """Stored bytes that fail their check: never served, set aside."""


class CachePersistenceError(SemanticError):
    """A store that cannot read or write.

    Attributes:
        errno: What the system said, or None when it was not the system.
    """

    errno: int | None = None


class UnsupportedCacheError(SemanticError):
    """A cache class that we do not know how to restore, or a machine without MLX."""


class AgentNotFoundError(SemanticError, KeyError):
    """An agent that holds nothing in this pool.

    Attributes:
        agent_id: The name that was asked for.
    """

    agent_id: str = ""
