"""Numbers, sizes, rates, counts and tables as words."""

from __future__ import annotations

import pytest

from harness.core import words


@pytest.mark.parametrize(("count", "text"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells"), (1000, "1,000 cells")])
def test_a_count_agrees_with_its_noun(count: int, text: str) -> None:
    assert words.counted(count, "cell") == text


def test_a_plural_in_the_middle_of_a_noun_is_given() -> None:
    assert words.counted(2, "set of 2 CPU cores", "sets of 2 CPU cores") == "2 sets of 2 CPU cores"
    assert words.counted(1, "set of 2 CPU cores", "sets of 2 CPU cores") == "1 set of 2 CPU cores"


def test_a_share_and_a_change_of_the_same_number_are_two_things() -> None:
    assert words.share_in_percent(1.05) == "105 %"
    assert words.change_in_percent(1.05) == "+5.0 %"
    assert words.change_in_percent(0.98) == "-2.0 %"
    assert words.change_in_percent(69.19) == "69.2x"
    assert [words.share_in_percent(share) for share in (0.0136, 0.25, 0.999)] == ["1.4 %", "25 %", "100 %"]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (12, "12 bytes"), (4096, "4 KiB"), (1023 * 2**20, "1,023 MiB"), (79.25 * 2**30, "79.2 GiB")],
)
def test_memory_is_written_in_binary_units(num_bytes: float, text: str) -> None:
    assert words.memory_size(num_bytes) == text


def test_links_are_written_in_bytes_and_networks_in_bits() -> None:
    assert words.bandwidth(3.125e9, digits=4) == "3.125 GB/s"
    assert words.bandwidth(3.125e9) == "3.12 GB/s"
    assert words.bandwidth(5e5) == "500 kB/s"
    assert words.bit_rate(3.125e9) == "25 Gb/s"


@pytest.mark.parametrize(
    ("value", "measured", "configured"),
    [(20, "20.0", "20"), (1 / 3, "0.333", "0.333"), (999.6, "1,000", "1,000"), (1234.5, "1,234", "1,234")],
)
def test_measured_numbers_keep_their_zeros_and_configured_ones_do_not(
    value: float, measured: str, configured: str
) -> None:
    assert words.three(value) == measured
    assert words.figure(value) == configured


@pytest.mark.parametrize(("count", "text"), [(7.24e9, "7.24B"), (1.5e6, "1.5M"), (2e3, "2k"), (12, "12")])
def test_parameters_are_counted_as_models_are_named(count: float, text: str) -> None:
    assert words.parameters(count) == text


def test_a_time_can_be_written_with_fewer_digits() -> None:
    assert words.exact_duration(1.23456e-6, digits=3) == "1.23 us"
    assert words.exact_duration(1.23456e-6) == "1.23456 us"


def test_what_was_not_measured_is_empty() -> None:
    assert [words.recorded(value) for value in (None, 0, 0.1234567, "ok")] == ["", "0", "0.123457", "ok"]


def test_columns_stand_below_each_other() -> None:
    rows = [("rows", "p95"), ("a", "1.00"), ("longer", "12.00")]
    assert words.aligned(rows, right=(1,)) == ["rows      p95", "a        1.00", "longer  12.00"]
    assert words.aligned([]) == []
    assert words.table(("a", "b"), [("long", "")]) == "a     b\nlong"


@pytest.mark.parametrize(("names", "text"), [((), ""), (("a",), "a"), (("a", "b", "c"), "a, b and c")])
def test_names_are_listed(names: tuple[str, ...], text: str) -> None:
    assert words.listed(names) == text
