"""How sealed blocks keep their tensors: as they are, or quantised as `mx.quantize` does it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.tensor import TokenTensor

__all__ = ["BIASES", "PACKED", "PLAIN", "SCALES", "AtRest"]

PACKED, SCALES, BIASES = ".packed", ".scales", ".biases"
"""What is added to a tensor's name for the three parts of a quantised one."""

_WORD_BITS = 32
_BITS = (4, 8)
_GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class AtRest:
    """The form of the tensors in a sealed block.

    Quantised, each row of D elements becomes D x bits / 32 words of 32 bits, and a scale and a bias
    of the tensor's own dtype for every `group_size` elements: what `mx.quantize` allocates.

    Args:
        bits: 8 or 4; None keeps everything as it is.
        group_size: Elements that share a scale: 32, 64 or 128.

    Raises:
        ModelSpecValidationError: Other bits or group sizes.
    """

    bits: int | None = None
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.bits is not None:
            _check("kv_bits", self.bits, _BITS)
        _check("kv_group_size", self.group_size, _GROUP_SIZES)

    def quantises(self, tensor: TokenTensor) -> bool:
        """Whether this tensor is quantised: others are kept plain.

        Integers, empty rows, and widths that the group size does not divide stay as they are.
        """
        divides = tensor.dim > 0 and tensor.dim % self.group_size == 0
        return self.bits is not None and tensor.is_floating and divides

    def tensors_of(self, tensor: TokenTensor) -> tuple[TokenTensor, ...]:
        """What a sealed block keeps of a running layer's tensor."""
        if self.bits is None or not self.quantises(tensor):
            return (tensor,)
        words = tensor.dim * self.bits // _WORD_BITS
        groups = tensor.dim // self.group_size
        return (
            replace(tensor, name=tensor.name + PACKED, dim=words, dtype="uint32"),
            replace(tensor, name=tensor.name + SCALES, dim=groups),
            replace(tensor, name=tensor.name + BIASES, dim=groups),
        )


def _check(name: str, value: object, known: tuple[int, ...]) -> None:
    if type(value) is not int or value not in known:  # 8.0 is 8 to Python, and no width of words
        raise ModelSpecValidationError(
            f"{name} must be one of {known}, not {value!r}", attribute=name
        )


PLAIN = AtRest()
"""Blocks that keep everything as it runs."""
