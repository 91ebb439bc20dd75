"""Sizes: binary units, exact, and no number that overflows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.errors import ConfigError
from trainable.units import (
    GIB,
    KIB,
    LARGEST,
    LEAST_BARE_BYTES,
    MIB,
    TIB,
    exact_bytes,
    format_bytes,
    parse_bytes,
    parse_duration,
)

UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1B", 1),
        ("1048576", 2**20),
        (" 24GiB ", 24 * 2**30),
        ("0.5 MiB", 2**19),
        ("7.45 GiB", 7_999_376_588),  # 7.45 · 2³⁰ = 7,999,376,588.8
        ("1TiB", 2**40),
        ("1152921504606846975", 2**60 - 1),
    ],
)
def test_sizes_worked_by_hand(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@given(st.integers(LEAST_BARE_BYTES, LARGEST))
def test_whole_bytes_are_exact(size_bytes: int) -> None:
    assert parse_bytes(str(size_bytes)) == size_bytes


@given(st.integers(1, 1000), st.sampled_from(sorted(UNITS)))
def test_a_shown_size_is_read_back_to_three_digits(number: int, unit: str) -> None:
    size_bytes = number * UNITS[unit]
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.006)


UNTYPICAL = ("", " ", "0", "0GiB", "0.0001B", "-3GiB", "much", "1e9", "nan", "inf", "3 GB", "3gb", "3 GiB 4", "1_000")
TOO_LARGE = ("9" * 400, "9" * 400 + "TiB", "0." + "1" * 5000, "2097153 TiB")


@pytest.mark.parametrize("text", [*UNTYPICAL, *TOO_LARGE, "٣GiB", "1\n2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^size ") as caught:
        parse_bytes(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("24", "24GiB"),
        ("0.5", "0.5GiB"),
        ("8192", "8192MiB"),
        ("24GB", "24GiB"),
        ("24gib", "24GiB"),
        ("512m", "512MiB"),
    ],
)
def test_what_was_meant_is_offered(text: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--budget '{text}' .*{meant}"):
        parse_bytes(text, "--budget")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("90m", 5400),
        ("90min", 5400),
        ("1h30m", 5400),
        ("2d4h", 187_200),
        (" 1h 30m 5s ", 5405),
        ("0.5h", 1800),
    ],
)
def test_durations_worked_by_hand(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "1h30", "30m1h", "1h1h", "h", "-5m", "1w", "soon", "1e3", "٣m", "1:30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--time-limit is .*for example 90s, 30m, 1h30m, 2d4h"):
        parse_duration(text, "--time-limit")


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size_bytes = parse_bytes(text)
    except ConfigError:
        return
    assert 1 <= size_bytes <= LARGEST


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (10 * MIB, "10.0 MiB"), (100 * GIB, "100 GiB")],
)
def test_sizes_are_shown_in_binary_units(size_bytes: int, shown: str) -> None:
    assert format_bytes(size_bytes) == shown


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(24 * GIB, "24GiB"), (1536 * MIB, "1536MiB"), (1000, "1000B"), (GIB + 1, "1073741825B")]
)
def test_exact_sizes_are_read_back_to_the_byte(size_bytes: int, text: str) -> None:
    assert exact_bytes(size_bytes) == text
    assert parse_bytes(text) == size_bytes
