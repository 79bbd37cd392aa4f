"""The figures behind `semantic plan`: what each model takes, and how many agents fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from semantic.adapters.model_weights import weight_bytes
from semantic.cli.plan_models import REFERENCE, config_of, spec_of
from semantic.domain import live_bytes
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.growth import DEFAULT_PREFILL_STEP
from semantic.domain.layer_group import LayerGroup
from semantic.domain.value_objects import Basis, ModelCacheSpec

__all__ = ["ContextFigures", "ModelFigures", "PlanOptions", "figures_of"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What is planned for.

    Args:
        basis: What an agent is charged for: "peak", "live" or "cached".
        agents: Say what so many agents take; None: do not.
        shared_prefix: Leading tokens that all agents have in common.
        kv_bits: Bits of cached blocks; None: as they run.
        with_weights: Subtract what the weights take from the memory.
        weight_bits: Bits of each weight; None: what the model's files or config say.

    Raises:
        ModelSpecValidationError: An unknown basis.
    """

    basis: Basis = "peak"
    agents: int | None = None
    shared_prefix: int = 0
    kv_bits: int | None = None
    with_weights: bool = True
    weight_bits: int | None = None

    def __post_init__(self) -> None:
        if self.basis not in get_args(Basis):
            raise ModelSpecValidationError(
                f"unknown basis {self.basis!r}; one of {', '.join(get_args(Basis))}",
                attribute="basis",
            )

    @property
    def bases_of_agents(self) -> tuple[Basis, ...]:
        """On which bases so many agents are counted: at rest they share, whatever is asked."""
        if self.agents is None:
            return ()
        return ("cached",) if self.basis == "cached" else (self.basis, "cached")


@dataclass(frozen=True, slots=True)
class ContextFigures:
    """One agent of one model at one length, in bytes.

    Args:
        n_tokens: Its context.
        blocks: Sealed blocks at rest, by layer group.
        live_bytes: Running caches once the tokens are in.
        peak_bytes: The most that they take on the way there.
        cached_bytes: The sealed blocks.
        agents_bytes: So many agents as are asked for, by basis.
        agents: How many fit, by the name of the memory size.
    """

    n_tokens: int
    blocks: Mapping[str, int]
    live_bytes: int
    peak_bytes: int
    cached_bytes: int
    agents_bytes: Mapping[Basis, int]
    agents: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model.

    Args:
        name: As it was asked for; of a path the last part that says something.
        spec: Its geometry, quantised at rest where that is asked.
        weight_bytes: What its weights take; None where that is not asked.
        too_small: The memory sizes, by name, that do not even hold the weights.
        contexts: The figures by context length, in the order asked.
    """

    name: str
    spec: ModelCacheSpec
    weight_bytes: int | None
    too_small: tuple[str, ...]
    contexts: tuple[ContextFigures, ...]

    @property
    def bytes_per_token(self) -> int:
        """What one more token costs, beyond windows and chunks."""
        growing = (group for group in self.spec.groups if group.max_blocks is None)
        return sum(group.bytes_per_token_per_layer * group.n_layers for group in growing)

    def agents(self, memory_bytes: int, n_tokens: int, options: PlanOptions) -> int:
        """How many agents of so many tokens fit into a memory beside the weights."""
        left = max(0, memory_bytes - (self.weight_bytes or 0))
        prefix = min(options.shared_prefix, n_tokens)
        return self.spec.max_agents(left, n_tokens, prefix, options.basis)

    def group_bytes(self, n_tokens: int, basis: Basis) -> dict[str, int]:
        """Bytes by layer group, and under "prefill" what the peak has beyond them."""
        of_group = {group.name: _bytes(group, n_tokens, basis) for group in self.spec.groups}
        if basis == "peak":
            peak = self.spec.live_peak_bytes(n_tokens)
            of_group["prefill"] = peak - sum(of_group.values())
        return of_group


def _bytes(group: LayerGroup, n_tokens: int, basis: Basis) -> int:
    if basis == "cached":
        return group.blocks_at_rest(n_tokens) * group.bytes_per_block
    return live_bytes.at_rest((group,), n_tokens, DEFAULT_PREFILL_STEP)


def figures_of(
    models: Sequence[str] | None,
    memory_bytes: Mapping[str, int],
    contexts: Sequence[int],
    options: PlanOptions,
) -> list[ModelFigures]:
    """The figures of these models.

    Args:
        models: Preset names, config files or model folders; None or empty for `REFERENCE`.
        memory_bytes: Name of a memory size to bytes.
        contexts: Context lengths in tokens.
        options: What is asked.

    Raises:
        ModelSpecValidationError: An unknown model, or a config that says too little.
    """
    return [_model(name, memory_bytes, contexts, options) for name in models or REFERENCE]


def _model(
    name: str, memory_bytes: Mapping[str, int], contexts: Sequence[int], options: PlanOptions
) -> ModelFigures:
    spec = spec_of(name)
    if options.kv_bits is not None:
        spec = spec.quantised_at_rest(options.kv_bits)
    weights = None
    if options.with_weights:
        weights = weight_bytes(name, config_of(name), options.weight_bits)
    too_small = [label for label, size in memory_bytes.items() if size < (weights or 0)]
    bare = ModelFigures(_short(name), spec, weights, tuple(too_small), ())
    lines = tuple(_context(bare, n, memory_bytes, options) for n in contexts)
    return ModelFigures(bare.name, spec, weights, bare.too_small, lines)


def _short(name: str) -> str:
    """A model's folder has its name, whatever is in it."""
    path = Path(name)
    if not path.exists():
        return name
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name if path.name in ("", "..", "config.json") else path.name


def _context(
    model: ModelFigures, n_tokens: int, memory_bytes: Mapping[str, int], options: PlanOptions
) -> ContextFigures:
    spec, prefix = model.spec, min(options.shared_prefix, n_tokens)
    return ContextFigures(
        n_tokens,
        {group.name: group.blocks_at_rest(n_tokens) for group in spec.groups},
        spec.live_bytes(n_tokens),
        spec.live_peak_bytes(n_tokens),
        spec.cached_bytes(n_tokens),
        {
            basis: spec.bytes_of_agents(options.agents or 0, n_tokens, prefix, basis)
            for basis in options.bases_of_agents
        },
        {name: model.agents(size, n_tokens, options) for name, size in memory_bytes.items()},
    )
