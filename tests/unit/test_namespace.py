"""What makes the namespace of a loaded model another one."""

from __future__ import annotations

import json
import struct

import pytest

from semantic import BlockValidationError, Namespace
from semantic.adapters.mlx.namespace import namespace
from semantic.mlx import probe
from semantic.testing.tiny_models import tiny_model
from tests.conftest import config_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of("llama")))
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}" + bytes(100))
    return tmp_path


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


def test_namespaces_differ_by_what_the_layers_see(folder):
    model = tiny_model(config_of("gemma3_text", sliding_window=300))
    spec = probe(model)
    other = probe(tiny_model(config_of("gemma3_text", sliding_window=400)))
    roots = [namespace(model, folder, spec=one).root for one in (spec, other, spec)]
    assert roots[0] == roots[2] == namespace(model, folder).root
    assert roots[0] != roots[1]


def test_a_namespace_of_which_nobody_says_the_geometry_keeps_its_root():
    assert Namespace("model").root.hex() == (
        "0172174bccddcbbce8685f1fb937aef772a694723cfe73758a51add68959aac7"
    )


def test_a_folder_without_weights_or_config_is_refused(folder):
    model = tiny_model(config_of("llama"))
    with pytest.raises(BlockValidationError, match=r"no adapter_config\.json"):
        namespace(model, folder, adapter=folder)


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
