"""Where a prefill stops, what a checkpoint costs, and what it saves a prompt that parts."""

from __future__ import annotations

import pytest

from semantic import CheckpointPolicy, PoolConfigurationError
from tests.token_rows import SPECS
from tests.unit.test_eviction_policies import Agents

BOUNDED = [name for name in SPECS if name != "global"]


def test_attention_layers_need_no_stop() -> None:
    assert CheckpointPolicy(every_blocks=1).stops(SPECS["global"], 5000, 0, 4000) == ()


@pytest.mark.parametrize("spec", BOUNDED)
def test_a_prefill_stops_where_the_prompt_leaves_what_is_cached(spec: str) -> None:
    policy = CheckpointPolicy()
    assert policy.stops(SPECS[spec], 5000, 1000, 3000) == (2992,)
    assert policy.stops(SPECS[spec], 5000, 1000, 3007) == (2992,)
    assert policy.stops(SPECS[spec], 5000, 1000, 1000) == ()


def test_a_stop_that_saves_too_little_is_none() -> None:
    policy = CheckpointPolicy()
    assert policy.stops(SPECS["state"], 5000, 1000, 1255) == ()
    assert policy.stops(SPECS["state"], 5000, 1000, 1264) == (1264,)
    assert CheckpointPolicy(least_tokens=16).stops(SPECS["state"], 5000, 1000, 1020) == ()
    assert CheckpointPolicy(least_tokens=8).stops(SPECS["state"], 5000, 1000, 1020) == (1008,)


def test_every_so_many_blocks_beyond_the_hit_and_before_the_last_token() -> None:
    policy = CheckpointPolicy(junctions=False, every_blocks=4)
    assert policy.stops(SPECS["state"], 4096, 0, 3000) == (1024, 2048, 3072)
    assert policy.stops(SPECS["state"], 4097, 1500, 3000) == (2048, 3072, 4096)
    both = CheckpointPolicy(every_blocks=4)
    assert both.stops(SPECS["state"], 4096, 0, 3000) == (1024, 2048, 2992, 3072)


@pytest.mark.parametrize("spec", BOUNDED)
def test_a_checkpoint_costs_what_the_pool_takes_for_it(spec: str) -> None:
    """One checkpoint in the middle, far from the end of the turn: nothing is shared with it."""
    tokens = list(range(1500))
    cached = []
    for stop in (None, 700):
        agents = Agents(40, spec=spec)
        with agents.memory.admit("a", tokens) as lease:
            for end in filter(None, (stop, len(tokens))):
                agents.rows.tokens = tokens[:end]
                report = (lease.commit if end == len(tokens) else lease.checkpoint)(
                    tokens[:end], []
                )
                assert report.reason == "published"
        cached.append(agents.pool.snapshot().cached)
    # Only the front that a ring keeps for ever is the same block at both ends.
    shared = SPECS[spec].group("sliding_window").bytes_per_block if spec == "kept_front" else 0
    assert cached[1] - cached[0] == CheckpointPolicy.bytes_at(SPECS[spec], 700) - shared


@pytest.mark.parametrize("spec", BOUNDED)
def test_a_prompt_that_parts_falls_back_to_the_nearest_checkpoint(spec: str) -> None:
    agents = Agents(40, spec=spec)
    common = list(range(1500))
    for agent, parts_at in (("a", 1500), ("b", 1200), ("c", 1210), ("d", 1300)):
        prompt = [*common[:parts_at], *(10_000 * ord(agent) + n for n in range(300))]
        with agents.memory.admit(agent, prompt) as lease:
            hit = lease.cached_tokens
            for stop in lease.stops:
                agents.rows.tokens = prompt[:stop]
                lease.checkpoint(prompt[:stop], [])
            agents.rows.tokens = prompt
            lease.commit(prompt, [])
        # The second prompt leaves a checkpoint where it parts, and the others are restored there;
        # windows and chunks may serve a little more, or an end of a chunk before.
        if spec == "state":
            assert hit == {"a": 0, "b": 0, "c": 1200, "d": 1200}[agent]
        elif agent in "cd":
            assert 1200 <= hit <= parts_at


def test_numbers_that_make_no_policy_are_refused() -> None:
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(PoolConfigurationError):
            CheckpointPolicy(every_blocks=wrong)  # type: ignore[arg-type]
        with pytest.raises(PoolConfigurationError):
            CheckpointPolicy(least_tokens=wrong)  # type: ignore[arg-type]
