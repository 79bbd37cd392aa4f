"""Real namespaces: what identifies a model whose cache is stored or shared."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from semantic.adapters.fingerprint.model_files import ADAPTER_CONFIG, MODEL_CONFIG, fingerprint
from semantic.adapters.mlx.probe import probe
from semantic.domain.identity import Namespace
from semantic.domain.layer_group import LayerGroup, StateTensor, TokenTensor
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["in_geometry", "namespace", "namespace_of_spec"]


def namespace(
    model: Any,
    path: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    salt: str | None = None,
    *,
    spec: ModelCacheSpec | None = None,
) -> Namespace:
    """The namespace of a loaded model: what may share blocks with it.

    Call it once the model is loaded, while its files are still those that it was loaded from. All
    of their bytes count: files that this machine has not seen yet are read, which takes as long as
    reading takes and is told to logging "semantic"; later calls read none while they stay as they
    are. ADR-005 says what cannot be noticed.

    Args:
        model: The model, for the dtype of its cache.
        path: Its folder, with config.json and safetensors files.
        adapter: The adapter's folder, if one is loaded.
        salt: The tenant's secret; other salts never share.
        spec: The geometry that the memory uses, where it is not the probed one: quantised at rest.

    Raises:
        BlockValidationError: A folder without a config or without weights, or files that change
            while they are read.
    """
    return namespace_of_spec(
        fingerprint(path, MODEL_CONFIG),
        probe(model) if spec is None else spec,
        adapter="" if adapter is None else fingerprint(adapter, ADAPTER_CONFIG),
        salt=salt or "",
    )


def namespace_of_spec(
    fingerprint: str, spec: ModelCacheSpec, *, adapter: str = "", salt: str = ""
) -> Namespace:
    """The namespace of fingerprinted weights, with the geometry of what is kept of them."""
    return in_geometry(
        Namespace(
            fingerprint=fingerprint,
            adapter=adapter,
            kv_dtype=_kv_dtypes(spec),
            kv_bits=_kv_bits(spec),
            salt=salt,
        ),
        spec,
    )


def in_geometry(namespace: Namespace, spec: ModelCacheSpec) -> Namespace:
    """The same namespace, for caches of this geometry alone.

    The same weights make other rows of the same tokens where layers see another window, or read
    what was quantised otherwise.
    """
    return replace(namespace, geometry=";".join(map(_of_group, spec.groups)))


def _of_group(group: LayerGroup) -> str:
    running = dict(group.recipe)
    facts = {
        "layers": group.layers,
        "window": group.window,
        "keep": group.keep,
        "chunk": group.chunk,
        "stride": group.stride,
        "running": (running.get("bits"), running.get("group_size")),
        "at_rest": (group.at_rest.bits, group.at_rest.group_size),
        "tensors": [_of_tensor(tensor) for tensor in group.rest_tensors],
    }
    return f"{group.name}:{group.layer_type}:{json.dumps(facts)}"


def _of_tensor(tensor: TokenTensor | StateTensor) -> tuple[object, ...]:
    shape = (tensor.heads, tensor.dim) if isinstance(tensor, TokenTensor) else tensor.shape
    return (tensor.name, tensor.dtype, *shape)


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
