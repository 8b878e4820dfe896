"""Over- and underfitting, told by train against validation."""

from __future__ import annotations

import math

import pytest

from harness.analysis.overfit import fitting

FALLING = [2.0, 1.0, 0.5, 0.3, 0.2, 0.1]


@pytest.mark.parametrize(
    ("training", "validation", "final", "found"),
    [
        (FALLING, [2.0, 1.0, 0.9, 1.2, 1.3, 1.4], 0.1, "overfit"),
        (FALLING, [2.0, 1.0, 0.9, 0.95, 0.93, 0.97], 0.1, "fits"),  # above its lowest by less than a tenth
        (FALLING, [2.0, 1.0, 0.9, 1.2, 0.9, 1.3], 0.1, "fits"),  # it wobbles
        (FALLING, [2.0, 1.0, 0.6, 0.5, 0.5, 0.5], 0.1, "fits"),
        ([2.2, 2.1, 2.0, 2.0], [2.2, 2.1, 2.0, 2.0], 2.0, "underfit"),
        ([2.0, 0.5, 1.0, 1.3, 1.5], [2.0, 0.6, 1.2, 1.5, 1.7], 1.5, "underfit"),  # both worse: the rate is too large
        ([None, 1.0, 0.5, 0.1], [0.9, 1.0, 1.1, 1.2], 0.1, "fits"),  # no training loss where validation was lowest
        (FALLING, [2.0, 1.0, 0.9, 1.2, 1.3, None], 0.1, None),
        (FALLING, [2.0, 1.0, 0.9, 1.2, 1.3, math.nan], 0.1, None),
        (FALLING, [2.0, 1.0, 0.9, 1.2, 1.3, 1.4], None, None),
        ([2.0, 1.0], [2.0, 1.0], 1.0, None),
        ([], [], 1.0, None),
    ],
)
def test_a_run_that_went_on_falling_while_validation_rose_has_overfitted(training, validation, final, found):
    assert fitting(training, validation, final, 2.3) == found
    assert fitting(training, validation, final, None) is None


def test_a_run_that_oscillates_has_not_overfitted():
    validation = [2.0, 1.0, 0.9, 1.2, 1.3, 1.4]
    assert fitting(FALLING, validation, 0.1, 2.3, "good") == "overfit"
    assert fitting(FALLING, validation, 0.1, 2.3, "oscillating") is None
    assert fitting(FALLING, validation, 0.1, 2.3, "diverged") is None
