"""Small specs, true in kind: what a pool test needs of a model, in kilobytes."""

from __future__ import annotations

from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["dense_spec", "hybrid_spec", "window_group", "windowed_spec"]

_KV = (TokenTensor("keys", 1, 2, "bfloat16"), TokenTensor("values", 1, 2, "bfloat16"))


def dense_spec(layers: int = 1) -> ModelCacheSpec:
    """One global group; a block of one layer is 2048 bytes."""
    return ModelCacheSpec((LayerGroup("global", "global", tuple(range(layers)), _KV),))


def window_group(window: int, *, first_layer: int = 1, number: int = 0) -> LayerGroup:
    """A sliding-window group of two layers, 4096 bytes a block.

    Args:
        window: Positions that a layer sees.
        first_layer: Index of its first leaf cache.
        number: 0 for the first group of its type, which has the plain name.
    """
    name = f"sliding_window.{number}" if number else "sliding_window"
    layers = (first_layer, first_layer + 1)
    return LayerGroup(name, "sliding_window", layers, _KV, window=window)


def windowed_spec(*windows: int) -> ModelCacheSpec:
    """A global group, 2048 bytes a block, and one sliding-window group for each window.

    Args:
        windows: Positions that the layers see, 512 when left out.
    """
    groups = [LayerGroup("global", "global", (0,), _KV)]
    for number, window in enumerate(windows or (512,)):
        groups.append(window_group(window, first_layer=1 + 2 * number, number=number))
    return ModelCacheSpec(tuple(groups))


def hybrid_spec() -> ModelCacheSpec:
    """A global, a chunked and a state group: 2048, 2048 and 1536 bytes a block."""
    state = (StateTensor("conv", (64, 2), "float32"), StateTensor("ssm", (64, 4), "float32"))
    return ModelCacheSpec(
        (
            LayerGroup("global", "global", (0,), _KV),
            LayerGroup("chunked", "chunked", (1,), _KV, chunk=1024),
            LayerGroup("state", "state", (2,), state),
        )
    )
