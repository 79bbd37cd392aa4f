"""How a config says that its weights are packed, and what mlx-lm makes of that when it loads them.

Follows mlx-lm 0.32.2, `utils.load_model`: some kinds stay packed, some are packed anew, and fp8
becomes the model's own element type. What mlx-lm does not load is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from semantic.domain.errors import ModelSpecValidationError

__all__ = ["Packing", "packing_of", "published_quantisation"]

_GROUP_BITS = {"affine": 32, "mxfp4": 8, "mxfp8": 8, "nvfp4": 8}
"""Beside each group of weights, by mode: a scale and a bias of 16 bits, or a scale of 8."""

_COMPRESSED = {
    "pack-quantized": ("affine", 4, 32),
    "mxfp4-pack-quantized": ("mxfp4", 4, 32),
    "nvfp4-pack-quantized": ("nvfp4", 4, 16),
}
"""Mode, bits and group size of the formats of compressed-tensors."""

_ADVICE = "say --weight-bits, or --no-weights"


@dataclass(frozen=True, slots=True)
class Packing:
    """How weights are packed in memory.

    Args:
        bits: Of each weight.
        group_size: Weights that share a scale.
        mode: As `mx.quantize` names it.
        kept: Patterns of the modules that are not packed: their paths or those above them, "re:"
            before a regular expression.
        apart: Modules that are packed in another way, by path; None: not at all.
        is_new: Whether the files pack them in another way than memory.
        embeds: Whether embeddings are packed, too.
    """

    bits: int
    group_size: int
    mode: str = "affine"
    kept: tuple[str, ...] = ()
    apart: Mapping[str, Packing | None] = field(default_factory=dict)
    is_new: bool = False
    embeds: bool = False

    def __post_init__(self) -> None:
        for name in ("bits", "group_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise _refused(f"a quantisation with {name} {value!r}", name)
        if self.mode not in _GROUP_BITS:
            raise _refused(f"the quantisation mode {self.mode!r}", "mode")

    def nbytes(self, weights: int) -> int:
        """Bytes of so many weights with what belongs to their groups."""
        groups = weights // self.group_size
        return (weights * self.bits + groups * _GROUP_BITS[self.mode]) // 8

    def of(self, path: str) -> Packing | None:
        """The packing of one module; None where it is kept as it is."""
        if path in self.apart:
            return self.apart[path]
        return None if any(_meets(pattern, path) for pattern in self.kept) else self


def packing_of(config: Mapping[str, Any]) -> Packing | None:
    """How the weights of a config are packed once mlx-lm has loaded them; None: not at all.

    Raises:
        ModelSpecValidationError: They are packed in a way that mlx-lm does not load.
    """
    if isinstance(own := config.get("quantization"), Mapping):
        return _own_packing(own)
    settings = published_quantisation(config)
    if settings is None:
        return None
    method = settings.get("quant_method")
    made = _METHODS.get(str(method))
    if made is None:
        raise _refused(f"the quant_method {method!r}", "quant_method")
    return made(settings)


def published_quantisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config's `quantization_config`, its own or its text model's; None without any."""
    text = config.get("text_config")
    for source in (config, text if isinstance(text, Mapping) else {}):
        if isinstance(found := source.get("quantization_config"), Mapping):
            return found
    return None


def _own_packing(own: Mapping[str, Any]) -> Packing:
    """The words of mlx-lm's own conversions: a default, and modules with words of their own."""
    default = (own.get("bits", 4), own.get("group_size", 64), own.get("mode", "affine"))
    apart: dict[str, Packing | None] = {}
    for path, words in own.items():
        if isinstance(words, Mapping):
            bits, group_size, mode = default
            apart[path] = Packing(
                words.get("bits", bits),
                words.get("group_size", group_size),
                words.get("mode", mode),
            )
        elif words is False:
            apart[path] = None
    return Packing(*default, apart=apart, embeds=True)


def _mxfp(settings: Mapping[str, Any]) -> Packing:
    mode = str(settings["quant_method"])
    return Packing(int(mode[-1]), 32, mode, _kept(settings))


def _fp8(settings: Mapping[str, Any]) -> Packing | None:
    blocks = list(settings.get("weight_block_size") or ())
    if settings.get("scale_fmt") == "ue8m0" and blocks == [32, 32]:
        return Packing(8, 32, "mxfp8", _kept(settings))
    return None


def _four_bits(settings: Mapping[str, Any]) -> Packing:
    if settings.get("bits", 4) != 4:
        method = settings["quant_method"]
        raise _refused(f"{method!r} with {settings['bits']} bits", "bits")
    kept = _kept(settings) or ("lm_head",)
    return Packing(4, settings.get("group_size", 128), kept=kept, is_new=True)


def _compressed(settings: Mapping[str, Any]) -> Packing:
    form = settings.get("format")
    if form not in _COMPRESSED:
        raise _refused(f"the compressed-tensors format {form!r}", "format")
    mode, bits, group_size = _COMPRESSED[form]
    return Packing(bits, group_size, mode, _kept(settings))


def _modelopt(settings: Mapping[str, Any]) -> Packing:
    inner = settings.get("quantization")
    words = inner if isinstance(inner, Mapping) else settings
    algorithm = words.get("quant_algo")
    if algorithm != "NVFP4":
        raise _refused(f"the modelopt quant_algo {algorithm!r}", "quant_algo")
    return Packing(4, words.get("group_size", 16), "nvfp4", _kept(words))


_METHODS = {
    "mxfp4": _mxfp,
    "mxfp8": _mxfp,
    "fp8": _fp8,
    "awq": _four_bits,
    "gptq": _four_bits,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
}


def _kept(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What the settings leave as it is, under any of the names that this has."""
    for name in ("modules_to_not_convert", "ignore", "exclude_modules"):
        if isinstance(found := settings.get(name), list):
            return tuple(str(pattern) for pattern in found)
    return ()


def _meets(pattern: str, path: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], path) is not None
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def _refused(what: str, attribute: str) -> ModelSpecValidationError:
    return ModelSpecValidationError(
        f"the weights cannot be counted: mlx-lm does not load {what}; {_ADVICE}",
        attribute=attribute,
    )
