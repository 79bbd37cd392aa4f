"""Running a model for its shapes alone, where mlx-lm would compute something or cannot.

Two things stand in the way of a lazy forward pass:

* A Metal kernel on a machine without Metal. Its caller states the shapes and dtypes of what comes
  out; here a kernel answers with just those, never to be evaluated.
* A layer that reads the values of its routing, as dbrx does: its feed-forward part, which changes
  neither shapes nor the cache, is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import mlx.core as mx
from mlx.nn.layers.containers import Sequential

__all__ = ["kernels_without_metal", "shapes_only"]

_READS_VALUES = {"mlx_lm.models.dbrx": "ffn"}
"""By module of the model: the part of each layer that looks at values (its `tolist`)."""


@contextmanager
def shapes_only(model: Any) -> Iterator[None]:
    """Inside, `model` can be called lazily; nothing is evaluated, and no kernel is needed."""
    with ExitStack() as undo:
        if not mx.metal.is_available():
            undo.enter_context(_replaced_kernels())
        part = _READS_VALUES.get(type(model).__module__)
        if part is not None:
            undo.enter_context(_left_out(model.layers, part))
        yield


@contextmanager
def kernels_without_metal() -> Iterator[None]:
    """Inside, modules that build Metal kernels can be imported; they are forgotten afterwards."""
    if mx.metal.is_available():
        yield
        return
    known = set(sys.modules)
    real = mx.fast.metal_kernel
    mx.fast.metal_kernel = _shape_only_kernel
    try:
        yield
    finally:
        mx.fast.metal_kernel = real
        for name in set(sys.modules) - known:
            if name.startswith("mlx_lm."):
                _forget(name)


def _forget(name: str) -> None:
    parent, _, child = name.rpartition(".")
    del sys.modules[name]
    if hasattr(sys.modules.get(parent), child):
        delattr(sys.modules[parent], child)


def _shape_only_kernel(*_: object, **__: object) -> Callable[..., list[mx.array]]:
    return _outputs


def _outputs(
    *,
    output_shapes: Sequence[Sequence[int]],
    output_dtypes: Sequence[mx.Dtype],
    **_: object,
) -> list[mx.array]:
    """What a kernel call gives, as far as shapes go."""
    pairs = zip(output_shapes, output_dtypes, strict=True)
    return [mx.zeros(tuple(shape), dtype=dtype) for shape, dtype in pairs]


@contextmanager
def _replaced_kernels() -> Iterator[None]:
    """The kernels that mlx-lm's modules hold already answer with shapes."""
    held = [
        (module, name, value)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("mlx_lm.") and isinstance(module, ModuleType)
        for name, value in vars(module).items()
        if _is_kernel(value)
    ]
    for module, name, _ in held:
        setattr(module, name, _outputs)
    try:
        yield
    finally:
        for module, name, value in held:
            setattr(module, name, value)


def _is_kernel(value: object) -> bool:
    """A function of MLX's without a name: all that is known of a compiled kernel."""
    return type(value).__name__ == "nb_func" and not getattr(value, "__name__", None)


@contextmanager
def _left_out(layers: Sequence[Any], part: str) -> Iterator[None]:
    unchanged: Any = Sequential()  # type: ignore[no-untyped-call]  # of no layers
    kept = [getattr(layer, part) for layer in layers]
    for layer in layers:
        setattr(layer, part, unchanged)
    try:
        yield
    finally:
        for layer, module in zip(layers, kept, strict=True):
            setattr(layer, part, module)
