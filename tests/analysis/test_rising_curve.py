"""When a curve that wobbles crosses a level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy import lazy

from harness.analysis.rising_curve import crossing

optimize = lazy("scipy.optimize")


def test_a_straight_line_over_the_logarithm_is_crossed_where_it_is() -> None:
    x = [100.0, 200.0, 400.0, 800.0]
    assert crossing(x, [0.2, 0.4, 0.6, 0.8], 0.5) == pytest.approx(math.sqrt(200 * 400))
    assert crossing(x, [0.2, 0.4, 0.6, 0.8], 0.6) == pytest.approx(400)


def test_a_dip_is_averaged_with_what_it_follows() -> None:
    # 0.9 and 0.7 become two of 0.8 around 283 samples; the level lies between 0.5 and 0.8.
    assert crossing([100, 200, 400, 800], [0.5, 0.9, 0.7, 0.95], 0.65) == pytest.approx(100 * math.sqrt(math.sqrt(8)))


def test_a_level_that_is_never_met_is_crossed_nowhere_and_one_below_all_at_once() -> None:
    assert crossing([100, 200], [0.1, 0.2], 0.5) is None
    assert crossing([100, 200], [0.1, 0.2], 0.0) == pytest.approx(100)
    assert crossing([], [], 0.5) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0, 1))
def test_it_is_the_isotonic_fit_of_scipy(y: list[float], level: float) -> None:
    x = [100.0 * 2**k for k in range(len(y))]
    fit = optimize.isotonic_regression(y).x
    found = crossing(x, y, level)
    if fit.max() < level - 1e-9:
        assert found is None
    elif fit.max() >= level + 1e-9:
        first = int(np.argmax(fit >= level + 1e-9))
        last = int(np.flatnonzero(np.abs(fit - fit[first]) < 1e-9)[-1])
        assert found is not None
        assert x[0] <= found <= x[last] * (1 + 1e-9)
