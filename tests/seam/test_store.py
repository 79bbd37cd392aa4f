"""What was sealed is there after a restart, and continues as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from safetensors import safe_open

from semantic import BlockPool, CacheManager, CheckpointPolicy, DiskStore, Namespace
from semantic.mlx import probe
from semantic.testing.architectures import architecture_model, recipe_of
from semantic.testing.stand_ins import cpu_stand_ins
from tests.conftest import feed, fresh_caches, greedy, random_tokens, require

SYSTEM = random_tokens(300, seed=1)
ANSWER_TOKENS = 6
FULL = bool(os.environ.get("SEMANTIC_TEST_FULL"))
MODELS = ["llama", "gemma3_text", "qwen3_next", "deepseek_v3", "llama4", "mamba2", "gpt_oss"]


@pytest.fixture(scope="module", autouse=True)
def runnable() -> Iterator[None]:
    with cpu_stand_ins():
        yield


class Server:
    """One process: a model, its memory, and a store that outlives it."""

    def __init__(self, name: str, path: Path, *, bits: int | None = None, **identity: Any) -> None:
        require(name)
        self.model = architecture_model(name)
        self.step = recipe_of(name).longest_call_tokens or 2048
        spec = probe(self.model)
        self.spec = spec if bits is None else spec.quantised_at_rest(bits, 32)
        self.store = DiskStore(path, free_floor_bytes=0)
        self.pool = BlockPool(self.spec, total_memory=1 << 30)
        self.memory = CacheManager(
            self.spec,
            self.pool,
            store=self.store,
            namespace=Namespace(**{"fingerprint": name, **identity}),
            checkpoints=CheckpointPolicy(least_tokens=16),
        )
        self.restored_tokens = 0

    def answer(self, agent: str, prompt: Sequence[int]) -> list[int]:
        with self.memory.admit(agent, prompt, max_new_tokens=ANSWER_TOKENS) as lease:
            caches = lease.materialise() or fresh_caches(self.model)
            start = self.restored_tokens = lease.cached_tokens
            for stop in lease.stops:
                feed(self.model, prompt[start:stop], caches, self.step)
                lease.checkpoint(prompt[:stop], caches)
                start = stop
            logits = feed(self.model, prompt[start:], caches, self.step)
            tokens = greedy(self.model, logits, caches, ANSWER_TOKENS)
            # The last token was chosen, not yet put in.
            lease.commit([*prompt, *tokens], caches)
        self.pool.check()
        return tokens

    def stop(self) -> None:
        assert self.memory.close(60)
        self.store.close()

    @property
    def failures(self) -> Any:
        return self.memory.stats()["failures"]


def stock_answer(name: str, prompt: Sequence[int]) -> list[int]:
    model = architecture_model(name)
    caches = fresh_caches(model)
    step = recipe_of(name).longest_call_tokens or 2048
    return greedy(model, feed(model, prompt, caches, step), caches, ANSWER_TOKENS)


@pytest.mark.parametrize("name", MODELS)
def test_after_a_restart_every_agent_continues(name: str, tmp_path: Path) -> None:
    server = Server(name, tmp_path)
    conversations = {}
    for number in range(2):
        prompt = [*SYSTEM, *random_tokens(100, seed=10 + number)]
        conversations[f"a{number}"] = [*prompt, *server.answer(f"a{number}", prompt)]
    server.stop()
    for turn in range(2):
        server = Server(name, tmp_path)
        assert server.memory.stats()["blocks"] == 0
        for agent, conversation in conversations.items():
            before = len(conversation)
            conversation += random_tokens(60, seed=100 + turn)
            expected = stock_answer(name, conversation)
            assert server.answer(agent, conversation) == expected
            assert server.restored_tokens == before
            conversation += expected
        assert not server.failures
        server.stop()


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_blocks_come_back_as_they_were(bits: int, tmp_path: Path) -> None:
    server = Server("llama", tmp_path, bits=bits, kv_bits=bits)
    conversation = [*SYSTEM, *server.answer("a", SYSTEM)]
    conversation += random_tokens(40, seed=5)
    expected = server.answer("a", conversation)
    server.stop()
    server = Server("llama", tmp_path, bits=bits, kv_bits=bits)
    assert server.answer("a", conversation) == expected
    assert server.restored_tokens > len(SYSTEM)
    assert not server.failures
    server.stop()


def test_a_prompt_that_parts_inside_a_block_uses_what_it_shares(tmp_path: Path) -> None:
    server = Server("llama", tmp_path)
    server.answer("a", [*SYSTEM, *random_tokens(400, seed=2)])
    server.stop()
    server = Server("llama", tmp_path)
    prompt = [*SYSTEM, *random_tokens(400, seed=2)[:30], *random_tokens(50, seed=3)]
    assert server.answer("b", prompt) == stock_answer("llama", prompt)
    assert server.restored_tokens == len(SYSTEM) + 30
    server.stop()


@pytest.mark.parametrize(
    "identity", [{"fingerprint": "other"}, {"adapter": "x"}, {"kv_bits": 8}, {"salt": "tenant"}]
)
def test_b28_another_namespace_never_reads_a_block(
    identity: dict[str, Any], tmp_path: Path
) -> None:
    server = Server("llama", tmp_path)
    server.answer("a", SYSTEM)
    server.stop()
    server = Server("llama", tmp_path, **identity)
    server.answer("a", SYSTEM)
    assert server.restored_tokens == 0
    server.stop()
    # And back again, what was there is there.
    server = Server("llama", tmp_path)
    server.answer("a", SYSTEM)
    assert server.restored_tokens == len(SYSTEM) - 1
    server.stop()


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next"])
def test_b28_damaged_and_missing_files_are_misses(name: str, tmp_path: Path) -> None:
    server = Server(name, tmp_path / "whole")
    conversation = [*SYSTEM, *random_tokens(300, seed=7)]
    conversation += server.answer("a", conversation)
    server.stop()
    prompt = [*conversation, *random_tokens(20, seed=8)]
    expected = stock_answer(name, prompt)
    files = sorted((tmp_path / "whole" / "blocks").glob("*/*.safetensors"))
    for number, file in enumerate(files):
        path = tmp_path / "copy" / file.relative_to(tmp_path / "whole")
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[-1 - number % 64] ^= 1 << number % 8
        contents = (flipped, whole[: len(whole) // 2], b"", None)
        for content in contents if FULL else contents[number % 4 : number % 4 + 1]:
            shutil.copytree(tmp_path / "whole", tmp_path / "copy")
            path.unlink() if content is None else path.write_bytes(content)
            server = Server(name, tmp_path / "copy")
            assert server.answer("a", prompt) == expected
            assert server.restored_tokens < len(conversation)
            server.stop()
            # Whatever was served instead is stored, and nothing of the damage is left.
            server = Server(name, tmp_path / "copy")
            assert server.answer("a", [*prompt, *expected, 1]) == stock_answer(
                name, [*prompt, *expected, 1]
            )
            assert server.restored_tokens == len(prompt) + len(expected)
            assert not server.failures
            server.stop()
            shutil.rmtree(tmp_path / "copy")


def test_b28_a_damaged_catalogue_is_a_miss_until_it_is_made_again(tmp_path: Path) -> None:
    server = Server("llama", tmp_path)
    conversation = [*SYSTEM, *server.answer("a", SYSTEM)]
    server.stop()
    server = Server("llama", tmp_path)
    with server.store._owners.alone():  # so that nobody makes it again meanwhile
        server.store.catalogue.database.condemn("a page is damaged")
        prompt = [*conversation, *random_tokens(60, seed=100)]
        assert server.answer("a", prompt) == stock_answer("llama", prompt)
        assert server.restored_tokens == 0
        assert server.failures["store_read"] == 1
        assert server.memory.stats()["store"]["blocks"] == 0
    assert server.store.is_whole(60)
    server.stop()
    server = Server("llama", tmp_path)
    assert server.answer("a", prompt) == stock_answer("llama", prompt)
    assert server.restored_tokens >= len(conversation)
    assert not server.failures
    server.stop()


def test_blocks_can_be_read_with_the_safetensors_library(tmp_path: Path) -> None:
    server = Server("gemma3_text", tmp_path)
    prompt = [*SYSTEM, *random_tokens(100, seed=1)]
    server.answer("a", prompt)
    server.stop()
    files = sorted((tmp_path / "blocks").glob("*/*.safetensors"))
    assert files
    for path in files:
        loaded = mx.load(str(path))
        with safe_open(path, framework="numpy") as file:
            said = file.metadata()
        tokens = [int(token) for token in said["tokens"].split(",")]
        lo, hi = int(said["lo"]), int(said["hi"])
        start = lo // 256 * 256
        assert tokens == prompt[start : start + len(tokens)] or hi > len(prompt)
        group = server.spec.group(said["layer_group"])
        for tensor in group.token_tensors:
            assert loaded[tensor.name].dtype == getattr(mx, tensor.dtype)
            assert loaded[tensor.name].shape == (group.n_layers, tensor.heads, hi - lo, tensor.dim)
        header = json.dumps(said)
        assert "mlx" not in header
        assert "Cache" not in header


def test_a_turn_writes_only_what_is_new(tmp_path: Path) -> None:
    server = Server("llama", tmp_path)
    conversation = [*SYSTEM, *random_tokens(700, seed=3)]
    conversation += server.answer("a", conversation)
    assert server.memory.flush(60)
    before = {path.name for path in (tmp_path / "blocks").glob("*/*")}
    conversation += random_tokens(10, seed=4)
    server.answer("a", conversation)
    server.stop()
    new = {path.name for path in (tmp_path / "blocks").glob("*/*")} - before
    assert len(new) == 1


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    server = Server("llama", tmp_path / "store")
    server.answer("a", SYSTEM)
    server.stop()
    for path in (tmp_path / "store").rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
