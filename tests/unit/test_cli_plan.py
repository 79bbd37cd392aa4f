"""`semantic plan`: figures, table, sheet and picture."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import zipfile

import pytest

from semantic import ModelSpecValidationError
from semantic.cli.plan_figures import PlanOptions, figures_of
from semantic.cli.plan_models import REFERENCE, preset_names, spec_of
from semantic.cli.plan_plot import draw
from semantic.cli.plan_sheet import make_sheet
from semantic.cli.plan_table import table_lines
from semantic.cli.sizes import parse_size
from tests.conftest import config_of

ASKED = (
    *("gemma-3-12b", "gpt-oss-20b", "qwen2.5-14b", "llama-3.1-8b"),
    *("--memory", "24GB", "--context", "4K,32K,128K", "--agents", "10", "--shared-prefix", "2000"),
)


def plan(*arguments):
    command = [sys.executable, "-m", "semantic.cli", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_four_reference_models_need_no_mlx_and_no_second():
    """The whole command, in processor time of its own: other work on the machine does not count."""
    code = (
        "import sys\n"
        f"sys.argv = ['semantic', 'plan', *{list(ASKED)!r}]\n"
        "sys.modules['mlx'] = sys.modules['mlx_lm'] = None\n"
        "from semantic.cli.main import main\n"
        "main()"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(f"{name}: " in done.stdout for name in REFERENCE)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0


def test_every_preset_is_planned():
    rows = json.loads(plan("--all", "--json").stdout)
    assert [row["model"] for row in rows] == preset_names()
    assert len(rows) >= 25
    assert all(row["live bytes"] > 0 for row in rows)


def test_the_rows_say_what_the_spec_says():
    options = PlanOptions("live", with_weights=False)
    sheet = make_sheet(["gemma-3-12b"], {"24GB": 24 * 10**9}, [4096, 32768], options)
    short, long = sheet.records()
    assert short["live bytes"] == 603_979_776
    assert short["prefill peak"] == 1_274_413_056
    assert short["bytes/block/layer"] == 2 << 20
    assert short["blocks"] == "global 16, sliding_window 4"
    assert long["blocks"] == "global 128, sliding_window 4"
    assert "weight bytes" not in short
    assert short["agents in 24GB (live)"] == 24 * 10**9 // 603_979_776
    assert long["context"] == 32768
    assert long["live bytes"] == spec_of("gemma-3-12b").live_bytes(32768)


def test_json_csv_and_xlsx(tmp_path):
    done = plan(
        "llama-3.1-8b", "--json", "--csv", tmp_path / "a.csv", "--xlsx", tmp_path / "a.xlsx"
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    weights = 2 * 8_030_261_248
    assert row["weight bytes"] == weights
    assert row["too big for"] == "8GB, 16GB"
    assert row["agents in 64GB (peak)"] == (64 * 10**9 - weights) // 536_870_912
    assert row["agents in 16GB (peak)"] == 0
    with (tmp_path / "a.csv").open() as stream:
        (copy,) = csv.DictReader(stream)
    assert copy == {name: str(cell) for name, cell in row.items()}
    assert "xl/workbook.xml" in zipfile.ZipFile(tmp_path / "a.xlsx").namelist()


def test_the_table_says_what_the_issue_asks():
    done = plan(*ASKED)
    assert done.returncode == 0, done.stderr
    _, gemma, gpt, qwen, llama = done.stdout.split("layers (")
    assert "8 global 8x256, 40 sliding_window of 1,024 8x256" in gemma
    assert "weights 24.4 GB; 65.5 kB per token; a block of 256 tokens 16.8 MB + 83.9 MB" in gemma
    assert "gemma-3-12b does not fit into 24GB: its weights alone take 24.4 GB" in gemma
    heading, short, _, long = (line.split() for line in gpt.splitlines()[3:7])
    assert " ".join(heading) == "context blocks live peak cached 10 run 10 at rest 24GB"
    spec = spec_of("gpt-oss-20b")
    left = 24 * 10**9 - 13_761_264_768
    assert short[:2] == ["4,096", "16+1"]
    assert "104 MB 154 MB 107 MB 1.54 GB" in " ".join(short)
    assert int(short[-1]) == spec.max_agents(left, 4096) == 66
    assert long[:2] == ["131,072", "512+1"]
    assert int(long[-1]) == spec.max_agents(left, 131_072)
    assert "does not fit" not in gpt + llama
    assert "qwen2.5-14b does not fit into 24GB" in qwen
    assert "where 2,000 tokens are kept once" in " ".join(done.stdout.split())
    bare = plan(*ASKED[:1], "--memory", "24GB", "--no-weights").stdout
    assert "Agents that fit without weights" in bare
    assert "weights 24.4" not in bare
    assert "does not fit" not in bare


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits_a_terminal(width):
    sizes = {f"{size}GB": parse_size(f"{size}GB") for size in (8, 16, 24, 64, 128, 192)}
    options = PlanOptions(agents=10, shared_prefix=2000)
    models = figures_of(REFERENCE, sizes, [4096, 131_072], options)
    lines = list(table_lines(models, sizes, options, width))
    assert max(map(len, lines)) <= width
    cells = [cell for line in lines for cell in line.split()]
    for name in sizes:
        assert cells.count(name) >= len(models), "no column is left out"
    wide = list(table_lines(models, sizes, options, 1000))
    assert len(wide) <= len(lines)


def test_a_picture_shows_every_model(tmp_path):
    pictures = [tmp_path / name for name in ("two.png", "one.png", "two.svg")]
    sizes = {"8GB": 8 * 10**9, "192GB": 192 * 10**9}
    for models, picture in zip((ASKED[:2], ASKED[:1], ASKED[:2]), pictures, strict=True):
        options = PlanOptions(kv_bits=8)
        draw(picture, figures_of(models, sizes, [4096, 32_768], options), sizes, options)
    two, one, drawing = pictures
    assert two.read_bytes().startswith(b"\x89PNG")
    assert len(two.read_bytes()) > len(one.read_bytes()) > 10_000
    text = drawing.read_text()
    # Letters are drawn as outlines, and named in comments.
    for words in ("gemma", "gpt", "weights 13.8 GB", "sliding", "192GB", "128K", "agents that fit"):
        assert words in text


def test_a_picture_is_drawn_beside_the_table(tmp_path):
    done = plan("llama-3.1-8b", "--plot", tmp_path / "a.png", "--basis", "cached")
    assert done.returncode == 0, done.stderr
    assert "llama-3.1-8b: 32 layers" in done.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_config_file_or_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of("gpt_oss")))
    other = tmp_path / "tiny.json"
    other.write_text(json.dumps(config_of("gpt_oss")))
    for path, name in (
        (tmp_path, tmp_path.name),
        (tmp_path / "config.json", tmp_path.name),
        (other, "tiny.json"),
    ):
        assert spec_of(str(path)).sliding_window == 40
        (model,) = figures_of([str(path)], {}, [256], PlanOptions(with_weights=False))
        assert model.name == name


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
        (["llama-3.1-8b", "--plot", "/no/such/folder/x.png"], "a file in a folder that exists"),
        (["llama-3.1-8b", "--plot", "x.docx"], "no picture; it can end in"),
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
        "from semantic.cli.plan_models import spec_of\n"
        f"spec_of({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'semantic-kv[mlx]'" in done.stderr.splitlines()[-1]


def test_the_presets_ship():
    assert {"gemma-3-12b", "gpt-oss-20b", "qwen2.5-14b", "llama-3.1-8b"} <= set(preset_names())
