"""What the fingerprint of a model's files notices, and what later starts read."""

from __future__ import annotations

import builtins
import json
import logging
import os
import random
import stat
import struct
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from semantic import BlockValidationError
from semantic.adapters.fingerprint import contents, file_identity, remembered
from semantic.adapters.fingerprint.file_identity import FileIdentity
from semantic.adapters.fingerprint.model_files import MODEL_CONFIG, ModelFiles, fingerprint
from semantic.adapters.fingerprint.remembered import RememberedDigests, cache_folder

CHUNK_BYTES = 4096
TENSORS = {"embed": 7000, "layers.0.q_proj": 4096, "layers.1.q_proj": 1, "norm": 513}
"""Bytes of each tensor of a shard; some end within a chunk, one fills one."""

ONE_TICK_SECONDS = 0.02
"""Changes so far apart have different times, however coarse the kernel's clock is."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digests are remembered below the test's folder, and files are read in small chunks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_CHUNK_BYTES", CHUNK_BYTES)
    return tmp_path / "cache/semantic/fingerprints"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old enough to be remembered at once."""
    monkeypatch.setattr(file_identity, "SETTLED_AFTER_NS", 0)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all safetensors files that are opened, in order."""
    names: list[str] = []
    real = builtins.open

    def counting(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith(".safetensors"):
            names.append(Path(file).name)
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counting)
    return names


def shard_bytes(prefix: str) -> bytes:
    """A file of the tensors of one shard, filled with zeros."""
    header, at = {}, 0
    for name, size in TENSORS.items():
        offsets = [at, at + size]
        header[prefix + name] = {"dtype": "U8", "shape": [size], "data_offsets": offsets}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three shards and an index, as large ones have."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text('{"model_type": "llama"}')
    weight_map = {}
    for number in range(1, 4):
        name = f"model-{number:05d}-of-00003.safetensors"
        (root / name).write_bytes(shard_bytes(f"{number}."))
        weight_map |= {f"{number}.{tensor}": name for tensor in TENSORS}
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return root


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1 << bit]))


def model_fingerprint(folder: Path) -> str:
    return fingerprint(folder, MODEL_CONFIG)


def test_every_byte_of_every_tensor_counts(folder: Path) -> None:
    before = model_fingerprint(folder)
    assert model_fingerprint(folder) == before
    seen, rng = {before}, random.Random(5)
    for shard in shards(folder):
        first = shard.stat().st_size - sum(TENSORS.values())
        positions = {0, 7, 8, first - 1, CHUNK_BYTES - 1, CHUNK_BYTES, shard.stat().st_size - 1}
        for size in TENSORS.values():
            positions |= {first, first + size // 2, first + size - 1, first + rng.randrange(size)}
            first += size
        for at in sorted(positions):
            flip(shard, at, rng.randrange(8))
            found = model_fingerprint(folder)
            assert found not in seen, (shard.name, at)
            seen.add(found)


def test_config_code_names_and_sizes_count_and_nothing_else_does(folder: Path) -> None:
    def drop_last(path: Path) -> None:
        os.truncate(path, path.stat().st_size - 1)

    first = shards(folder)[0]
    changes = [
        lambda: (folder / "config.json").write_text('{"model_type": "llama", "a": 1}'),
        lambda: (folder / "hf_quant_config.json").write_text('{"quant_algo": "NVFP4"}'),
        lambda: (folder / "modeling.py").write_text("SCALE = 1"),
        lambda: (folder / "modeling.py").write_text("SCALE = 2"),
        lambda: (folder / "config.json").write_text('{"model_file": "code/model.txt"}'),
        lambda: (folder / "code").mkdir() or (folder / "code/model.txt").write_text("SCALE = 3"),
        lambda: (folder / "code/model.txt").write_text("SCALE = 4"),
        lambda: drop_last(first),
        lambda: first.write_bytes(first.read_bytes() + b"\0\0"),
        lambda: first.rename(folder / "model-00009-of-00003.safetensors"),
        lambda: shards(folder)[-1].rename(folder / "other.safetensors"),  # the last one, too
        lambda: (folder / "a.safetensors").write_bytes(b""),
        lambda: (folder / "a.safetensors").unlink() or shards(folder)[0].unlink(),
    ]
    seen = {model_fingerprint(folder)}
    for number, change in enumerate(changes):
        change()
        found = model_fingerprint(folder)
        assert found not in seen, number
        seen.add(found)
    (folder / "README.md").write_text("A model.")
    (folder / "tokenizer.json").write_text("{}")
    assert model_fingerprint(folder) == found


def test_the_fingerprint_depends_on_no_path_and_on_no_time(folder: Path, settled: None) -> None:
    before = model_fingerprint(folder)
    moved = folder.rename(folder.with_name("moved"))
    for file in moved.iterdir():
        os.utime(file, (1, 1))
    assert model_fingerprint(moved) == before
    copied = folder.with_name("copied")
    copied.mkdir()
    for file in moved.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    assert model_fingerprint(copied) == before


def test_contents_that_swap_names_are_another_model(folder: Path) -> None:
    before = model_fingerprint(folder)
    one, other, _ = shards(folder)
    one.rename(folder / "aside")
    other.rename(one)
    (folder / "aside").rename(other)
    assert model_fingerprint(folder) != before


def test_a_second_start_reads_no_weight(
    folder: Path, cache: Path, settled: None, opened: list[str]
) -> None:
    before = model_fingerprint(folder)
    assert sorted(opened) == [shard.name for shard in shards(folder)]
    opened.clear()
    assert model_fingerprint(folder) == before
    # Moving a folder changes no file; a link to it names the same ones.
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(folder.with_name("moved"))
    assert model_fingerprint(folder) == before
    assert opened == []
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in cache.iterdir()} == {0o600}
    assert len(list(cache.iterdir())) == 4  # with the config


def test_only_what_changed_is_read_again(folder: Path, settled: None, opened: list[str]) -> None:
    before = model_fingerprint(folder)
    changed = shards(folder)[1]
    time.sleep(ONE_TICK_SECONDS)
    flip(changed, 500)
    opened.clear()
    assert model_fingerprint(folder) != before
    assert opened == [changed.name]


def test_an_edit_with_the_old_size_and_times_is_noticed(folder: Path, settled: None) -> None:
    before = model_fingerprint(folder)
    shard = shards(folder)[2]
    was = shard.stat()
    time.sleep(ONE_TICK_SECONDS)
    flip(shard, was.st_size - 1)
    os.utime(shard, ns=(was.st_atime_ns, was.st_mtime_ns))
    now = shard.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (was.st_size, was.st_mtime_ns, was.st_ino)
    assert model_fingerprint(folder) != before


def test_a_file_that_has_just_changed_is_not_remembered(folder: Path, cache: Path) -> None:
    """Another change within the clock's step would look like the one before it."""
    model_fingerprint(folder)
    assert not cache.exists()
    now_ns = time.time_ns()
    recent = FileIdentity(1, 2, 3, 4, now_ns)
    assert not recent.is_settled(now_ns)
    assert not recent._replace(changed_ns=4, modified_ns=now_ns + 1).is_settled(now_ns)
    assert recent.is_settled(now_ns + file_identity.SETTLED_AFTER_NS)


def test_a_blob_of_the_hub_counts_by_its_bytes_not_by_its_name(
    tmp_path: Path, folder: Path, settled: None
) -> None:
    """Saving into a snapshot's folder writes through the link, under the old content's name."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/1", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        blob = blobs / sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    before = model_fingerprint(snapshot)
    assert before == model_fingerprint(folder)
    time.sleep(ONE_TICK_SECONDS)
    flip(shards(snapshot)[0], 4000)
    assert model_fingerprint(snapshot) != before


DAMAGES = {
    "empty": lambda path, _: path.write_bytes(b""),
    "short": lambda path, _: os.truncate(path, 60),
    "longer": lambda path, _: path.write_bytes(path.read_bytes() + b"\n"),
    "another digest": lambda path, _: flip(path, 10),
    "another check": lambda path, _: flip(path, 70),
    "no text": lambda path, _: path.write_bytes(b"\xff" * 98),
    "of another file": lambda path, other: path.write_bytes(other),
    "writable by others": lambda path, _: path.chmod(0o666),
    "a folder": lambda path, _: path.unlink() or path.mkdir(),
    "a link": lambda path, _: path.rename(path.with_name("x")) and path.symlink_to("x"),
    "a pipe": lambda path, _: path.unlink() or os.mkfifo(path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_remembered_wrongly_is_read_again(
    folder: Path, cache: Path, settled: None, opened: list[str], damage: str
) -> None:
    before = model_fingerprint(folder)
    opened.clear()
    paths = list(cache.iterdir())
    texts = [path.read_bytes() for path in paths]
    for path, other in zip(paths, [*texts[1:], texts[0]], strict=True):
        DAMAGES[damage](path, other)
    assert model_fingerprint(folder) == before
    assert len(opened) == 3


@pytest.mark.parametrize("bad", ["a file", "not writable", "no home"])
def test_a_cache_that_cannot_be_written_is_no_error(
    folder: Path, cache: Path, settled: None, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    expected = model_fingerprint(folder)
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    if bad == "a file":
        cache.write_bytes(b"")
    elif bad == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: raise_(RuntimeError("no home")))
        assert cache_folder() is None
    else:
        monkeypatch.setattr(os, "replace", lambda *_: raise_(OSError(28, "No space left")))
    assert model_fingerprint(folder) == expected == model_fingerprint(folder)
    assert bad != "not writable" or not list(cache.iterdir())


def raise_(error: Exception) -> None:
    raise error


def test_where_digests_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/a"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which XDG tells to ignore")
    for system, expected in (
        ("linux", "/home/a/.cache/semantic/fingerprints"),
        ("darwin", "/home/a/Library/Caches/semantic/fingerprints"),
    ):
        monkeypatch.setattr(sys, "platform", system)
        assert cache_folder() == Path(expected)


def test_the_oldest_digests_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST_FILES", 3)
    known = RememberedDigests(tmp_path / "digests")
    identities = [FileIdentity(1, number, 2, 3, 4) for number in range(5)]
    for age, identity in enumerate(identities):
        known.put(identity, "a" * 64)
        name = "-".join(map(str, identity))
        os.utime(tmp_path / "digests" / name, (1e9 + age, 1e9 + age))
    found = [known.get(identity) for identity in identities]
    assert found == [None, None, *["a" * 64] * 3]


def test_a_file_that_changes_while_it_is_read_has_no_fingerprint(
    folder: Path, cache: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = shards(folder)[1]

    class Changing:
        """A digest that meanwhile lets a byte of the second shard change, once it is known."""

        def __init__(self) -> None:
            self._digest = sha256()

        def update(self, data: memoryview) -> None:
            self._digest.update(data)
            if bytes(data).startswith(changing.read_bytes()[:100]):
                time.sleep(ONE_TICK_SECONDS)
                flip(changing, 200)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    monkeypatch.setattr(contents, "sha256", Changing)
    with pytest.raises(BlockValidationError, match="changed while it was read"):
        model_fingerprint(folder)
    identity = FileIdentity.of(changing.stat())
    assert RememberedDigests(cache).get(identity) is None


def test_a_folder_that_changes_while_it_is_read_has_no_fingerprint(folder: Path) -> None:
    seen = ModelFiles.seen(folder, MODEL_CONFIG)
    assert seen == ModelFiles.seen(folder, MODEL_CONFIG)
    (folder / "model-extra.safetensors").write_bytes(b"")
    with pytest.raises(BlockValidationError, match="have changed"):
        seen.fingerprint()
    assert model_fingerprint(folder)


def test_what_is_no_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BlockValidationError, match=r"no config\.json"):
        model_fingerprint(tmp_path / "nothing")
    shards(folder)[2].unlink()
    (folder / "model-00003-of-00003.safetensors").mkdir()
    with pytest.raises(BlockValidationError, match=r"00003\.safetensors cannot be read"):
        model_fingerprint(folder)


def test_a_long_read_is_told_with_its_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "semantic")
    model_fingerprint(folder)
    assert caplog.messages == []
    monkeypatch.setattr(contents, "_TELL_AFTER_SECONDS", 0)
    model_fingerprint(folder)
    first, last = caplog.messages
    assert first.startswith("Reading the model's weights to know them, once")
    assert last.startswith("Read 0.0 GB of weights in")


def test_an_interrupt_does_not_wait_for_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Interrupted:
        """A digest of slow files, interrupted early."""

        def update(self, data: memoryview) -> None:
            read.append(len(data))
            if len(read) == 1:
                raise KeyboardInterrupt
            time.sleep(0.05)

        def hexdigest(self) -> str:
            return ""

    monkeypatch.setattr(contents, "sha256", Interrupted)
    monkeypatch.setattr(contents, "_CHUNK_BYTES", 16)
    with pytest.raises(KeyboardInterrupt):
        model_fingerprint(folder)
    assert sum(read) < shards(folder)[0].stat().st_size


TWO_AT_ONCE = """
import sys, time
from pathlib import Path
from semantic.adapters.fingerprint import file_identity
from semantic.adapters.fingerprint.model_files import fingerprint
from semantic.adapters.fingerprint.remembered import cache_folder
file_identity.SETTLED_AFTER_NS = 0
print("ready", flush=True)
sys.stdin.readline()
found = set()
for _ in range(40):
    found.add(fingerprint(sys.argv[1], "config.json"))
    for path in list(cache_folder().iterdir()):
        if sys.argv[2] == "forgets":
            path.unlink(missing_ok=True)
print(*found)
"""


def test_processes_that_remember_and_forget_at_once(folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_AT_ONCE, str(folder), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for role in ("keeps", "keeps", "forgets")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n", timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert said == [[model_fingerprint(folder)]] * 3
