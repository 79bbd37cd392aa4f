"""Views in running caches: small arrays that keep a large one alive.

Some models keep as their state the last row of a whole prefill activation. The row is a view: its
`nbytes` are small, the memory behind it is not (jamba: 130 times as much, kept for good). MLX does
not tell a view from an array, so it is found by what its removal frees.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from semantic.adapters.mlx.leaf import Leaf

__all__ = ["release_views"]


def release_views(leaves: Sequence[Leaf]) -> int:
    """Put copies in the place of views, so that what they kept alive is freed.

    Args:
        leaves: Leaf caches of a running sequence. Their values do not change.

    Returns:
        Bytes that were kept alive beyond the arrays' own `nbytes`; 0 when others still need them.
    """
    return sum(_release(leaf) for leaf in leaves)


def _release(leaf: Leaf) -> int:
    arrays = leaf.arrays()
    mx.eval(arrays)
    before = mx.get_active_memory()
    # MLX copies when the memory behind the array is larger than the array; else it shares.
    copies = {name: mx.contiguous(array) for name, array in arrays.items()}
    mx.eval(copies)
    if mx.get_active_memory() == before:
        return 0
    leaf.replace(copies)
    del arrays
    return max(0, before - mx.get_active_memory())
