"""A stand-in of `mx.fast.metal_kernel`: the kernels it makes are functions on arrays.

The Python around a kernel stays mlx-lm's own: only the kernel itself is replaced, looked up by the
name under which it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import mlx.core as mx

__all__ = ["Kernel", "Template", "kernel_maker", "unit_rms"]

Template: TypeAlias = Mapping[str, Any]
"""What a launch fixes at compile time: sizes, switches, and the element type `T`."""

Kernel: TypeAlias = Callable[[Sequence[mx.array], Template], list[mx.array]]
"""The kernel's inputs, in its own order, and its template, to its outputs."""


def kernel_maker(
    kernels: Mapping[str, Kernel], otherwise: Callable[..., Any]
) -> Callable[..., Any]:
    """What takes the place of `mx.fast.metal_kernel`.

    Args:
        kernels: The equivalents, by kernel name.
        otherwise: Builds every other kernel, and fails as it always did.
    """

    def metal_kernel(name: str, *args: Any, **options: Any) -> Any:
        if name in kernels:
            return _launcher(kernels[name])
        return otherwise(name, *args, **options)

    return metal_kernel


def unit_rms(x: mx.array, eps: mx.array) -> mx.array:
    """The rows of `x`, in float32, divided by the root of their mean square."""
    wide = x.astype(mx.float32)
    return wide * mx.rsqrt(mx.mean(mx.square(wide), axis=-1, keepdims=True) + eps)


def _launcher(kernel: Kernel) -> Callable[..., list[mx.array]]:
    def launch(
        *,
        inputs: Sequence[mx.array],
        template: Sequence[tuple[str, Any]],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        **_threads: Any,
    ) -> list[mx.array]:
        outputs = kernel(inputs, dict(template))
        return [
            output.astype(dtype).reshape(shape)
            for output, shape, dtype in zip(outputs, output_shapes, output_dtypes, strict=True)
        ]

    return launch
