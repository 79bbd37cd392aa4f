"""Every architecture of mlx-lm in small, and what each needs for a comparison that can fail.

The configurations are true to their family's layer pattern: 32-token windows and chunks, a few
layers, 128 token ids. The weights are random, with noise over every parameter, so that a model
looks at its whole context. `RECIPES` lists the architectures for which that is not enough.

    with cpu_stand_ins():
        model = architecture_model("mixtral")
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map_with_path

from semantic.testing.stand_ins.bitlinear import pack_ternary
from semantic.testing.tiny_models import tiny_model

__all__ = ["RECIPES", "Recipe", "architecture_model", "architectures", "recipe_of"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an architecture is built and fed so that a wrong cache shows in its logits.

    Attributes:
        reason: Why the plain recipe does not do.
        config_changes: Laid over the configuration.
        scaled: Factors of parameters, by a regular expression that finds their path.
        shifted: Terms added to parameters, by a regular expression that finds their path.
        longest_call_tokens: The most tokens that one forward call may get.
        tolerance: Of the logits' scale: below it two caches count as equal.
        same_schedule: Whether other chunk sizes may change the result in mlx-lm itself, so that
            only caches filled by the same calls can be compared.
    """

    reason: str
    config_changes: Mapping[str, Any] = field(default_factory=dict)
    scaled: Mapping[str, float] = field(default_factory=dict)
    shifted: Mapping[str, float] = field(default_factory=dict)
    longest_call_tokens: int | None = None
    tolerance: float = 1e-4
    same_schedule: bool = False


RECIPES: Mapping[str, Recipe] = {
    "olmo": Recipe(
        reason="its attention adds the mask's name to the scores: mlx-lm 0.32 cannot run a call of "
        "more than one token",
        longest_call_tokens=1,
    ),
}
"""The architectures that need more than the plain recipe."""

_PLAIN = Recipe(reason="noise over every parameter is enough")


def architectures() -> dict[str, dict[str, Any]]:
    """A copy of the tiny configurations, by model type."""
    return copy.deepcopy(_configurations())


def recipe_of(name: str) -> Recipe:
    """The architecture's own recipe, or the plain one."""
    return RECIPES.get(name, _PLAIN)


def architecture_model(name: str, *, seed: int = 0, dtype: str = "float32") -> Any:
    """The tiny model of an architecture, built by its recipe.

    On a machine without Metal, some can be built and run inside `cpu_stand_ins` only.

    Args:
        name: A key of `architectures()`.
        seed: The same seed gives the same weights.
        dtype: The element type of every floating point parameter, by MLX's name.

    Raises:
        KeyError: No such architecture.
        ValueError: mlx-lm has no such model type, or MLX no such dtype.
    """
    recipe = recipe_of(name)
    config = {**architectures()[name], **recipe.config_changes}
    model = tiny_model(config, seed=seed, dtype=dtype)
    by_recipe = partial(_by_recipe, recipe)
    model.update(tree_map_with_path(by_recipe, model.parameters()))
    mx.eval(model.parameters())
    return model


@cache
def _configurations() -> dict[str, dict[str, Any]]:
    file = resources.files("semantic.testing") / "architectures.json"
    configurations: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return configurations


def _by_recipe(recipe: Recipe, path: str, parameter: mx.array) -> mx.array:
    if parameter.dtype == mx.uint8:
        # BitNet's packed weights: built as zero bytes, that is -1 everywhere.
        rows, columns = parameter.shape
        return pack_ternary(mx.random.randint(-1, 2, (4 * rows, columns)))
    factor = _found(recipe.scaled, path, 1.0)
    term = _found(recipe.shifted, path, 0.0)
    return (parameter * factor + term).astype(parameter.dtype)


def _found(changes: Mapping[str, float], path: str, otherwise: float) -> float:
    return next(
        (value for pattern, value in changes.items() if re.search(pattern, path)), otherwise
    )
