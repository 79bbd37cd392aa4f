"""The models that a command is told of: presets, config files and model folders."""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from semantic.adapters.model_config import kv_dtype_of, load_config
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["REFERENCE", "config_of", "preset_names", "spec_of"]

REFERENCE = ("gemma-3-12b", "gpt-oss-20b", "llama-3.1-8b", "qwen2.5-14b")
"""What is planned when nothing is asked for: none of them needs MLX."""


def preset_names() -> list[str]:
    """The models that ship as config files."""
    folder = resources.files("semantic") / "presets"
    return sorted(
        file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")
    )


def spec_of(model: str) -> ModelCacheSpec:
    """The geometry of a preset, a config file or a model folder.

    Arguments alone suffice for the common families; MLX is imported for the others.

    Raises:
        ModelSpecValidationError: No such preset or file, or a config that says too little.
    """
    config = config_of(model)
    try:
        dtype = kv_dtype_of(config)
        return ModelCacheSpec.from_model(SimpleNamespace(args=config), kv_dtype=dtype)
    except ModelSpecValidationError as refusal:
        return _probed(config, refusal)


def _probed(config: dict[str, Any], refusal: ModelSpecValidationError) -> ModelCacheSpec:
    try:
        from semantic.mlx import spec_from_config
    except ImportError as error:
        raise ModelSpecValidationError(
            f"{refusal}; that needs MLX: pip install 'semantic-kv[mlx]' ({error})",
            attribute=refusal.attribute,
        ) from error
    return spec_from_config(config)


def config_of(model: str) -> dict[str, Any]:
    """The parsed config of a preset, a config file or a model folder.

    Raises:
        ModelSpecValidationError: No such preset or file, or no JSON object in it.
    """
    folder = resources.files("semantic") / "presets"
    if model in preset_names():
        return load_config(json.loads((folder / f"{model}.json").read_text("utf-8")))
    if Path(model).exists():
        return load_config(model)
    near = difflib.get_close_matches(model, preset_names(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(preset_names())}"
    raise ModelSpecValidationError(
        f"{model!r} is neither a preset nor a config file; {hint}", attribute="model"
    )
