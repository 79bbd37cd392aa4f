"""Trace files: what is read, and each way in which a file is none."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic.cli.simulate.prompts import Prompts
from semantic.cli.simulate.schedule import as_recorded
from semantic.cli.simulate.trace import TraceError, load_trace
from semantic.cli.simulate.workload import Workload
from tests.traces import common_length, csv_of, trace_of, write_trace

WORDS = st.lists(st.text("AB", max_size=6), min_size=1, max_size=12)
GOOD = csv_of(trace_of(["AB", "ABC"]))


@pytest.mark.parametrize("name", ["words", "words.csv", "words.csv.gz"])
def test_what_was_written_is_read(tmp_path, name):
    facts = {"session": [3, 3], "agent": [0, 2], "waits": [True, False], "service_ms": [5.0, 0.0]}
    trace = trace_of(["ABC", "ABD"], 64, **facts)
    read = load_trace(write_trace(tmp_path / name, trace))
    assert read.name == name
    assert read.block_tokens == 64
    assert read.requests == trace.requests
    assert [request.agent_id for request in read.requests] == ["s3.0", "s3.2"]


def test_service_time_and_stop_may_be_missing(tmp_path):
    (tmp_path / "a.csv").write_text(
        '#{"block_size": 64}\nt,session,agent,in,out,n,ref,k\n5,1,0,200,9,3,-1,0\n'
    )
    (request,) = load_trace(tmp_path / "a.csv").requests
    assert (request.service_ms, request.waits) == (0.0, False)


def change_row(column, value):
    """The good trace with one cell of its last row replaced."""
    *lines, last = GOOD.splitlines()
    cells = last.split(",")
    cells[lines[1].split(",").index(column)] = value
    return "\n".join([*lines, ",".join(cells)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no trace"),
        ("one\ntwo\n", "is no trace"),
        (GOOD.replace("#{", "#{,"), "the header is no JSON"),
        ("#[1]" + GOOD[GOOD.index("\n") :], "no block_size"),
        (GOOD.replace('"block_size": 256', '"block_size": "x"'), "no block_size"),
        (GOOD.replace('"block_size": 256', '"block_size": 0'), "no block_size"),
        (GOOD.replace(",ref,", ",other,"), "no column ref"),
        ('#{"block_size": 64}\nid,name\n1,2\n', "no column t, session"),
        ('#{"note": "lengths"}\nt,in,out\n0,374,44\n', "no prefix information"),
        ("\n".join(GOOD.splitlines()[:2]), "has no requests"),
        (GOOD + "1,2,3\n", "line 5: 3 cells, not 10"),
        (change_row("in", "many"), "line 4: invalid literal"),
        (change_row("in", "767"), "line 4: a prompt of 767 tokens has no 3 blocks"),
        (change_row("n", "-1"), "line 4: a prompt of"),
        (change_row("t", "nan"), "line 4: a time is"),
        (change_row("api_ms", "-1"), "line 4: a time is"),
        (change_row("ref", "1"), "line 4: ref is 1, which is no earlier row"),
        (change_row("ref", "-2"), "line 4: ref is -2"),
        (change_row("ref", "-1"), "line 4: k is 2, and at most 0"),
        (change_row("k", "3"), "line 4: k is 3, and at most 2"),
        (change_row("k", "-1"), "line 4: k is -1"),
    ],
)
def test_what_is_no_trace_is_named(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(TraceError, match=r"a\.csv") as caught:
        load_trace(tmp_path / "a.csv")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\xff\xfe", "neither gzip nor text"),
        (b"\x1f\x8bnot gzip at all", "is damaged"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-12], "is damaged"),
        (gzip.compress(GOOD.encode(), mtime=0)[:40] + b"\xff" * 60, "is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    (tmp_path / "a.csv.gz").write_bytes(content)
    with pytest.raises(TraceError, match=message):
        load_trace(tmp_path / "a.csv.gz")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(TraceError, match=r"none\.csv cannot be read: No such file"):
        load_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        load_trace(tmp_path)


@given(WORDS, st.sampled_from([16, 64]))
def test_prompts_share_tokens_exactly_where_words_share_letters(words, block_tokens):
    trace = trace_of(words, block_tokens)
    workload = Workload(trace, as_recorded(trace, 1 << 20))
    prompts = Prompts(workload)
    tokens = [prompts.tokens(row).tolist() for row in range(len(words))]
    assert [len(t) for t in tokens] == [len(word) * block_tokens for word in words]
    for number, word in enumerate(words):
        for other in range(number):
            shared = common_length(word, words[other])
            assert common_length(tokens[number], tokens[other]) == shared * block_tokens


@given(WORDS)
def test_the_runs_of_a_prompt_lie_one_after_the_other(words):
    trace = trace_of(words)
    for row, word in enumerate(words):
        runs = trace.runs(row, len(word))
        assert sum(hi - lo for _, lo, hi in runs) == len(word)
        assert all(a[2] == b[1] and a[0] < b[0] for a, b in pairwise(runs))


def test_prompts_count_in_full_and_are_replayed_in_full_blocks():
    trace = trace_of(["ABC", "AB"], 64, prompt_tokens=[200, 130])
    workload = Workload(trace, as_recorded(trace, 200))
    assert workload.prompt_tokens == 330
    assert [workload.replayed_tokens(row) for row in workload.order] == [192, 128]
    assert json.loads(csv_of(trace).splitlines()[0][1:])["block_size"] == 64
