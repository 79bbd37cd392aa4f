"""The namespace of a model key: who mlx_lm.server's `(path, adapter, draft)` really is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semantic.adapters.mlx.namespace import fingerprint, namespace_of_spec
from semantic.domain.errors import BlockValidationError
from semantic.domain.identity import Namespace
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["namespace_of_key"]


def namespace_of_key(key: Any, spec: ModelCacheSpec) -> Namespace:
    """The namespace of what a server keeps under a model key.

    Args:
        key: A model's path or repository, or mlx_lm.server's `(model, adapter, draft model)`.
        spec: The geometry that is kept under it.

    Raises:
        BlockValidationError: A key that names no model on this machine: nothing of it is stored.
    """
    parts = key if isinstance(key, tuple | list) else (key,)
    if not parts or len(parts) > 3 or any(not isinstance(p, str | Path | None) for p in parts):
        raise BlockValidationError(f"the model key {key!r} names no model folder")
    model, adapter, draft = (*parts, None, None)[:3]
    # A draft model's caches are kept in one list with the model's: another layout, other names.
    beside = [
        f"{tag}:{fingerprint(_folder(path), config)}"
        for tag, path, config in (
            ("adapter", adapter, "adapter_config.json"),
            ("draft", draft, "config.json"),
        )
        if path is not None
    ]
    return namespace_of_spec(
        fingerprint(_folder(model), "config.json"), spec, adapter=",".join(beside)
    )


def _folder(name: str | Path | None) -> Path:
    if name is None:
        raise BlockValidationError("a model key without a model")
    path = Path(name)
    if path.is_dir():
        return path
    try:
        from mlx_lm.utils import hf_repo_to_path

        return Path(hf_repo_to_path(str(name)))
    except Exception as error:
        raise BlockValidationError(f"no folder of the model {str(name)!r}: {error}") from error
