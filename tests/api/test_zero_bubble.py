"""Zero-bubble schedules planned with known times: complete, within memory, and as good as their paper says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api.schedules import check_table, zb_1p, zb_2p
from harness.api.zero_bubble import PassTimes, zero_bubble
from harness.costs.steps.table_time import StageTimes, pipeline_cost

PASSES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))


def bubble(schedule, times: PassTimes, ranks: int, microbatches: int) -> float:
    stage = StageTimes(*times[:3])
    return pipeline_cost(schedule(ranks, microbatches), [stage] * ranks, lambda k: times.hop_s).bubble_fraction


@settings(max_examples=80)
@given(PASSES, st.integers(1, 6), st.integers(1, 14), st.floats(1, 3), st.floats(0, 1))
def test_plans_are_complete_and_keep_no_more_than_they_may(times, ranks, microbatches, keep, weight_share):
    table = zero_bubble(PassTimes(*times), keep, weight_share)(ranks, microbatches)
    check_table(table, ranks, microbatches)
    frees = {"forward": -1, "backward_input": 1 - weight_share, "backward_weight": weight_share}
    for actions in table:
        kept = 0.0
        for action in actions:
            kept -= frees[action.kind]
            assert kept <= keep * ranks + 1e-6


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 9), st.integers(1, 9))
def test_plans_for_equal_passes_are_as_good_as_the_fixed_tables(ranks, more, seconds):
    times, microbatches = PassTimes(seconds, seconds, seconds), 2 * ranks - 1 + more
    for fixed, keep in ((zb_1p, 1), (zb_2p, 2)):
        planned = bubble(zero_bubble(times, keep), times, ranks, microbatches)
        assert planned == pytest.approx(bubble(fixed, times, ranks, microbatches), abs=1e-12)


def test_short_weight_passes_leave_no_bubble_where_enough_of_them_wait():
    times = PassTimes(2, 2, 1)
    assert bubble(zb_2p, times, 8, 32) == pytest.approx(14 / (32 * 5 + 14))
    assert bubble(zero_bubble(times, 2, weight_share=0.37), times, 8, 32) == pytest.approx(0, abs=1e-12)


def test_a_plan_is_the_same_every_time():
    make = zero_bubble(PassTimes(3.1, 2.9, 1.7, 0.2), 2, 0.4)
    assert make(6, 20) == make(6, 20)


def test_less_than_1f1b_keeps_is_refused():
    with pytest.raises(ValueError, match=r"keep = 0\.9"):
        zero_bubble(PassTimes(1, 1, 1), 0.9)
