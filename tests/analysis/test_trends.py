"""Trends: what changed since when, who made it, and what the machine did."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from kept_nights import STEP_S, iso, nights, run
from places import ROOT

from harness.analysis.nights import CellNight, nights_of
from harness.analysis.trend_words import cause_in_words, night_names, remarks, trends_text, verdict
from harness.analysis.trends import ChangedBy, Trends, trends_of

NIGHTS, AT = 30, 18


def times(
    size: float = 0.0, at: int = AT, seed: int = 0, sd: float = 0.005, machine: list[float] | None = None
) -> list[float]:
    draw = random.Random(seed)
    beside = machine or [0.0] * NIGHTS
    return [
        STEP_S * math.exp(draw.gauss(0, sd) + beside[night] + (size if night >= at else 0)) for night in range(NIGHTS)
    ]


def loop(machine: list[float] | None = None, seed: int = 99) -> list[float]:
    draw = random.Random(seed)
    return [math.exp(draw.gauss(0, 0.004) + away) for away in machine or [0.0] * NIGHTS]


def drift() -> list[float]:
    return [0.04 * math.sin(night / 4) for night in range(NIGHTS)]


def trends(rows: list[CellNight]) -> Trends:
    (found,) = trends_of(rows)
    return found


def test_a_slower_point_is_found_with_its_commits() -> None:
    found = trends(nights(times(0.08), loop()))
    (shift,) = found.shifts
    assert (shift.by, shift.together, shift.points) == (ChangedBy.CODE, False, ("a",))
    assert shift.factor == pytest.approx(1.083, abs=0.01)
    assert (shift.before.night, shift.after.night, shift.seen.night) == (iso(AT - 1), iso(AT), iso(AT + 1))
    assert (shift.usual.commit, shift.latest.commit) == (f"{AT:040x}", f"{AT + 1:040x}")
    point = found.points[0]
    assert [level.first for level in point.levels] == [0, AT]
    assert point.levels[1].seconds / point.levels[0].seconds == pytest.approx(shift.factor)


def test_drift_raises_no_alarm_beside_a_reference_and_does_without_one() -> None:
    slow = drift()
    assert trends(nights(times(machine=slow), loop(slow))).shifts == ()
    without = trends(nights(times(machine=slow), [None] * NIGHTS))
    assert without.shifts
    assert {shift.by for shift in without.shifts} == {ChangedBy.UNKNOWN}
    assert any("No reference ran" in line for line in remarks(without))
    assert not any("No reference ran" in line for line in remarks(trends(nights(times(), loop()))))


def test_a_step_is_found_through_the_drift() -> None:
    slow = drift()
    (shift,) = trends(nights(times(0.08, machine=slow), loop(slow))).shifts
    assert shift.after.night == iso(AT)


def test_a_machine_that_changed_is_said_to_and_no_code_is_blamed() -> None:
    machine = [0.2 if night >= AT else 0.0 for night in range(NIGHTS)]
    # The cell does not follow the reference: by 20 % the loop, by 8 % the cell.
    found = trends(nights(times(0.08), loop(machine)))
    (shift,) = found.shifts
    assert (shift.by, shift.points) == (ChangedBy.MACHINE, ())
    assert shift.factor == pytest.approx(math.exp(0.2), rel=0.02)
    assert found.anew == (AT,)
    assert "The machine changed" in cause_in_words(shift, found)
    early = trends([row for row in nights(times(0.08), loop(machine)) if row.night <= iso(AT + 2)])
    assert early.nights_needed == 8
    assert "8 more nights needed" in verdict(early)


def test_after_the_machine_changed_a_slower_point_is_found_again() -> None:
    machine = [0.2 if night >= 12 else 0.0 for night in range(NIGHTS)]
    found = trends(nights(times(0.09, at=25, machine=machine), loop(machine)))
    assert [shift.by for shift in found.shifts] == [ChangedBy.CODE, ChangedBy.MACHINE]
    assert found.shifts[0].after.night == iso(25)


@pytest.mark.parametrize(("what", "value"), [("driver", "580.1"), ("torch", "2.14.0"), ("gpu", "H200")])
def test_what_else_changed_is_named_before_any_commit(what: str, value: str) -> None:
    rows = nights(times(0.08), loop())
    rows = [
        replace(row, facts=row.facts.replace(f'"{what}": "{old}"', f'"{what}": "{value}"'))
        if row.night >= iso(AT)
        else row
        for row in rows
        for old in [{"driver": "570.1", "torch": "2.13.0", "gpu": "H100"}[what]]
    ]
    found = trends(rows)
    (shift,) = found.shifts
    assert shift.by is ChangedBy.ENVIRONMENT
    assert [fact[0] for fact in shift.changed] == [what]
    words = cause_in_words(shift, found)
    assert 0 < words.index(value) < words.index("git log")


def test_an_edit_of_a_strategys_file_is_code() -> None:
    rows = nights(times(0.08), loop())
    rows = [replace(row, facts=row.facts[:-1] + f', "code of sync-ddp": "{row.night >= iso(AT)}"}}') for row in rows]
    (shift,) = trends(rows).shifts
    assert shift.by is ChangedBy.CODE
    assert shift.changed == (("code of sync-ddp", "False", "True"),)


def test_one_commit_on_both_sides_blames_no_code() -> None:
    found = trends(nights(times(0.08), loop(), commit="c" * 40))
    (shift,) = found.shifts
    assert shift.by is ChangedBy.UNKNOWN
    assert "The commit is the same" in cause_in_words(shift, found)
    (dirty,) = trends(nights(times(0.08), loop(), commit="c" * 40, dirty=True)).shifts
    assert dirty.by is ChangedBy.CODE


def test_points_that_change_together_are_one_change() -> None:
    rows = [row for p in range(4) for row in nights(times(0.06, seed=p), loop(), point=f"p{p}")]
    (shift,) = trends(rows).shifts
    assert shift.together
    assert shift.points == ("p0", "p1", "p2", "p3")
    alone = [row for p in range(4) for row in nights(times(0.3 if p == 2 else 0, seed=p), loop(), point=f"p{p}")]
    (shift,) = trends(alone).shifts
    assert (shift.together, shift.points) == (False, ("p2",))


def test_a_simulated_time_that_changed_is_found_at_once_and_needs_no_reference() -> None:
    virtual = {"engine": "virtual"}
    rows = [
        row for seed in (0, 1) for row in nights([1.0 + seed] * 5 + [1.01 + seed] * 2, [None] * 7, seed=seed, **virtual)
    ]
    (shift,) = trends(rows).shifts
    assert (shift.by, shift.after.night, shift.seen.night) == (ChangedBy.CODE, iso(5), iso(5))
    assert shift.reference is None
    # A seed that is missing for a night changes nothing.
    rows = [row for row in nights([1.0] * 8, **virtual)] + [run(day, 2.0, seed=1, **virtual) for day in (0, 1, 2, 4, 5)]
    assert trends(rows).shifts == ()


def test_nights_without_a_reference_are_left_out_once_others_have_one() -> None:
    beside: list[float | None] = [*loop()]
    beside[20] = None
    found = trends(nights(times(), beside))
    assert [night.night for night in found.left_out] == [iso(20)]
    assert len(found.nights) == NIGHTS - 1
    assert any("1 night without a reference" in line for line in remarks(found))


def test_the_first_reference_starts_series_anew() -> None:
    slow = [0.1 if night >= 14 else 0.0 for night in range(NIGHTS)]
    found = trends(nights(times(machine=slow), [None] * 14 + loop(slow)[14:]))
    assert found.anew == (14,)
    assert found.shifts == ()
    assert len(found.drift) == NIGHTS - 14


def test_another_reference_starts_series_anew() -> None:
    rows = [
        replace(row, reference_kind="other loop", reference_s=5.0) if row.night >= iso(AT) else row
        for row in nights(times(), loop())
    ]
    found = trends(rows)
    assert (found.anew, found.shifts) == ((AT,), ())


def test_machines_and_scenarios_have_series_of_their_own() -> None:
    rows = nights(times(), loop()) + nights([2 * t for t in times()], loop(), machine="node-b")
    rows += nights(times(), loop(), scenario="weekly")
    assert [(t.scenario, t.machine) for t in trends_of(rows)] == [
        ("nightly", ""),
        ("nightly", "node-b"),
        ("weekly", ""),
    ]
    assert all(found.shifts == () for found in trends_of(rows))


def test_runs_of_a_night_count_once_and_tell_their_spread() -> None:
    rows = [row for seed in range(5) for row in nights(times(seed=seed, sd=0.02), loop(), seed=seed)]
    rows = [replace(row, update_s=9.0) if (row.seed, row.night) == (4, iso(7)) else row for row in rows]
    point = trends(rows).points[0]
    assert point.runs == (5,) * NIGHTS
    assert point.measured_s[7] == pytest.approx(STEP_S, rel=0.03)  # one burst of 900 % in a night of five runs
    quiet = [row for seed in range(5) for row in nights(times(seed=seed, sd=0.02), loop(), seed=seed)]
    assert trends(quiet).points[0].run_spread == pytest.approx(0.02, rel=0.2)


def test_what_crashed_last_night_is_named() -> None:
    rows = nights([*times()[:-1], None], loop())
    rows[-1] = replace(rows[-1], status="crashed")
    found = trends(rows)
    assert found.points[0].nights == tuple(range(NIGHTS - 1))
    assert any("crashed" in line for line in remarks(found))
    # A point without any time at all is shown as well.
    never = trends([replace(row, status="crashed", update_s=None) for row in rows])
    assert never.points[0].nights == ()
    assert "crashed" in trends_text([never])


def test_points_that_a_changed_sweep_left_behind_are_not_missed_every_night() -> None:
    rows = nights(times(), loop()) + nights(times()[:20], loop()[:20], point="old")
    assert any("missing" in line for line in remarks(trends([row for row in rows if row.night <= iso(20)])))
    found = trends(rows)
    assert [point.key for point in found.current] == ["a"]
    assert not any("missing" in line for line in remarks(found))
    assert any("1 point did not run in the last two nights" in line for line in remarks(found))
    assert 'x "old"' not in trends_text([found])


def test_runs_beside_other_processes_are_said() -> None:
    assert any("1 run was disturbed" in line for line in remarks(trends(nights(times(), loop(), noisy=True))))
    assert not any("other processes" in line for line in remarks(trends(nights(times(), loop()))))


def test_too_few_nights_say_how_many_are_needed() -> None:
    found = trends(nights(times()[:4], loop()[:4]))
    assert found.nights_needed == 7
    assert verdict(found) == "7 more nights needed: changes are found from 11 nights on."


def test_two_nights_of_a_day_have_names_of_their_own() -> None:
    rows = nights(times(0.08), loop())
    late = [replace(row, night=row.night.replace("T01", "T13"), started="") for row in rows if row.night == iso(AT)]
    text = trends_text(trends_of(rows + late))
    assert f"{iso(AT)[:10]} 01:00" in text
    assert f"{iso(AT - 1)[:10]} and" in text


def test_two_nights_of_a_minute_have_names_of_their_own() -> None:
    rows = nights(times()[:2], loop()[:2])
    again = [replace(row, night=row.night.replace("00Z", "30Z")) for row in rows[:1]]
    names = night_names(nights_of(rows + again)).values()
    assert list(names) == ["2031-01-01 01:00:00", "2031-01-01 01:00:30", "2031-01-02"]


# -- how often it is right ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def histories() -> Any:
    """The histories that `benchmarks/statistics.py` draws."""
    sys.path.append(str(ROOT / "benchmarks"))  # behind the standard library, whose statistics it would hide
    try:
        return import_module("simulated_history")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_simulated_histories_are_read_as_they_were_made(histories: Any) -> None:
    seen = histories.watch(histories.Machine(points=4), 20)
    assert seen.found[2] >= 80
    assert seen.near >= 90
    assert seen.false <= 0.5
    without = histories.watch(histories.Machine(points=4, step=0.0, beside=False), 10, ())
    assert without.false > 0.5
