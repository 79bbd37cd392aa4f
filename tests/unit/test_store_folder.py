"""The folder of a store: who may look into it, which key it has, and files that cannot be read."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semantic import CachePersistenceError, DiskStore, PoolConfigurationError
from semantic.adapters.store import entry, owners, private_folder, recovery
from semantic.cli import store as command
from tests.stored_blocks import ROOT, blocks_of, found, read, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

KEY = bytes(range(32))


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def whole(store: DiskStore, seed: int, n_blocks: int) -> int:
    tokens = sequence(seed, n_blocks)
    n = found(store, tokens)
    assert all(read(store, block) for block in blocks_of(tokens)[:n])
    return n


def verified(path: Path, *words: str, status: int) -> Any:
    done = CliRunner().invoke(APP, ["store", "verify", "--store", str(path), "--json", *words])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)["bad"]


# Who may look ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_store", [False, True], ids=["empty", "a store"])
def test_a_folder_that_is_there_becomes_its_owners_alone(is_store: bool, tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    folder.mkdir()
    if is_store:
        opened(folder).close()
    folder.chmod(0o755)
    store = opened(folder)
    turn(store, sequence(1, 2), "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    wide = [file for file in folder.rglob("*") if file.stat().st_mode & 0o077]
    assert wide == []
    store.close()


def test_a_folder_of_other_things_is_not_locked_for_a_store(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").touch()
    home.chmod(0o755)
    with pytest.raises(CachePersistenceError, match="a folder of its own"):
        opened(home)
    assert home.stat().st_mode & 0o777 == 0o755
    assert [file.name for file in home.iterdir()] == ["letter"]
    home.chmod(0o700)
    opened(home).close()


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kv"
    folder.mkdir()
    folder.chmod(0o755)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(CachePersistenceError, match="another user's"):
        opened(folder)


def test_a_catalogue_that_others_may_read_becomes_its_owners_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "catalogue.sqlite3").chmod(0o644)
    store = opened(tmp_path)
    files = list(tmp_path.glob("catalogue*"))
    assert len(files) == 3
    assert [file.name for file in files if file.stat().st_mode & 0o077] == []
    store.close()


# Which key -------------------------------------------------------------------------------------


def sealed(path: Path) -> Path:
    store = opened(path, key=KEY)
    turn(store, sequence(1, 3), "a")
    store.close()
    return path / "sealed"


@pytest.mark.parametrize("left", [None, b"", b"\xff\x00 damaged"], ids=["lost", "empty", "damaged"])
def test_files_say_that_they_are_sealed_when_the_mark_does_not(
    left: bytes | None, tmp_path: Path
) -> None:
    mark = sealed(tmp_path)
    right = mark.read_bytes()
    mark.unlink()
    if left is not None:
        mark.write_bytes(left)
    for file in tmp_path.glob("catalogue*"):
        file.unlink()
    with pytest.raises(PoolConfigurationError, match="needs its key"):
        opened(tmp_path)
    with pytest.raises(PoolConfigurationError, match="another key"):
        opened(tmp_path, key=KEY[::-1])
    assert list((tmp_path / "aside").iterdir()) == []
    assert not mark.exists() if left is None else mark.read_bytes() == left
    store = opened(tmp_path, key=KEY)
    assert whole(store, 1, 3) == 3
    store.close()
    assert mark.read_bytes() == right
    with pytest.raises(PoolConfigurationError, match="another key"):
        opened(tmp_path, key=KEY[::-1])


def test_a_damaged_file_does_not_hide_that_the_others_are_sealed(tmp_path: Path) -> None:
    sealed(tmp_path).unlink()
    for file in sorted((tmp_path / "blocks").rglob("*.safetensors"))[:2]:
        file.write_bytes(b"\0" * 4096)
    with pytest.raises(PoolConfigurationError, match="needs its key"):
        opened(tmp_path)
    store = opened(tmp_path, key=KEY)
    assert store.stats()["blocks"] == 3
    store.close()


def test_who_only_looks_writes_no_mark(tmp_path: Path) -> None:
    mark = sealed(tmp_path)
    mark.unlink()
    opened(tmp_path, key=KEY, repair=False).close()
    assert not mark.exists()


def test_a_key_and_none_do_not_share_a_folder_in_which_nothing_is_stored(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    for repair in (True, False):
        with pytest.raises(PoolConfigurationError, match="in use without a key"):
            opened(tmp_path, key=KEY, repair=repair)
    assert not (tmp_path / "sealed").exists()
    assert turn(plain, sequence(1, 1), "a") == 1
    plain.remove(list(plain.catalogue.files()))
    plain.close()
    keyed = opened(tmp_path, key=KEY)
    other = opened(tmp_path, key=KEY)
    with pytest.raises(PoolConfigurationError, match="needs its key"):
        opened(tmp_path)
    turn(keyed, sequence(2, 1), "b")
    assert whole(other, 2, 1) == 1
    for store in (keyed, other):
        store.close()


def test_two_that_come_at_once_with_a_key_take_the_folder_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[threading.Thread] = []
    stores: list[DiskStore] = []
    check = entry.check_key

    def checked(*arguments: Any, **options: Any) -> bool:
        if not begun:
            begun.append(threading.Thread(target=lambda: stores.append(opened(tmp_path, key=KEY))))
            begun[0].start()
            begun[0].join(0.2)
        return check(*arguments, **options)

    monkeypatch.setattr(entry, "check_key", checked)
    stores.append(opened(tmp_path, key=KEY))
    begun[0].join(20)
    assert len(stores) == 2
    for store in stores:
        store.close()


@pytest.mark.parametrize("step", ["check_unused", "mark_sealed", "BlockFolder", "Catalogue"])
def test_nobody_uses_a_folder_without_the_key_of_one_that_is_stopped_while_it_seals_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_PATIENCE_SECONDS", 0.0)
    taken, refusals = getattr(entry, step), []

    def stopped_before(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(owners, "_PATIENCE_SECONDS", 0.0)
        with pytest.raises((CachePersistenceError, PoolConfigurationError)) as refusal:
            opened(tmp_path)
        refusals.append(refusal)
        return taken(*arguments, **options)

    monkeypatch.setattr(entry, step, stopped_before)
    keyed = opened(tmp_path, key=KEY)
    assert len(refusals) == 1
    with pytest.raises(PoolConfigurationError, match="needs its key"):
        opened(tmp_path)
    assert turn(keyed, sequence(1, 2), "a") == 2
    keyed.close()


def test_a_folder_that_is_refused_to_a_key_is_left_as_it_is(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    for file in tmp_path.glob("catalogue*"):
        file.unlink()
    with pytest.raises(PoolConfigurationError, match="in use without a key"):
        opened(tmp_path, key=KEY)
    assert list(tmp_path.glob("catalogue*")) == []
    assert not (tmp_path / "sealed").exists()
    plain.close()


def test_a_folder_whose_catalogue_has_names_in_the_clear_is_not_sealed(tmp_path: Path) -> None:
    plain = opened(tmp_path)
    plain.regard(ROOT, "alice", priority="high")
    plain.close()
    with pytest.raises(PoolConfigurationError, match="not sealed with this key"):
        opened(tmp_path, key=KEY)
    assert not (tmp_path / "sealed").exists()
    plain = opened(tmp_path)
    plain.catalogue.drop_agent("alice")
    plain.close()
    keyed = opened(tmp_path, key=KEY)
    keyed.regard(ROOT, "alice", priority="high")
    keyed.close()
    (tmp_path / "sealed").unlink()
    opened(tmp_path, key=KEY).close()
    (tmp_path / "sealed").unlink()
    with pytest.raises(PoolConfigurationError, match="not sealed with this key"):
        opened(tmp_path, key=KEY[::-1])


def test_a_damaged_catalogue_without_blocks_does_not_keep_a_key_away(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "catalogue.sqlite3").write_bytes(b"damaged" * 5000)
    store = opened(tmp_path, key=KEY)
    assert turn(store, sequence(1, 2), "a") == 2
    store.close()


# Where it is -----------------------------------------------------------------------------------


def test_a_relative_path_is_that_of_the_moment_of_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = opened(Path("kv"))
    turn(store, sequence(1, 2), "a")
    monkeypatch.chdir("/")
    assert whole(store, 1, 2) == 2
    assert turn(store, sequence(2, 2), "a") == 2
    assert store.path == tmp_path / "kv"
    store.close()


def test_a_new_folder_survives_a_power_cut_with_all_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(private_folder, "sync_folder", synced.append)
    opened(tmp_path / "a" / "b" / "kv").close()
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    synced.clear()
    opened(tmp_path / "a" / "b" / "kv").close()
    assert synced == []


def test_a_folder_is_made_where_names_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(private_folder, "sync_folder", refused)
    store = opened(tmp_path / "kv")
    assert turn(store, sequence(1, 2), "a") == 2
    store.close()


# What cannot be read ---------------------------------------------------------------------------


def unreadable(path: Path, seed: int) -> str:
    """A block that cannot be read: the system refuses, and may not tomorrow."""
    name = str(blocks_of(sequence(seed, 1))[0].name)
    file = path / "blocks" / name[:2] / f"{name}.safetensors"
    file.unlink()
    file.mkdir()
    return name


def test_one_file_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for seed in (1, 2, 3):
        turn(store, sequence(seed, 1), "a")
    store.close()
    name = unreadable(tmp_path, 2)
    short = str(blocks_of(sequence(3, 1))[0].name)
    file = tmp_path / "blocks" / short[:2] / f"{short}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    bad = {row["file"]: row["stays"] for row in verified(tmp_path, status=1)}
    assert bad == {name: True, short: False}
    bad = {row["file"]: row["stays"] for row in verified(tmp_path, "--repair", status=1)}
    assert bad == {name: True, short: False}
    assert [row["file"] for row in verified(tmp_path, "--repair", status=1)] == [name]
    for catalogue in tmp_path.glob("catalogue*"):
        catalogue.unlink()
    store = opened(tmp_path)
    assert whole(store, 1, 1) == 1
    assert list(store.unread) == [name]
    assert store.stats()["unread"] == 1
    assert turn(store, sequence(4, 1), "a") == 1
    store.close()
    kept = tmp_path / "blocks" / name[:2] / f"{name}.safetensors"
    assert kept.is_dir(), "it may be read tomorrow"
    kept.rmdir()
    assert verified(tmp_path, "--repair", status=0) == []


KEY_DIGITS = "c9" * 32


@pytest.mark.parametrize(
    "name",
    [
        f"{KEY_DIGITS}-a b-0-3".encode(),
        f"{KEY_DIGITS}-a-b-0-3".encode(),
        f"{KEY_DIGITS}-global-0-3 (1)".encode(),
        f"{KEY_DIGITS}-global-00-3".encode(),
        f"{KEY_DIGITS}-global-0-{9 * 10**30}".encode(),
        f"{KEY_DIGITS[:-2].upper()}c9-global-0-3".encode(),
        f"{KEY_DIGITS[:-2]}-global-0-3".encode(),
        f"{'ab' * 32}-global-0-3".encode(),
        KEY_DIGITS.encode() + b"-\xff-0-3",
        b"c9\xff\n\x1b[31m",
        b"c" * 240,
    ],
)
def test_a_file_with_no_blocks_name_is_named_and_stays(name: bytes, tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 2), "a")
    store.close()
    fan = tmp_path / "blocks" / "c9"
    fan.mkdir(exist_ok=True)
    stranger = os.path.join(os.fsencode(fan), name + b".safetensors")
    with open(stranger, "wb") as file:
        file.write(b"rubbish")
    for catalogue in (False, True):
        if catalogue:
            for part in tmp_path.glob("catalogue*"):
                part.unlink()
        store = opened(tmp_path)
        assert whole(store, 1, 2) == 2
        (unread,) = store.unread
        assert unread.startswith("blocks/c9/")
        assert unread.isprintable()
        assert store.unread[unread] == "it is no block"
        store.close()
    for option in ([], ["--repair"], []):
        (row,) = verified(tmp_path, *option, status=1)
        assert (row["file"], row["why"], row["stays"]) == (unread, "it is no block", True)
    done = CliRunner().invoke(APP, ["store", "verify", "--repair", "--store", str(tmp_path)])
    assert "1 bad: 0 mended or put aside, 1 left as they are" in done.stdout
    os.unlink(stranger)
    assert verified(tmp_path, status=0) == []


def test_a_folder_that_cannot_be_listed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 3), "a")
    store.close()
    fan = str(blocks_of(sequence(1, 3))[2].name)[:2]
    listdir = os.listdir

    def refused(path: Path) -> list[str]:
        if path.name == fan:
            raise OSError(5, "Input/output error")
        return listdir(path)

    monkeypatch.setattr(recovery.os, "listdir", refused)
    store = opened(tmp_path)
    assert whole(store, 1, 3) == 3, "nobody knows that the file is not there"
    assert store.unread == {f"blocks/{fan}": "Input/output error"}
    store.close()
    assert [row["file"] for row in verified(tmp_path, status=1)] == [f"blocks/{fan}"]
    monkeypatch.undo()
    store = opened(tmp_path)
    assert whole(store, 1, 3) == 3
    assert store.unread == {}
    store.close()


def test_leftovers_that_cannot_be_removed_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    turn(store, sequence(1, 1), "a")
    store.close()
    (tmp_path / "tmp" / "0123456789abcdef-work0").mkdir()

    def refused(path: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(recovery.shutil, "rmtree", refused)
    store = opened(tmp_path)
    assert whole(store, 1, 1) == 1
    assert list(store.unread) == ["tmp"]
    store.close()
    monkeypatch.undo()
    store = opened(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    store.close()
