"""What a model's weights take in memory: from its files, or from its number of parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantic.adapters.model_config import kv_dtype_of
from semantic.adapters.weight_packing import Packing, packing_of, published_quantisation
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.tensor import DTYPE_BYTES

__all__ = ["weight_bytes"]

_INDEX = "model.safetensors.index.json"
_GROUP_SIZE = 64


def weight_bytes(model: str, config: Mapping[str, Any], bits: int | None = None) -> int:
    """Bytes of a model's weights.

    A folder with weights says it: by its index, or the sizes of its files. A preset may say what
    its published files take. Else the parameters are counted; where a preset does not state them,
    that builds the model lazily with MLX, and no weight is allocated.

    Args:
        model: A preset, a config file or a model folder.
        config: Its parsed config.
        bits: Bits of each weight, quantised in groups of 64; None: what its files have, or what
            the config says.

    Raises:
        ModelSpecValidationError: Weights that mlx-lm does not load, or the parameters have to be
            counted, and MLX is not there.
    """
    if bits is not None:
        return Packing(bits, _GROUP_SIZE).nbytes(_parameters(config))
    packing = packing_of(config)
    if _as_in_files(config, packing) and (found := _bytes_of_files(Path(model))) is not None:
        return found
    if (stated := _stated(config, "weight_bytes")) is not None:
        return stated
    if packing is None:
        return _parameters(config) * DTYPE_BYTES[kv_dtype_of(config)]
    return int(_counting().packed_bytes(config, packing, DTYPE_BYTES[kv_dtype_of(config)]))


def _as_in_files(config: Mapping[str, Any], packing: Packing | None) -> bool:
    """Whether memory holds what the files hold: fp8 is unpacked, other kinds are packed anew."""
    if packing is None:
        return published_quantisation(config) is None
    return not packing.is_new


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


def _parameters(config: Mapping[str, Any]) -> int:
    stated = _stated(config, "parameters")
    return int(_counting().count_parameters(config)) if stated is None else stated


def _stated(config: Mapping[str, Any], name: str) -> int | None:
    """What a preset says of itself."""
    about = config.get("_semantic")
    value = about.get(name) if isinstance(about, Mapping) else None
    return value if isinstance(value, int) else None


def _counting() -> Any:
    try:
        from semantic.adapters.mlx import parameters
    except ImportError as error:
        raise ModelSpecValidationError(
            "counting parameters needs MLX: pip install 'semantic-kv[mlx]', or say --no-weights"
            f" ({error})",
            attribute="parameters",
        ) from error
    return parameters
