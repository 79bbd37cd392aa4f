"""Which files a server's models were loaded from: the files of today may be others.

A model that is saved anew at its path while the server runs stays what was loaded, and so does its
namespace. When it is loaded again from other files, what was kept under its key is another model's
and goes (law 5). Weights are read where they were just loaded, before anybody waits for a token.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from semantic.adapters.mlx_lm.model_identity import KeyFiles, KeyFingerprint, namespace_of_key
from semantic.domain.errors import BlockValidationError
from semantic.domain.identity import Namespace
from semantic.domain.value_objects import ModelCacheSpec

__all__ = ["LoadedModels"]


class LoadedModels:
    """What a model provider loads from now on. Belongs on the thread that loads.

    Args:
        model_provider: mlx_lm.server's; its `_load` is watched. A release without one loads
            unseen, and its models are identified by their files when they are first asked for.
        stores: Whether namespaces will be asked for: only then weights are read.
        salt: The tenant's secret in those namespaces.
    """

    def __init__(self, model_provider: Any, *, stores: bool, salt: str = "") -> None:
        self._stores = stores
        self._salt = salt
        self._files: dict[Hashable, KeyFiles | None] = {}
        self._fingerprints: dict[Hashable, KeyFingerprint | BlockValidationError] = {}
        self._cache: weakref.ref[Any] | None = None
        self._load: Callable[..., Any] | None = getattr(model_provider, "_load", None)
        if self._load is not None:
            model_provider._load = self._noticed(self._load)

    def watching(self, cache: Any) -> Any:
        """The same prompt cache: it forgets a model that is loaded from other files."""
        self._cache = weakref.ref(cache)
        return cache

    def namespace_of(self, key: Any, spec: ModelCacheSpec) -> Namespace:
        """The namespace of what was loaded under a key.

        Raises:
            BlockValidationError: What was loaded is not known: nothing of it is stored.
        """
        if self._load is None:
            return namespace_of_key(key, spec, self._salt)
        found = self._fingerprints.get(key)
        if isinstance(found, KeyFingerprint):
            return found.namespace(spec, self._salt)
        raise found or BlockValidationError(f"nothing was loaded as {key!r}")

    def _noticed(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def noticed(model: Any, adapter: Any = None, draft: Any = None) -> Any:
            key = (model, adapter, draft)
            before = _seen(key)
            result = load(model, adapter, draft)
            after = _seen(key)
            # What was not on this machine has just been fetched. A repository may name another
            # revision now.
            self._is_loaded(key, after if before in (None, after) else None)
            return result

        return noticed

    def _is_loaded(self, key: Hashable, files: KeyFiles | None) -> None:
        if key in self._files and (files is None or self._files[key] != files):
            self._forget(key)
        self._files[key] = files
        if self._stores:
            self._fingerprints[key] = _fingerprint(key, files)

    def _forget(self, key: Hashable) -> None:
        cache = None if self._cache is None else self._cache()
        if cache is not None:
            cache.forget_model(key)


def _seen(key: Any) -> KeyFiles | None:
    try:
        return KeyFiles.seen(key)
    except BlockValidationError:
        return None


def _fingerprint(key: Hashable, files: KeyFiles | None) -> KeyFingerprint | BlockValidationError:
    if files is None:
        return BlockValidationError(f"{key!r} names no files, or they changed while it was loaded")
    try:
        return files.fingerprint()
    except BlockValidationError as error:
        return error
