"""What a comparison of caches can see: right ones agree, wrong ones show, in every architecture.

Right are the same tokens in other calls. Wrong are one wrong token, a shift by one, another text,
and each single array of the caches taken from another text or, where it is a state, set to zero.
The tolerance of `RECIPES` lies between the two, ten times away from either. Only mlx-lm's own
caches are used here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList, KVCache

from semantic.testing.architectures import (
    RECIPES,
    Recipe,
    architecture_model,
    architectures,
    recipe_of,
)
from semantic.testing.stand_ins import cpu_stand_ins
from semantic.testing.stand_ins.bitlinear import pack_ternary, unpack_ternary
from tests.conftest import distance, feed, fresh_caches, greedy, random_tokens, require

MARGIN = 10
TAIL_TOKENS = 8
WRONG_AT = (8, 14, 20)
SINGLE_TOKENS = 24
_QUICK = (
    "afm7 baichuan_m1 bailing_hybrid bitnet deepseek_v2 deepseek_v32 "
    "deepseek_v41 falcon_h1 gear gemma4_text gpt_oss iquestloopcoder kimi_k3 lfm2 llama "
    "llama4 longcat_flash_ngram mamba mamba2 minimax_m3_vl muse_spark nemotron-nas olmo "
    "openelm plamo3 qwen3_next recurrent_gemma rwkv7"
)
"""Every class of cache, every layout of layers, and most recipes."""

# Sparse attention begins behind the 192 tokens that an indexer keeps.
CASES = [
    pytest.param(name, tokens, id=f"{name}-{tokens}")
    for name in _QUICK.split()
    for tokens in (250 if name == "deepseek_v32" else 100,)
] + [
    pytest.param(name, tokens, id=f"{name}-{tokens}", marks=pytest.mark.slow)
    for tokens in (300, 600)
    for name in architectures()
]


class Array(NamedTuple):
    """Where a cache holds one of its arrays."""

    label: str
    owner: MutableMapping[Any, Any]
    key: Any
    is_state: bool

    @property
    def value(self) -> mx.array:
        return self.owner[self.key]


@dataclass(frozen=True)
class Sensitivity:
    """Differences of the next logits, in parts of the logits' scale."""

    other_calls: float
    """The largest, of the same tokens in other calls; the rest are the smallest of wrong caches."""
    wrong_token: float
    shifted: float
    foreign: float
    arrays: dict[str, float]
    """One array from another text, or zeroed: by label, the largest over the right tail."""
    same_greedy: bool
    """Whether 32 greedy tokens are the same after other calls."""

    @property
    def weakest_array(self) -> tuple[float, str]:
        return min((difference, label) for label, difference in self.arrays.items())


class Prompt:
    """A model, a prompt of `tokens` tokens, and the right tokens that come after it."""

    def __init__(self, name: str, tokens: int, seed: int = 1) -> None:
        self.recipe: Recipe = recipe_of(name)
        require(name)
        self.model = architecture_model(name)
        text = random_tokens(tokens + TAIL_TOKENS, seed=seed)
        self.tokens, self.tail = text[:tokens], text[tokens:]

    def filled(self, tokens: Sequence[int], step: int = 2048, single: int = 0) -> list[Any]:
        """Fresh caches that hold the tokens, the last ones fed one by one."""
        caches = fresh_caches(self.model)
        self._feed(tokens[: len(tokens) - single], caches, step)
        if single:
            self._feed(tokens[len(tokens) - single :], caches, 1)
        return caches

    def continued(self, caches: list[Any]) -> list[mx.array]:
        """The logits after one right token more, and after eight."""
        return [self._feed(self.tail[:1], caches), self._feed(self.tail[1:], caches)]

    def over_the_tail(self, caches: list[Any]) -> mx.array:
        """The logits after each of the right tokens, fed in one call where that is possible."""
        step = self.recipe.longest_call_tokens or TAIL_TOKENS
        calls = [self.tail[at : at + step] for at in range(0, TAIL_TOKENS, step)]
        logits = [self.model(mx.array([call]), cache=caches)[0] for call in calls]
        return _finite(mx.concatenate(logits))

    def _feed(self, tokens: Sequence[int], caches: list[Any], step: int = 2048) -> mx.array:
        longest = self.recipe.longest_call_tokens or step
        return _finite(feed(self.model, tokens, caches, step=min(step, longest)))


def sensitivity(name: str, tokens: int) -> Sensitivity:
    """Measure an architecture at a prompt length."""
    prompt = Prompt(name, tokens)
    caches, foreign = prompt.filled(prompt.tokens), prompt.filled(random_tokens(tokens, seed=5))
    right = copy.deepcopy(caches)
    expected, over_the_tail = prompt.continued(right), prompt.over_the_tail(copy.deepcopy(caches))

    def differences(other: list[Any]) -> list[float]:
        logits = prompt.continued(other)
        return [distance(ours, theirs) for ours, theirs in zip(logits, expected, strict=True)]

    def smallest(*texts: list[int]) -> float:
        return min(min(differences(prompt.filled(text))) for text in texts)

    decoded = prompt.filled(prompt.tokens, step=37, single=SINGLE_TOKENS)
    other_calls = [*differences(decoded), *differences(prompt.filled(prompt.tokens, step=64))]
    after = [greedy(prompt.model, expected[-1], c, 32) for c in (right, decoded)]
    return Sensitivity(
        other_calls=max(other_calls),
        wrong_token=smallest(*(_with_wrong_token(prompt.tokens, at) for at in WRONG_AT)),
        shifted=smallest(prompt.tokens[1:] + prompt.tail[:1]),
        foreign=min(differences(copy.deepcopy(foreign))),
        arrays={
            label: distance(prompt.over_the_tail(changed), over_the_tail)
            for label, changed in _changed_arrays(caches, foreign, prompt.recipe)
        },
        same_greedy=after[0] == after[1],
    )


def _finite(logits: mx.array) -> mx.array:
    # Phi-3-small forbids tokens by an infinity, which is the same in all logits.
    return mx.where(logits == -mx.inf, 0.0, logits)


def _with_wrong_token(tokens: list[int], from_end: int) -> list[int]:
    at = len(tokens) - from_end
    return [*tokens[:at], (tokens[at] + 1) % 128, *tokens[at + 1 :]]


def _changed_arrays(
    caches: list[Any], foreign: list[Any], recipe: Recipe
) -> Iterator[tuple[str, list[Any]]]:
    """Copies of the caches, each with one array replaced."""
    others = [array.value for array in _arrays(foreign)]
    for index, array in enumerate(_arrays(caches)):
        if array.value.size == 0 or (recipe.unread and re.search(recipe.unread, array.label)):
            continue
        yield array.label, _replaced(caches, index, others[index])
        if array.is_state:
            yield f"{array.label} = 0", _replaced(caches, index, mx.zeros_like(array.value))


def _replaced(caches: list[Any], index: int, value: mx.array) -> list[Any]:
    changed = copy.deepcopy(caches)
    array = list(_arrays(changed))[index]
    array.owner[array.key] = value
    return changed


def _arrays(caches: list[Any]) -> Iterator[Array]:
    for layer, cache in enumerate(caches):
        parts = cache.caches if isinstance(cache, CacheList) else [cache]
        for part, leaf in enumerate(parts):
            number = f"{layer}.{part}" if len(parts) > 1 else str(layer)
            yield from _arrays_of(leaf, f"{number}.{type(leaf).__name__}")


def _arrays_of(leaf: Any, label: str) -> Iterator[Array]:
    for name, value in vars(leaf).items():
        if isinstance(value, mx.array) and value.ndim > 1:
            yield Array(f"{label}.{name}", vars(leaf), name, is_state=False)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, mx.array):
                    yield Array(f"{label}.{name}.{index}", value, index, is_state=True)


@pytest.fixture(autouse=True, scope="module")
def stand_ins():
    with cpu_stand_ins():
        yield


@pytest.mark.parametrize(("name", "tokens"), CASES)
def test_right_caches_agree_and_wrong_ones_show(name, tokens):
    try:
        measured = sensitivity(name, tokens)
    except ValueError as error:
        pytest.skip(f"this mlx-lm does not have it: {error}")
    tolerance = recipe_of(name).tolerance
    if not recipe_of(name).same_schedule:
        assert measured.other_calls <= tolerance / MARGIN
        assert measured.same_greedy
    for wrong in (measured.wrong_token, measured.shifted, measured.foreign):
        assert wrong >= tolerance * MARGIN, measured
    assert measured.weakest_array[0] >= tolerance * MARGIN, measured.weakest_array


def test_recipes_are_of_known_architectures_and_say_why():
    assert set(RECIPES) <= set(architectures())
    assert all(recipe.reason for recipe in RECIPES.values())


def test_packed_ternary_weights_are_unpacked_as_they_were():
    weights = mx.random.randint(-1, 2, (12, 5))
    assert mx.array_equal(unpack_ternary(pack_ternary(weights)), weights)


def test_gathered_products_of_narrow_floats_are_rounded_once():
    a, b = mx.random.normal((3, 1, 8)), mx.random.normal((4, 8, 6))
    chosen = mx.array([2, 0, 3])
    for dtype in (mx.float16, mx.bfloat16):
        product = mx.gather_mm(a.astype(dtype), b.astype(dtype), rhs_indices=chosen)
        exact = a.astype(dtype).astype(mx.float32) @ b.astype(dtype).astype(mx.float32)[chosen]
        assert product.dtype == dtype
        assert mx.array_equal(product, exact.astype(dtype))


def test_the_rotation_of_muse_spark_is_that_of_mlx():
    kernels = pytest.importorskip("mlx_lm.kernels")
    heads, kv_heads, width = 3, 2, 8
    rows = mx.random.normal((2, 5, 2 * (heads + kv_heads) * width))
    fixed = {"n_heads": heads, "n_kv_heads": kv_heads, "head_dim": width}
    fixed |= {"eps": 1e-5, "query_scale": 3.0}
    plain = kernels.qk_norm(rows, **fixed)
    rotated = kernels.qk_norm_rope(rows, **fixed, rope_base=1e4, offset=mx.array([7, 100]))
    for before, after in zip(plain, rotated, strict=True):
        turned = mx.fast.rope(
            before.transpose(0, 2, 1, 3),
            width,
            traditional=True,
            base=1e4,
            scale=1.0,
            offset=mx.array([7, 100]),
        ).transpose(0, 2, 1, 3)
        assert mx.allclose(after, turned, atol=1e-5)


def test_the_stand_ins_are_taken_away_again():
    before = mx.gather_mm, mx.fast.metal_kernel
    with cpu_stand_ins():
        architecture_model("bitnet")
    assert (mx.gather_mm, mx.fast.metal_kernel) == before


def test_labels_tell_layers_parts_and_arrays():
    cache = KVCache()
    cache.update_and_fetch(mx.zeros((1, 1, 2, 4)), mx.zeros((1, 1, 2, 4)))
    labels = [array.label for array in _arrays([cache, CacheList(cache, cache)])]
    assert labels[:2] == ["0.KVCache.keys", "0.KVCache.values"]
    assert labels[-1] == "1.1.KVCache.values"
