"""BitNet's matrix product on packed ternary weights, by ordinary operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from semantic.testing.stand_ins.metal_kernel import Kernel, Template

__all__ = ["KERNELS", "pack_ternary", "unpack_ternary"]


def pack_ternary(weights: mx.array) -> mx.array:
    """Rows of -1, 0 and 1 as bytes: a byte holds one column of four rows, a quarter apart.

    Args:
        weights: `[out_features, in_features]`, the first divisible by 4.

    Returns:
        uint8, `[out_features / 4, in_features]`.
    """
    digits = (weights + 1).astype(mx.uint8)
    quarters = mx.split(digits, 4, axis=0)
    packed = quarters[0]
    for place, quarter in enumerate(quarters[1:], start=1):
        packed = packed | (quarter << (2 * place))
    return packed


def unpack_ternary(packed: mx.array) -> mx.array:
    """The float32 rows that `pack_ternary` packed."""
    quarters = [(packed >> (2 * place)) & 3 for place in range(4)]
    return mx.concatenate(quarters, axis=0).astype(mx.float32) - 1.0


def _bitlinear_matmul(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    x, packed, scale = inputs
    factor = scale[0].astype(mx.float32)
    if template["invert_weight_scales"]:
        factor = 1.0 / factor
    return [x.astype(mx.float32) @ unpack_ternary(packed).T * factor]


KERNELS: Mapping[str, Kernel] = {"bitlinear_matmul": _bitlinear_matmul}
