"""The README's examples run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import random_tokens

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_library_example_continues_a_conversation(model_of, capsys):
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    (example,) = [block for block in blocks("python") if "generate_step" in block]
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    names = {
        "mx": mx,
        "generate_step": generate_step,
        "make_prompt_cache": make_prompt_cache,
        "model": model_of("gemma3_text"),
        "tokens": random_tokens(300),
    }
    exec(example, names)
    memory, tokens = names["memory"], names["tokens"]
    assert len(tokens) == 300 + 256
    assert memory.pool.used_memory() == 0
    with memory.admit("agent-1", [*tokens, 1]) as lease:
        assert lease.cached_tokens == len(tokens)
    assert "PoolSnapshot" in capsys.readouterr().out


def test_the_quantised_example(model_of, capsys):
    from semantic import BlockPool, CacheManager
    from semantic.mlx import probe
    from tests.conftest import feed, fresh_caches

    (example,) = [block for block in blocks("python") if "quantised_at_rest" in block]
    model, tokens = model_of("gemma3_text", head_dim=64), random_tokens(300)
    names = {"BlockPool": BlockPool, "CacheManager": CacheManager, "probe": probe, "model": model}
    exec(example, names)
    caches, memory = fresh_caches(model), names["memory"]
    feed(model, tokens, caches)
    with memory.admit("agent-1", tokens) as lease:
        assert lease.commit(tokens, caches).published_tokens == len(tokens)
    assert memory.pool.snapshot().cached == names["spec"].cached_bytes(len(tokens))
    assert capsys.readouterr().out == f"{names['spec'].cached_bytes(4096)}\n()\n"


def test_the_drop_in_example(model_of):
    from tests.conftest import feed, fresh_caches

    (example,) = [block for block in blocks("python") if "PromptCache" in block]
    tokens = random_tokens(300)
    model = model_of("gemma3_text")
    caches = fresh_caches(model)
    feed(model, tokens, caches)
    example = re.sub(r"^caches, rest = (.*?)( #.*)?$", r"first = \1", example, flags=re.MULTILINE)
    names = {"model_key": "m", "tokens": tokens, "caches": caches}
    exec(example, names)
    assert names["first"] == (None, tokens)
    again, rest = names["prompt_cache"].fetch_nearest_cache("m", [*tokens, 5])
    assert (again[0].offset, rest) == (300, [5])


def test_the_commands_exist():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"`(project/[\w./-]+)`", README):
        assert (Path(__file__).parents[2] / link).exists(), link


def test_the_plan_is_what_the_command_prints():
    (example,) = re.findall(r"^```\n(\$ semantic plan.*?)^```", README, re.DOTALL | re.MULTILINE)
    command, _, expected = example.partition("\n")
    words = command.removeprefix("$ semantic ").split()
    done = subprocess.run(
        [sys.executable, "-m", "semantic.cli", *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected.split()
