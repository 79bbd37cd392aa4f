"""The package as a user meets it: fast to import, nothing needed, every name there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import semantic


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_import_is_fast_and_needs_no_mlx():
    """The best of five: the machine may be busy, the import may not be slow by itself."""
    code = (
        "import time; t = time.perf_counter(); import semantic; print(time.perf_counter() - t); "
        "import sys; assert not {'mlx', 'mlx_lm', 'numpy'} & set(sys.modules)"
    )
    assert min(float(run(code)) for _ in range(5)) < 0.1


def test_every_name_is_there_without_mlx():
    code = (
        "import sys; sys.modules['mlx'] = sys.modules['mlx_lm'] = None\n"
        "import semantic\n"
        "print(all(getattr(semantic, name) is not None for name in semantic.__all__))"
    )
    assert run(code) == "True"


def test_names_are_listed_and_unknown_ones_refused():
    assert set(semantic.__all__) <= set(dir(semantic))
    assert semantic.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = semantic.nonsense
    assert semantic.mlx.probe
    assert semantic.mlx_lm.PromptCache


def test_without_mlx_a_materialisation_is_a_clear_error():
    code = (
        "import sys; sys.modules['mlx'] = sys.modules['mlx.core'] = None\n"
        "from types import SimpleNamespace as S\n"
        "from semantic import *\n"
        "args = S(model_type='llama', num_hidden_layers=1, hidden_size=8, num_attention_heads=1)\n"
        "spec = ModelCacheSpec.from_model(S(args=args))\n"
        "memory = CacheManager(spec, BlockPool(spec, total_blocks=9))\n"
        "try:\n"
        "    memory.capture_batch([], 0)\n"
        "except UnsupportedCacheError as error:\n"
        "    print(error)\n"
        "with memory.admit('a', [1, 2, 3]) as lease:\n"
        "    print(lease.materialise(), lease.commit([1], []).reason)\n"
    )
    first, second = run(code).splitlines()
    assert "pip install 'semantic-kv[mlx]'" in first
    assert second == "None unsupported"
