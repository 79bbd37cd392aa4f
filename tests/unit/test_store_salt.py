"""The salt of a server's store: from a file, else from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from semantic import PoolConfigurationError
from semantic.adapters.store.sealing import SALT_VARIABLE, read_salt
from semantic.cli.main import main


def test_a_salt_is_the_text_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SALT_VARIABLE, raising=False)
    assert read_salt(None) == ""
    monkeypatch.setenv(SALT_VARIABLE, " from outside ")
    assert read_salt(None) == "from outside"
    file = tmp_path / "salt"
    file.write_text("Zürich, secret\n", encoding="utf-8")
    assert read_salt(file) == "Zürich, secret"


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b" \n", "is empty"), (b"\xff\xfe", "UTF-8")]
)
def test_what_holds_no_salt_is_refused(content: bytes | None, why: str, tmp_path: Path) -> None:
    """Else a mistake would let a tenant read what has no salt."""
    file = tmp_path / "salt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PoolConfigurationError, match=why):
        read_salt(file)


def test_a_salt_without_a_store_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["semantic", "serve", "--store-salt-file", "salt"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "need --store" in capsys.readouterr().err
