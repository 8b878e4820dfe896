"""Change points: a step is found where it is, noise and loud nights are none, and the machine's are told apart."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
from lazy import lazy

from harness.analysis.change_points import FIRST_NIGHTS, WARM_UP, change_points, machine_steps, threshold

np = lazy("numpy")

NIGHTS, AT = 40, 22


def noise(seed: int, sd: float = 0.01, nights: int = NIGHTS) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(0, sd) for _ in range(nights)]


def stepped(seed: int, size: float = 0.07, at: int = AT, sd: float = 0.01) -> list[float]:
    return [value + (size if night >= at else 0) for night, value in enumerate(noise(seed, sd))]


def drift(seed: int) -> list[float]:
    draw, level, found = random.Random(seed), 0.0, []
    for night in range(NIGHTS):
        level += draw.gauss(0, 0.006)
        found.append(level + 0.03 * math.sin(2 * math.pi * night / 30 + seed))
    return found


@pytest.mark.parametrize("size", [0.07, -0.07])
def test_a_step_is_found_at_the_second_night_where_it_is(size: float) -> None:
    found = [change_points(stepped(seed, size)[: AT + 2], 4.0) for seed in range(20)]
    assert sum(len(steps) == 1 for steps in found) >= 19
    (first,) = found[0]
    assert first.seen == AT + 1
    assert abs(first.place - AT) <= 1
    assert first.earliest <= AT <= first.latest
    assert first.change == pytest.approx(size, abs=0.02)


def test_what_a_change_comes_to_is_read_over_all_nights_since() -> None:
    (step,) = change_points(stepped(0), 4.0)
    assert step.change == pytest.approx(0.07, abs=0.008)


def test_noise_alone_raises_hardly_an_alarm() -> None:
    assert sum(len(change_points(noise(seed, nights=200), 4.0)) for seed in range(10)) <= 4


@pytest.mark.parametrize(
    "loud", [[20], [20, 27], [20, 21]], ids=["one", "two", "two in a row, of which one comes back"]
)
def test_loud_nights_are_no_step(loud: Sequence[int]) -> None:
    values = noise(1)
    for night in loud[:1]:
        values[night] += 0.3
    for night in loud[1:]:
        values[night] += 0.012
    assert change_points(values, 4.0) == []


def test_a_small_step_does_not_count_however_sure_it_is() -> None:
    assert change_points(stepped(2, size=0.025, sd=0.0005), 4.0) == []


def test_nothing_is_found_before_there_are_enough_nights() -> None:
    values = stepped(0, size=0.5, at=FIRST_NIGHTS - 3, sd=0.001)
    assert change_points(values[: FIRST_NIGHTS - 1], 4.0) == []
    assert [step.place for step in change_points(values[:FIRST_NIGHTS], 4.0)] == [FIRST_NIGHTS - 3]
    assert change_points(stepped(0, size=0.5, at=WARM_UP // 2, sd=0.001)[:FIRST_NIGHTS], 4.0) == []


def test_two_steps_are_two_changes() -> None:
    values = [value + (0.1 if night >= 30 else 0) for night, value in enumerate(stepped(3, at=15))]
    steps = change_points(values, 4.0)
    assert [step.place for step in steps] == [15, 30]
    assert [round(step.change, 2) for step in steps] == pytest.approx([0.07, 0.1], abs=0.011)


def test_a_step_where_the_series_starts_anew_is_none() -> None:
    values = stepped(4, size=0.2)
    assert change_points(values, 4.0) != []
    assert change_points(values, 4.0, anew=[AT]) == []
    later = [value + (0.2 if night >= 34 else 0) for night, value in enumerate(values)]
    assert [step.place for step in change_points(later, 4.0, anew=[AT])] == [34]


def test_the_nights_in_doubt_are_more_where_the_noise_is() -> None:
    def doubt(sd: float) -> float:
        steps = [step for seed in range(20) for step in change_points(stepped(seed, sd=sd), 4.0)[:1]]
        return sum(step.latest - step.earliest for step in steps) / len(steps)

    assert doubt(0.002) == 0
    assert doubt(0.02) > 0.1


def test_more_series_ask_for_more() -> None:
    assert [threshold(series) for series in (1, 30, 31, 100, 101)] == [4.0, 4.0, 4.5, 4.5, 5.0]


def test_a_step_of_the_reference_is_told_from_drift() -> None:
    assert sum(len(machine_steps(drift(seed))) for seed in range(40)) <= 1
    for seed in range(10):
        moved = [value + (0.3 if night >= AT else 0) for night, value in enumerate(drift(seed))]
        assert AT in [step.place for step in machine_steps(moved)]


def test_one_loud_night_of_the_reference_is_no_other_machine() -> None:
    for seed in range(10):
        values = noise(seed, 0.007)
        values[AT] += 0.3
        assert machine_steps(values) == []


@pytest.mark.skipif(find_spec("ruptures") is None, reason="ruptures is not installed")
def test_the_place_is_where_another_library_finds_it() -> None:
    import ruptures

    for seed in range(10):
        values = stepped(seed)
        (end, _) = ruptures.Dynp(model="l2", min_size=2, jump=1).fit(np.asarray(values)).predict(n_bkps=1)
        (step,) = change_points(values, 4.0)
        assert step.earliest <= end <= step.latest
