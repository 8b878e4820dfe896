"""Turning points of two laws of which the crossing is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.flips import LINK_KEYS, SPEED_KEY, Side, flip_points

NODES, BUS = LINK_KEYS


def law(compute_s: float, num_bytes: float, configured: Mapping[str, float]) -> Callable[[Mapping[str, float]], float]:
    """A step computes, which devices twice as fast halve, and sends, which a link twice as fast halves."""

    def step_s(overrides: Mapping[str, float]) -> float:
        slower = configured[SPEED_KEY] / overrides.get(SPEED_KEY, configured[SPEED_KEY])
        return compute_s * slower + num_bytes / overrides.get(NODES, configured[NODES])

    return step_s


def side(name: str, compute_s: float, num_bytes: float, bandwidth: float = 1e9) -> Side:
    configured = {NODES: bandwidth, SPEED_KEY: 100.0}
    step_s = law(compute_s, num_bytes, configured)
    return Side(name, step_s({}), step_s, configured)


def test_a_link_too_slow_and_too_little_work_make_the_one_that_sends_less_win() -> None:
    # 0.1 + 0.2 s against 1.0 + 0 s: level where 0.2 GB / b = 0.9 s, and where 0.1 k + 0.2 = 1.0 k
    found = flip_points(side("split", 0.1, 2e8), side("one", 1.0, 0.0))
    assert found == (
        "split stays ahead while the link between nodes is above 1.78 Gb/s (configured: 8 Gb/s). "
        "Otherwise one is faster.",
        "split stays ahead while a step has at least 0.222x its present work. Otherwise one is faster.",
    )


def test_the_one_that_sends_less_wins_below_a_bandwidth() -> None:
    found = flip_points(side("one", 1.0, 0.0), side("split", 0.1, 2e9))
    assert found == (
        "one stays ahead while the link between nodes is below 17.8 Gb/s (configured: 8 Gb/s). "
        "Otherwise split is faster.",
        "one stays ahead while a step has at most 2.22x its present work. Otherwise split is faster.",
    )


def test_what_nothing_turns_is_said() -> None:
    assert flip_points(side("less", 0.1, 1e8), side("more", 0.2, 2e8)) == (
        "less stays ahead of more at any bandwidth between nodes (configured: 8 Gb/s).",
        "less stays ahead of more with any amount of work per step.",
    )


def test_records_decide_who_wins_and_predictions_only_what_changes() -> None:
    slow = side("split", 0.1, 2e8)
    recorded = Side("split", slow.seconds * 2, slow.predict, slow.configured)
    # Its steps take twice what is predicted: level where 2 (0.1 + 0.2 GB / b) = 1.0 s
    assert "above 4 Gb/s" in flip_points(recorded, side("one", 1.0, 0.0))[0]


def test_level_ones_have_no_turning_point() -> None:
    assert flip_points(side("a", 0.1, 1e8), side("b", 0.1, 1e8)) == ()


def test_a_cell_without_links_is_not_asked_about_them() -> None:
    one = Side("one", 1.0, lambda overrides: 1.0 if not overrides else 1 / 0, {})
    assert flip_points(one, side("split", 0.1, 2e9))[0].startswith(
        "one stays ahead while the link between nodes is below"
    )


@given(
    compute=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), sent=st.tuples(st.floats(1e6, 1e9), st.floats(1e6, 1e9))
)
def test_at_the_bandwidth_that_is_told_both_take_as_long(
    compute: tuple[float, float], sent: tuple[float, float]
) -> None:
    first, second = sorted(
        (side(n, c, b) for n, c, b in zip("ab", compute, sent, strict=True)), key=lambda s: s.seconds
    )
    found = flip_points(first, second)
    told = re.search(r"is (?:above|below) ([\d.,]+) Gb/s", found[0]) if found else None
    if told:
        at = float(told[1].replace(",", "")) * 1e9 / 8
        costs = [s.cost({NODES: at / 1e9}) for s in (first, second)]
        # Three digits are written: what is sent changes with the fourth.
        assert costs[0] == pytest.approx(costs[1], rel=0.02)
