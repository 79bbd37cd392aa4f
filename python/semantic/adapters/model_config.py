"""A model's `config.json`: found, read, and asked for the dtype of its cache. No MLX here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantic.domain.errors import ModelSpecValidationError

__all__ = ["DEFAULT_KV_DTYPE", "kv_dtype_of", "load_config"]

DEFAULT_KV_DTYPE = "bfloat16"
"""For a config that names no dtype, as GPT-OSS's: what `ModelCacheSpec.from_model` takes too."""


def load_config(path_or_dict: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The parsed config, from a file, a model folder, or a mapping (copied).

    Raises:
        ModelSpecValidationError: No such file, or no JSON object in it.
    """
    if isinstance(path_or_dict, Mapping):
        # mlx-lm's ModelArgs write into nested dicts.
        return dict(json.loads(json.dumps(dict(path_or_dict))))
    path = Path(path_or_dict)
    if path.is_dir():
        path = path / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSpecValidationError(f"no config at {path}", attribute="config") from error
    except (ValueError, RecursionError) as error:
        raise ModelSpecValidationError(
            f"{path} is not a JSON file: {error}", attribute="config"
        ) from error
    if not isinstance(config, dict):
        raise ModelSpecValidationError(f"{path} holds no JSON object", attribute="config")
    return config


def kv_dtype_of(config: Mapping[str, Any]) -> str:
    """The config's `torch_dtype` or `dtype`, its own or its text model's, else bfloat16."""
    text = config.get("text_config")
    for source in (config, text if isinstance(text, Mapping) else {}):
        for name in ("torch_dtype", "dtype"):
            if isinstance(source.get(name), str):
                return str(source[name])
    return DEFAULT_KV_DTYPE
