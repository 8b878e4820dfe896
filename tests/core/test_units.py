"""Quantities: what is accepted, what is refused with which words, and that printing loses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import units, words

AMOUNTS = st.floats(min_value=1e-6, max_value=1e18, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("25 Gb/s", 3.125e9), ("3.1 GB/s", 3.1e9), ("800 MiB/s", 800 * 2**20), ("8 b/s", 1.0), ("100 Gbit/s", 12.5e9)],
)
def test_rates_are_bytes_per_second_and_small_b_means_bits(text: str, expected: float) -> None:
    assert units.parse_rate(text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("text", "expected"), [("16 GB", 16e9), ("16 GiB", 16 * 2**30), ("1.5kB", 1500), ("7 B", 7)])
def test_sizes_are_bytes(text: str, expected: float) -> None:
    assert units.parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 us", 3e-6),
        ("312 ms", 0.312),
        ("15 min", 900),
        ("2 h", 7200),
        ("1e-3 s", 1e-3),
        (".5 s", 0.5),
        ("3 µs", 3e-6),
    ],
)
def test_times_are_seconds(text: str, expected: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    "value", ["", "15", 15, 1.5, True, None, [], "min", "-3 s", "3 s s", "nan s", "inf s", "1e999 s"]
)
def test_what_is_no_time_is_refused_with_the_accepted_forms(value: object) -> None:
    with pytest.raises(ValueError, match='a time such as "3 us"'):
        units.parse_seconds(value)


def test_a_unit_of_another_quantity_is_named() -> None:
    with pytest.raises(ValueError, match="'s' is not one of these units"):
        units.parse_bytes("3 s")


def test_the_case_of_b_is_asked_for_where_it_is_ambiguous() -> None:
    with pytest.raises(ValueError, match="did you mean GB/s or Gb/s"):
        units.parse_rate("25 gb/s")


@given(AMOUNTS)
def test_a_printed_time_is_read_back(seconds: float) -> None:
    assert units.parse_seconds(words.exact_duration(seconds)) == pytest.approx(seconds, rel=1e-11)


@given(AMOUNTS)
def test_a_printed_rate_is_read_back(rate: float) -> None:
    assert units.parse_rate(words.exact_bandwidth(rate)) == pytest.approx(rate, rel=1e-11)


@given(st.integers(min_value=1, max_value=2**60))
def test_a_printed_size_is_read_back(num_bytes: int) -> None:
    assert units.parse_bytes(words.exact_size(num_bytes)) == pytest.approx(num_bytes, rel=1e-11)


@given(st.integers(min_value=1, max_value=1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_whole_binary_sizes_stay_binary(count: int, unit: str) -> None:
    text = f"{count} {unit}"
    assert words.exact_size(units.parse_bytes(text)) == text


@given(AMOUNTS)
def test_a_bit_is_an_eighth_of_a_byte(amount: float) -> None:
    bits = units.parse_rate(f"{amount!r} Gb/s")
    assert units.parse_rate(f"{amount!r} GB/s") == pytest.approx(8 * bits, rel=1e-12)


def test_zero_is_printed_in_the_plain_unit() -> None:
    assert words.exact_duration(0) == "0 s"
    assert words.exact_size(0) == "0 B"
