"""What a model's cache is made of, and the small values that pass between the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from semantic.domain import live_bytes, model_args
from semantic.domain._check import whole_number
from semantic.domain.cache_entry import CacheEntry
from semantic.domain.errors import BlockValidationError, ModelSpecValidationError
from semantic.domain.growth import DEFAULT_PREFILL_STEP
from semantic.domain.layer_group import BLOCK_TOKENS, LayerGroup, LayerType, TokenTensor

__all__ = ["Basis", "CacheKey", "GenerationResult", "ModelCacheSpec"]

Basis = Literal["peak", "live", "cached"]
"""What an agent is charged for: prefill peak, memory at rest while running, or sealed blocks."""


@dataclass(frozen=True, slots=True)
class ModelCacheSpec:
    """The cache geometry of one model: its layer groups.

    Args:
        groups: The layer groups, each with a name of its own; together they hold every leaf cache
            exactly once.
        entries: How the leaf caches lie in the model's list of cache entries. Empty where each
            entry is a plain leaf cache of its own, in order.

    Raises:
        ModelSpecValidationError: No group, a name twice, or a leaf cache in two groups or in none.
    """

    groups: tuple[LayerGroup, ...]
    entries: tuple[CacheEntry, ...] = ()
    block_tokens: int = field(default=BLOCK_TOKENS, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "entries", tuple(self.entries))
        if not self.groups or not all(isinstance(group, LayerGroup) for group in self.groups):
            raise ModelSpecValidationError("a spec needs LayerGroups", attribute="groups")
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ModelSpecValidationError(f"group names repeat: {names}", attribute="groups")
        layers = sorted(layer for group in self.groups for layer in group.layers)
        if layers != list(range(len(layers))):
            raise ModelSpecValidationError(
                f"groups must hold every layer 0 to {len(layers) - 1} exactly once",
                attribute="layers",
            )
        nested = sorted(leaf for entry in self.entries for leaf in entry.all_leaves)
        if self.entries and nested != layers:
            raise ModelSpecValidationError(
                f"entries must hold every layer 0 to {len(layers) - 1} exactly once",
                attribute="entries",
            )

    @classmethod
    def from_model(cls, model: object, *, kv_dtype: str = "bfloat16") -> ModelCacheSpec:
        """The geometry from `model.args` alone: no mlx is imported, nothing is allocated.

        Args:
            model: An mlx-lm model, or anything with its `args`.
            kv_dtype: Element type of the cache; arguments never carry it.

        Returns:
            What `semantic.mlx.probe` finds at the same dtype, without recipes.

        Raises:
            ModelSpecValidationError: An attribute that is missing, contradictory, or of an
                architecture whose cache does not follow from its arguments; `attribute` names it.
        """
        return cls(model_args.groups_from_model(model, kv_dtype))

    @property
    def n_layers(self) -> int:
        """Leaf caches over all groups."""
        return sum(group.n_layers for group in self.groups)

    @property
    def n_entries(self) -> int:
        """Cache entries: the length of the list that `make_prompt_cache` returns."""
        return len(self.entries) or self.n_layers

    @property
    def n_kv_heads(self) -> int:
        """KV heads of every token tensor.

        Raises:
            ModelSpecValidationError: Layers differ, or there is no token tensor: use `groups`.
        """
        return self._uniform("n_kv_heads", {tensor.heads for tensor in self._token_tensors()})

    @property
    def head_dim(self) -> int:
        """Width of the keys; see `n_kv_heads` for the error."""
        return self._uniform("head_dim", {t.dim for t in self._token_tensors() if t.name == "keys"})

    @property
    def v_head_dim(self) -> int:
        """Width of the values; see `n_kv_heads` for the error."""
        dims = {t.dim for t in self._token_tensors() if t.name == "values"}
        return self._uniform("v_head_dim", dims)

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """The layer type of each leaf cache, in order."""
        by_layer = {layer: group.layer_type for group in self.groups for layer in group.layers}
        return tuple(by_layer[layer] for layer in range(self.n_layers))

    @property
    def sliding_window(self) -> int | None:
        """The window of the sliding-window layers; None without any.

        Raises:
            ModelSpecValidationError: Layers have different windows: use `groups`.
        """
        windows = {g.window for g in self.groups if g.window is not None}
        return self._uniform("sliding_window", windows) if windows else None

    def group(self, group: str) -> LayerGroup:
        """The group of that name; a plain layer type means the first group of that type.

        Raises:
            ModelSpecValidationError: There is no such group.
        """
        for candidate in self.groups:
            if candidate.name == group:
                return candidate
        for candidate in self.groups:
            if candidate.layer_type == group:
                return candidate
        raise ModelSpecValidationError(
            f"no layer group {group!r}; this model has {', '.join(g.name for g in self.groups)}",
            attribute="group",
        )

    def bytes_per_block_per_layer(self, group: str = "global") -> int:
        """Bytes of one block in one layer of the group: heads x (K + V width) x element x 256."""
        return self.group(group).bytes_per_block_per_layer

    def bytes_per_block(self, group: str) -> int:
        """Bytes of one block over all layers of the group."""
        return self.group(group).bytes_per_block

    def max_blocks_for_layer(self, group: str) -> int | None:
        """Blocks that one agent may hold in the group; None when unbounded."""
        return self.group(group).max_blocks

    def quantised_at_rest(self, kv_bits: int, kv_group_size: int = 64) -> ModelCacheSpec:
        """The same geometry, its sealed blocks quantised; what runs stays as it is.

        Tensors whose width the group size does not divide, integers and states are kept plain:
        `plain_at_rest` names them.

        Args:
            kv_bits: 8 or 4.
            kv_group_size: Elements that share a scale: 32, 64 or 128.

        Raises:
            ModelSpecValidationError: Other bits or group sizes.
        """
        groups = tuple(group.quantised(kv_bits, kv_group_size) for group in self.groups)
        return replace(self, groups=groups)

    @property
    def plain_at_rest(self) -> tuple[str, ...]:
        """The tensors that sealed blocks keep unquantised, as "group.tensor"."""
        return tuple(
            f"{group.name}.{kept.name}"
            for group in self.groups
            for kept in group.rest_tensors
            if kept in group.tensors
        )

    def live_bytes(self, n_tokens: int, prefill_step: int = DEFAULT_PREFILL_STEP) -> int:
        """Sum of `cache.nbytes` once `n_tokens` are in, put there as mlx-lm's generate_step does.

        Args:
            n_tokens: Positions in the caches; the first n - 1 came in steps, the last one alone.
            prefill_step: Tokens of one prefill step.
        """
        return live_bytes.at_rest(self.groups, n_tokens, prefill_step)

    def live_peak_bytes(
        self,
        n_tokens: int,
        prefill_step: int = DEFAULT_PREFILL_STEP,
        *,
        cached_tokens: int = 0,
        new_tokens: int = 0,
    ) -> int:
        """The largest sum of `cache.nbytes` on the way to `n_tokens`.

        Args:
            n_tokens: Positions in the caches at the end.
            prefill_step: Tokens of one prefill step.
            cached_tokens: Positions that were restored before the first step.
            new_tokens: Tokens decoded one by one after them.
        """
        return live_bytes.peak(self.groups, n_tokens, prefill_step, cached_tokens, new_tokens)

    @property
    def live_arrays(self) -> int:
        """MLX arrays that the caches of one running sequence hold: one per layer and tensor."""
        return sum(len(group.tensors) * group.n_layers for group in self.groups)

    def live_batch_bytes(
        self, lengths: Sequence[int], prefill_step: int = DEFAULT_PREFILL_STEP
    ) -> int:
        """Bytes of the padded batch that mlx-lm's BatchGenerator makes of these lengths.

        Args:
            lengths: Positions of each sequence; the longest sets the rows of all.
            prefill_step: Tokens of one prefill step.
        """
        return live_bytes.batch(self.groups, lengths, prefill_step)

    def live_batch_peak_bytes(
        self, lengths: Sequence[int], prefill_step: int = DEFAULT_PREFILL_STEP
    ) -> int:
        """The most bytes that BatchGenerator's caches take on the way to these lengths.

        A bound, not what one run takes: rows may come and go in any order, and a prefill may be
        cut anywhere. It holds where prompts are prefilled one at a time (`prefill_batch_size=1`):
        prompts of unequal lengths that are prefilled together pad each other without a limit.

        Args:
            lengths: Positions of each sequence at its end; the longest sets the rows of all.
            prefill_step: Tokens of one prefill step.
        """
        return live_bytes.batch_peak(self.groups, lengths, prefill_step)

    def cached_bytes(self, n_tokens: int) -> int:
        """Bytes of the sealed blocks of one sequence at rest at `n_tokens`."""
        whole_number(n_tokens, "n_tokens", ModelSpecValidationError, attribute="n_tokens")
        return sum(g.blocks_at_rest(n_tokens) * g.bytes_per_block for g in self.groups)

    def max_agents(
        self,
        total_memory: int,
        n_tokens: int,
        shared_prefix: int = 0,
        basis: Basis = "peak",
    ) -> int:
        """How many agents of `n_tokens` fit into `total_memory` bytes.

        Args:
            total_memory: The budget in bytes.
            n_tokens: Context of each agent in tokens.
            shared_prefix: Leading tokens that all agents have in common. They are stored once at
                rest; a sequence that runs owns its buffers, so only "cached" gains by them.
            basis: "peak" (what admission uses), "live", or "cached".

        Raises:
            ModelSpecValidationError: An unknown basis, or a prefix longer than the context.
        """
        whole_number(
            total_memory, "total_memory", ModelSpecValidationError, attribute="total_memory"
        )
        if basis not in get_args(Basis):
            raise ModelSpecValidationError(
                f"unknown basis {basis!r}; one of {', '.join(get_args(Basis))}", attribute="basis"
            )
        if shared_prefix > n_tokens:
            raise ModelSpecValidationError(
                f"shared_prefix {shared_prefix} is longer than n_tokens {n_tokens}",
                attribute="shared_prefix",
            )
        shared, each = self._shared_and_own_bytes(n_tokens, shared_prefix, basis)
        return max(0, (total_memory - shared) // each) if each else 0

    def bytes_of_agents(
        self, agents: int, n_tokens: int, shared_prefix: int = 0, basis: Basis = "peak"
    ) -> int:
        """What so many agents of `n_tokens` take; see `max_agents`, whose inverse it is.

        Raises:
            ModelSpecValidationError: An unknown basis, or a prefix longer than the context.
        """
        whole_number(agents, "agents", ModelSpecValidationError, attribute="agents")
        self.max_agents(0, n_tokens, shared_prefix, basis)
        shared, each = self._shared_and_own_bytes(n_tokens, shared_prefix, basis)
        return shared + agents * each if agents else 0

    def _shared_and_own_bytes(
        self, n_tokens: int, shared_prefix: int, basis: Basis
    ) -> tuple[int, int]:
        if basis == "peak":
            return 0, self.live_peak_bytes(n_tokens)
        if basis == "live":
            return 0, self.live_bytes(n_tokens)
        shared_blocks = shared_prefix // BLOCK_TOKENS
        shared = sum(shared_blocks * g.bytes_per_block for g in self.groups if g.max_blocks is None)
        return shared, self.cached_bytes(n_tokens) - shared

    def _token_tensors(self) -> tuple[TokenTensor, ...]:
        return tuple(tensor for group in self.groups for tensor in group.token_tensors)

    @staticmethod
    def _uniform(attribute: str, values: set[int]) -> int:
        if len(values) != 1:
            raise ModelSpecValidationError(
                f"{attribute} is not one number for this model ({sorted(values)}); use spec.groups",
                attribute=attribute,
            )
        return next(iter(values))


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What names a stored prefix: who, of which model, and the chained hash of its tokens."""

    agent_id: str
    model_id: str
    prefix_hash: str

    def __post_init__(self) -> None:
        for name in ("agent_id", "model_id", "prefix_hash"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise BlockValidationError(f"{name} must be a non-empty str, not {value!r}")


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a turn produced: its text, its tokens, and the caches after it (opaque here)."""

    text: str
    tokens: tuple[int, ...]
    cache: object = field(compare=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        for token in self.tokens:
            if isinstance(token, bool) or not isinstance(token, int):
                raise BlockValidationError(f"tokens must be integers, not {token!r}")
