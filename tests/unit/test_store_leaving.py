"""What leaves a store: all of it and nothing else, whatever is killed or used meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore, EvictionPolicy
from semantic.adapters.store import catalogue
from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.upkeep import verify
from semantic.cli import store as command
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, found, read, sequence, turn
from tests.unit.test_store_races import before
from tests.unit.test_store_survivors import files, killed, names

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

TOKENS = sequence(1, 1)
(BLOCK,) = blocks_of(TOKENS)
FILE = str(BLOCK.name)
AGENT = "an agent of that name"


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def by_library(path: Path) -> None:
    store = opened(path)
    store.forget(ROOT, AGENT)
    store.close()


def by_command(path: Path) -> None:
    assert run("forget", "--agent", AGENT, "--store", path).exit_code in (0, 1)


WAYS = pytest.mark.parametrize("forget", [by_library, by_command])


def is_known(path: Path) -> bool:
    """Whether the catalogue or its log has the agent's name."""
    return any(AGENT.encode() in file.read_bytes() for file in path.glob("catalogue*"))


PARTS = "from semantic.adapters.store import database\ndatabase._MANY = 1\n"


@pytest.mark.parametrize(
    "step",
    [
        "store.catalogue.leave = die",
        "store._remove_file = die",
        "store._sync_removed = die",
        "store.catalogue.left = lambda *a, **b: die()",
        "store.catalogue.drop_agent = die",
        PARTS + "left = store.catalogue.left\n"
        "store.catalogue.left = lambda *a, **b: (left(*a, **b), die())",
    ],
)
@WAYS
def test_a_forget_that_was_killed_is_finished_by_the_next(
    step: str, forget: Callable[[Path], None], tmp_path: Path
) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 3), AGENT)
    turn(store, sequence(2, 2), "b")
    store.close()
    killed(tmp_path, f"{step}\nstore.forget(ROOT, {AGENT!r})")
    forget(tmp_path)
    assert files(tmp_path) == sorted(names(sequence(2, 2)))
    assert not is_known(tmp_path)
    store = opened(tmp_path)
    assert found(store, sequence(2, 2)) == 2
    assert verify(store) == []
    store.close()


@pytest.mark.parametrize("step", ["leave", "drop_agent", "left"])
@WAYS
def test_what_comes_of_an_agent_while_it_is_forgotten_is_its_own(
    step: str, forget: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = opened(tmp_path)
    turn(server, sequence(1, 2), AGENT)
    done = getattr(Catalogue, step)

    def stepped(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Catalogue, step, done)
        turn(server, sequence(2, 2), AGENT)
        return done(*arguments, **options)

    monkeypatch.setattr(Catalogue, step, stepped)
    forget(tmp_path)
    assert found(server, sequence(1, 2)) == 0
    forget(tmp_path)
    assert files(tmp_path) == []
    assert not is_known(tmp_path)
    server.close()


def test_forgetting_in_one_namespace_leaves_the_others(tmp_path: Path) -> None:
    other = bytes(32)
    store = opened(tmp_path)
    turn(store, sequence(1, 2), AGENT)
    turn(store, sequence(1, 2), AGENT, other)
    assert store.forget(ROOT, AGENT) == 2
    assert (found(store, sequence(1, 2)), found(store, sequence(1, 2), other)) == (0, 2)
    assert store.forget_agent(AGENT, other.hex()[:6]).blocks == 2
    store.close()


@pytest.fixture
def both(tmp_path: Path) -> Any:
    """Two stores of one folder, the first with a time to live, at a time that may be set."""
    clock = {"now": 1e9}
    policies = EvictionPolicy(time_to_live=1000), None
    stores = [opened(tmp_path, now=lambda: clock["now"], policy=policy) for policy in policies]
    yield *stores, clock
    for store in stores:
        store.close()


def test_what_is_used_after_it_was_found_too_old_stays(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, clock = both
    turn(store, sequence(1, 2), "a")
    turn(store, sequence(2, 2), "a")
    clock["now"] += 2000
    before(monkeypatch, store.catalogue, "leave", lambda: turn(other, sequence(1, 2), "b"))
    assert store.expire() == 2
    assert (found(other, sequence(1, 2)), found(other, sequence(2, 2))) == (2, 0)


def test_what_is_pinned_after_it_was_found_too_old_stays(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, clock = both
    turn(store, sequence(1, 2), "a")
    clock["now"] += 2000
    pin = lambda: other.regard(ROOT, "a", is_pinned=True)  # noqa: E731
    before(monkeypatch, store.catalogue, "leave", pin)
    assert store.forget_older(1000) == 0
    assert found(other, sequence(1, 2)) == 2


def test_what_another_agent_uses_while_one_is_forgotten_stays(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, _ = both
    turn(store, sequence(1, 2), "a")
    before(monkeypatch, store.catalogue, "leave", lambda: turn(other, sequence(1, 2), "b"))
    assert store.forget(ROOT, "a") == 0
    assert found(other, sequence(1, 2)) == 2
    assert other.forget(ROOT, "b") == 2


def test_what_two_agents_share_goes_when_both_are_forgotten_at_once(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, _ = both
    turn(store, sequence(1, 2), "a")
    turn(store, sequence(1, 2), "b")
    forgotten: list[int] = []

    def forget_the_other() -> None:
        if not forgotten:
            forgotten.append(other.forget(ROOT, "b"))

    before(monkeypatch, store.catalogue, "drop_shared", forget_the_other)
    assert store.forget(ROOT, "a") == 2
    assert forgotten == [0]
    assert store.stats()["blocks"] == 0


def test_uses_are_dropped_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_MANY", 2)
    store = opened(tmp_path)
    for agent in ("b", AGENT):
        turn(store, sequence(1, 5), agent)
    turn(store, sequence(2, 1), AGENT)
    store.regard(ROOT, AGENT, is_pinned=True)
    assert store.forget(ROOT, AGENT) == 1
    assert not is_known(tmp_path)
    assert store.catalogue.database.read("SELECT count(*) FROM users") == [(5,)]
    assert store.shrink(1) == 1, "nobody pins it any more"
    assert store.forget(ROOT, "b") == 4
    store.close()


def refused(*_: object, **__: object) -> Any:
    raise CachePersistenceError("disk I/O error", errno=5)


def test_a_store_that_is_closed_while_it_writes_takes_no_block_from_others(both: Any) -> None:
    closed, other, _ = both
    write = closed._write

    def closed_meanwhile(blocks: Any) -> list[int]:
        sizes: list[int] = write(blocks)
        closed.close()
        turn(other, TOKENS, "b")
        return sizes

    closed._write = closed_meanwhile
    with pytest.raises(CachePersistenceError, match="closed"):
        closed.put([BLOCK], "a")
    turn(other, sequence(2, 1), "b")
    assert read(other, BLOCK)
    assert other.catalogue.on_their_way() == []
    assert other.running() == [other._owners.name]


def test_what_was_to_be_removed_is_another_s_once_the_catalogue_was_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    turn(store, TOKENS, "a")
    monkeypatch.setattr(store.catalogue, "left", refused)
    with pytest.raises(CachePersistenceError):
        store.shrink(1)
    monkeypatch.undo()
    store.catalogue.database.condemn("a page is damaged")
    assert store.is_whole(20)
    other = opened(tmp_path)
    turn(other, TOKENS, "b")
    turn(store, sequence(2, 1), "a")
    assert read(other, BLOCK)
    assert verify(other) == []
    other.close()
    store.close()


def refusing(monkeypatch: pytest.MonkeyPatch, stuck: list[str]) -> None:
    """Some files cannot be removed."""
    remove = DiskStore._remove_file

    def removed(store: DiskStore, file: str) -> None:
        if file in stuck:
            raise CachePersistenceError(f"{file}: Operation not permitted", errno=1)
        remove(store, file)

    monkeypatch.setattr(DiskStore, "_remove_file", removed)


@pytest.mark.parametrize(
    "words", [("--agent", AGENT), ("--namespace", ROOT.hex()), ("--older-than", "1h")]
)
def test_a_file_that_cannot_be_removed_is_named_and_tried_again(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path, now=lambda: time.time() - 7200)
    turn(store, sequence(1, 3), AGENT)
    store.regard(ROOT, AGENT, priority="high")
    store.close()
    stuck = names(sequence(1, 3))[1]
    refusing(monkeypatch, [stuck])
    for gone in (2, 0):
        done = run("forget", *words, "--store", tmp_path, "--json")
        assert done.exit_code == 1
        said = json.loads(done.stdout)
        assert said["blocks"] == gone
        assert gone * BLOCK_BYTES <= said["bytes"] < (gone + 0.2) * BLOCK_BYTES
        assert f"{stuck} could not be removed" in done.stderr
        assert "not permitted" in done.stderr
    assert files(tmp_path) == [stuck]
    assert run("gc", "--store", tmp_path).exit_code == 1
    monkeypatch.undo()
    store = opened(tmp_path)
    assert files(tmp_path) == []
    assert store.stats()["bytes"] == 0
    assert store.catalogue.database.read("SELECT * FROM agents") == []
    store.close()


def test_forgetting_says_when_nothing_could_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 3), AGENT)
    refusing(monkeypatch, names(sequence(1, 3)))
    with pytest.raises(CachePersistenceError, match="not permitted"):
        store.forget(ROOT, AGENT)
    assert found(store, sequence(1, 3)) == 0
    assert set(store.stuck) == set(names(sequence(1, 3)))
    assert not is_known(tmp_path)
    monkeypatch.undo()
    turn(store, sequence(2, 1), "b")
    assert files(tmp_path) == sorted(names(sequence(2, 1)))
    store.close()
