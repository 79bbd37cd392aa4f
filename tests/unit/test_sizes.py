from __future__ import annotations

import pytest

from semantic.cli.sizes import format_size, parse_size, short_size
from semantic.domain.errors import PoolConfigurationError, SemanticError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1048576", 1048576),
        ("1", 1),
        ("17B", 17),
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("8gb", 8 * 10**9),
        ("8gib", 8 * 2**30),
        ("512MB", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        ("1.5kB", 1500),
        ("2 TiB", 2 * 2**40),
        (" 3TB ", 3 * 10**12),
        ("0.5KiB", 512),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_a_size_is_read_exactly(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("0", "0 bytes"),
        ("0GB", "0 bytes"),
        ("0.0", "0 bytes"),
        ("-1", "positive"),
        ("-8GB", "positive"),
        ("abc", "not a number and a unit"),
        ("GB", "not a number and a unit"),
        ("nan", "not a number and a unit"),
        ("inf", "not a number and a unit"),
        ("1e400", "not a number and a unit"),
        ("1e3", "not a number and a unit"),
        ("8 G B", "not a number and a unit"),
        ("8GB8", "not a number and a unit"),
        (".5GB", "not a number and a unit"),
        ("8.GB", "not a number and a unit"),
        ("1,5GB", "not a number and a unit"),
        ("٨GB", "not a number and a unit"),
        ("8G", "'G' is no unit"),
        ("8XB", "'XB' is no unit"),
        ("1.5", "no whole number of bytes"),
        ("0.1B", "no whole number of bytes"),
        ("9223372036854775808", "2^63 - 1"),
        ("99999999999TB", "2^63 - 1"),
        ("1" + "0" * 5000, "2^63 - 1"),
    ],
)
def test_what_is_no_size_is_refused_with_its_reason_and_what_is_accepted(
    text: str, why: str
) -> None:
    with pytest.raises(PoolConfigurationError) as caught:
        parse_size(text)
    assert why in str(caught.value)
    assert "8GiB" in str(caught.value)
    assert caught.value.__dict__["text"] == text
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SemanticError)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (-1500, "-1.50 kB"),
        (1_310_720, "1.31 MB"),
        (8 * 10**9, "8.00 GB"),
        (5 * 10**15, "5000.00 TB"),
    ],
)
def test_a_size_is_written_for_readers(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (603_979_776, "604 MB"),
        (13_761_264_768, "13.8 GB"),
        (1 << 62, "4611686 TB"),
    ],
)
def test_three_digits_for_a_table(size_bytes: int, text: str) -> None:
    assert short_size(size_bytes) == text
