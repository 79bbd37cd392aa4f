"""The namespace of a model key: who mlx_lm.server's `(path, adapter, draft)` really is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semantic.adapters.fingerprint.model_files import ADAPTER_CONFIG, MODEL_CONFIG, ModelFiles
from semantic.adapters.mlx.namespace import namespace_of_spec
from semantic.domain.errors import BlockValidationError
from semantic.domain.identity import Namespace
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["KeyFiles", "KeyFingerprint", "namespace_of_key"]


@dataclass(frozen=True, slots=True)
class KeyFingerprint:
    """What is under a model key.

    Args:
        model: The model's fingerprint.
        beside: Those of its adapter and of its draft model; empty without any.
    """

    model: str
    beside: str = ""

    def namespace(self, spec: ModelCacheSpec, salt: str = "") -> Namespace:
        """The namespace of what is kept of it in this geometry."""
        return namespace_of_spec(self.model, spec, adapter=self.beside, salt=salt)


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files that a model key names, as they were seen; equal while none of them changes.

    Args:
        model: The model's files.
        beside: Those of its adapter and of its draft model.
    """

    model: ModelFiles
    beside: tuple[tuple[str, ModelFiles], ...]

    @classmethod
    def seen(cls, key: Any) -> KeyFiles:
        """The files as they are now; nothing of the weights is read.

        Args:
            key: A model's path or repository, or mlx_lm.server's `(model, adapter, draft model)`.

        Raises:
            BlockValidationError: A key that names no model on this machine.
        """
        parts = key if isinstance(key, tuple | list) else (key,)
        if not parts or len(parts) > 3 or any(not isinstance(p, str | Path | None) for p in parts):
            raise BlockValidationError(f"the model key {key!r} names no model folder")
        model, adapter, draft = (*parts, None, None)[:3]
        # A draft model's caches are kept in one list with the model's: another layout, other names.
        beside = (("adapter", adapter, ADAPTER_CONFIG), ("draft", draft, MODEL_CONFIG))
        return cls(
            ModelFiles.seen(_folder(model), MODEL_CONFIG),
            tuple(
                (tag, ModelFiles.seen(_folder(path), config))
                for tag, path, config in beside
                if path is not None
            ),
        )

    def fingerprint(self) -> KeyFingerprint:
        """What is in the files, all of which is read unless it is remembered.

        Raises:
            BlockValidationError: The files are not those that were seen any more.
        """
        beside = (f"{tag}:{files.fingerprint()}" for tag, files in self.beside)
        return KeyFingerprint(self.model.fingerprint(), ",".join(beside))


def namespace_of_key(key: Any, spec: ModelCacheSpec, salt: str = "") -> Namespace:
    """The namespace of what a server keeps under a model key, from its files as they are now.

    Args:
        key: A model's path or repository, or mlx_lm.server's `(model, adapter, draft model)`.
        spec: The geometry that is kept under it.
        salt: The tenant's secret; other salts never share.

    Raises:
        BlockValidationError: A key that names no model on this machine: nothing of it is stored.
    """
    return KeyFiles.seen(key).fingerprint().namespace(spec, salt)


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
