"""The geometry of what a server has loaded: under which key which caches belong."""

from __future__ import annotations

import importlib
import logging
import weakref
from typing import Any

__all__ = ["LoadedSpecs"]

_log = logging.getLogger("semantic")


class LoadedSpecs:
    """The geometries of a model provider's models, each as it was last loaded.

    Args:
        model_provider: mlx_lm.server's.
    """

    def __init__(self, model_provider: Any) -> None:
        self._provider = model_provider
        self._known: dict[Any, tuple[weakref.ref[Any], Any]] = {}

    def of(self, key: Any) -> Any:
        """The geometry under a model key; None where nothing was loaded, or cannot be counted."""
        model = self._provider.model
        is_loaded = getattr(self._provider, "model_key", None) == key
        # Loaded again it may be another model, of another geometry.
        if is_loaded and (key not in self._known or self._known[key][0]() is not model):
            self._known[key] = weakref.ref(model), self._probed()
        return self._known[key][1] if key in self._known else None

    def _probed(self) -> Any:
        models = [self._provider.model]
        if getattr(self._provider, "draft_model", None) is not None:
            models.append(self._provider.draft_model)
        try:
            return importlib.import_module("semantic.mlx").probe(*models)
        except Exception:
            _log.exception("the KV cache of %s cannot be counted", self._provider.model_key)
            return None
