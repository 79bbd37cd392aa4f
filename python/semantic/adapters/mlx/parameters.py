"""How many parameters a model has: built lazily from its config, nothing allocated."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from mlx.utils import tree_flatten

from semantic.adapters.mlx.build import built_lazily

__all__ = ["count_parameters"]


def count_parameters(config: Mapping[str, Any]) -> int:
    """The parameters of the model that mlx-lm builds from a config."""
    with built_lazily(dict(config)) as model:
        flat: Any = tree_flatten(model.parameters())
        return sum(prod(array.shape) for _, array in flat)
