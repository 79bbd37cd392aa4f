"""Two pools under one budget, native and reference side by side, driven by Hypothesis.

Each step does one thing to both and compares what came back: results id by id, refusals class by
class and number by number. After each step all readings are equal, the sums agree, and the native
pools find their own books in order. Run it with::

    TestPools = PoolMachine.TestCase
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from semantic.domain.entities import AgentBlocks
from semantic.domain.errors import PoolExhaustedError, SemanticError
from semantic.domain.services import BlockPool, MemoryBudget
from semantic.domain.value_objects import ModelCacheSpec
from semantic.testing.reference_budget import ReferenceBudget
from semantic.testing.reference_pool import ReferencePool
from semantic.testing.specs import dense_spec, hybrid_spec, windowed_spec

__all__ = ["PoolMachine", "specs"]

_BLOCK_BYTES = 2048

_Operation = Callable[[Any, Sequence[Any]], object]
"""What is asked of either pool; the ids, if any, are already that pool's own."""


def specs() -> st.SearchStrategy[ModelCacheSpec]:
    """Small specs of every kind of group."""
    windows = st.sampled_from([100, 512, 1024])
    return st.one_of(
        st.builds(dense_spec, st.integers(1, 3)),
        st.lists(windows, min_size=1, max_size=2).map(lambda sizes: windowed_spec(*sizes)),
        st.just(hybrid_spec()),
    )


def _mostly(common: st.SearchStrategy[Any], *odd: object) -> st.SearchStrategy[Any]:
    """`common`, and once in a while something that ought to be refused."""
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(odd) if n == 9 else common)


_counts = _mostly(st.integers(0, 6), 40, 2**63, 2**64, 2**70, -1, True, 1.5, "1", None)
_tokens = _mostly(st.integers(1, 2000), 0, -1, 2**64)
_bytes = _mostly(st.integers(0, 4 * _BLOCK_BYTES), -1, 2**64)
_arrays = _mostly(st.integers(0, 4), -1, 2**64)
_agents = _mostly(st.sampled_from(["a1", "a2"]), "a3", "")
_kinds = _mostly(st.sampled_from(["live", "staging"]), "cached")

_MEANT_FOR = {
    "free": ("held",),
    "abandon": ("staged",),
    "publish": ("staged",),
    "acquire": ("leased", "cached"),
    "release": ("leased",),
    "touch": ("leased", "cached"),
    "evict": ("cached",),
}
"""The states that each operation on ids accepts."""


@dataclass
class _Twins:
    native: BlockPool
    reference: ReferencePool


class PoolMachine(RuleBasedStateMachine):
    """Everything that pools can be asked, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.twins: list[_Twins] = []
        self.reference_of: dict[int, int] = {}
        """The reference's id for each id that a native pool has given out."""

    @initialize(
        first=specs(),
        second=specs(),
        blocks=st.integers(16, 60),
        minimum=st.integers(0, 8),
        maximum=st.one_of(st.none(), st.integers(9, 30)),
        arrays=st.sampled_from([20, 60, 1000]),
    )
    def open_pools(
        self,
        first: ModelCacheSpec,
        second: ModelCacheSpec,
        blocks: int,
        minimum: int,
        maximum: int | None,
        arrays: int,
    ) -> None:
        """Two pools under one budget, the second under terms."""
        native, reference = MemoryBudget(blocks * 2048), ReferenceBudget(blocks * 2048)
        terms = {
            "minimum": minimum * _BLOCK_BYTES,
            "maximum": None if maximum is None else maximum * _BLOCK_BYTES,
            "arrays_max": arrays,
        }
        self.budgets = native, reference
        # `terms` mixes ints and None, which a dict cannot say by key: hence the two ignores.
        self.twins = [
            _Twins(BlockPool(first, budget=native), ReferencePool(first, budget=reference)),
            _Twins(
                BlockPool(second, budget=native, **terms),  # type: ignore[arg-type]
                ReferencePool(second, budget=reference, **terms),  # type: ignore[arg-type]
            ),
        ]

    @rule(data=st.data(), n=_counts, agent=_agents)
    def allocate(self, data: st.DataObject, n: Any, agent: str) -> None:
        """Blocks of one group for an agent."""
        twins = self._pick(data)
        group = self._draw_group(data, twins)
        self._on(twins, _calling("allocate", n, group, agent))

    @rule(data=st.data(), agent=_agents, n_tokens=_tokens)
    def allocate_tokens(self, data: st.DataObject, agent: str, n_tokens: int) -> None:
        """Blocks of all groups for an agent."""
        self._on(self._pick(data), _calling("allocate_tokens", agent, n_tokens))

    @rule(data=st.data(), agent=_agents)
    def free_agent(self, data: st.DataObject, agent: str) -> None:
        """Everything of an agent goes."""
        self._on(self._pick(data), _calling("free_agent", agent))

    @rule(data=st.data(), n=_counts)
    def stage(self, data: st.DataObject, n: Any) -> None:
        """Blocks that are about to be filled."""
        twins = self._pick(data)
        self._on(twins, _calling("stage", self._draw_group(data, twins), n))

    @rule(data=st.data(), n=st.integers(1, 6), leases=st.sampled_from([0, 0, 1, 2]))
    def store(self, data: st.DataObject, n: int, leases: int) -> None:
        """Staged and published at once: what most programs are made of."""
        twins = self._pick(data)
        ids = self._on(twins, _calling("stage", self._draw_group(data, twins), n))
        if isinstance(ids, list):
            self._on(twins, lambda pool, translated: pool.publish(translated, leases), ids)

    @precondition(lambda self: self._meant_for("free"))
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        """Held blocks go back."""
        self._on_ids(data, "free")

    @precondition(lambda self: self._meant_for("abandon"))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """Staged blocks go back."""
        self._on_ids(data, "abandon")

    @precondition(lambda self: self._meant_for("publish"))
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        """Staged blocks come to rest."""
        self._on_ids(data, "publish")

    @precondition(lambda self: self._meant_for("acquire"))
    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        """One more lease."""
        self._on_ids(data, "acquire")

    @precondition(lambda self: self._meant_for("release"))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """One lease less."""
        self._on_ids(data, "release")

    @precondition(lambda self: self._meant_for("touch"))
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        """The order of eviction changes."""
        self._on_ids(data, "touch")

    @precondition(lambda self: self._meant_for("evict"))
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        """Cached blocks go back."""
        self._on_ids(data, "evict")

    @rule(data=st.data())
    def drain_evicted(self, data: st.DataObject) -> None:
        """The same blocks were evicted, in the same order."""
        self._on(self._pick(data), _calling("drain_evicted"))

    @rule(data=st.data(), kind=_kinds, n_bytes=_bytes, n_arrays=_arrays)
    def charge(self, data: st.DataObject, kind: Any, n_bytes: int, n_arrays: int) -> None:
        """Plain bytes are taken."""
        self._on(self._pick(data), _calling("charge", kind, n_bytes, n_arrays))

    @rule(data=st.data(), kind=_kinds, n_bytes=_bytes, n_arrays=_arrays)
    def discharge(self, data: st.DataObject, kind: Any, n_bytes: int, n_arrays: int) -> None:
        """Plain bytes go back."""
        self._on(self._pick(data), _calling("discharge", kind, n_bytes, n_arrays))

    @rule(
        data=st.data(),
        spec=specs(),
        left=st.sampled_from(["everything", "nothing", "nothing", "live", "staging"]),
    )
    def reconfigure(self, data: st.DataObject, spec: ModelCacheSpec, left: Any) -> None:
        """Another model, as things are, or once all is given back, or all but a byte."""
        twins = self._pick(data)
        if left != "everything":
            self._empty(twins)
        if left in ("live", "staging"):
            self._on(twins, _calling("charge", left, 1))
        self._on(twins, _calling("reconfigure", spec))
        assert twins.native.spec == twins.reference.spec

    @rule(data=st.data(), n_tokens=_tokens)
    def predict(self, data: st.DataObject, n_tokens: int) -> None:
        """How many more agents fit."""
        self._on(self._pick(data), _calling("max_batch_size", n_tokens))

    @invariant()
    def readings_are_equal(self) -> None:
        """Conservation, and the same numbers on both sides."""
        for twins in self.twins:
            native, reference = twins.native, twins.reference
            native.check()
            reference.check()
            snapshot = native.snapshot()
            assert snapshot.as_dict() == reference.snapshot().as_dict()
            classes = snapshot.held, snapshot.live, snapshot.staging, snapshot.cached
            assert snapshot.free + sum(classes) == snapshot.total
            assert native.used_memory() + native.available_memory() == native.total_memory()
            assert native.most_memory() == reference.most_memory() >= native.total_memory()
            assert snapshot.arrays_used <= snapshot.arrays_max
            assert native.available_blocks("global") == reference.available_blocks("global")

    @invariant()
    def budgets_are_equal(self) -> None:
        """What the pools have taken is what the budget is short of."""
        if self.twins:
            native, reference = self.budgets
            readings = native.used, native.cached, native.free
            assert readings == (reference.used, reference.cached, reference.free)
            assert sum(readings) == native.total

    def teardown(self) -> None:
        """After a final release every block is free exactly once."""
        for twins in self.twins:
            self._empty(twins)
            assert twins.native.used_memory() == 0
            twins.native.check()

    # How both are asked ------------------------------------------------------------------------

    def _pick(self, data: st.DataObject) -> _Twins:
        return data.draw(st.sampled_from(self.twins))

    def _draw_group(self, data: st.DataObject, twins: _Twins) -> str:
        names = [group.name for group in twins.reference.spec.groups]
        odd = "sliding_window", "state", "nonsense"
        group: str = data.draw(_mostly(st.sampled_from(names), *odd))
        return group

    def _meant_for(self, operation: str) -> list[_Twins]:
        """The twins that have blocks for the operation."""
        states = _MEANT_FOR[operation]
        blocks = [(twins, twins.reference.blocks.values()) for twins in self.twins]
        return [twins for twins, of in blocks if any(block.state in states for block in of)]

    def _on_ids(self, data: st.DataObject, operation: str) -> None:
        """Mostly blocks that the operation is for; sometimes anything, or one of them again."""
        twins = data.draw(st.sampled_from(self._meant_for(operation)))
        blocks = twins.reference.blocks
        native_of = {theirs: ours for ours, theirs in self.reference_of.items()}
        meant = [native_of[i] for i, b in blocks.items() if b.state in _MEANT_FOR[operation]]
        ids: list[Any] = data.draw(
            st.lists(st.sampled_from(meant), min_size=1, max_size=8, unique=True)
        )
        if data.draw(st.integers(0, 3)) == 0:
            living = st.sampled_from([native_of[i] for i in blocks])
            ever = st.sampled_from([*self.reference_of, 0])
            again = st.sampled_from(ids)
            strange = st.sampled_from([-1, 7, 2**62, 2**64, True, 1.0, "7"])
            ids += data.draw(st.lists(st.one_of(living, ever, again, strange), max_size=2))
        self._on(twins, lambda pool, translated: getattr(pool, operation)(translated), ids)

    def _on(
        self,
        twins: _Twins,
        operation: _Operation,
        ids: Sequence[Any] = (),
    ) -> object:
        ours = _outcome(lambda: operation(twins.native, list(ids)))
        translated = [i if isinstance(i, bool) else self.reference_of.get(i, i) for i in ids]
        theirs = _outcome(lambda: operation(twins.reference, translated))
        self._compare(ours, theirs)
        return ours

    def _compare(self, ours: object, theirs: object) -> None:
        assert type(ours) is type(theirs), (ours, theirs)
        if isinstance(ours, SemanticError) and isinstance(theirs, SemanticError):
            our_id, their_id = (getattr(error, "block_id", None) for error in (ours, theirs))
            # Not every error has an id: None maps to None, whatever the dict's key type says.
            assert self.reference_of.get(our_id, our_id) == their_id  # type: ignore[arg-type]
            if isinstance(ours, PoolExhaustedError):
                for fact in ("bytes_requested", "bytes_available", "bytes_short"):
                    assert getattr(ours, fact) == getattr(theirs, fact)
        elif isinstance(ours, AgentBlocks) and isinstance(theirs, AgentBlocks):
            assert ours.total_tokens == theirs.total_tokens
            assert list(ours.blocks) == list(theirs.blocks)
            covered = [[block.token_count for block in blocks] for blocks in (ours, theirs)]
            assert covered[0] == covered[1]
            self._pair(ours.block_ids, theirs.block_ids)
        elif isinstance(ours, list) and isinstance(theirs, list):
            self._pair(ours, theirs)
        else:
            assert ours == theirs

    def _pair(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        assert len(ours) == len(theirs)
        for our_id, their_id in zip(ours, theirs, strict=True):
            assert self.reference_of.setdefault(our_id, their_id) == their_id

    def _empty(self, twins: _Twins) -> None:
        """Give back whatever is in use."""
        blocks = twins.reference.blocks
        native_of = {theirs: ours for ours, theirs in self.reference_of.items()}
        for agent in sorted({block.agent for block in blocks.values() if block.state == "held"}):
            self._on(twins, _calling("free_agent", agent))
        staged = [native_of[i] for i, block in blocks.items() if block.state == "staged"]
        self._on(twins, lambda pool, ids: pool.abandon(ids), staged)
        while leased := [native_of[i] for i, block in blocks.items() if block.state == "leased"]:
            self._on(twins, lambda pool, ids: pool.release(ids), leased)
        for kind, n_bytes in list(twins.reference.charged.items()):
            n_arrays = twins.reference.charged_arrays[kind]
            self._on(twins, _calling("discharge", kind, n_bytes, n_arrays))


def _calling(name: str, *arguments: object) -> _Operation:
    """The operation that calls the method of that name."""
    return lambda pool, _: getattr(pool, name)(*arguments)


def _outcome(operation: Callable[[], object]) -> object:
    """What came back, or the refusal."""
    try:
        return operation()
    except SemanticError as error:
        return error
