"""Runs that took turns: pairs say how sure a ratio is, drift does not touch it, and a slower side is the code's."""

from __future__ import annotations

import math

import pytest
from compared_cells import STEP_S, cell
from lazy import lazy

from harness.analysis.compare_words import ratios_in_words
from harness.analysis.compared import ChangeKind, Verdict

compare = lazy("harness.analysis.compare")
interleaved = lazy("harness.analysis.interleaved")

PAIRS = [0.10, 0.11, 0.09, 0.10, 0.10]


def test_the_scatter_of_all_points_says_how_sure_each_is() -> None:
    found = interleaved.ratios_of_pairs({"a": PAIRS, "b": [0.0, 0.02]})
    assert found["a"].value == pytest.approx(math.exp(0.1))
    squares = 2e-4 + 2e-4
    assert found["a"].degrees == found["b"].degrees == 5
    assert found["a"].error == pytest.approx(math.sqrt(squares / 5 / 5))
    assert found["b"].error == pytest.approx(math.sqrt(squares / 5 / 2))


def test_too_few_pairs_say_nothing() -> None:
    assert interleaved.ratios_of_pairs({}) == {}
    assert interleaved.ratios_of_pairs({"a": [0.1], "b": [0.2], "c": []}) == {}
    assert interleaved.ratios_of_pairs({"a": [0.1, 0.1, 0.1]}) == {}


def test_a_burst_is_drawn_in_where_the_usual_scatter_is_known() -> None:
    quiet = {point: [0.01 * k for k in (-1, 0, 1, 0, -1, 1)] for point in "abc"}
    loud = quiet | {"a": [*quiet["a"][:-1], 0.5]}
    assert math.log(interleaved.ratios_of_pairs(loud)["a"].value) < 0.02
    assert interleaved.ratios_of_pairs(loud)["b"].error < 0.02


def test_what_is_slower_in_turns_is_a_regression_though_the_machine_drifted() -> None:
    drift = [1.0, 1.2, 0.9, 1.4, 1.1]
    base, new = ([cell(s, k, STEP_S * f * d) for s in "ab" for k, d in enumerate(drift)] for f in (1.0, 1.1))
    noisy = [cell(c.point, c.seed, c.row["step_time_s"] * (1 + 0.002 * (c.seed % 3))) for c in new]
    assert compare.compare(base, noisy).verdict is Verdict.NO_REGRESSION
    found = compare.compare(base, noisy, interleaved=True)
    assert (found.verdict, {f.kind for f in found.findings}) == (Verdict.REGRESSION, {ChangeKind.REGRESSION})
    lines = ratios_in_words(found)
    assert len(lines) == 2
    assert all("+10.2 %, 97.5 % interval +" in line for line in lines)


def test_one_pair_of_a_point_is_a_suspect_at_most() -> None:
    steps = [STEP_S * (1 + 0.001 * (k % 3)) for k in range(60)]
    base, new = cell(steps_s=steps), cell(step_s=1.5 * STEP_S, steps_s=[1.5 * s for s in steps])
    assert compare.compare([base], [new], interleaved=True).verdict is Verdict.SUSPECT
