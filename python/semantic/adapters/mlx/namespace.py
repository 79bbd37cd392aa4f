"""Real namespaces: what identifies a model's weights without reading all of them.

The fingerprint covers the whole `config.json`, and of each safetensors file its name, size, header
(names, shapes, dtypes and offsets of every tensor) and evenly spread samples of the data. It costs
milliseconds. It cannot notice a change that leaves names, shapes and every sample as they were: an
edit of a few weights in place (ADR-005).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from semantic.adapters.mlx.probe import probe
from semantic.domain.errors import BlockValidationError
from semantic.domain.identity import Namespace
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["fingerprint", "namespace", "namespace_of_spec"]

_SAMPLES = 64
_SAMPLE_BYTES = 4096
_HEADER_LENGTH_BYTES = 8  # safetensors: a little-endian u64 before the JSON header
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def namespace(
    model: Any,
    path: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    salt: str | None = None,
    *,
    spec: ModelCacheSpec | None = None,
) -> Namespace:
    """The namespace of a loaded model: what may share blocks with it.

    Args:
        model: The model, for the dtype of its cache.
        path: Its folder, with config.json and safetensors files.
        adapter: The adapter's folder, if one is loaded.
        salt: The tenant's secret; other salts never share.
        spec: The geometry that the memory uses, where it is not the probed one: quantised at rest.

    Raises:
        BlockValidationError: A folder without a config or without weights.
    """
    return namespace_of_spec(
        fingerprint(path, "config.json"),
        probe(model) if spec is None else spec,
        adapter="" if adapter is None else fingerprint(adapter, "adapter_config.json"),
        salt=salt or "",
    )


def namespace_of_spec(
    fingerprint: str, spec: ModelCacheSpec, *, adapter: str = "", salt: str = ""
) -> Namespace:
    """The namespace of fingerprinted weights, with the types and bits of what is kept of them."""
    return Namespace(
        fingerprint=fingerprint,
        adapter=adapter,
        kv_dtype=_kv_dtypes(spec),
        kv_bits=_kv_bits(spec),
        salt=salt,
    )


def fingerprint(folder: str | os.PathLike[str], config_name: str) -> str:
    """BLAKE2b-256 over the config and, of each weight file, its name, size, header and samples."""
    root = Path(folder)
    weights = sorted(root.glob("*.safetensors"))
    config = root / config_name
    if not config.is_file() or not weights:
        raise BlockValidationError(f"{root} has no {config_name}, or no *.safetensors beside it")
    digest = blake2b(digest_size=32, person=b"semantic-model")
    _add(digest, "config", config.read_bytes())
    for file in weights:
        _add(digest, "file", file.name.encode())
        for part in _parts(file):
            _add(digest, "part", part)
    return digest.hexdigest()


def _add(digest: blake2b, tag: str, data: bytes) -> None:
    digest.update(f"{tag}:{len(data)}:".encode())
    digest.update(data)


def _parts(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        yield stream.read(min(length, _MAX_HEADER_BYTES))
        for sample in range(_SAMPLES):
            stream.seek(size * sample // _SAMPLES)
            yield stream.read(_SAMPLE_BYTES)


def _kv_dtypes(spec: ModelCacheSpec) -> str:
    """The element types, and the group sizes of what is quantised."""
    dtypes = {tensor.dtype for group in spec.groups for tensor in group.tensors}
    sizes = {f"/{group.at_rest.group_size}" for group in spec.groups if group.at_rest.bits}
    return ",".join(sorted(dtypes | sizes))


def _kv_bits(spec: ModelCacheSpec) -> int:
    """Bits of what is quantised, at rest or while it runs; 0 when nothing is."""
    running = (value for group in spec.groups for fact, value in group.recipe if fact == "bits")
    at_rest = (group.at_rest.bits for group in spec.groups)
    return max((bits for bits in (*running, *at_rest) if isinstance(bits, int)), default=0)
