"""The folder that the demo serves from: always the same, unhurt, a model that reads its prompt."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_lm", reason="MLX cannot run on this platform")

from semantic.testing.cached_folder import build_once, recipe_key
from semantic.testing.handbook import handbook, handbook_prompt
from semantic.testing.tiny_models import gemma3_demo, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma3_demo(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    from mlx_lm.utils import load

    model, tokenizer = load(str(folder))
    return model, tokenizer


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in folder.iterdir()}


def greedy_ids(loaded: tuple[Any, Any], system: str, count: int = 8) -> list[int]:
    from mlx_lm.generate import stream_generate

    model, tokenizer = loaded
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": system}, {"role": "user", "content": "What is next?"}],
        add_generation_prompt=True,
    )
    return [out.token for out in stream_generate(model, tokenizer, prompt, max_tokens=count)]


def test_another_process_makes_the_same_files(folder: Path, tmp_path: Path) -> None:
    code = (
        "from semantic.testing.tiny_models import gemma3_demo\n"
        f"print(gemma3_demo({str(tmp_path)!r}))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"},
    ).stdout.strip()
    assert Path(made).name == folder.name
    assert digests(Path(made)) == digests(folder)


def test_an_unhurt_folder_is_used_again(folder: Path) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert gemma3_demo(folder.parent) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_another_seed_is_another_folder(folder: Path) -> None:
    other = gemma3_demo(folder.parent, seed=1)
    assert other != folder
    assert digest(other / "model.safetensors") != digest(folder / "model.safetensors")
    assert digest(other / "tokenizer.json") == digest(folder / "tokenizer.json")


@pytest.mark.parametrize("damage", ["cut", "gone", "no manifest", "extra"])
def test_a_damaged_folder_is_built_again(tmp_path: Path, damage: str) -> None:
    def build(into: Path) -> None:
        (into / "weights").write_bytes(b"w" * 100)

    made = build_once(tmp_path, "thing", build)
    good = digests(made)
    if damage == "cut":
        (made / "weights").write_bytes(b"w" * 50)
    elif damage == "gone":
        (made / "weights").unlink()
    elif damage == "no manifest":
        (made / "manifest.json").unlink()
    else:
        (made / "more").touch()
    assert digests(build_once(tmp_path, "thing", build)) == good
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(into: Path) -> None:
        (into / "half").touch()
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        build_once(tmp_path, "thing", build)
    assert list(tmp_path.iterdir()) == []


def test_builders_at_once_end_with_one_folder(tmp_path: Path) -> None:
    def build(into: Path) -> None:
        (into / "weights").write_bytes(b"w" * 100)

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: build_once(tmp_path, "thing", build), range(32)))
    assert set(made) == {tmp_path / "thing"}
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_recipe_key_depends_on_every_ingredient() -> None:
    keys = {recipe_key(1, {"a": 1}), recipe_key(2, {"a": 1}), recipe_key(1, {"a": 2})}
    assert len(keys) == 3
    assert recipe_key(1, {"a": 1, "b": 2}) == recipe_key(1, {"b": 2, "a": 1})


def test_the_pattern_is_gemma_3s(loaded: tuple[Any, Any]) -> None:
    from mlx_lm.models.cache import make_prompt_cache

    kinds = [type(cache).__name__ for cache in make_prompt_cache(loaded[0])]
    assert kinds == (["RotatingKVCache"] * 5 + ["KVCache"]) * 2


def test_what_the_model_says_is_read_back_as_it_was_said(loaded: tuple[Any, Any]) -> None:
    ids = greedy_ids(loaded, handbook()[:500], count=24)
    text = loaded[1].decode(ids)
    assert loaded[1].encode(text, add_special_tokens=False) == ids


def test_one_changed_token_far_away_changes_the_text(loaded: tuple[Any, Any]) -> None:
    # Farther away than the window: only the global layers see it.
    system = handbook_prompt(700, lambda text: len(loaded[1].encode(text)))
    changed = system.replace("four desks", "nine desks", 1)
    assert len(loaded[1].encode(changed)) == len(loaded[1].encode(system))
    assert greedy_ids(loaded, system) != greedy_ids(loaded, changed)


def test_any_text_survives_the_tokenizer(loaded: tuple[Any, Any]) -> None:
    text = "Grüße, 日本 🚢\n\n  two spaces\tand a tab; <not a token> 1234"
    assert loaded[1].decode(loaded[1].encode(text, add_special_tokens=False)) == text


def test_a_prompt_of_any_length_can_be_cut_from_the_handbook() -> None:
    def count(text: str) -> int:
        return len(text.split())

    lengths = [count(handbook_prompt(n, count)) for n in (1, 500, 2000, 5000)]
    assert all(length >= asked for length, asked in zip(lengths, (1, 500, 2000, 5000), strict=True))
    assert "Reading number 3." in handbook_prompt(5000, count)
    with pytest.raises(ValueError, match="at least 1 token"):
        handbook_prompt(0, count)


@pytest.mark.parametrize("dtype", ["complex", "float", "nothing", "array"])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="no MLX dtype"):
        tiny_model({"model_type": "llama"}, dtype=dtype)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="not supported"):
        tiny_model({"model_type": "no_such_model"})
