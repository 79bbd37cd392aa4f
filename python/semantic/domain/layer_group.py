"""Layer groups: the leaf caches that grow and shrink together, and what one block of them costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from semantic.domain._check import whole_number
from semantic.domain.at_rest import PLAIN, AtRest
from semantic.domain.errors import ModelSpecValidationError
from semantic.domain.tensor import BLOCK_TOKENS, DTYPE_BYTES, StateTensor, TokenTensor

__all__ = [
    "BLOCK_TOKENS",
    "DTYPE_BYTES",
    "Growth",
    "LayerGroup",
    "LayerType",
    "Span",
    "StateTensor",
    "TokenTensor",
]

LayerType = Literal["global", "sliding_window", "chunked", "state"]

Growth = Literal["steps", "exact"]
"""How mlx-lm's buffers grow: ahead, in steps of 256 rows, or row by row without slack."""

Span = tuple[int, int]
"""Positions `[lo, hi)`."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Leaf caches with the same kind, tensor shapes, dtype and window.

    Args:
        name: Unique in its spec: the layer type, or the layer type and a number.
        layer_type: "global", "sliding_window", "chunked" or "state".
        layers: The indices of its leaf caches, in the order of the flattened cache list.
        tensors: The tensors of one running layer: all `TokenTensor`, or all `StateTensor` for
            "state".
        window: Positions that a sliding-window layer sees, the current one included.
        keep: Leading positions that a rotating cache never drops.
        chunk: Chunk length of a chunked layer, in tokens: it sees its own chunk only.
        recipe: Constructor facts that rebuild the mlx-lm cache, as sorted pairs. Part of
            equality, never on disk, empty when the spec came from arguments alone.
        growth: How the running buffers grow.
        at_rest: How sealed blocks keep the tensors: as they are, or quantised.

    Raises:
        ModelSpecValidationError: Fields that contradict the layer type.
    """

    name: str
    layer_type: LayerType
    layers: tuple[int, ...]
    tensors: tuple[TokenTensor, ...] | tuple[StateTensor, ...]
    window: int | None = None
    keep: int = 0
    chunk: int | None = None
    recipe: tuple[tuple[str, object], ...] = ()
    growth: Growth = "steps"
    at_rest: AtRest = PLAIN

    def __post_init__(self) -> None:
        self._check_words()
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "tensors", tuple(self.tensors))
        self._check_contents()
        self._check_span("window", self.window, needed=self.layer_type == "sliding_window")
        self._check_span("chunk", self.chunk, needed=self.layer_type == "chunked")
        whole_number(self.keep, "keep", ModelSpecValidationError, attribute="keep")
        if self.keep and (self.window is None or self.keep >= self.window):
            raise ModelSpecValidationError(
                f"keep={self.keep} needs a window that is larger", attribute="keep"
            )

    def _check_words(self) -> None:
        for word, value, known in (
            ("layer_type", self.layer_type, get_args(LayerType)),
            ("growth", self.growth, get_args(Growth)),
        ):
            if value not in known:
                raise ModelSpecValidationError(
                    f"unknown {word.replace('_', ' ')} {value!r}; one of {', '.join(known)}",
                    attribute=word,
                )
        name: object = self.name
        if not isinstance(name, str) or not name:
            raise ModelSpecValidationError("a layer group needs a name", attribute="name")

    def _check_contents(self) -> None:
        for layer in self.layers:
            whole_number(layer, "layers", ModelSpecValidationError, attribute="layers")
        if not self.layers or not self.tensors:
            raise ModelSpecValidationError(
                f"group {self.name!r} needs at least one layer and one tensor", attribute="layers"
            )
        expected = StateTensor if self.layer_type == "state" else TokenTensor
        if not all(isinstance(tensor, expected) for tensor in self.tensors):
            raise ModelSpecValidationError(
                f"group {self.name!r} of type {self.layer_type!r} takes {expected.__name__}s only",
                attribute="tensors",
            )
        if len({tensor.stride for tensor in self.token_tensors}) > 1:
            raise ModelSpecValidationError(
                f"the tensors of group {self.name!r} disagree on the stride", attribute="stride"
            )

    def _check_span(self, field: str, value: int | None, *, needed: bool) -> None:
        if needed:
            whole_number(value, field, ModelSpecValidationError, at_least=1, attribute=field)
        elif value is not None:
            raise ModelSpecValidationError(
                f"a {self.layer_type} group has no {field}", attribute=field
            )

    @property
    def n_layers(self) -> int:
        """Leaf caches in the group."""
        return len(self.layers)

    @property
    def is_bounded(self) -> bool:
        """Whether a hit needs the rows of its end only, not all from the first position on."""
        return self.layer_type != "global"

    @property
    def token_tensors(self) -> tuple[TokenTensor, ...]:
        """The tensors that grow with the tokens; empty for a state group."""
        return tuple(t for t in self.tensors if isinstance(t, TokenTensor))

    @property
    def state_tensors(self) -> tuple[StateTensor, ...]:
        """The tensors of fixed shape; empty unless it is a state group."""
        return tuple(t for t in self.tensors if isinstance(t, StateTensor))

    @property
    def rest_tensors(self) -> tuple[TokenTensor, ...] | tuple[StateTensor, ...]:
        """The tensors of one layer of a sealed block."""
        if not self.token_tensors:
            return self.state_tensors
        return tuple(kept for t in self.token_tensors for kept in self.at_rest.tensors_of(t))

    @property
    def stride(self) -> int:
        """Positions that one row stands for; 1 unless the cache compresses."""
        return self.token_tensors[0].stride if self.token_tensors else 1

    @property
    def bytes_per_row_per_layer(self) -> int:
        """Bytes that one row costs in one running layer; 0 for a state group."""
        return sum(tensor.bytes_per_row for tensor in self.token_tensors)

    @property
    def bytes_per_token_per_layer(self) -> int:
        """Bytes that one position costs in one running layer; 0 for a state group."""
        return sum(tensor.bytes_per_token for tensor in self.token_tensors)

    @property
    def bytes_per_block_per_layer(self) -> int:
        """Bytes of one block in one layer; for a state group, of one checkpoint."""
        return sum(
            t.nbytes if isinstance(t, StateTensor) else t.bytes_per_row * t.rows_per_block
            for t in self.rest_tensors
        )

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block over all layers of the group."""
        return self.bytes_per_block_per_layer * self.n_layers

    @property
    def max_blocks(self) -> int | None:
        """Blocks that one agent may hold: ceil(span / 256); None when unbounded, 1 for a state."""
        if self.layer_type == "state":
            return 1
        span = self.window or self.chunk
        return None if span is None else -(-span // BLOCK_TOKENS)

    def spans_needed(self, end: int) -> tuple[Span, ...]:
        """The positions whose rows a hit at `end` reads, in order; none where a chunk is over.

        A window of w needs `[end - w + 1, end)`, since the next token is in it too, and a ring that
        keeps its front needs that as well. A chunk needs what it has so far. A state is kept as the
        row of its last position.
        """
        if self.layer_type == "state":
            spans: tuple[Span, ...] = ((end - 1, end),)
        elif self.chunk is not None:
            spans = ((end - end % self.chunk, end),)
        elif self.window is not None:
            kept = min(self.keep, end)
            spans = ((0, kept), (max(kept, end - self.window + self.keep + 1), end))
        else:
            spans = ((0, end),)
        return tuple((lo, hi) for lo, hi in spans if lo < hi)

    def blocks_at_rest(self, n_tokens: int) -> int:
        """Sealed blocks of a sequence at rest at `n_tokens`: those that a hit there reads.

        A window that ends inside a token block meets one block more than an agent may hold.
        """
        return sum(
            -(-hi // BLOCK_TOKENS) - lo // BLOCK_TOKENS for lo, hi in self.spans_needed(n_tokens)
        )

    def blocks_for(self, n_tokens: int) -> int:
        """Blocks that an agent of `n_tokens` holds in this group."""
        blocks = 1 if self.layer_type == "state" else -(-n_tokens // BLOCK_TOKENS)
        return blocks if self.max_blocks is None else min(blocks, self.max_blocks)

    def quantised(self, bits: int, group_size: int) -> LayerGroup:
        """The same group, its blocks quantised at rest where the widths allow it.

        What runs quantised is kept as it is.
        """
        if any(fact == "bits" for fact, _ in self.recipe):
            return self
        return replace(self, at_rest=AtRest(bits, group_size))
