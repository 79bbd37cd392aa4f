"""`semantic store`: what it says of a folder, what it removes, and what it carries elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner

from semantic import DiskStore, Namespace
from semantic.adapters.store.sealing import KEY_VARIABLE
from semantic.cli import store as command
from semantic.domain.native import TokenIds
from tests.stored_blocks import BLOCK_BYTES, ROOT, blocks_of, content, found, read, sequence, turn

APP = typer.Typer()
command.register(APP)
APP.callback()(lambda: None)

OTHER = Namespace("other").root
KEY = bytes(range(32))
ARCHIVE = {"format": "semantic-store-archive", "version": 1}
ALICE, BOB, SHARED = sequence(1, 3), sequence(2, 2), sequence(3, 2)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, ["store", *map(str, arguments)])


def said(*arguments: object, status: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def opened(path: Path, **options: Any) -> DiskStore:
    return DiskStore(path, **{"free_floor_bytes": 0, **options})


def filled(path: Path, **options: Any) -> None:
    store = opened(path, **options)
    turn(store, ALICE, "alice")
    turn(store, BOB, "bob")
    for agent in ("alice", "bob"):
        turn(store, SHARED, agent)
    turn(store, ALICE, "alice", OTHER)
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    filled(tmp_path / "kv")
    return tmp_path / "kv"


def file_of(folder: Path, tokens: Sequence[int], number: int) -> Path:
    name = str(blocks_of(tokens)[number].name)
    return folder / "blocks" / name[:2] / f"{name}.safetensors"


def there(folder: Path, **options: Any) -> tuple[int, int, int, int]:
    """Token blocks of alice, bob, both, and alice elsewhere that are found, each read."""
    store = opened(folder, **options)
    counts = []
    for tokens, root in ((ALICE, ROOT), (BOB, ROOT), (SHARED, ROOT), (ALICE, OTHER)):
        n = found(store, tokens, root)
        assert all(read(store, block) for block in blocks_of(tokens, root)[:n])
        counts.append(n)
    store.close()
    return counts[0], counts[1], counts[2], counts[3]


def test_ls_lists_agents_and_blocks(folder: Path) -> None:
    rows = said("ls", "--store", folder)
    found_rows = {(row["agent"], row["namespace"]): row for row in rows}
    alice = found_rows["alice", ROOT.hex()]
    assert (alice["blocks"], alice["tokens"]) == (5, 5 * 256)
    assert alice["bytes"] > 5 * BLOCK_BYTES
    assert found_rows["bob", ROOT.hex()]["blocks"] == 4
    assert found_rows["alice", OTHER.hex()]["blocks"] == 3
    assert len(said("ls", "--store", folder, "--blocks")) == 10
    assert len(said("ls", "--store", folder, "--blocks", "--agent", "bob")) == 4
    assert len(said("ls", "--store", folder, "--namespace", OTHER.hex()[:8])) == 1
    text = run("ls", "--store", folder).stdout
    assert "alice" in text
    assert "bob" in text


def test_show_says_what_a_block_is(folder: Path) -> None:
    block = blocks_of(ALICE)[1]
    (shown,) = said("show", block.name.key.hex()[:12], "--store", folder, "--tokens")
    assert (shown["lo"], shown["hi"], shown["agents"]) == (256, 512, ["alice"])
    assert shown["state"] == "whole"
    assert shown["tensors"] == [["keys", "F32", [2, 2, 256, 8]]]
    assert shown["token_ids"].split(",")[:2] == ["10256", "10257"]
    path = file_of(folder, ALICE, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (shown,) = said("show", block.name.key.hex()[:12], "--store", folder, status=1)
    assert "checksum" in shown["state"]
    path.unlink()
    (shown,) = said("show", block.name.key.hex()[:12], "--store", folder, status=1)
    assert shown["state"] == "missing"
    assert run("show", "ffffffff00", "--store", folder).exit_code == 1


def test_stats_sums_up(folder: Path) -> None:
    stats = said("stats", "--store", folder)
    assert (stats["blocks"], stats["agents"], stats["namespaces"]) == (10, 3, 2)
    assert stats["bytes"] == sum(stats["bytes_by_group"].values())
    assert (stats["processes"], stats["sealed"], stats["aside_bytes"]) == (0, False, 0)
    assert "written_today_bytes" in stats
    assert "bytes of global" in run("stats", "--store", folder).stdout


def test_verify_names_each_bad_file_and_why(folder: Path) -> None:
    assert said("verify", "--store", folder)["bad"] == []
    whole = file_of(folder, ALICE, 0).read_bytes()
    damaged = {
        file_of(folder, ALICE, 1): (whole, "another block"),
        file_of(folder, BOB, 0): (whole[:-7], "bytes, its header says"),
        file_of(folder, BOB, 1): (whole[:-7] + b"damaged", "checksum of its payload"),
        file_of(folder, SHARED, 0): (b"\0" * 4096, "header is damaged"),
        file_of(folder, SHARED, 1): (None, "missing"),
    }
    for path, (content_of, _) in damaged.items():
        if content_of is None:
            path.unlink()
        else:
            path.write_bytes(content_of)
    (folder / "blocks" / "ab").mkdir(exist_ok=True)
    (folder / "blocks" / "ab" / "abc-not-a-block.safetensors").write_bytes(b"")
    bad = {row["file"]: row["why"] for row in said("verify", "--store", folder, status=1)["bad"]}
    assert len(bad) == 6
    for path, (_, why) in damaged.items():
        assert why in bad[path.stem]
    assert len(said("verify", "--store", folder, status=1)["bad"]) == 6, "nothing was changed"
    assert len(said("verify", "--store", folder, "--repair", status=1)["bad"]) == 6
    left = said("verify", "--store", folder, status=1)["bad"]
    assert [(row["file"], row["stays"]) for row in left] == [
        ("blocks/ab/abc-not-a-block.safetensors", True)
    ]
    (folder / "blocks" / "ab" / "abc-not-a-block.safetensors").unlink()
    assert said("verify", "--store", folder)["bad"] == []
    assert there(folder) == (1, 0, 0, 3)


def test_verify_finds_what_the_catalogue_does_not_know(folder: Path) -> None:
    (folder / "catalogue.sqlite3").unlink()
    opened(folder).close()
    store = opened(folder)
    with store.catalogue.database.transaction() as run_sql:
        run_sql.execute("DELETE FROM blocks WHERE file = ?", (str(blocks_of(ALICE)[2].name),))
    store.close()
    (bad,) = said("verify", "--store", folder, status=1)["bad"]
    assert "does not know" in bad["why"]
    said("verify", "--store", folder, "--repair")
    assert there(folder) == (3, 2, 2, 3)


def test_gc_removes_what_is_of_no_use(folder: Path) -> None:
    assert said("gc", "--store", folder)["freed_bytes"] == 0
    path = file_of(folder, ALICE, 1)
    path.write_bytes(b"damaged")
    (folder / "tmp" / "0123456789abcdef-1").write_bytes(b"half")
    gone = said("gc", "--store", folder)
    assert gone["unreachable"] == 0
    store = opened(folder)
    assert not read(store, blocks_of(ALICE)[1])
    store.close()
    gone = said("gc", "--store", folder)
    assert (gone["unreachable"], gone["aside_bytes"]) == (1, 7)
    assert list((folder / "tmp").iterdir()) == list((folder / "aside").iterdir()) == []
    assert there(folder) == (1, 2, 2, 3)
    assert said("gc", "--store", folder, "--older-than", "1h")["old"] == 0
    assert said("gc", "--store", folder, "--max", 4 * BLOCK_BYTES)["evicted"] == 5
    assert said("stats", "--store", folder)["bytes"] <= 4 * BLOCK_BYTES


def test_forget_removes_for_good(folder: Path) -> None:
    secret = content(blocks_of(ALICE)[0].name.key)[:64]
    assert said("forget", "--store", folder, "--agent", "alice", "--dry-run")["blocks"] == 6
    assert there(folder) == (3, 2, 2, 3)
    assert said("forget", "--store", folder, "--agent", "alice")["blocks"] == 6
    assert there(folder) == (0, 2, 2, 0)
    tokens = TokenIds(ALICE[:256]).tobytes()
    for path in folder.rglob("*"):
        if path.is_file():
            left = path.read_bytes()
            assert not [word for word in (secret, tokens, b"alice") if word in left], path
    assert run("forget", "--store", folder, "--agent", "alice").exit_code == 1
    assert said("forget", "--store", folder, "--agent", "bob")["blocks"] == 4
    assert there(folder) == (0, 0, 0, 0)


def test_forget_by_namespace_and_age(folder: Path) -> None:
    assert said("forget", "--store", folder, "--namespace", OTHER.hex()[:10])["blocks"] == 3
    assert there(folder) == (3, 2, 2, 0)
    assert said("forget", "--store", folder, "--older-than", "1h", status=1)["blocks"] == 0
    store = opened(folder)
    with store.catalogue.database.transaction() as run:
        files = [(str(block.name),) for block in blocks_of(BOB)]
        run.executemany("UPDATE blocks SET used_at = 1000000000 WHERE file = ?", files)
    store.close()
    assert said("forget", "--store", folder, "--older-than", "30d")["blocks"] == 2
    assert there(folder) == (3, 0, 2, 0)


@pytest.mark.parametrize("source_key", [None, KEY], ids=["plain", "sealed"])
def test_export_and_import_carry_blocks_and_their_users(
    source_key: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, archive, target = tmp_path / "a", tmp_path / "kv.tar", tmp_path / "b"
    filled(folder, key=source_key)
    if source_key:
        assert run("export", archive, "--store", folder).exit_code == 2
        monkeypatch.setenv(KEY_VARIABLE, source_key.hex())
    assert said("export", archive, "--store", folder)["blocks"] == 10
    assert archive.stat().st_mode & 0o77 == 0
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "key"
    file.write_text(KEY[::-1].hex() + "\n")
    sealed = ("--key-file", file)
    assert said("import", archive, "--store", target, *sealed)["blocks"] == 10
    again = said("import", archive, "--store", target, *sealed)
    assert (again["blocks"], again["known"]) == (0, 10)
    assert there(target, key=KEY[::-1]) == (3, 2, 2, 3)
    assert len(said("ls", "--store", target, *sealed)) == 3
    assert said("forget", "--store", target, "--agent", "alice", *sealed)["blocks"] == 6
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    block = blocks_of(ALICE)[0]
    array = load_file(tmp_path / "out" / f"{block.name}.safetensors")["keys"]
    assert array.tobytes() == content(block.name.key)
    for left in (folder, target, tmp_path):
        assert not list(left.glob(".*port-*"))


def test_what_is_wrong_with_an_archive_is_said(folder: Path, tmp_path: Path) -> None:
    archive, target = tmp_path / "kv.tar", tmp_path / "b"
    said("export", archive, "--store", folder, "--agent", "bob")
    whole = archive.read_bytes()
    at = whole.index(content(blocks_of(BOB)[0].name.key))
    archive.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    carried = said("import", archive, "--store", target, status=1)
    assert carried["blocks"] == 3
    ((name, why),) = carried["bad"]
    assert name == str(blocks_of(BOB)[0].name)
    assert "checksum" in why
    for wrong in (b"", b"no archive", whole[: len(whole) // 2]):
        archive.write_bytes(wrong)
        done = run("import", archive, "--store", target)
        assert (done.exit_code, "archive" in done.stderr) == (2, True), done.output
    assert run("import", tmp_path / "nix.tar", "--store", target).exit_code == 2


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (None, "manifest.json"),
        ({"format": "x", "version": 1, "blocks": []}, "no archive of a store"),
        ({"format": "semantic-store-archive", "version": 2, "blocks": []}, "is of version 2"),
        ([], "its manifest.json is damaged"),
        ({**ARCHIVE, "blocks": [{"name": "ab", "agents": "abc"}]}, "its manifest.json is damaged"),
        ({**ARCHIVE, "blocks": [{"name": "ab", "agents": [1]}]}, "its manifest.json is damaged"),
        ({**ARCHIVE, "blocks": [{"name": "ab", "agents": ["\ud800"]}]}, "manifest.json is damaged"),
        ({**ARCHIVE, "blocks": [{"name": 7, "agents": []}]}, "its manifest.json is damaged"),
        ({**ARCHIVE, "blocks": [{"name": "ab"}]}, "no archive of a store: agents"),
        ("[" * 100_000, "its manifest.json is damaged"),
    ],
)
def test_what_is_no_manifest_is_said_in_a_line(
    manifest: Any, why: str, folder: Path, tmp_path: Path
) -> None:
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    with tarfile.open(tmp_path / "kv.tar", "w") as tar:
        info = tarfile.TarInfo("else" if manifest is None else "manifest.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    done = run("import", tmp_path / "kv.tar", "--store", folder)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr


@pytest.mark.parametrize("packed", [b"a text\n" * 200, gzip.compress(b"x" * 10_000, mtime=0)[:-9]])
def test_what_is_no_archive_is_said_in_a_line(packed: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kv.tar").write_bytes(packed)
    done = run("import", tmp_path / "kv.tar", "--store", folder)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "is no archive of a store" in done.stderr


def test_an_archive_that_is_not_there_makes_no_store(tmp_path: Path) -> None:
    assert run("import", tmp_path / "none.tar", "--store", tmp_path / "new").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_bad_block_of_an_archive_is_named_by_itself(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kv.tar"
    run("export", archive, "--store", folder)
    data = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        member = tar.getmembers()[0]
    data[member.offset_data + member.size - 1] ^= 1
    archive.write_bytes(data)
    (bad,) = said("import", archive, "--store", tmp_path / "new", status=1)["bad"]
    assert bad == [member.name.removesuffix(".safetensors"), "the checksum of its payload is wrong"]


def test_export_replaces_files_alone(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o755)
    os.mkfifo(tmp_path / "pipe")
    for target in (place, tmp_path / "pipe"):
        done = run("export", target, "--store", folder)
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert "it is no file" in done.stderr
    assert list(place.iterdir()) == []
    assert place.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "pipe").is_fifo()
    (place / "old.tar").write_bytes(b"old")
    (tmp_path / "link.tar").symlink_to(place / "old.tar")
    assert run("export", tmp_path / "link.tar", "--store", folder).exit_code == 0
    assert (tmp_path / "link.tar").is_symlink()
    assert [file.name for file in place.iterdir()] == ["old.tar"]
    assert tarfile.is_tarfile(place / "old.tar")
    assert (place / "old.tar").stat().st_mode & 0o777 == 0o600


def test_one_block_that_cannot_be_read_does_not_stop_an_export(
    folder: Path, tmp_path: Path
) -> None:
    file = file_of(folder, ALICE, 1)
    file.unlink()
    file.mkdir()
    (bad,) = said("export", tmp_path / "kv.tar", "--store", folder, status=1)["bad"]
    assert bad[0] == file.stem
    assert "no regular file" in bad[1]
    with tarfile.open(tmp_path / "kv.tar") as tar:  # a manifest, and all but one
        assert len(tar.getnames()) == len(said("ls", "--blocks", "--store", folder))


def test_what_is_there_already_makes_no_room(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kv.tar"
    n_blocks = said("export", archive, "--store", folder)["blocks"]
    before = said("ls", "--blocks", "--store", folder)
    again = said("import", archive, "--store", folder, "--max", f"{n_blocks * 40}KB")
    assert (again["blocks"], again["known"], again["bad"]) == (0, n_blocks, [])
    after = said("ls", "--blocks", "--store", folder)
    assert {row["file"] for row in after} == {row["file"] for row in before}


def test_the_limit_of_an_import_is_that_ones_alone(folder: Path, tmp_path: Path) -> None:
    archive, target = tmp_path / "kv.tar", tmp_path / "new"
    n_blocks = said("export", archive, "--store", folder)["blocks"]
    some = said("import", archive, "--store", target, "--max", "100KB", status=1)
    assert 0 < some["blocks"] < n_blocks
    rest = said("import", archive, "--store", target)
    assert (rest["blocks"], rest["known"]) == (n_blocks - some["blocks"], some["blocks"])


def test_what_was_asked_for_and_is_not_there_ends_with_1(folder: Path) -> None:
    assert said("ls", "--store", folder, "--agent", "nobody", status=1) == []
    assert said("ls", "--blocks", "--store", folder, "--agent", "nobody", status=1) == []
    assert said("ls", "--store", folder, "--namespace", "ffff", status=1) == []
    forgotten = said("forget", "--store", folder, "--agent", "nobody", status=1)
    assert (forgotten["blocks"], forgotten["shared"]) == (0, 0)


def test_several_agents_are_forgotten_at_once(folder: Path) -> None:
    both = ("--agent", "alice", "--agent", "bob")
    n_blocks = len(said("ls", "--blocks", "--store", folder))
    tried = said("forget", "--store", folder, *both, "--dry-run")
    assert (tried["blocks"], tried["shared"]) == (n_blocks, 0)
    assert said("forget", "--store", folder, *both)["blocks"] == n_blocks
    assert said("ls", "--blocks", "--store", folder) == []


def test_a_table_in_a_pipe_has_whole_names_and_a_line_for_each_row(folder: Path) -> None:
    rows = said("ls", "--blocks", "--store", folder)
    shown = run("ls", "--blocks", "--store", folder).stdout
    assert all(shown.count(f"{row['key'][:12]} ") >= 1 for row in rows)
    assert "\u2026" not in shown
    keys = {row["key"][:12] for row in rows}
    assert sum(
        line.split("\u2502")[1].strip() in keys for line in shown.splitlines() if "\u2502" in line
    ) == len(rows)
    token_ids = run("show", rows[0]["key"], "--tokens", "--store", folder).stdout
    assert (
        ",".join(str(token) for token in blocks_of(ALICE)[0].tokens.tolist()[:5])
        in said("show", str(blocks_of(ALICE)[0].name.key.hex()), "--tokens", "--store", folder)[0][
            "token_ids"
        ]
    )
    assert "\u2026" not in token_ids


def test_nothing_is_not_exported(folder: Path, tmp_path: Path) -> None:
    done = run("export", tmp_path / "kv.tar", "--store", folder, "--agent", "nobody")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "kv.tar").exists()


def test_an_archive_cannot_write_outside_of_the_store(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("../../escaped", "/etc/escaped"):
            file = tmp_path / "x"
            manifest = {
                "format": "semantic-store-archive",
                "version": 1,
                "blocks": [{"name": name, "agents": []}],
            }
            file.write_text(json.dumps(manifest))
            tar.add(file, "manifest.json")
            tar.add(file, f"{name}.safetensors")
    carried = said("import", archive, "--store", tmp_path / "b", status=1)
    assert "names no block" in carried["bad"][0][1]
    assert not list(tmp_path.rglob("escaped*"))


def test_wrong_use_is_one_line(folder: Path, tmp_path: Path) -> None:
    for arguments in (
        ("ls", "--store", tmp_path / "nix"),
        ("verify", "--store", folder, "--key-file", tmp_path / "nix"),
        ("forget", "--store", folder),
        ("forget", "--store", folder, "--older-than", "soon"),
        ("forget", "--store", folder, "--older-than", "3d", "--agent", "a"),
        ("gc", "--store", folder, "--max", "lots"),
        ("export", tmp_path / "no" / "kv.tar", "--store", folder),
    ):
        done = run(*arguments)
        assert done.exit_code == 2, arguments
        assert "Traceback" not in done.output
    (tmp_path / "key").write_text("no key")
    done = run("ls", "--store", folder, "--key-file", tmp_path / "key")
    assert "64 hexadecimal digits" in done.stderr
    assert there(folder) == (3, 2, 2, 3)
