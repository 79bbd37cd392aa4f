"""A model of mlx-lm from a config alone: its random weights stay lazy, and refusals have a name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import mlx.core as mx
from mlx_lm import utils

from semantic.adapters.mlx.lazy_forward import kernels_without_metal
from semantic.domain.errors import ModelSpecValidationError, SemanticError

__all__ = ["built_lazily", "refused"]


class _NoMetalError(Exception):
    """A module builds a Metal kernel when it is imported, and there is no Metal."""


@contextmanager
def built_lazily(config: dict[str, Any]) -> Iterator[Any]:
    """Inside, the model of `config`, never evaluated.

    Raises:
        ModelSpecValidationError: mlx-lm cannot build it; the reason is mlx-lm's own.
    """
    with ExitStack() as undo:
        undo.enter_context(_random_state_kept())
        try:
            model = _build(config)
        except _NoMetalError:
            undo.enter_context(kernels_without_metal())
            model = _build(config)
        yield model


def _build(config: dict[str, Any]) -> Any:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelSpecValidationError("the config has no 'model_type'", attribute="model_type")
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            model_class, args_class = utils._get_classes(config=config)
            return model_class(args_class.from_dict(config))
    except SystemExit as error:  # how mlx-lm's olmo says that a package is missing
        reason = said.getvalue().strip() or f"it exits with {error}"
        raise ModelSpecValidationError(
            f"mlx-lm cannot build model_type {model_type!r}: {reason}", attribute="model_type"
        ) from error
    except Exception as error:
        if isinstance(error, RuntimeError) and "Metal" in str(error):
            raise _NoMetalError from error
        raise refused(model_type, "build", error) from error


def refused(model_type: str, action: str, error: Exception) -> SemanticError:
    """What mlx-lm raised over a config, as one of our errors.

    An architecture's code runs over numbers that it never checks, such as head counts of 0: what
    it raises is anything at all.
    """
    if isinstance(error, SemanticError):
        return error
    missing = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
    line = str(error).partition("\n")[0] or type(error).__name__
    if not isinstance(error, RuntimeError | ValueError):
        line = f"{type(error).__name__}: {line}"
    package = _missing_package(error)
    if package is not None:
        line += f" (the package {package!r} is not installed)"
    return ModelSpecValidationError(
        f"mlx-lm cannot {action} model_type {model_type!r} from this config: {line}",
        attribute=missing or "config",
    )


def _missing_package(error: BaseException | None) -> str | None:
    """The package whose absence is behind `error`, unless it is a module of mlx-lm's own."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            package = error.name.partition(".")[0]
            return None if package == "mlx_lm" else package
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Building a model draws (lazily) from MLX's global generator; the caller's must not move."""
    state: Any = mx.random.state
    high, low = state[0].tolist()
    try:
        yield
    finally:
        # A key is its 64-bit seed, and seeding is the one way in that every MLX release has.
        mx.random.seed(high << 32 | low)
