"""What the model fingerprint notices, and the one thing that it says it cannot."""

from __future__ import annotations

import json
import struct

import pytest

from semantic import BlockValidationError
from semantic.adapters.mlx.namespace import fingerprint, namespace
from semantic.mlx import probe
from semantic.testing.tiny_models import tiny_model
from tests.conftest import config_of

DATA = 1 << 20


@pytest.fixture
def folder(tmp_path):
    header = json.dumps({"w": {"dtype": "U8", "shape": [DATA], "data_offsets": [0, DATA]}}).encode()
    (tmp_path / "config.json").write_text(json.dumps(config_of("llama")))
    body = struct.pack("<Q", len(header)) + header + bytes(DATA)
    (tmp_path / "model.safetensors").write_bytes(body)
    return tmp_path


def flip(path, at):
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))


def test_every_sampled_region_counts(folder):
    file = folder / "model.safetensors"
    before = fingerprint(folder, "config.json")
    assert fingerprint(folder, "config.json") == before
    for sample in range(64):
        at = file.stat().st_size * sample // 64 + 1
        flip(file, at)
        assert fingerprint(folder, "config.json") != before, sample
        flip(file, at)
    assert fingerprint(folder, "config.json") == before


def test_config_header_name_and_size_count(folder):
    seen = {fingerprint(folder, "config.json")}
    file = folder / "model.safetensors"
    flip(file, 20)
    seen.add(fingerprint(folder, "config.json"))
    (folder / "config.json").write_text(json.dumps(config_of("llama", rope_theta=1e6)))
    seen.add(fingerprint(folder, "config.json"))
    with file.open("ab") as stream:
        stream.write(b"\0")
    seen.add(fingerprint(folder, "config.json"))
    file = file.rename(folder / "other.safetensors")
    seen.add(fingerprint(folder, "config.json"))
    assert len(seen) == 5


def test_an_edit_between_the_samples_goes_unnoticed(folder):
    """The gap that ADR-005 names. When it closes, change the ADR."""
    before = fingerprint(folder, "config.json")
    flip(folder / "model.safetensors", DATA // 128 + 4096 + 100)
    assert fingerprint(folder, "config.json") == before


def test_namespaces_differ_by_adapter_salt_and_dtype(folder):
    model = tiny_model(config_of("llama"))
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapters.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    plain = namespace(model, folder)
    assert plain == namespace(model, str(folder))
    assert plain.kv_dtype == probe(model).groups[0].token_tensors[0].dtype == "float32"
    half = tiny_model(config_of("llama"), dtype="float16")
    others = [
        namespace(model, folder, adapter=adapter),
        namespace(model, folder, salt="tenant"),
        namespace(half, folder),
    ]
    assert len({plain.root, *(other.root for other in others)}) == 4


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with pytest.raises(BlockValidationError, match=r"no config\.json"):
        fingerprint(tmp_path, "config.json")


def test_namespaces_differ_by_what_is_quantised_at_rest(folder):
    model = tiny_model(config_of("llama"))
    spec = probe(model)
    plain = namespace(model, folder)
    assert (plain.kv_bits, namespace(model, folder, spec=spec)) == (0, plain)
    quantised = [
        namespace(model, folder, spec=spec.quantised_at_rest(bits, size))
        for bits in (8, 4)
        for size in (32, 64)
    ]
    assert [one.kv_bits for one in quantised] == [8, 8, 4, 4]
    assert len({plain.root, *(one.root for one in quantised)}) == 5
