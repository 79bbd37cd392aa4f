"""How many parameters a model has, and what they take: built lazily, nothing allocated."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from mlx.utils import tree_flatten

from semantic.adapters.mlx.build import built_lazily
from semantic.adapters.weight_packing import Packing

__all__ = ["count_parameters", "packed_bytes"]


def count_parameters(config: Mapping[str, Any]) -> int:
    """The parameters of the model that mlx-lm builds from a config."""
    with built_lazily(dict(config)) as model:
        return _count(model.parameters())


def packed_bytes(config: Mapping[str, Any], packing: Packing, element_bytes: int) -> int:
    """Bytes of these parameters when they are packed.

    Args:
        config: The model's config.
        packing: How modules that can be packed are.
        element_bytes: Bytes of each parameter of the others.
    """
    with built_lazily(dict(config)) as model:
        total = _count(model.parameters()) * element_bytes
        for path, module in model.named_modules():
            if not hasattr(module, "to_quantized"):
                continue
            # Formats that others made leave embeddings as they are.
            packed = (
                packing.of(path) if packing.embeds or not hasattr(module, "as_linear") else None
            )
            weights = prod(module.weight.shape)
            if packed is not None and module.weight.shape[-1] % packed.group_size == 0:
                total += packed.nbytes(weights) - weights * element_bytes
        return total


def _count(parameters: object) -> int:
    flat: Any = tree_flatten(parameters)
    return sum(prod(array.shape) for _, array in flat)
