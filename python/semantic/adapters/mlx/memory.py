"""What MLX says of its own memory. Counters only: nothing here evaluates or allocates.

Reading them is safe on any thread: each is one word of the allocator. `give_up` is for the thread
that generates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx

__all__ = ["active_bytes", "give_up", "kept_bytes", "wired_limit_bytes"]


def active_bytes() -> int:
    """Bytes of all arrays, without what MLX keeps for later."""
    return mx.get_active_memory()


def kept_bytes() -> int:
    """Bytes of freed buffers that MLX keeps for later."""
    return mx.get_cache_memory()


def give_up() -> None:
    """Give them back to the system."""
    mx.clear_cache()


def wired_limit_bytes() -> int | None:
    """What Metal recommends as the most that arrays take together; None without Metal."""
    info = cast("Callable[[], dict[str, Any]] | None", getattr(mx, "device_info", None))
    size = None if info is None else info().get("max_recommended_working_set_size")
    return int(size) if size else None
