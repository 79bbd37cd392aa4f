"""Layer groups from `model.args` alone, for the families whose cache follows from their arguments.

The rules and defaults are those of mlx-lm's own `ModelArgs` (read in 0.32.2; EXP-001 lists every
field). A field that is missing gets that default and nothing else; what has no default there is
required here; what cannot be derived exactly is refused by name. A probe knows more: it sees
sharded heads and pipelined layers, which arguments never carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from semantic.domain._check import whole_number
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.layer_group import LayerGroup, TokenTensor

__all__ = ["FAMILIES", "Family", "groups_from_model"]

HeadDim = Literal["given", "given_or_divided", "divided"]
"""Where the head width comes from: the field, the field or else hidden // heads, or always that."""


@dataclass(frozen=True, slots=True)
class Family:
    """How one architecture's arguments become a cache layout.

    Args:
        defaults: mlx-lm's own default of each field that may be missing.
        head_dim: Where the head width comes from.
        windows: The window of each layer (None: global) from the fields.
    """

    defaults: Mapping[str, object]
    head_dim: HeadDim
    windows: Callable[[_Fields, int], Sequence[int | None]]


class _Fields:
    """The arguments of one model, read by name: an attribute, a dict's key, or the default."""

    def __init__(self, source: object, defaults: Mapping[str, object]) -> None:
        self._source = source
        self._defaults = defaults

    def get(self, name: str) -> object:
        """The value, the family's default where it is missing or None, or None."""
        value = _read(self._source, name)
        return self._defaults.get(name) if value is None else value

    def positive(self, name: str) -> int:
        """The value as a positive integer.

        Raises:
            ModelSpecValidationError: Missing without a default, or no positive integer.
        """
        value = self.get(name)
        if value is None:
            raise ModelSpecValidationError(
                f"model.args has no {name!r}, and mlx-lm has no default for it", attribute=name
            )
        label = f"model.args.{name}"
        return whole_number(value, label, ModelSpecValidationError, at_least=1, attribute=name)

    def layer_types(self, n_layers: int) -> tuple[str, ...] | None:
        """The `layer_types` list, checked against the number of layers; None when missing."""
        value = self.get("layer_types")
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(t, str) for t in value):
            raise ModelSpecValidationError(
                f"model.args.layer_types must be a list of names, not {value!r}",
                attribute="layer_types",
            )
        if len(value) != n_layers:
            raise ModelSpecValidationError(
                f"model.args.layer_types has {len(value)} entries for {n_layers} layers",
                attribute="layer_types",
            )
        return tuple(value)


def _read(source: object, name: str) -> object:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _all_global(fields: _Fields, n_layers: int) -> Sequence[int | None]:
    return [None] * n_layers


def _every_nth_global(fields: _Fields, n_layers: int) -> Sequence[int | None]:
    """Gemma 3: layer i is global where i % pattern == pattern - 1."""
    pattern = fields.positive("sliding_window_pattern")
    if n_layers < pattern:
        raise ModelSpecValidationError(
            f"model.args.sliding_window_pattern {pattern} leaves none of {n_layers} layers global: "
            "mlx-lm cannot run that",
            attribute="sliding_window_pattern",
        )
    window = fields.positive("sliding_window")
    return [None if i % pattern == pattern - 1 else window for i in range(n_layers)]


def _full_or_sliding(fields: _Fields, n_layers: int) -> Sequence[int | None]:
    """GPT-OSS: sliding unless named full; without a list, even layers slide."""
    types = fields.layer_types(n_layers)
    if types is None:
        if n_layers % 2:
            raise ModelSpecValidationError(
                "model.args.layer_types is missing, and mlx-lm's default covers only an even "
                f"number of layers, not {n_layers}",
                attribute="layer_types",
            )
        types = ("sliding_attention", "full_attention") * (n_layers // 2)
    _require_both(types)
    window = fields.positive("sliding_window")
    return [None if t == "full_attention" else window for t in types]


def _require_both(types: Sequence[str]) -> None:
    if not {"sliding_attention", "full_attention"} <= set(types):
        raise ModelSpecValidationError(
            "model.args.layer_types must name sliding_attention and full_attention layers: "
            "mlx-lm cannot build this model with one kind alone",
            attribute="layer_types",
        )


def _named_sliding(fields: _Fields, n_layers: int) -> Sequence[int | None]:
    """Llama: global unless named sliding; without a list, all global."""
    types = fields.layer_types(n_layers) or ("full_attention",) * n_layers
    if "full_attention" not in types:
        raise ModelSpecValidationError(
            "model.args.layer_types names no full_attention layer: mlx-lm cannot build that",
            attribute="layer_types",
        )
    if "sliding_attention" not in types:
        return [None] * n_layers
    window = fields.positive("sliding_window")
    return [window if t == "sliding_attention" else None for t in types]


_GEMMA3_TEXT = {
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "head_dim": 256,
    "num_key_value_heads": 1,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
_LLAMA = Family({}, "given_or_divided", _named_sliding)

FAMILIES: Mapping[str, Family] = {
    "gemma3_text": Family(_GEMMA3_TEXT, "given", _every_nth_global),
    # The wrapper fills in other head counts than the text model would.
    "gemma3": Family(
        _GEMMA3_TEXT | {"num_attention_heads": 8, "num_key_value_heads": 4},
        "given",
        _every_nth_global,
    ),
    "gpt_oss": Family(
        {
            "num_hidden_layers": 36,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
        },
        "given",
        _full_or_sliding,
    ),
    "qwen2": Family({}, "divided", _all_global),
    "qwen3": Family({}, "given", _all_global),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "ministral3": _LLAMA,
}
"""Architectures that `from_model` derives, by `model_type`; every other one is for the probe."""

_WRAPPERS = {"gemma3": None, "mistral3": "llama"}
"""Architectures with a `text_config`: the family of a nested config that names none of its own."""

_OPTIONAL_KV_HEADS = frozenset({"llama", "mistral", "ministral3"})
"""Families whose ModelArgs fills in num_key_value_heads = num_attention_heads."""


def groups_from_model(model: object, kv_dtype: str) -> tuple[LayerGroup, ...]:
    """The layer groups of `model`, from its arguments.

    Raises:
        ModelSpecValidationError: See `ModelCacheSpec.from_model`.
    """
    args = getattr(model, "args", None)
    if args is None:
        raise ModelSpecValidationError(
            f"{type(model).__name__} has no `args`; use semantic.mlx.probe(model)",
            attribute="args",
        )
    model_type, source = _family_and_source(args)
    family = FAMILIES[model_type]
    fields = _Fields(source, family.defaults)
    n_layers = fields.positive("num_hidden_layers")
    _check_built_layers(model, n_layers)
    heads = _kv_heads(fields, model_type)
    dim = _head_dim(fields, family.head_dim)
    tensors = tuple(TokenTensor(name, heads, dim, kv_dtype) for name in ("keys", "values"))
    windows = family.windows(fields, n_layers)
    return _group_by_window(windows, tensors)


def _family_and_source(args: object) -> tuple[str, object]:
    model_type = _read(args, "model_type")
    if not isinstance(model_type, str):
        raise ModelSpecValidationError(
            f"model.args.model_type must name the architecture, not {model_type!r}",
            attribute="model_type",
        )
    source = args
    if model_type in _WRAPPERS:
        source = _read(args, "text_config")
        if source is None:
            raise ModelSpecValidationError(
                f"model.args of a {model_type} model has no 'text_config'", attribute="text_config"
            )
        model_type = _wrapped_family(model_type, source)
    if model_type not in FAMILIES:
        raise ModelSpecValidationError(
            f"the cache of model_type {model_type!r} does not follow from its arguments alone; "
            "use semantic.mlx.probe(model)",
            attribute="model_type",
        )
    return model_type, source


def _wrapped_family(wrapper: str, source: object) -> str:
    default = _WRAPPERS[wrapper]
    if default is None:
        return wrapper
    nested = _read(source, "model_type")
    # mlx-lm's mistral3 knows two other text models and takes llama for every further name.
    return str(nested) if nested in ("ministral3", "mistral4") else default


def _check_built_layers(model: object, n_layers: int) -> None:
    """A pipelined model owns fewer layers than its arguments say."""
    layers = getattr(model, "layers", None)
    if isinstance(layers, list | tuple) and len(layers) != n_layers:
        raise ModelSpecValidationError(
            f"the model has {len(layers)} layers, model.args.num_hidden_layers is {n_layers}; "
            "use semantic.mlx.probe(model)",
            attribute="num_hidden_layers",
        )


def _kv_heads(fields: _Fields, model_type: str) -> int:
    if model_type in _OPTIONAL_KV_HEADS and fields.get("num_key_value_heads") is None:
        return fields.positive("num_attention_heads")
    return fields.positive("num_key_value_heads")


def _head_dim(fields: _Fields, rule: HeadDim) -> int:
    if rule == "given" or (rule == "given_or_divided" and fields.get("head_dim") is not None):
        return fields.positive("head_dim")
    hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
    if hidden < heads:
        raise ModelSpecValidationError(
            f"model.args.hidden_size {hidden} is smaller than its {heads} attention heads",
            attribute="hidden_size",
        )
    return hidden // heads


def _group_by_window(
    windows: Sequence[int | None], tensors: tuple[TokenTensor, ...]
) -> tuple[LayerGroup, ...]:
    groups = []
    everywhere = tuple(i for i, window in enumerate(windows) if window is None)
    if everywhere:
        groups.append(LayerGroup("global", "global", everywhere, tensors))
    for n, window in enumerate(sorted({w for w in windows if w is not None})):
        name = "sliding_window" if n == 0 else f"sliding_window.{n}"
        layers = tuple(i for i, w in enumerate(windows) if w == window)
        groups.append(LayerGroup(name, "sliding_window", layers, tensors, window=window))
    return tuple(groups)
