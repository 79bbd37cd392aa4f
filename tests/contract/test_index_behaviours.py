"""The behaviours of shared/BEHAVIOURS.md that an index shows over its pool, by their numbers.

Each runs against the native index and against the plain-Python one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from semantic.application.sealed_blocks import SealedBlocks
from semantic.domain.errors import PoolConfigurationError
from semantic.domain.identity import Namespace
from semantic.domain.native import TokenIds
from semantic.domain.services import BlockPool
from semantic.testing.reference_keys import block_key, pack
from semantic.testing.reference_pool import ReferencePool
from semantic.testing.reference_sealed import ReferenceSealedBlocks
from tests.event_picture import EventPicture
from tests.token_rows import SPECS, TokenRows

N = 256
A, B, C = ([kind * 1000 + n for n in range(N)] for kind in (1, 2, 3))


class Memory:
    """One of the two implementations, over a pool of so many blocks of each group."""

    def __init__(self, kind: str, spec: str, blocks: int, **options: Any) -> None:
        self.spec = SPECS[spec]
        pool_class: Any = BlockPool if kind == "native" else ReferencePool
        self._sealed_class: Any = SealedBlocks if kind == "native" else ReferenceSealedBlocks
        self.pool = pool_class(self.spec, total_blocks=blocks)
        self.picture = EventPicture()
        self.sealed = self.beside(Namespace("model"), on_event=self.picture, **options)

    def beside(self, namespace: Namespace, **options: Any) -> Any:
        """The blocks of a namespace in the same pool."""
        return self._sealed_class(self.spec, self.pool, namespace, **options)

    def publish(self, tokens: Sequence[int], agent: str = "a", kind: str = "user") -> Any:
        live = TokenRows(self.spec, tokens, 0)
        return self.sealed.publish(TokenIds(tokens), live, agent, kind)

    def hit(self, tokens: Sequence[int]) -> int:
        length: int = self.sealed.plan(TokenIds(tokens)).n_tokens
        return length

    def hold(self, tokens: Sequence[int]) -> Any:
        return self.sealed.hold(TokenIds(tokens))

    def use(self, tokens: Sequence[int]) -> None:
        hold = self.hold(tokens)
        self.sealed.enter(hold, "a")
        self.sealed.release(hold)

    def keys(self, tokens: Sequence[int]) -> list[tuple[bytes, bytes]]:
        """The keys of the token blocks of a sequence, and their parents'."""
        parent, keys = Namespace("model").root, []
        for at in range(0, len(tokens), N):
            key = block_key(parent, pack(tokens[at : at + N]).tobytes())
            keys.append((key, parent))
            parent = key
        return keys

    def told(self, group: str = "global") -> set[tuple[bytes, bytes]]:
        """The keys that the events have shown to be here, and their parents'."""
        assert not self.picture.wrong
        found = self.picture.found.values()
        return {(event.key, event.parent) for event in found if event.group == group}

    def books(self) -> dict[str, int]:
        self.pool.check()
        reading = self.pool.snapshot()
        return {"cached": reading.cached, "held": reading.held, "free": reading.free}


@pytest.fixture(params=["native", "reference"])
def memory(request: pytest.FixtureRequest) -> Callable[..., Memory]:
    return lambda spec, blocks=100, **options: Memory(request.param, spec, blocks, **options)


MemoryOf = Callable[..., Memory]


def test_b02_the_tail_of_a_sequence_goes_before_its_head(memory: MemoryOf) -> None:
    one = memory("global", 4)
    one.publish([*A, *B, *C])
    one.pool.free(one.pool.allocate(2))
    assert one.hit([*A, *B, *C, 1]) == 2 * N
    one.pool.free(one.pool.allocate(3))
    assert one.hit([*A, *B, *C, 1]) == N


def test_b02_the_least_recently_used_sequence_goes_first(memory: MemoryOf) -> None:
    one = memory("global", 3)
    for block in (A, B, C):
        one.publish(block)
    one.use([*A, 1])
    one.pool.free(one.pool.allocate(1))
    assert [one.hit([*block, 1]) for block in (A, B, C)] == [N, 0, N]


def test_b05_a_full_block_is_found_and_a_partial_one_token_by_token(memory: MemoryOf) -> None:
    one = memory("global")
    one.publish([*A, *B[:100]])
    for shared in (1, 99, 100):
        assert one.hit([*A, *B[:shared], -1]) == N + shared
    assert one.hit([*A[:7], -1]) == 7


def test_b06_a_block_is_found_under_its_own_prefix_only(memory: MemoryOf) -> None:
    one = memory("global")
    one.publish([*A, *B])
    assert one.hit([*B, *C]) == 0
    assert one.hit([*B, *A]) == 0


def test_b07_namespaces_of_one_pool_never_share(memory: MemoryOf) -> None:
    one = memory("global", 10)
    others = [
        one.beside(namespace)
        for namespace in (
            Namespace("other"),
            Namespace("model", adapter="x"),
            Namespace("model", salt="x"),
            Namespace("model", kv_dtype="float16"),
            Namespace("model", kv_bits=8),
            Namespace("model", layout_version=99),
            Namespace("model"),
        )
    ]
    one.publish(A)
    for sealed in others:
        assert sealed.plan(TokenIds([*A, 1])).n_tokens == 0
        assert (len(sealed), sealed.n_blocks) == (0, 0)
        assert sealed.forget("a") == 0
    assert one.hit([*A, 1]) == N


@pytest.mark.parametrize("spec", ["global", "window_100", "state"])
def test_b08_keys_that_collide_change_nothing(memory: MemoryOf, spec: str) -> None:
    one = memory(spec, 30, key_bytes=0)
    one.publish([*A, *B])
    assert one.hit([*C, *B, 1]) == 0
    one.publish([*C, *B])
    assert one.hit([*A, *B, 1]) == one.hit([*C, *B, 1]) == 2 * N
    assert {key for key, _ in one.told()} == {bytes(32)}


def test_b09_keys_are_those_of_the_plain_definition(memory: MemoryOf) -> None:
    one = memory("global", 30)
    one.publish([*A, *B, 1, -7, 1 << 40])
    assert one.told() == set(one.keys([*A, *B, 1, -7, 1 << 40]))
    last = one.keys([*A, *B, 1, -7, 1 << 40])[-1][0]
    assert (
        last.hex() == "127dec0260e41c3606b8a8f5e9764613b06eb2321c57a30093c08b6b2eebe4ac"
    )  # in every process and on every machine


def test_b10_identical_blocks_are_stored_once(memory: MemoryOf) -> None:
    one = memory("global")
    one.publish([*A, *B], "a")
    before = one.books()
    assert one.publish([*A, *B], "b").report.reason == "already_cached"
    assert one.books() == before
    one.publish([*A, *C], "b")
    assert one.books()["cached"] == before["cached"] + one.spec.bytes_per_block("global")


def test_b11_and_b12_a_held_hit_is_no_victim(memory: MemoryOf) -> None:
    one = memory("global", 4)
    one.publish([*A, *B])
    first, second = one.hold([*A, 1]), one.hold([*A, 1])
    assert one.books()["held"] == one.spec.bytes_per_block("global")
    one.pool.allocate(3)  # B goes, A cannot
    one.sealed.release(first)
    assert one.hit([*A, 1]) == N
    assert one.books()["held"] > 0
    one.sealed.release(second)
    assert one.pool.allocate(1)
    assert one.hit([*A, 1]) == 0


def test_b13_a_hold_that_is_given_back_changes_no_order(memory: MemoryOf) -> None:
    one = memory("global", 3)
    for block in (A, B, C):
        one.publish(block)
    before = one.books()
    one.sealed.release(one.hold([*A, 1]))
    assert one.books() == before
    one.sealed.evict_bytes(1)
    assert [one.hit([*block, 1]) for block in (A, B, C)] == [0, N, N]


def test_b14_what_was_evicted_is_a_miss(memory: MemoryOf) -> None:
    one = memory("global", 2)
    one.publish([*A, *B])
    one.pool.allocate(2)
    assert one.hit([*A, *B, 1]) == 0
    assert one.sealed.n_blocks == 0


@pytest.mark.parametrize("spec", SPECS)
def test_b16_and_b20_what_is_left_can_be_reached(memory: MemoryOf, spec: str) -> None:
    one = memory(spec, 12)
    one.publish([*A, *B, *C[:50]])
    one.publish([*A, *C, *B[:50]])
    while one.sealed.evict_bytes(1):
        one.pool.check()
        reachable = [
            one.hit([*sequence, -1]) for sequence in ([*A, *B, *C[:50]], [*A, *C, *B[:50]])
        ]
        assert any(reachable) == bool(one.books()["cached"])
    assert one.books()["cached"] == 0


def test_b17_and_b18_a_window_serves_its_end_and_nothing_before(memory: MemoryOf) -> None:
    one = memory("window_256", 100)
    tokens = [*A, *B, *C[:100]]
    one.publish(tokens)
    assert one.hit([*tokens, -1]) == 612
    assert one.hit([*tokens[:600], -1]) == 0
    window = next(g for g in one.pool.snapshot().groups if g.name == "sliding_window")
    assert window.cached_blocks == 2  # ceil((256 - 1) / 256) + 1


def test_b17_moving_on_frees_the_blocks_that_left_once(memory: MemoryOf) -> None:
    one = memory("window_256", 100)

    def window_blocks() -> int:
        assert one.picture.wrong == []  # what is removed twice was never there
        groups = one.pool.snapshot().groups
        found: int = next(g for g in groups if g.name == "sliding_window").cached_blocks
        assert found == one.picture.count("sliding_window")
        return found

    first = one.publish([*A, *B, *C[:100]])
    assert window_blocks() == 2
    free = one.books()["free"]
    second = one.publish([*A, *B, *C, *A, *B[:100]])
    assert window_blocks() == 4
    for _ in range(2):
        one.sealed.withdraw(first.end, "a")
        assert window_blocks() == 2
        block_bytes = one.spec.bytes_per_block("global")
        assert one.books()["free"] == free - 2 * block_bytes  # two global blocks more
    assert one.hit([*A, *B, *C, *A, *B[:100], -1]) == 4 * N + 100
    one.sealed.withdraw(second.end, "a")
    assert window_blocks() == 0
    assert one.books()["cached"] == 0


@pytest.mark.parametrize("spec", ["window_256", "window_100", "chunk_300"])
def test_b18_only_a_block_inside_the_window_matters_to_a_hit(memory: MemoryOf, spec: str) -> None:
    for loses_inside in (True, False):
        one = memory(spec, 100)
        shorter, longer = one.publish([*A, *B[:150]]), one.publish([*A, *B, *C])
        assert one.hit([*A, *B, *C, -1]) == 3 * N
        lost = longer if loses_inside else shorter
        one.sealed.withdraw(lost.end, "a")
        assert one.hit([*A, *B, *C, -1]) == (N + 150 if loses_inside else 3 * N)


@pytest.mark.parametrize("spec", ["state", "state_only", "state_window"])
def test_b19_a_state_is_hit_at_its_checkpoints_only(memory: MemoryOf, spec: str) -> None:
    one = memory(spec)
    one.publish([*A, *B[:40]])
    one.publish([*A, *B])
    assert one.hit([*A, *B, 1]) == 2 * N
    assert one.hit([*A, *B[:200], -1]) == N + 40
    assert one.hit([*A, *B[:39], -1]) == 0
    hold = one.hold([*A, *B[:200], -1])
    given = [row for row in hold.data.values() if row["hi"] == N + 40]
    assert {row["prefix"] for row in given} == {(*A, *B[:40])}


@pytest.mark.parametrize("tokens", [[*A, *B, *C], [*A, *B[:1]], A[:255]])
def test_b21_the_order_of_the_groups_does_not_matter(memory: MemoryOf, tokens: list[int]) -> None:
    from dataclasses import replace

    from semantic.domain.value_objects import ModelCacheSpec

    groups = SPECS["two_windows"].groups
    lengths = []
    for order in (groups, groups[::-1]):
        renumbered = tuple(replace(g, layers=(n,)) for n, g in enumerate(order))
        SPECS["reordered"] = ModelCacheSpec(renumbered)
        try:
            one = memory("reordered")
            one.publish(tokens)
            one.publish([*tokens, *C[:70]])
            lengths.append([one.hit([*tokens, *C[:n], -1]) for n in range(0, 80, 7)])
        finally:
            del SPECS["reordered"]
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("spec", SPECS)
def test_b22_a_prompt_that_is_cached_completely_leaves_a_token(memory: MemoryOf, spec: str) -> None:
    one = memory(spec)
    tokens = [*A, *B[:80]]
    one.publish(tokens)
    assert one.hit(tokens) < len(tokens)
    assert one.hit([*tokens, 5]) == len(tokens)


@pytest.mark.parametrize("spec", SPECS)
def test_b24_a_capture_that_fails_is_visible_to_nobody(memory: MemoryOf, spec: str) -> None:
    class Failing(TokenRows):
        def capture(self, group: str, spans: Any) -> Any:
            if group == one.spec.groups[-1].name:
                raise RuntimeError("out of memory")
            return super().capture(group, spans)

    one = memory(spec)
    one.publish(A)
    before = one.books()
    tokens = [*A, *B, 1, 2]
    live = Failing(one.spec, tokens, 0)
    with pytest.raises(RuntimeError):
        one.sealed.publish(TokenIds(tokens), live, "a", "user")
    assert one.books() == before
    assert one.hit([*A, *B, 1, 2, 3]) in (0, N)


@pytest.mark.parametrize("spec", SPECS)
def test_b23_what_is_given_up_at_any_point_leaves_no_trace(memory: MemoryOf, spec: str) -> None:
    one = memory(spec)
    one.publish([*A, *B], "other")
    before, told = one.books(), one.told()
    longer = [*A, *B, *C, 5]
    for steps in range(4):
        hold = one.hold([*A, *B, 1])
        assert hold.n_tokens == 2 * N
        ends = []
        if steps >= 1:
            one.sealed.enter(hold, "a")
        if steps >= 2:
            ends.append(one.publish([*longer[: 2 * N], 7], "a", "system").end)
        if steps >= 3:
            ends.append(one.publish(longer, "a").end)
        for _ in range(2):
            for end in ends:
                one.sealed.withdraw(end, "a")
            one.sealed.release(hold, "a")
            assert one.books() == before, steps
        assert one.told() == told
        assert one.hit([*longer, 1]) == 2 * N


@pytest.mark.parametrize("spec", ["global", "window_100", "state"])
def test_b25_reconfigure_is_refused_while_a_hit_is_held(memory: MemoryOf, spec: str) -> None:
    one = memory(spec, 10)
    one.publish(A)
    hold = one.hold([*A, 1])
    before, told = one.books(), one.told()
    with pytest.raises(PoolConfigurationError):
        one.pool.reconfigure(SPECS["two_windows"])
    assert (one.books(), one.told()) == (before, told)
    assert one.hit([*A, 1]) == N
    one.sealed.release(hold)
    one.pool.reconfigure(SPECS["two_windows"])
    assert one.books()["cached"] == 0
    assert one.picture.found == {}  # b26
    with pytest.raises(PoolConfigurationError):
        one.hit([*A, 1])  # the index was for the model before


@pytest.mark.parametrize("spec", ["global", "window_100", "state"])
def test_b26_the_fold_of_the_events_is_what_can_be_found(memory: MemoryOf, spec: str) -> None:
    one = memory(spec, 5)
    sequences = [A, [*A, *B], [*A, *B[:90]], [*A, *C], [*B, *C[:3]], C]
    for n, sequence in enumerate(sequences):
        one.publish(sequence, f"a{n % 2}")
        told = one.told()
        # Where a hit reaches, the keys are; and no key is of what was never published.
        for tokens in sequences:
            blocks = one.hit([*tokens, -1]) // N
            assert told >= set(one.keys(tokens)[:blocks])
        assert told <= {key for tokens in sequences for key in one.keys(tokens)}
        assert len(one.picture.found) == one.sealed.n_blocks
    assert one.sealed.evicted_blocks
    one.sealed.clear()
    assert one.told() == set()
    one.publish(A)
    assert one.told() == set(one.keys(A))
    one.pool.reconfigure(SPECS["two_windows"])
    assert (one.picture.found, one.picture.wrong) == ({}, [])
