"""Puts the stand-ins in place, and takes them away again.

Each only where the real one does not work:

* `mx.gather_mm`, on the CPU: it takes float32 only, so every mixture of experts fails in bf16.
* The Metal kernels that `bitnet` and `muse_spark` build when they are imported.
* `mx.compile`, on the CPU: it calls a C++ compiler for every new expression, 75 s for all of
  mlx-lm's models. The functions run as they are written.
* `hf_olmo`, which `mlx_lm.models.olmo` imports to see whether it is there, and exits when not.

A module that keeps one of these from its import on is set aside and imported anew, so it does not
matter what was imported before. A model built inside keeps its kernels afterwards, but not
`gather_mm`, which is looked up at every call.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import mlx.core as mx

from semantic.testing.stand_ins import bitlinear, muse_spark
from semantic.testing.stand_ins.metal_kernel import Kernel, kernel_maker

__all__ = ["cpu_stand_ins", "install"]

_KERNELS: dict[str, Kernel] = {**bitlinear.KERNELS, **muse_spark.KERNELS}
_BUILD_KERNELS = (
    "mlx_lm.kernels",
    "mlx_lm.models.bitlinear_layers",
    "mlx_lm.models.bitnet",
    "mlx_lm.models.muse_spark",
)


@contextmanager
def cpu_stand_ins() -> Iterator[None]:
    """Inside, every architecture of mlx-lm can be built and run on this machine."""
    with ExitStack() as undo:
        if mx.default_device() == mx.cpu:
            undo.enter_context(_replaced(mx, "gather_mm", _any_dtype(mx.gather_mm)))
            undo.enter_context(_uncompiled())
        if not (mx.metal.is_available() and mx.default_device() == mx.gpu):
            maker = kernel_maker(_KERNELS, otherwise=mx.fast.metal_kernel)
            undo.enter_context(_replaced(mx.fast, "metal_kernel", maker))
            undo.enter_context(_imported_anew(*_BUILD_KERNELS))
        if importlib.util.find_spec("hf_olmo") is None:
            undo.enter_context(_imported_anew("mlx_lm.models.olmo", "hf_olmo"))
            sys.modules["hf_olmo"] = _importable("hf_olmo")
        yield


def install() -> Callable[[], None]:
    """Put the stand-ins in place until the returned function is called."""
    undo = ExitStack()
    undo.enter_context(cpu_stand_ins())
    return undo.close


def _any_dtype(gather_mm: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """The same product for narrower floats too: computed in float32, rounded once."""

    def widened(a: mx.array, b: mx.array, /, *args: Any, **options: Any) -> mx.array:
        wide = gather_mm(a.astype(mx.float32), b.astype(mx.float32), *args, **options)
        # Two different floats promote to float32.
        return wide.astype(a.dtype) if a.dtype == b.dtype else wide

    return widened


@contextmanager
def _uncompiled() -> Iterator[None]:
    mx.disable_compile()
    try:
        yield
    finally:
        if "MLX_DISABLE_COMPILE" not in os.environ:  # else it was off before
            mx.enable_compile()


def _importable(name: str) -> ModuleType:
    """An empty module that `find_spec` finds, so that a second stand-in is not put on top."""
    module = ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
    return module


@contextmanager
def _replaced(owner: ModuleType, name: str, value: object) -> Iterator[None]:
    real = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextmanager
def _imported_anew(*names: str) -> Iterator[None]:
    """Inside, the modules and their submodules are as if never imported; afterwards as before."""
    before = _set_aside(names)
    try:
        yield
    finally:
        _set_aside(names)
        for name, module in before.items():
            sys.modules[name] = module
            _bind(name, module)


def _set_aside(names: tuple[str, ...]) -> dict[str, ModuleType]:
    found = {
        name: module
        for name, module in sys.modules.items()
        if any(name == root or name.startswith(f"{root}.") for root in names)
    }
    for name in found:
        del sys.modules[name]
        _bind(name, None)
    return found


def _bind(name: str, module: ModuleType | None) -> None:
    """`import a.b` leaves `b` in `a` too: keep the two alike."""
    parent, _, child = name.rpartition(".")
    package = sys.modules.get(parent)
    if package is None:
        return
    if module is not None:
        setattr(package, child, module)
    elif hasattr(package, child):
        delattr(package, child)
