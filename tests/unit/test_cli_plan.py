"""`semantic plan`: the memory sheet."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import zipfile

import pytest

from semantic import ModelSpecValidationError
from semantic.cli.plan_sheet import make_sheet, preset_names, spec_of
from tests.conftest import config_of


def plan(*arguments):
    command = [sys.executable, "-m", "semantic.cli", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_four_reference_models_need_no_mlx():
    code = (
        "import sys; sys.modules['mlx'] = None\n"
        "from semantic.cli.plan_sheet import make_sheet\n"
        "sheet = make_sheet(None, {'8GB': 8 * 10**9}, [4096], 'peak')\n"
        "print(len(sheet.rows))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"


def test_every_preset_is_planned():
    rows = json.loads(plan("--all", "--json").stdout)
    assert [row["model"] for row in rows] == preset_names()
    assert len(rows) >= 25
    assert all(row["live bytes"] > 0 for row in rows)


def test_the_rows_say_what_the_spec_says():
    sheet = make_sheet(["gemma-3-12b"], {"24GB": 24 * 10**9}, [4096, 32768], "live")
    short, long = sheet.records()
    assert short["live bytes"] == 603_979_776
    assert short["prefill peak"] == 1_274_413_056
    assert short["bytes/block/layer"] == 2 << 20
    assert short["agents in 24GB (live)"] == 24 * 10**9 // 603_979_776
    assert long["context"] == 32768
    assert long["live bytes"] == spec_of("gemma-3-12b").live_bytes(32768)


def test_json_csv_and_xlsx(tmp_path):
    done = plan(
        "llama-3.1-8b", "--json", "--csv", tmp_path / "a.csv", "--xlsx", tmp_path / "a.xlsx"
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["agents in 64GB (peak)"] == 64 * 10**9 // 536_870_912
    with (tmp_path / "a.csv").open() as stream:
        (copy,) = csv.DictReader(stream)
    assert copy == {name: str(cell) for name, cell in row.items()}
    assert "xl/workbook.xml" in zipfile.ZipFile(tmp_path / "a.xlsx").namelist()


def test_the_table_is_printed_whole():
    done = plan("gpt-oss-20b", "--memory", "8GB", "--context", "4K,32K")
    assert done.returncode == 0, done.stderr
    assert "103.81 MB" in done.stdout
    assert "32,768" in done.stdout
    assert "12+12" in done.stdout


def test_a_config_file_or_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of("gpt_oss")))
    for path in (tmp_path, tmp_path / "config.json"):
        assert spec_of(str(path)).sliding_window == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gemma3-12b"], "did you mean gemma-3-12b?"),
        (["zzz"], "presets: command-r7b"),
        (["llama-3.1-8b", "--basis", "best"], "unknown basis"),
        (["llama-3.1-8b", "--memory", "8XB"], "no unit"),
        (["llama-3.1-8b", "--context", "0"], "no context length"),
        (["llama-3.1-8b", "--context", "abc"], "no context length"),
        (["llama-3.1-8b", "--csv", "/no/such/folder/x.csv"], "No such file"),
        (["llama-3.1-8b", "--xlsx", "/no/such/folder/x.xlsx"], "cannot be written"),
    ],
)
def test_bad_input_is_named(arguments, message):
    done = plan(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelSpecValidationError, match="not a JSON file"):
        spec_of(str(tmp_path))


def test_other_architectures_are_probed_and_need_mlx(tmp_path):
    config = config_of("llama", model_type="granite", attention_multiplier=1.0)
    config |= {"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0}
    config |= {"max_position_embeddings": 4096, "rope_theta": 10000.0, "tie_word_embeddings": True}
    config |= {"attention_bias": False, "mlp_bias": False, "rope_scaling": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert spec_of(str(tmp_path)).n_layers == 3
    code = (
        "import sys; sys.modules['mlx'] = sys.modules['mlx.core'] = None\n"
        "from semantic.cli.plan_sheet import spec_of\n"
        f"spec_of({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'semantic-kv[mlx]'" in done.stderr.splitlines()[-1]


def test_the_presets_ship():
    assert {"gemma-3-12b", "gpt-oss-20b", "qwen2.5-14b", "llama-3.1-8b"} <= set(preset_names())
