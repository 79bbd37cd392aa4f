"""What a model's weights take in memory: from its files, or from its number of parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantic.adapters.model_config import kv_dtype_of
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.tensor import DTYPE_BYTES

__all__ = ["weight_bytes"]

_INDEX = "model.safetensors.index.json"
_GROUP_SIZE = 64
_SCALE_BITS = 32
"""A scale and a bias of 16 bits for each group of weights, as `mx.quantize` makes them."""


def weight_bytes(model: str, config: Mapping[str, Any], bits: int | None = None) -> int:
    """Bytes of a model's weights.

    A folder with weights says it: by its index, or the sizes of its files. Else the parameters are
    counted, which builds the model lazily with MLX, and no weight is allocated.

    Args:
        model: A preset, a config file or a model folder.
        config: Its parsed config.
        bits: Bits of each weight, quantised in groups of 64; None: what its files have, or what
            the config says.

    Raises:
        ModelSpecValidationError: The parameters have to be counted, and MLX is not there.
    """
    if bits is None and (found := _bytes_of_files(Path(model))) is not None:
        return found
    parameters = _parameters(config)
    quantised = config.get("quantization")
    if bits is None and isinstance(quantised, Mapping):
        return _quantised(parameters, quantised.get("bits", 4), quantised.get("group_size", 64))
    if bits is None:
        return parameters * DTYPE_BYTES[kv_dtype_of(config)]
    return _quantised(parameters, bits, _GROUP_SIZE)


def _bytes_of_files(path: Path) -> int | None:
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        return None
    index = folder / _INDEX
    if index.is_file():
        try:
            total = json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"]
        except (ValueError, KeyError, TypeError):
            total = None
        if isinstance(total, int):
            return total
    files = list(folder.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) if files else None


def _quantised(parameters: int, bits: int, group_size: int) -> int:
    return parameters * bits // 8 + parameters // group_size * _SCALE_BITS // 8


def _parameters(config: Mapping[str, Any]) -> int:
    about = config.get("_semantic")
    if isinstance(about, Mapping) and isinstance(about.get("parameters"), int):
        return int(about["parameters"])
    try:
        from semantic.adapters.mlx.parameters import count_parameters
    except ImportError as error:
        raise ModelSpecValidationError(
            f"counting parameters needs MLX: pip install 'semantic-kv[mlx]' ({error})",
            attribute="parameters",
        ) from error
    return count_parameters(config)
