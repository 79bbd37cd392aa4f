"""`semantic simulate`: the command, its output and its refusals."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from semantic.cli.simulate import register
from semantic.cli.simulate.study import BOUND, PLAIN_LRU
from tests.traces import csv_of, trace_of, write_trace
from tests.unit.test_cli_simulate_baselines import STORY

BLOCK = 32 << 20
"""Bytes of a block of llama-3.1-8b: 128 KiB a token."""


def simulate(*arguments):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def story(tmp_path):
    return write_trace(tmp_path / "story.csv.gz", trace_of(STORY))


@pytest.fixture
def ask(story):
    def with_options(*options):
        common = ("--model", "llama-3.1-8b", "--memory", "128MiB")
        return simulate(story, *common, *options)

    return with_options


def results(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"]


OURS = "semantic, lru"


def rates(records):
    return {record["cache"]: record["token_hit_rate"] for record in records}


def without_times(records):
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]


def test_the_story_by_hand(ask):
    # 128 MiB are the four blocks of the hand-worked story; the prompts have ten in all.
    result = ask("--json")
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert (report["requests"], report["users"], report["model"]) == (4, None, "llama-3.1-8b")
    ours, lru, bound = report["results"]
    assert rates(report["results"]) == {
        OURS: 3 * 256 / 2560,
        PLAIN_LRU: 0,
        BOUND: (767 + 256) / 2560,
    }
    assert [line["evicted_blocks"] for line in (ours, lru, bound)] == [3, 3, 2]
    assert [line["peak_bytes"] for line in (ours, lru, bound)] == [4 * BLOCK] * 3
    assert {line["memory_tokens"] for line in (ours, lru, bound)} == {1024}
    assert ours["mean_seconds_per_request"] > 0
    assert lru["mean_seconds_per_request"] is None


def test_the_table_says_the_same(ask):
    result = ask()
    assert result.exit_code == 0
    assert "story.csv.gz: 4 requests; in the order of the file; llama-3.1-8b" in result.stdout
    ours, lru, bound = result.stdout.splitlines()[3:6]
    assert ours.split()[:6] == ["128MiB", "1,024", "semantic,", "lru", "0.300", "3"]
    assert ours.split()[-1] == "ms"
    assert lru.split()[:5] == ["plain", "LRU", "0.000", "3", "134.22"]
    assert bound.split()[:5] == ["offline", "bound", "0.400", "2", "134.22"]


def test_csv_has_every_number(ask, tmp_path):
    result = ask("--json", "--csv", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {name: "" if cell is None else str(cell) for name, cell in record.items()}
        for record in results(result)
    ]


def test_several_sizes_and_a_picture(story, tmp_path):
    picture = tmp_path / "hits.png"
    result = simulate(
        *(story, "--model", "llama-3.1-8b", "--memory", "128MiB, 1GB", "--plot", picture)
    )
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "1GB" in result.stdout


def test_eight_bits_hold_more_tokens(ask):
    # Four blocks in 8 bits, scales and biases included, are 1.88 times smaller: seven fit.
    (ours, lru, bound) = results(ask("--json", "--kv-bits", "8"))
    assert ours["memory_tokens"] == 1927
    assert [line["cached_tokens"] for line in (ours, lru, bound)] == [767 + 511] * 3


def test_users_work_side_by_side(tmp_path):
    # Session 0 asks at 0 and 10 s, session 1 at once: one user never needs both in memory.
    facts = {"session": [0, 0, 1, 1], "t_ms": [0.0, 10_000.0, 0.0, 5_000.0]}
    path = write_trace(tmp_path / "two.csv", trace_of(["ABC", "ABC", "XYZ", "XYZ"], **facts))
    common = (path, "--model", "llama-3.1-8b", "--memory", "96MiB", "--json")
    alone = results(simulate(*common, "--users", 1))
    assert rates(alone)[OURS] == rates(alone)[PLAIN_LRU] == 2 * 767 / 3072
    together = results(simulate(*common, "--users", 2))
    assert rates(together) == {OURS: 767 / 3072, PLAIN_LRU: 767 / 3072, BOUND: 767 / 3072}


def test_limit_and_longest_prompt(ask):
    report = json.loads(ask("--json", "--limit", 3).stdout)
    assert report["requests"] == 3
    assert report["results"][0]["prompt_tokens"] == 8 * 256
    assert json.loads(ask("--json", "--max-tokens", "768").stdout)["requests"] == 4
    # The session ends at its first prompt of more than two blocks, and that is its very first.
    assert ask("--json", "--max-tokens", "512").exit_code == 2


def test_several_policies_stand_side_by_side(ask):
    lines = results(ask("--json", "--policy", "lru, resident,scan_resistant", "--no-hints"))
    assert [line["cache"] for line in lines] == [
        "semantic, lru",
        "semantic, resident",
        "semantic, scan_resistant",
        PLAIN_LRU,
        BOUND,
    ]
    assert lines[0]["token_hit_rate"] == 3 * 256 / 2560


def test_the_same_twice(ask):
    assert without_times(results(ask("--json"))) == without_times(results(ask("--json")))


def test_commits_that_the_memory_cuts_are_counted_and_not_logged(story, caplog):
    common = (story, "--model", "llama-3.1-8b", "--memory", "64MiB", "--json")
    (ours, *_) = results(simulate(*common))
    assert ours["cut_or_refused_commits"] == 2
    assert not caplog.records
    assert logging.getLogger("semantic").level == logging.NOTSET


def test_a_model_with_windows(story):
    (ours, _, bound) = results(
        simulate(story, "--model", "gemma-3-12b", "--memory", "8GB", "--json")
    )
    # Whole prompts come again, and a window's end is hit where it was published.
    assert 0 < ours["cached_tokens"] <= bound["cached_tokens"]


LENGTHS = '#{"note": "lengths and arrival times only"}\nt,in,out\n0,374,44\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": "none.csv"}, "none.csv cannot be read: No such file"),
        ({"trace": "lengths.csv"}, "has no prefix information (its columns are t, in, out)"),
        ({"trace": "picture.png"}, "neither gzip nor text"),
        ({"trace": "broken.csv.gz"}, "is damaged"),
        ({"trace": "other.csv"}, "no column ref, k"),
        ({"model": "lama-3.1-8b"}, "did you mean llama-3.1-8b?"),
        ({"memory": "24XB"}, "no unit"),
        ({"memory": "24GB,"}, "is no memory size"),
        ({"memory": "33554431"}, "33554431 is below one block of this model"),
        ({"users": "0"}, "Invalid value for '--users'"),
        ({"limit": "0"}, "Invalid value for '--limit'"),
        ({"limit": "x"}, "Invalid value for '--limit'"),
        ({"kv-bits": "5"}, "kv_bits must be one of (4, 8), not 5"),
        ({"policy": "random"}, "no policy 'random'; one of lru"),
        ({"max-tokens": "0"}, "no context length"),
        ({"max-tokens": "255"}, "no prompt of at most 255 tokens has a full block of 256 tokens"),
        ({"plot": "hits.xyz"}, "hits.xyz: no picture; it can end in"),
        ({"plot": "no/such/hits.png"}, "a file in a folder that exists"),
        ({"csv": "no/such/a.csv"}, "a file in a folder that exists"),
        ({"csv": "."}, ".: a file in a folder that exists"),
    ],
)
def test_bad_input_is_named(story, monkeypatch, change, message):
    monkeypatch.chdir(story.parent)
    Path("lengths.csv").write_text(LENGTHS)
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff")
    Path("broken.csv.gz").write_bytes(story.read_bytes()[:-9])
    Path("other.csv").write_text(csv_of(trace_of(["A"])).replace(",ref,k,", ",reference,kept,"))
    options = {"trace": story, "model": "llama-3.1-8b", "memory": "1GB"} | change
    trace = options.pop("trace")
    result = simulate(trace, *(f"--{name}={value}" for name, value in options.items()))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


def test_an_interrupt_is_no_traceback(ask, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("semantic.cli.simulate.trace.load_trace", interrupted)
    result = ask()
    assert result.exit_code == 130
    assert "stopped" in result.stderr
