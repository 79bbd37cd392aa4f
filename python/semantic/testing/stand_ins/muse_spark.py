"""The fused kernels of Muse Spark (`mlx_lm.kernels`), by ordinary operations.

They round where the kernels round: `T` is the element type of the activations, everything between
is float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from semantic.testing.stand_ins.metal_kernel import Kernel, Template, unit_rms

__all__ = ["KERNELS"]


def _expert_routing(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    logits, bias, multiplier, eps, scale = inputs
    scores = mx.sigmoid(logits * multiplier)
    # The bias chooses, the scores weigh; argsort is stable, so a tie goes to the lower index.
    chosen = mx.argsort(-(scores + bias), axis=-1)[..., : template["K"]]
    weights = mx.take_along_axis(scores, chosen, axis=-1)
    total = mx.sum(weights, axis=-1, keepdims=True)
    return [chosen, weights / (total + eps) * scale]


def _norm_add(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    branch, stream, alpha, beta, post_weight, post_eps = inputs
    rounded = template["T"]
    if template["POST_SCALE"]:
        branch = post_weight.astype(rounded) * branch
    normed = unit_rms(branch.astype(rounded), post_eps).astype(rounded)
    return [alpha * stream + beta * normed.astype(mx.float32)]


def _pre_norm(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    stream, weight, eps = inputs
    return [unit_rms(stream, eps) * weight]


def _norm_add_norm(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    *norm_add_inputs, pre_weight, pre_eps = inputs
    stream = _norm_add(norm_add_inputs, template)[0]
    return [stream, *_pre_norm((stream, pre_weight, pre_eps), template)]


def _post_expert_norm_combine(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    experts, weights, norm_weight, eps = inputs
    rounded = template["T"]
    scaled = experts.astype(mx.float32) * norm_weight.astype(mx.float32)
    shares = weights.astype(rounded).astype(mx.float32)[..., None] * unit_rms(scaled, eps)
    total = mx.zeros(shares[..., 0, :].shape)
    for expert in range(template["K"]):
        total = (total + shares[..., expert, :]).astype(rounded).astype(mx.float32)
    return [total]


def _qk_norm(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    qkvg, scale, eps = inputs
    query_heads, key_heads, rounded = template["HQ"], template["HK"], template["T"]
    heads = qkvg.reshape(*qkvg.shape[:-1], -1, template["D"])[..., : query_heads + key_heads, :]
    normed = unit_rms(heads, eps).astype(rounded)
    queries = (normed[..., :query_heads, :].astype(mx.float32) * scale).astype(rounded)
    return [queries, normed[..., query_heads:, :]]


def _qk_norm_rope(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    qkvg, scale, eps, offset, _, log2_base = inputs
    pairs = template["D"] // 2
    frequencies = mx.power(2.0, -(mx.arange(pairs) / pairs) * log2_base)
    # One offset for all rows of the batch, or one for each.
    positions = offset[:, None] + mx.arange(qkvg.shape[1])
    angles = positions.astype(mx.float32)[:, :, None, None] * frequencies
    return [_rotated(part, angles) for part in _qk_norm((qkvg, scale, eps), template)]


def _rotated(heads: mx.array, angles: mx.array) -> mx.array:
    """Every pair of neighbours `(2i, 2i + 1)` turned by its angle."""
    pairs = heads.astype(mx.float32).reshape(*heads.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cosine, sine = mx.cos(angles), mx.sin(angles)
    turned = mx.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1)
    return turned.reshape(heads.shape)


def _rms_norm_sigmoid_gate(inputs: Sequence[mx.array], template: Template) -> list[mx.array]:
    x, gate, eps = inputs
    rows = unit_rms(x, eps).transpose(0, 2, 1, 3)
    return [rows * mx.sigmoid(gate.astype(mx.float32)).reshape(rows.shape)]


KERNELS: Mapping[str, Kernel] = {
    "expert_routing": _expert_routing,
    "norm_add": _norm_add,
    "norm_add_norm": _norm_add_norm,
    "norm_add_norm_pre_norm": _pre_norm,
    "post_expert_norm_combine": _post_expert_norm_combine,
    "qk_norm": _qk_norm,
    "qk_norm_rope": _qk_norm_rope,
    "rms_norm_sigmoid_gate": _rms_norm_sigmoid_gate,
}
